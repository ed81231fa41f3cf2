//! The seam to configuration space, and the lists of capabilities in it.

use crate::bdf::Bdf;
use alloc::vec::Vec;

/// How much one access reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
}

impl Width {
    /// In bytes.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Long => 4,
        }
    }

    /// What nobody answers.
    pub const fn ones(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes())
    }
}

/// The configuration space of one PCI segment: an ECAM that is mapped, a port pair, a recording.
///
/// `offset` is below 4096 and a multiple of the width. A function that is not there reads as all ones, as on a bus; so does what a mechanism cannot reach (offsets
/// from 256 on through ports). An error is for what is broken in the mechanism itself, and ends the enumeration.
pub trait ConfigSpace {
    /// What can go wrong.
    type Error;

    /// Reads a register of `function`, in the lower bits.
    ///
    /// # Errors
    ///
    /// The mechanism failed.
    fn read(&self, function: Bdf, offset: u16, width: Width) -> Result<u32, Self::Error>;

    /// Writes a register of `function`; bits beyond the width are ignored.
    ///
    /// # Errors
    ///
    /// The mechanism failed.
    fn write(
        &self,
        function: Bdf,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Result<(), Self::Error>;

    /// A 32-bit register.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    fn read32(&self, function: Bdf, offset: u16) -> Result<u32, Self::Error> {
        self.read(function, offset, Width::Long)
    }

    /// A 16-bit register.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    fn read16(&self, function: Bdf, offset: u16) -> Result<u16, Self::Error> {
        Ok(self.read(function, offset, Width::Word)? as u16)
    }
}

impl<C: ConfigSpace + ?Sized> ConfigSpace for &C {
    type Error = C::Error;

    fn read(&self, function: Bdf, offset: u16, width: Width) -> Result<u32, C::Error> {
        (**self).read(function, offset, width)
    }

    fn write(&self, function: Bdf, offset: u16, width: Width, value: u32) -> Result<(), C::Error> {
        (**self).write(function, offset, width, value)
    }
}

/// A list of capabilities that cannot be: it goes round, leaves its room or is longer than its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endless;

/// Where the capabilities of a function begin, by id (PCI Local Bus 3.0, 6.7; PCI Express Base 6.0, 7.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Capabilities {
    plain: Vec<(u8, u16)>,
    extended: Vec<(u16, u16)>,
}

/// As many plain capabilities of 4 bytes as there is room behind the header.
const MOST_PLAIN: usize = (0x100 - 0x40) / 4;
/// As many extended ones of 8 bytes, the shortest with a register, as there is room.
const MOST_EXTENDED: usize = (0x1000 - 0x100) / 8;
const STATUS: u16 = 6;
const STATUS_HAS_LIST: u16 = 1 << 4;
const CAPABILITIES: u16 = 0x34;
/// Capability id of PCI Express itself.
pub(crate) const EXPRESS: u8 = 0x10;

impl Capabilities {
    /// The lists of `function`; the inner result tells of lists that do not end.
    pub(crate) fn read<C: ConfigSpace>(
        config: &C,
        function: Bdf,
    ) -> Result<Result<Self, Endless>, C::Error> {
        let mut all = Self::default();
        if config.read16(function, STATUS)? & STATUS_HAS_LIST == 0 {
            return Ok(Ok(all));
        }
        let mut at = config.read16(function, CAPABILITIES)? & 0xfc;
        while at != 0 {
            if at < 0x40 || all.plain.len() == MOST_PLAIN {
                return Ok(Err(Endless));
            }
            let header = config.read16(function, at)?;
            all.plain.push((header as u8, at));
            at = header >> 8 & 0xfc;
        }
        match all.plain(EXPRESS) {
            Some(_) => Ok(all.read_extended(config, function)?.map(|()| all)),
            None => Ok(Ok(all)),
        }
    }

    fn read_extended<C: ConfigSpace>(
        &mut self,
        config: &C,
        function: Bdf,
    ) -> Result<Result<(), Endless>, C::Error> {
        let mut at = 0x100;
        while at != 0 {
            if at < 0x100 || self.extended.len() == MOST_EXTENDED {
                return Ok(Err(Endless));
            }
            let header = config.read32(function, at)?;
            // No list at all, or none that can be reached.
            if at == 0x100 && (header == 0 || header == u32::MAX) {
                break;
            }
            self.extended.push((header as u16, at));
            at = (header >> 20) as u16 & 0xffc;
        }
        Ok(Ok(()))
    }

    /// Where the first capability with that id is.
    pub(crate) fn plain(&self, id: u8) -> Option<u16> {
        self.plain.iter().find(|(known, _)| *known == id).map(|(_, at)| *at)
    }

    /// Where the first extended capability with that id is; none where its first `len` bytes would leave configuration space.
    pub(crate) fn extended(&self, id: u16, len: u16) -> Option<u16> {
        let at = self.extended.iter().find(|(known, _)| *known == id).map(|(_, at)| *at);
        at.filter(|at| at + len <= 0x1000)
    }
}
