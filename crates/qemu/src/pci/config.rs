//! Configuration space through ECAM or the two ports of the PC.

use crate::error::{Error, ErrorKind};
use crate::process::Qemu;
use crate::qtest::{Qtest, Request, Width};
use portcullis_pci::Bdf;
use std::sync::Arc;

/// Where qtest requests can be sent: a whole [`Qemu`], or a bare connection.
pub trait Requests {
    /// Carries out several requests in order, without those of others between them.
    ///
    /// # Errors
    ///
    /// As [`Qtest::pipeline`].
    fn carry_out(&self, requests: &[Request]) -> Result<Vec<u64>, Error>;
}

impl Requests for Qemu {
    fn carry_out(&self, requests: &[Request]) -> Result<Vec<u64>, Error> {
        self.pipeline(requests)
    }
}

impl Requests for Qtest {
    fn carry_out(&self, requests: &[Request]) -> Result<Vec<u64>, Error> {
        Ok(self.pipeline(requests)?)
    }
}

/// How configuration space is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigAccess {
    /// Memory mapped, 4 KiB a function, from this physical address on.
    #[doc(alias = "MMCONFIG")]
    Ecam(u64),
    /// The address port 0xcf8 and the data port 0xcfc: the first 256 bytes only.
    Ports,
}

/// The configuration space of a machine. All accesses are 32 bits wide.
#[derive(Debug)]
pub struct ConfigSpace<R> {
    server: Arc<R>,
    access: ConfigAccess,
}

impl<R: Requests> ConfigSpace<R> {
    /// The configuration space that `server` shows through `access`.
    pub fn new(server: &Arc<R>, access: ConfigAccess) -> Self {
        Self { server: Arc::clone(server), access }
    }

    /// Reads the register of `function` at byte `offset`, a multiple of 4.
    ///
    /// # Errors
    ///
    /// As [`Requests::carry_out`].
    pub fn read(&self, function: Bdf, offset: u16) -> Result<u32, Error> {
        self.last(&self.reading(function, offset))
    }

    /// Writes the register of `function` at byte `offset`, a multiple of 4.
    ///
    /// # Errors
    ///
    /// As [`Requests::carry_out`].
    pub fn write(&self, function: Bdf, offset: u16, value: u32) -> Result<(), Error> {
        let requests = match self.access {
            ConfigAccess::Ecam(_) => {
                vec![Request::Write(Width::Long, self.ecam(function, offset), value.into())]
            }
            ConfigAccess::Ports => {
                vec![select(function, offset), Request::Out(Width::Long, DATA_PORT, value)]
            }
        };
        self.last(&requests).map(drop)
    }

    /// Where the capability `id` of `function` begins, if it has one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when the list does not end; as [`Requests::carry_out`].
    pub fn capability(&self, function: Bdf, id: u8) -> Result<Option<u16>, Error> {
        Ok(self.capabilities(function)?.into_iter().find(|(_, i)| *i == id).map(|(at, _)| at))
    }

    /// All capabilities of `function`: where each begins, and its id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when the list does not end; as [`Requests::carry_out`].
    pub fn capabilities(&self, function: Bdf) -> Result<Vec<(u16, u8)>, Error> {
        const STATUS_HAS_LIST: u32 = 1 << 20;
        let mut list = Vec::new();
        if self.read(function, 4)? & STATUS_HAS_LIST == 0 {
            return Ok(list);
        }
        let mut at = self.read(function, 0x34)? as u16 & 0xfc;
        while at != 0 {
            // 48 capabilities of 4 bytes fill the space behind the header.
            if list.len() == 48 {
                let what = "its capability list does not end".to_owned();
                return Err(ErrorKind::Pci { address: function, what }.into());
            }
            let header = self.read(function, at)?;
            list.push((at, header as u8));
            at = (header >> 8) as u16 & 0xfc;
        }
        Ok(list)
    }

    /// Makes `function` signal interrupts by writing `data` to the bus address `address`, a multiple of 4 (7.7.1: MSI).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Pci`] when it has no 64-bit MSI; as [`Requests::carry_out`].
    pub fn enable_msi(&self, function: Bdf, address: u64, data: u16) -> Result<(), Error> {
        const CAPABILITY_MSI: u8 = 5;
        const ENABLE: u32 = 1 << 16;
        const WIDE: u32 = 1 << 23;
        let found = self.capability(function, CAPABILITY_MSI)?;
        let header = found.map(|at| self.read(function, at)).transpose()?.unwrap_or_default();
        let Some(at) = found.filter(|_| header & WIDE != 0) else {
            let what = "no MSI with 64-bit addresses".to_owned();
            return Err(ErrorKind::Pci { address: function, what }.into());
        };
        self.write(function, at + 4, address as u32)?;
        self.write(function, at + 8, (address >> 32) as u32)?;
        self.write(function, at + 12, data.into())?;
        self.write(function, at, header | ENABLE)
    }

    fn reading(&self, function: Bdf, offset: u16) -> Vec<Request> {
        match self.access {
            ConfigAccess::Ecam(_) => {
                vec![Request::Read(Width::Long, self.ecam(function, offset))]
            }
            ConfigAccess::Ports => {
                vec![select(function, offset), Request::In(Width::Long, DATA_PORT)]
            }
        }
    }

    fn ecam(&self, function: Bdf, offset: u16) -> u64 {
        let base = match self.access {
            ConfigAccess::Ecam(base) => base,
            ConfigAccess::Ports => 0,
        };
        base + (u64::from(function.requester_id()) << 12) + u64::from(offset & 0xffc)
    }

    fn last(&self, requests: &[Request]) -> Result<u32, Error> {
        Ok(self.server.carry_out(requests)?.last().copied().unwrap_or_default() as u32)
    }
}

const ADDRESS_PORT: u16 = 0xcf8;
const DATA_PORT: u16 = 0xcfc;

fn select(function: Bdf, offset: u16) -> Request {
    let address = 1 << 31 | u32::from(function.requester_id()) << 8 | u32::from(offset & 0xfc);
    Request::Out(Width::Long, ADDRESS_PORT, address)
}

impl<R: Requests> portcullis_pci::ConfigSpace for ConfigSpace<R> {
    type Error = Error;

    fn read(&self, function: Bdf, offset: u16, width: portcullis_pci::Width) -> Result<u32, Error> {
        let ones = width.ones();
        if self.access == ConfigAccess::Ports && offset >= 0x100 {
            return Ok(ones);
        }
        let register = self.last(&self.reading(function, offset & !3))?;
        Ok(register >> (8 * (offset & 3)) & ones)
    }

    fn write(
        &self,
        function: Bdf,
        offset: u16,
        width: portcullis_pci::Width,
        value: u32,
    ) -> Result<(), Error> {
        let width = width_of(width);
        let requests = match self.access {
            ConfigAccess::Ecam(_) => {
                let at = self.ecam(function, offset) + u64::from(offset & 3);
                vec![Request::Write(width, at, value.into())]
            }
            ConfigAccess::Ports if offset >= 0x100 => return Ok(()),
            ConfigAccess::Ports => {
                let port = DATA_PORT + (offset & 3);
                vec![select(function, offset), Request::Out(width, port, value)]
            }
        };
        self.last(&requests).map(drop)
    }
}

fn width_of(width: portcullis_pci::Width) -> Width {
    match width {
        portcullis_pci::Width::Byte => Width::Byte,
        portcullis_pci::Width::Word => Width::Word,
        portcullis_pci::Width::Long => Width::Long,
    }
}
