//! A configuration space that is made up.

use portcullis_pci::{Bdf, ConfigSpace, Width};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::convert::Infallible;

/// Functions by address; a write stays where it goes.
#[derive(Default)]
pub(crate) struct Made {
    functions: RefCell<BTreeMap<Bdf, Vec<u8>>>,
    /// Writes are dropped.
    pub(crate) stubborn: Cell<bool>,
}

impl Made {
    pub(crate) fn set(&self, function: Bdf, offset: u16, bytes: &[u8]) {
        let mut functions = self.functions.borrow_mut();
        let space = functions.entry(function).or_insert_with(|| vec![0; 4096]);
        space[usize::from(offset)..usize::from(offset) + bytes.len()].copy_from_slice(bytes);
    }

    fn header(&self, address: Bdf, id: (u16, u16), class: [u8; 3], layout: u8) {
        self.set(address, 0, &id.0.to_le_bytes());
        self.set(address, 2, &id.1.to_le_bytes());
        self.set(address, 9, &class);
        self.set(address, 0xe, &[layout]);
    }

    /// A conventional function.
    pub(crate) fn conventional(&self, address: Bdf, id: (u16, u16)) {
        self.header(address, id, [0, 0, 2], 0);
    }

    /// A function with a PCI Express capability of that port type.
    pub(crate) fn express(&self, address: Bdf, id: (u16, u16), port_type: u8) {
        self.conventional(address, id);
        self.express_capability(address, port_type);
    }

    fn express_capability(&self, address: Bdf, port_type: u8) {
        self.set(address, 6, &[0x10]);
        self.set(address, 0x34, &[0x40]);
        self.set(address, 0x40, &[0x10, 0, port_type << 4, 0]);
    }

    /// A bridge with these buses below; without a capability where `port_type` is `None`.
    pub(crate) fn bridge(
        &self,
        address: Bdf,
        port_type: Option<u8>,
        secondary: u8,
        subordinate: u8,
    ) {
        self.header(address, (0x1234, 1), [0, 4, 6], 1);
        self.set(address, 0x18, &[address.bus(), secondary, subordinate]);
        if let Some(port_type) = port_type {
            self.express_capability(address, port_type);
        }
    }

    /// The first extended capability, or the one behind `last`.
    pub(crate) fn extended(&self, address: Bdf, last: Option<u16>, at: u16, id: u16) {
        if let Some(last) = last {
            let id = self.read(address, last, Width::Word).expect("a read");
            let header = id | 1 << 16 | u32::from(at) << 20;
            self.set(address, last, &header.to_le_bytes());
        }
        self.set(address, at, &(u32::from(id) | 1 << 16).to_le_bytes());
    }

    /// An ACS capability that can do all and has it on.
    pub(crate) fn isolating(&self, address: Bdf) {
        self.extended(address, None, 0x100, 0x0d);
        self.set(address, 0x104, &[0x5d, 0, 0x1d, 0]);
    }
}

impl ConfigSpace for Made {
    type Error = Infallible;

    fn read(&self, function: Bdf, offset: u16, width: Width) -> Result<u32, Infallible> {
        let len = width.bytes();
        let functions = self.functions.borrow();
        let mut bytes = [0; 4];
        match functions.get(&function) {
            Some(space) => bytes[..len].copy_from_slice(&space[usize::from(offset)..][..len]),
            None => bytes[..len].fill(0xff),
        }
        Ok(u32::from_le_bytes(bytes))
    }

    fn write(
        &self,
        function: Bdf,
        offset: u16,
        width: Width,
        value: u32,
    ) -> Result<(), Infallible> {
        let len = width.bytes();
        if !self.stubborn.get() && self.functions.borrow().contains_key(&function) {
            self.set(function, offset, &value.to_le_bytes()[..len]);
        }
        Ok(())
    }
}
