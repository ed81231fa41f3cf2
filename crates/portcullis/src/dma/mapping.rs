//! What a device was lent, and what it may have kept.

use super::grant::Grant;
use crate::dma::{DmaDirection, Lendable};
use crate::error::DmaError;
use core::fmt;
use core::marker::PhantomData;
use core::mem::ManuallyDrop;

/// A buffer that a device can reach. It has the buffer until [`DmaHandle::unmap`](crate::DmaHandle::unmap) gives it back, so that nobody uses the memory meanwhile by mistake.
///
/// A mapping that is dropped is not unmapped: its device keeps reaching the memory until the driver is unbound, and the buffer is leaked.
///
/// ```compile_fail,E0382
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mapping: DmaMapping<B, Both>) {
/// let buffer = dma.unmap(mapping);
/// let address = mapping.device_address(); // used after unmap
/// # }
/// ```
/// ```compile_fail,E0382
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>, pages: portcullis_platform::DmaPages<P::Memory>) {
/// let mapping = dma.map(pages, ToDevice);
/// pages.store64(0, 1); // the device has it
/// # }
/// ```
/// Nobody makes one but a map that succeeded, and whether it did must be looked at:
///
/// ```compile_fail,E0451
/// # use portcullis::*;
/// # fn f<B: Lendable>(buffer: B) -> DmaMapping<B, Both> {
/// DmaMapping { buffer, grant: todo!(), direction: todo!() } // never mapped
/// # }
/// ```
/// ```compile_fail
/// # use portcullis::*;
/// # fn f<P: portcullis_platform::Platform>(dma: DmaHandle<P>, pages: portcullis_platform::DmaPages<P::Memory>) {
/// #![deny(unused_must_use)]
/// dma.map(pages, ToDevice); // not checked
/// # }
/// ```
/// ```compile_fail,E0308
/// # use portcullis::*;
/// fn receive<B: Lendable>(mapping: DmaMapping<B, FromDevice>) {}
/// fn send<B: Lendable>(mapping: DmaMapping<B, ToDevice>) {
///     receive(mapping) // another direction
/// }
/// ```
/// What could contradict the mapping is not asked for: no length or count at its end, no part or direction when it is synchronised:
///
/// ```compile_fail,E0061
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mapping: DmaMapping<B, Both>) {
/// let buffer = dma.unmap(mapping, 4096); // another size
/// # }
/// ```
/// ```compile_fail,E0061
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mapping: DmaMapping<BufferList<B>, Both>) {
/// let buffers = dma.unmap(mapping, 3); // another count
/// # }
/// ```
/// ```compile_fail,E0061
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<B, Both>) {
/// let view = dma.sync_for_cpu(&mut mapping, 4096..8192); // outside of it
/// # }
/// ```
/// ```compile_fail,E0061
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<B, Both>) {
/// let view = dma.sync_for_cpu(&mut mapping, FromDevice); // another direction
/// # }
/// ```
/// ```compile_fail,E0061
/// # use portcullis::*;
/// # fn f<B: Lendable, P: portcullis_platform::Platform>(dma: DmaHandle<P>, mut mapping: DmaMapping<BufferList<B>, Both>) {
/// let view = dma.sync_for_cpu(&mut mapping, 3); // another count
/// # }
/// ```
#[must_use = "the device keeps reaching the memory until the mapping is unmapped"]
pub struct DmaMapping<B, D> {
    buffer: ManuallyDrop<B>,
    grant: Grant,
    direction: PhantomData<D>,
}

impl<B: Lendable, D: DmaDirection> DmaMapping<B, D> {
    /// What the driver writes into its device: an [`Iova`](portcullis_addr::Iova) or, without translation, a physical address.
    #[doc(alias = "dma_addr_t")]
    pub fn device_address(&self) -> u64 {
        self.grant.address()
    }

    /// Bytes that the device was lent.
    #[expect(clippy::len_without_is_empty, reason = "a range is never empty")]
    pub fn len(&self) -> u64 {
        self.buffer.range().len()
    }
}

impl<B, D> DmaMapping<B, D> {
    #[inline]
    pub(super) fn new(buffer: B, grant: Grant) -> Self {
        Self { buffer: ManuallyDrop::new(buffer), grant, direction: PhantomData }
    }

    #[inline]
    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// The buffer, for a caller that knows that it may look at it now.
    #[inline]
    pub(super) fn buffer(&self) -> &B {
        &self.buffer
    }

    /// The buffer, which the device cannot reach any more.
    #[inline]
    pub(super) fn end(self) -> B {
        ManuallyDrop::into_inner(self.buffer)
    }

    /// The buffer, which the device may still reach.
    pub(super) fn hold(self, error: DmaError) -> Quarantined<B> {
        Quarantined { buffer: self.buffer, grant: self.grant, error }
    }
}

impl<B, D> fmt::Debug for DmaMapping<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DmaMapping").field("grant", &self.grant).finish_non_exhaustive()
    }
}

/// A buffer that a device may still reach, because hardware did not confirm that it forgot the mapping. It cannot be used; [`DmaHandle::recover`](crate::DmaHandle::recover) asks again.
/// Dropped, it stays in quarantine for ever.
pub struct Quarantined<B> {
    buffer: ManuallyDrop<B>,
    grant: Grant,
    error: DmaError,
}

impl<B> Quarantined<B> {
    /// What was not confirmed.
    pub fn error(&self) -> DmaError {
        self.error
    }

    pub(super) fn new(buffer: B, grant: Grant, error: DmaError) -> Self {
        Self { buffer: ManuallyDrop::new(buffer), grant, error }
    }

    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(super) fn end(self) -> B {
        ManuallyDrop::into_inner(self.buffer)
    }

    pub(super) fn because(self, error: DmaError) -> Self {
        Self { error, ..self }
    }
}

/// Why a map did not map.
pub enum MapFailure<B> {
    /// Nothing was mapped, and the buffer comes back.
    Refused {
        /// The buffer.
        buffer: B,
        /// Why.
        error: DmaError,
    },
    /// Hardware did not confirm, so that the device may reach the buffer or not.
    Quarantined(Quarantined<B>),
}

impl<B> MapFailure<B> {
    /// The reason without the buffer.
    pub fn error(&self) -> DmaError {
        match self {
            Self::Refused { error, .. } => *error,
            Self::Quarantined(held) => held.error,
        }
    }
}

/// Why an unmap did not give the buffer back.
pub enum UnmapFailure<B, D> {
    /// The mapping was made through another device's or an earlier driver's handle: here it is, as before.
    Foreign(DmaMapping<B, D>),
    /// It is unmapped, but hardware did not confirm that it forgot it.
    Quarantined(Quarantined<B>),
}

impl<B, D> UnmapFailure<B, D> {
    /// The reason without the buffer.
    pub fn error(&self) -> DmaError {
        match self {
            Self::Foreign(_) => DmaError::ForeignMapping,
            Self::Quarantined(held) => held.error,
        }
    }
}

/// Errors print their reason, so the buffer in them need not be printable.
macro_rules! told_by_reason {
    ($name:ident<$($parameter:ident),+>) => {
        impl<$($parameter),+> fmt::Debug for $name<$($parameter),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.error()).finish()
            }
        }

        impl<$($parameter),+> fmt::Display for $name<$($parameter),+> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.error())
            }
        }

        impl<$($parameter),+> core::error::Error for $name<$($parameter),+> {}

        impl<$($parameter),+> From<$name<$($parameter),+>> for DmaError {
            fn from(failure: $name<$($parameter),+>) -> Self {
                failure.error()
            }
        }
    };
}

told_by_reason!(Quarantined<B>);
told_by_reason!(MapFailure<B>);
told_by_reason!(UnmapFailure<B, D>);
