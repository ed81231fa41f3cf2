//! QEMU's firmware configuration device: the files that QEMU hands to a guest's firmware, its ACPI tables among them (QEMU's `docs/specs/fw_cfg.rst`, 10.0).

use crate::error::{Error, ErrorKind};
use crate::process::Qemu;
use crate::qtest::{Request, Width};
use portcullis_addr::PhysAddr;
use portcullis_platform::{DmaMemory, PageLayout};
use std::collections::BTreeSet;
use std::sync::Arc;

/// How the device is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FwCfgAccess {
    /// Registers at this physical address: data at 0, selector (big endian) at 8, DMA address (big endian) at 16.
    Mmio(u64),
    /// The PC's ports: selector 0x510, data 0x511, DMA address (big endian) from 0x514 on.
    Ports,
}

/// A file of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FwCfgFile {
    /// Its name, e.g. `etc/acpi/tables`.
    pub name: String,
    /// Its length in bytes.
    pub len: u32,
    key: u16,
}

/// The device.
#[derive(Debug)]
#[doc(alias = "fw_cfg")]
pub struct FwCfg {
    qemu: Arc<Qemu>,
    access: FwCfgAccess,
    files: Vec<FwCfgFile>,
}

const SELECT_PORT: u16 = 0x510;
const DATA_PORT: u16 = 0x511;
const DMA_PORT: u16 = 0x514;
// Keys that every device has.
const KEY_SIGNATURE: u16 = 0;
const KEY_FEATURES: u16 = 1;
const KEY_DIRECTORY: u16 = 0x19;
/// Files have keys from here on, below bit 14, which means "write".
const FIRST_FILE: u16 = 0x20;
const LAST_FILE: u16 = 0x3fff;
/// A directory entry: length and key, big endian, two reserved bytes, the name.
const ENTRY: usize = 64;
/// No file of firmware's is longer; the largest of QEMU's own are option ROMs of a few 100 KiB.
const MOST_BYTES: u32 = 16 << 20;
/// Length of a DMA command: control and length of 32 bits, address of 64, big endian.
const COMMAND: usize = 16;

impl FwCfg {
    /// The device that `qemu` has there, its directory read.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] where there is none, it has no DMA, or its directory makes no sense; as [`Qemu::request`].
    pub fn open(qemu: &Arc<Qemu>, access: FwCfgAccess) -> Result<Self, Error> {
        let mut device = Self { qemu: Arc::clone(qemu), access, files: Vec::new() };
        let signature = device.word(KEY_SIGNATURE)?;
        if signature != *b"QEMU" {
            return Err(wrong(format!("it calls itself {signature:02x?}")));
        }
        let features = u32::from_le_bytes(device.word(KEY_FEATURES)?);
        if features & 2 == 0 {
            return Err(wrong(format!("features {features:#x}: no DMA")));
        }
        let count = u32::from_be_bytes(device.word(KEY_DIRECTORY)?);
        if count > u32::from(LAST_FILE - FIRST_FILE) + 1 {
            return Err(wrong(format!("its directory has {count} entries")));
        }
        let len = 4 + count as usize * ENTRY;
        let bytes = device.contents(KEY_DIRECTORY, len)?;
        device.files = directory(&bytes[4..]).map_err(wrong)?;
        Ok(device)
    }

    /// The files, in the directory's order.
    pub fn files(&self) -> &[FwCfgFile] {
        &self.files
    }

    /// The contents of the file `name`; `None` where there is none. QEMU makes its ACPI tables when one of their files is read first after a reset.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] where it is longer than 16 MiB or the device refuses; as [`Qemu::request`].
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(file) = self.files.iter().find(|file| file.name == name) else { return Ok(None) };
        if file.len > MOST_BYTES {
            return Err(wrong(format!("{name} has {} bytes", file.len)));
        }
        self.contents(file.key, file.len as usize).map(Some)
    }

    /// The first four bytes of an item, through the data register.
    fn word(&self, key: u16) -> Result<[u8; 4], Error> {
        let read = match self.access {
            FwCfgAccess::Mmio(base) => Request::Read(Width::Byte, base),
            FwCfgAccess::Ports => Request::In(Width::Byte, DATA_PORT),
        };
        let select = match self.access {
            // Big endian on a machine that is not.
            FwCfgAccess::Mmio(base) => {
                Request::Write(Width::Word, base + 8, key.swap_bytes().into())
            }
            FwCfgAccess::Ports => Request::Out(Width::Word, SELECT_PORT, key.into()),
        };
        let values =
            self.qemu.pipeline(&[select, read.clone(), read.clone(), read.clone(), read])?;
        let [_, a, b, c, d] = values[..] else { return Err(wrong("no answer".to_owned())) };
        Ok([a, b, c, d].map(|byte| byte as u8))
    }

    /// The first `len` bytes of an item, through a buffer in the machine's memory.
    fn contents(&self, key: u16, len: usize) -> Result<Vec<u8>, Error> {
        let ram = self.qemu.ram();
        let no_room =
            || wrong(format!("the machine's memory has no room for {len} bytes of an item"));
        let layout = PageLayout::new(COMMAND + len, 16).ok_or_else(no_room)?;
        let at = ram.allocate(layout).map_err(|_| no_room())?;
        let done = self.command(at, key, len);
        let bytes = ram.read_vec(PhysAddr::new(at.raw() + COMMAND as u64), len);
        ram.free(at, layout);
        done.map(|()| bytes)
    }

    /// Has the device carry out "select and read" at `at`, where the data follow the command.
    fn command(&self, at: PhysAddr, key: u16, len: usize) -> Result<(), Error> {
        const ERROR: u32 = 1;
        const READ: u32 = 2;
        const SELECT: u32 = 8;
        let control = u32::from(key) << 16 | SELECT | READ;
        let data = at.raw() + COMMAND as u64;
        let mut command = Vec::with_capacity(COMMAND);
        command.extend(control.to_be_bytes());
        command.extend((len as u32).to_be_bytes());
        command.extend(data.to_be_bytes());
        self.qemu.ram().write(at, &command);
        let halves = [(at.raw() >> 32) as u32, at.raw() as u32].map(u32::swap_bytes);
        // The second half starts it.
        let writes = match self.access {
            FwCfgAccess::Mmio(base) => [(16, halves[0]), (20, halves[1])]
                .map(|(offset, half)| Request::Write(Width::Long, base + offset, half.into())),
            FwCfgAccess::Ports => [(DMA_PORT, halves[0]), (DMA_PORT + 4, halves[1])]
                .map(|(port, half)| Request::Out(Width::Long, port, half)),
        };
        self.qemu.pipeline(&writes)?;
        match self.qemu.ram().load32(at).swap_bytes() {
            0 => Ok(()),
            left if left & ERROR != 0 => Err(wrong(format!("it refuses to read item {key:#x}"))),
            left => Err(wrong(format!("reading item {key:#x} left control {left:#x}"))),
        }
    }
}

fn wrong(what: String) -> Error {
    ErrorKind::Device { device: "fw_cfg", what }.into()
}

/// Reads the entries of the directory; what is wrong with it otherwise.
fn directory(bytes: &[u8]) -> Result<Vec<FwCfgFile>, String> {
    let (mut files, mut names) = (Vec::new(), BTreeSet::new());
    for (number, entry) in bytes.chunks_exact(ENTRY).enumerate() {
        let [l0, l1, l2, l3, k0, k1, _, _, name @ ..] = entry else { continue };
        let end = name.iter().position(|byte| *byte == 0);
        let name = end.map(|end| &name[..end]).filter(|name| !name.is_empty());
        let name = name.filter(|name| name.iter().all(u8::is_ascii_graphic));
        let name = name.ok_or_else(|| format!("entry {number} has no printable name"))?;
        let name = String::from_utf8_lossy(name).into_owned();
        let key = u16::from_be_bytes([*k0, *k1]);
        if !(FIRST_FILE..=LAST_FILE).contains(&key) {
            return Err(format!("{name} has the key {key:#x}"));
        }
        if !names.insert(name.clone()) {
            return Err(format!("{name} is there twice"));
        }
        files.push(FwCfgFile { name, len: u32::from_be_bytes([*l0, *l1, *l2, *l3]), key });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(len: u32, key: u16, name: &[u8]) -> Vec<u8> {
        let mut entry = len.to_be_bytes().to_vec();
        entry.extend(key.to_be_bytes());
        entry.extend([0, 0]);
        entry.extend(name);
        entry.resize(ENTRY, 0);
        entry
    }

    #[test]
    fn a_directory_is_read_or_refused_with_the_reason() {
        let two = [entry(36, 0x22, b"etc/acpi/rsdp"), entry(0x20000, 0x23, b"etc/acpi/tables")];
        let files = directory(&two.concat()).expect("as QEMU writes it");
        let read: Vec<_> = files.iter().map(|it| (it.name.as_str(), it.len, it.key)).collect();
        assert_eq!(read, [("etc/acpi/rsdp", 36, 0x22), ("etc/acpi/tables", 0x2_0000, 0x23)]);
        let reason = |entries: &[Vec<u8>]| directory(&entries.concat()).expect_err("refused");
        assert!(reason(&[entry(1, 0x22, &[b'x'; 56])]).contains("entry 0"), "a name that runs on");
        assert!(reason(&[entry(1, 0x22, b"")]).contains("entry 0"));
        assert!(reason(&[entry(1, 0x22, b"a\x1b[2J")]).contains("entry 0"));
        assert!(reason(&[entry(1, 0x19, b"etc/x")]).contains("key 0x19"), "the directory itself");
        assert!(reason(&[entry(1, 0x4022, b"etc/x")]).contains("key 0x4022"), "bit 14 writes");
        assert!(reason(&[two[0].clone(), two[0].clone()]).contains("twice"));
        assert!(directory(&[]).is_ok_and(|files| files.is_empty()));
    }
}
