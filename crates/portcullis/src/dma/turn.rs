//! Another direction for a mapping that stays where it is.

use super::direction::prot;
use super::{DmaDirection, DmaHandle, DmaMapping, Lent};
use crate::error::DmaError;
use core::fmt;
use portcullis_platform::Platform;

/// Why a mapping did not get another direction: here it is, as before.
pub struct NotTurned<B, D> {
    /// The mapping. With [`DmaError::NotTurned`] its device may be refused what the old direction allows and the new one does not, or not.
    pub mapping: DmaMapping<B, D>,
    /// Why.
    pub error: DmaError,
}

impl<B, D> fmt::Debug for NotTurned<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotTurned").field(&self.error).finish()
    }
}

impl<B, D> fmt::Display for NotTurned<B, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.error)
    }
}

impl<B, D> core::error::Error for NotTurned<B, D> {}

impl<B, D> From<NotTurned<B, D>> for DmaError {
    fn from(failure: NotTurned<B, D>) -> Self {
        failure.error
    }
}

impl<P: Platform> DmaHandle<P> {
    /// Lets the device use a mapping in another direction from now on, at the same addresses: once this has returned, an access that the new direction does not allow is refused. Costs one
    /// invalidation, and no address. For a device that does not snoop the CPU's caches, what it has written is made visible to the CPU where it may not write any more.
    ///
    /// Meanwhile accesses that both directions allow succeed. Without translation nothing keeps the device from memory, and after the driver was unbound it reaches nothing: only the type changes then.
    ///
    /// # Errors
    ///
    /// [`NotTurned`], with the mapping: the table cannot say it ([`DmaError::Protect`]), hardware did not confirm ([`DmaError::NotTurned`]; asking again pays again), or the mapping is another handle's.
    #[doc(alias = "iommu_protect")]
    pub fn turn<B: Lent, D: DmaDirection, E: DmaDirection>(
        &self,
        mapping: DmaMapping<B, D>,
        _direction: E,
    ) -> Result<DmaMapping<B, E>, NotTurned<B, D>> {
        let mut first = None;
        mapping.buffer().each(|loan| _ = first.get_or_insert(loan));
        let turned = match first {
            Some(loan) => self.lease().protect(mapping.grant(), &loan, prot::<E>()),
            None => Ok(()),
        };
        if let Err(error) = turned {
            return Err(NotTurned { mapping, error });
        }
        if D::DEVICE_WRITES && !E::DEVICE_WRITES {
            self.refresh(mapping.buffer());
        }
        let grant = *mapping.grant();
        self.note_returned(mapping.buffer());
        self.note_lent::<_, E>(mapping.buffer(), &grant);
        Ok(DmaMapping::new(mapping.end(), grant))
    }
}
