//! Fields of a table, each read within bounds.

use super::HEADER;
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// The four letters that name a table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 4]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0 {
            let letter = if byte.is_ascii_graphic() { char::from(byte) } else { '?' };
            write!(f, "{letter}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The table or the record that it is in ends before it.
    Truncated,
    /// A length that cannot be: shorter than what it counts, or beyond what surrounds it.
    Length(usize),
    /// Another table was expected.
    Signature,
    /// An offset at which no record begins.
    Reference(usize),
    /// A chain of references that comes back to itself.
    Cycle,
    /// A text that does not end or is not printable.
    Text,
    /// A value that the field's document does not allow.
    Value(u64),
    /// More of them than this reader takes.
    TooMany,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("ends too early"),
            Self::Length(length) => write!(f, "is {length}, which does not fit"),
            Self::Signature => f.write_str("is of another table"),
            Self::Reference(offset) => write!(f, "is {offset:#x}, where no record begins"),
            Self::Cycle => f.write_str("leads back to itself"),
            Self::Text => f.write_str("is no text that ends"),
            Self::Value(value) => write!(f, "is {value:#x}, which is not allowed"),
            Self::TooMany => f.write_str("has too many entries"),
        }
    }
}

/// Why a table cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcpiError {
    /// Which table.
    pub table: Signature,
    /// Where the field is, in bytes from the table's beginning.
    pub offset: usize,
    /// The field's name in its document.
    pub field: &'static str,
    /// What is wrong with it.
    pub fault: Fault,
}

impl fmt::Display for AcpiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ACPI table {}: {} at {:#x} {}", self.table, self.field, self.offset, self.fault)
    }
}

impl core::error::Error for AcpiError {}

/// Bytes of a table, and where in it they begin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    table: Signature,
    start: usize,
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    pub(crate) fn new(table: Signature, bytes: &'a [u8]) -> Self {
        Self { table, start: 0, bytes }
    }

    /// All its bytes.
    pub(crate) fn all(self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn len(self) -> usize {
        self.bytes.len()
    }

    /// Where it begins, from the table's beginning.
    pub(crate) fn start(self) -> usize {
        self.start
    }

    pub(crate) fn error(self, at: usize, field: &'static str, fault: Fault) -> AcpiError {
        AcpiError { table: self.table, offset: self.start.saturating_add(at), field, fault }
    }

    pub(crate) fn bytes(
        self,
        at: usize,
        len: usize,
        field: &'static str,
    ) -> Result<&'a [u8], AcpiError> {
        let bytes = self.bytes.get(at..).and_then(|rest| rest.get(..len));
        bytes.ok_or_else(|| self.error(at, field, Fault::Truncated))
    }

    /// A part of it.
    pub(crate) fn part(
        self,
        at: usize,
        len: usize,
        field: &'static str,
    ) -> Result<Self, AcpiError> {
        let bytes = self.bytes(at, len, field)?;
        Ok(Self { table: self.table, start: self.start.saturating_add(at), bytes })
    }

    /// What comes after the first `at` bytes.
    pub(crate) fn after(self, at: usize, field: &'static str) -> Result<Self, AcpiError> {
        let bytes = self.bytes.get(at..).ok_or_else(|| self.error(at, field, Fault::Truncated))?;
        Ok(Self { table: self.table, start: self.start.saturating_add(at), bytes })
    }

    fn array<const N: usize>(self, at: usize, field: &'static str) -> Result<[u8; N], AcpiError> {
        let chunk = self.bytes.get(at..).and_then(|rest| rest.first_chunk::<N>());
        chunk.copied().ok_or_else(|| self.error(at, field, Fault::Truncated))
    }

    pub(crate) fn u8(self, at: usize, field: &'static str) -> Result<u8, AcpiError> {
        self.array(at, field).map(u8::from_le_bytes)
    }

    pub(crate) fn u16(self, at: usize, field: &'static str) -> Result<u16, AcpiError> {
        self.array(at, field).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(self, at: usize, field: &'static str) -> Result<u32, AcpiError> {
        self.array(at, field).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(self, at: usize, field: &'static str) -> Result<u64, AcpiError> {
        self.array(at, field).map(u64::from_le_bytes)
    }

    /// A text that ends with a NUL, of printable characters.
    pub(crate) fn text(self, at: usize, field: &'static str) -> Result<String, AcpiError> {
        let rest = self.bytes.get(at..).unwrap_or_default();
        let end = rest.iter().position(|byte| *byte == 0);
        let bytes = end.and_then(|end| rest.get(..end));
        let bytes = bytes.filter(|bytes| bytes.iter().all(u8::is_ascii_graphic));
        let bytes = bytes.ok_or_else(|| self.error(at, field, Fault::Text))?;
        Ok(bytes.iter().map(|byte| char::from(*byte)).collect())
    }

    /// The records that follow each other from here to the end. `length` tells how long the one at the beginning of what is left is; one that is shorter
    /// than `least` or does not fit is an error.
    pub(crate) fn records(
        self,
        least: usize,
        field: &'static str,
        length: impl Fn(Self) -> Result<usize, AcpiError>,
    ) -> impl Iterator<Item = Result<Self, AcpiError>> {
        let mut rest = Some(self);
        core::iter::from_fn(move || {
            let left = rest.take().filter(|left| left.len() > 0)?;
            let next = length(left).and_then(|len| {
                if len < least.max(1) {
                    return Err(left.error(0, field, Fault::Length(len)));
                }
                let record = left.part(0, len, field)?;
                Ok((record, left.after(len, field)?))
            });
            Some(next.map(|(record, after)| {
                rest = Some(after);
                record
            }))
        })
    }

    /// The nodes of IORT and RIMT, whose tables begin alike: behind the header their number, then where they begin. Also the index of the node that begins at an
    /// offset, by which one refers to another. `names` are the two fields' names; the rest is as for [`Self::records`].
    pub(crate) fn counted_nodes(
        self,
        names: [&'static str; 2],
        least: usize,
        length: impl Fn(Self) -> Result<usize, AcpiError>,
    ) -> Result<(Vec<Self>, BTreeMap<usize, usize>), AcpiError> {
        let [number, array] = names;
        let count = self.u32(HEADER, number)?;
        let first = self.u32(HEADER + 4, array)? as usize;
        let mut nodes = self.after(first, array)?.records(least, "Length", length);
        let mut records = Vec::new();
        for _ in 0..count {
            let missing = self.error(HEADER, number, Fault::Value(u64::from(count)));
            records.push(nodes.next().ok_or(missing)??);
        }
        let starts = records.iter().enumerate().map(|(index, record)| (record.start(), index));
        let index = starts.collect();
        Ok((records, index))
    }
}
