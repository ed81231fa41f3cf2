//! ACPI tables as QEMU hands them to firmware: files of `fw_cfg`, and a script that says how they become tables in memory.
//!
//! A machine that is started without firmware has nobody who carries the script out, so its tables are not in memory. [`link`] does what firmware would do, on
//! bytes: it places the files, adds their addresses to the pointers between them and fills checksums in. [`Linked::tables`] then follows RSDP and XSDT
//! (or RSDT) to the tables, which [`super::read_acpi`] takes.
//!
//! The script is QEMU's own format (`hw/acpi/bios-linker-loader.c` and `docs/specs/fw_cfg.rst`, 10.0): records of 128 bytes, little endian, a command and its operands. Other
//! hypervisors that offer `etc/table-loader` use the same.

use super::bytes::AcpiError;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;

/// The `fw_cfg` file that holds the script.
pub const SCRIPT: &str = "etc/table-loader";
/// The `fw_cfg` file that becomes the root pointer.
pub const ROOT_POINTER: &str = "etc/acpi/rsdp";

const RECORD: usize = 128;
/// A file name's length with the NUL that ends it.
const NAME: usize = 56;
/// More files than this are refused; QEMU names three or four.
const MOST_FILES: usize = 64;
/// More bytes than this in all files together are refused; QEMU's are 128 KiB and a few.
const MOST_BYTES: usize = 64 << 20;
/// More bytes than this summed for all checksums together are refused.
const MOST_SUMMED: usize = 64 << 20;

/// What is wrong with a command of the script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkFault {
    /// The script ends within it.
    Truncated,
    /// A file name that does not end or is not printable.
    Name,
    /// The hypervisor has no such file.
    Missing,
    /// The file was allocated by an earlier command.
    Again,
    /// No earlier command has allocated the file.
    NotAllocated,
    /// What it names lies outside of the file.
    Outside,
    /// A pointer of this many bytes; 1, 2, 4 and 8 are known.
    Size(u8),
    /// An alignment that is no power of two.
    Alignment(u32),
    /// The file does not fit where tables may lie.
    NoRoom,
    /// An address that does not fit the pointer that is to hold it.
    Overflow,
    /// More files or bytes than this reader takes.
    TooMany,
}

impl fmt::Display for LinkFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the script ends within it"),
            Self::Name => f.write_str("a file name does not end or is not printable"),
            Self::Missing => f.write_str("there is no such file"),
            Self::Again => f.write_str("the file is allocated already"),
            Self::NotAllocated => f.write_str("the file is not allocated"),
            Self::Outside => f.write_str("what it names lies outside of the file"),
            Self::Size(size) => write!(f, "a pointer of {size} bytes"),
            Self::Alignment(align) => write!(f, "an alignment of {align:#x}"),
            Self::NoRoom => f.write_str("the file does not fit where tables may lie"),
            Self::Overflow => f.write_str("the address does not fit the pointer"),
            Self::TooMany => f.write_str("more files or bytes than are taken"),
        }
    }
}

/// Why the script cannot be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkError {
    /// Which command, counted from 0.
    pub command: usize,
    /// The file concerned; empty where its name cannot be read.
    pub file: String,
    /// What is wrong.
    pub fault: LinkFault,
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCRIPT}, command {} ({:?}): {}", self.command, self.file, self.fault)
    }
}

impl core::error::Error for LinkError {}

/// A file with its place in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkedFile {
    /// Its name in `fw_cfg`.
    pub name: String,
    /// Where its first byte is as far as its and other files' pointers say.
    pub address: u64,
    /// Its bytes, pointers and checksums filled in.
    pub bytes: Vec<u8>,
}

/// An address that the hypervisor wants to be told (command `WRITE_POINTER`): to be written to a file of its own. Whoever really places the files at their addresses does so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PointerWrite {
    /// The `fw_cfg` file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u32,
    /// How many bytes, little endian: 1, 2, 4 or 8.
    pub size: u8,
    /// The address.
    pub address: u64,
}

/// What the script has made of the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Linked {
    /// The files, in the order of their allocation.
    pub files: Vec<LinkedFile>,
    /// What the hypervisor wants to be told.
    pub writes: Vec<PointerWrite>,
    /// Commands that this reader does not know, which were skipped, as QEMU's format asks for.
    pub skipped: usize,
}

/// Carries `script` out. `read` gives a file's bytes by name; the files are placed one behind the other in `window`, which should lie below 4 GiB, because some pointers have 4 bytes.
///
/// Whoever only wants to read the tables can take any window: nothing is written there.
///
/// # Errors
///
/// [`LinkError`] with the number of the command. Nothing is linked then.
pub fn link(
    script: &[u8],
    window: Range<u64>,
    read: impl FnMut(&str) -> Option<Vec<u8>>,
) -> Result<Linked, LinkError> {
    let mut linker = Linker { linked: Linked::default(), window, read, bytes: 0, summed: 0 };
    for (number, record) in script.chunks(RECORD).enumerate() {
        let mut file = String::new();
        linker.carry_out(record, &mut file).map_err(|fault| LinkError {
            command: number,
            file,
            fault,
        })?;
    }
    Ok(linker.linked)
}

struct Linker<R> {
    linked: Linked,
    /// What is left of it.
    window: Range<u64>,
    read: R,
    /// Bytes of all files so far.
    bytes: usize,
    /// Bytes of all checksums so far.
    summed: usize,
}

impl<R: FnMut(&str) -> Option<Vec<u8>>> Linker<R> {
    /// One record. `file` is set to the name of the file that errors are about.
    fn carry_out(&mut self, record: &[u8], file: &mut String) -> Result<(), LinkFault> {
        let operands = Operands::new(record)?;
        match operands.u32(0)? {
            // Padding at the end.
            0 => Ok(()),
            1 => {
                *file = operands.name(4)?;
                self.allocate(file, operands.u32(4 + NAME)?)
            }
            2 => {
                *file = operands.name(4)?;
                let source = operands.name(4 + NAME)?;
                let at = operands.u32(4 + 2 * NAME)? as usize;
                let size = operands.u8(8 + 2 * NAME)?;
                let address = self.address_of(&source).inspect_err(|_| *file = source)?;
                self.add_pointer(file, at, size, address)
            }
            3 => {
                *file = operands.name(4)?;
                let at = operands.u32(4 + NAME)? as usize;
                let (start, len) = (operands.u32(8 + NAME)?, operands.u32(12 + NAME)?);
                self.add_checksum(file, at, start as usize, len as usize)
            }
            4 => {
                let (target, source) = (operands.name(4)?, operands.name(4 + NAME)?);
                let offset = operands.u32(4 + 2 * NAME)?;
                let into = operands.u32(8 + 2 * NAME)?;
                let size = operands.u8(12 + 2 * NAME)?;
                *file = source;
                self.write_pointer((target, offset), file, into, size)
            }
            _ => {
                self.linked.skipped = self.linked.skipped.saturating_add(1);
                Ok(())
            }
        }
    }

    fn allocate(&mut self, name: &str, align: u32) -> Result<(), LinkFault> {
        if !align.is_power_of_two() {
            return Err(LinkFault::Alignment(align));
        }
        if self.linked.file(name).is_some() {
            return Err(LinkFault::Again);
        }
        if self.linked.files.len() >= MOST_FILES {
            return Err(LinkFault::TooMany);
        }
        let bytes = (self.read)(name).ok_or(LinkFault::Missing)?;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if self.bytes > MOST_BYTES {
            return Err(LinkFault::TooMany);
        }
        let address = self.window.start.checked_next_multiple_of(u64::from(align));
        let place = address.and_then(|at| Some((at, at.checked_add(bytes.len() as u64)?)));
        let fits = place.filter(|(_, end)| *end <= self.window.end);
        let (address, end) = fits.ok_or(LinkFault::NoRoom)?;
        self.window.start = end;
        self.linked.files.push(LinkedFile { name: name.into(), address, bytes });
        Ok(())
    }

    fn address_of(&self, name: &str) -> Result<u64, LinkFault> {
        self.linked.file(name).map(|file| file.address).ok_or(LinkFault::NotAllocated)
    }

    fn bytes_of(&mut self, name: &str) -> Result<&mut Vec<u8>, LinkFault> {
        let file = self.linked.files.iter_mut().find(|file| file.name == name);
        file.map(|file| &mut file.bytes).ok_or(LinkFault::NotAllocated)
    }

    /// Adds `address` to the offset that stands in the file at `at`.
    fn add_pointer(
        &mut self,
        name: &str,
        at: usize,
        size: u8,
        address: u64,
    ) -> Result<(), LinkFault> {
        let bytes = part(self.bytes_of(name)?, at, usize::from(pointer(size)?))?;
        let mut value = [0; 8];
        for (to, from) in value.iter_mut().zip(&*bytes) {
            *to = *from;
        }
        let sum = u64::from_le_bytes(value).checked_add(address).ok_or(LinkFault::Overflow)?;
        let sum = fitting(sum, size)?.to_le_bytes();
        for (to, from) in bytes.iter_mut().zip(sum) {
            *to = from;
        }
        Ok(())
    }

    /// Subtracts the sum of a part of the file from the byte at `at`.
    fn add_checksum(
        &mut self,
        name: &str,
        at: usize,
        start: usize,
        len: usize,
    ) -> Result<(), LinkFault> {
        self.summed = self.summed.saturating_add(len);
        if self.summed > MOST_SUMMED {
            return Err(LinkFault::TooMany);
        }
        let bytes = self.bytes_of(name)?;
        let sum = part(bytes, start, len)?.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
        let to = bytes.get_mut(at).ok_or(LinkFault::Outside)?;
        *to = to.wrapping_sub(sum);
        Ok(())
    }

    fn write_pointer(
        &mut self,
        (file, offset): (String, u32),
        source: &str,
        into: u32,
        size: u8,
    ) -> Result<(), LinkFault> {
        let known = self.linked.file(source).ok_or(LinkFault::NotAllocated)?;
        if into as usize >= known.bytes.len() {
            return Err(LinkFault::Outside);
        }
        let address = known.address.saturating_add(u64::from(into));
        let address = fitting(address, pointer(size)?)?;
        if self.linked.writes.len() >= MOST_FILES {
            return Err(LinkFault::TooMany);
        }
        self.linked.writes.push(PointerWrite { file, offset, size, address });
        Ok(())
    }
}

fn pointer(size: u8) -> Result<u8, LinkFault> {
    matches!(size, 1 | 2 | 4 | 8).then_some(size).ok_or(LinkFault::Size(size))
}

/// `address`, if it fits `size` bytes.
fn fitting(address: u64, size: u8) -> Result<u64, LinkFault> {
    let bits = u32::from(size).saturating_mul(8);
    let beyond = address.checked_shr(bits).unwrap_or(0);
    (beyond == 0).then_some(address).ok_or(LinkFault::Overflow)
}

fn part(bytes: &mut [u8], at: usize, len: usize) -> Result<&mut [u8], LinkFault> {
    bytes.get_mut(at..).and_then(|rest| rest.get_mut(..len)).ok_or(LinkFault::Outside)
}

/// A record of the script.
struct Operands<'a>(&'a [u8; RECORD]);

impl<'a> Operands<'a> {
    fn new(record: &'a [u8]) -> Result<Self, LinkFault> {
        record.first_chunk().map(Self).ok_or(LinkFault::Truncated)
    }

    fn u8(&self, at: usize) -> Result<u8, LinkFault> {
        self.0.get(at).copied().ok_or(LinkFault::Truncated)
    }

    fn u32(&self, at: usize) -> Result<u32, LinkFault> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_le_bytes(*bytes)).ok_or(LinkFault::Truncated)
    }

    fn name(&self, at: usize) -> Result<String, LinkFault> {
        let field = self.0.get(at..).and_then(|rest| rest.get(..NAME)).unwrap_or_default();
        let end = field.iter().position(|byte| *byte == 0);
        let name = end.and_then(|end| field.get(..end)).filter(|name| !name.is_empty());
        let name = name.filter(|name| name.iter().all(u8::is_ascii_graphic));
        let name = name.ok_or(LinkFault::Name)?;
        Ok(name.iter().map(|byte| char::from(*byte)).collect())
    }
}

impl Linked {
    /// The file with this name, if it was allocated.
    pub fn file(&self, name: &str) -> Option<&LinkedFile> {
        self.files.iter().find(|file| file.name == name)
    }

    /// What [`super::tables`] finds from [`ROOT_POINTER`].
    ///
    /// # Errors
    ///
    /// As there.
    pub fn tables(&self) -> Result<Vec<&[u8]>, AcpiError> {
        let pointer = self.file(ROOT_POINTER).map_or(&[][..], |file| &file.bytes);
        super::tables(pointer, |address| self.bytes_at(address))
    }

    fn bytes_at(&self, address: u64) -> Option<&[u8]> {
        self.files.iter().find_map(|file| {
            let at = usize::try_from(address.checked_sub(file.address)?).ok()?;
            file.bytes.get(at..)
        })
    }
}
