//! The flattened format (Devicetree Specification v0.4, chapter 5), version 17.
//!
//! One pass over the structure block, each byte looked at a bounded number of times. Written here because the maintained parser crates
//! refuse names beyond the specification's 31 characters, which more than half of the devicetrees in the Linux kernel have.

use super::tree::{Tree, TreeBuilder, TreeError, TreeLimits};
use core::fmt;

const MAGIC: u32 = 0xd00d_feed;
const HEADER: usize = 40;
/// The oldest version that the layout below is compatible with.
const COMPATIBLE: u32 = 17;

const BEGIN_NODE: u32 = 1;
const END_NODE: u32 = 2;
const PROP: u32 = 3;
const NOP: u32 = 4;
const END: u32 = 9;

/// A part of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// The memory reservation block.
    Reservations,
    /// The structure block.
    Structure,
    /// The strings block.
    Strings,
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reservations => "memory reservation block",
            Self::Structure => "structure block",
            Self::Strings => "strings block",
        })
    }
}

/// Why bytes are no flattened devicetree. Offsets count from the blob's start, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// Fewer bytes than a header has.
    NoHeader {
        /// How many there are.
        len: usize,
    },
    /// The first word is not the format's magic number.
    BadMagic {
        /// What it is.
        magic: u32,
    },
    /// The header's `totalsize` is larger than the buffer, or smaller than the header.
    BadTotalSize {
        /// What the header says.
        total: u32,
        /// The buffer's length.
        len: usize,
    },
    /// A version that this reader does not know.
    BadVersion {
        /// The header's `version`.
        version: u32,
        /// The header's `last_comp_version`.
        compatible: u32,
    },
    /// A block does not lie within the blob, or is not aligned as the format asks.
    BadBlock {
        /// Which one.
        block: Block,
        /// Where the header says it begins.
        offset: u32,
    },
    /// The input ends inside a block.
    Truncated {
        /// Which block.
        block: Block,
        /// Where.
        offset: usize,
    },
    /// An unknown token.
    BadToken {
        /// Its value.
        token: u32,
        /// Where.
        offset: usize,
    },
    /// A property's name does not lie in the strings block or does not end in it.
    BadNameOffset {
        /// The offset within the strings block.
        name: u32,
        /// Where the property is.
        offset: usize,
    },
    /// A name is not valid UTF-8.
    NotText {
        /// Where.
        offset: usize,
    },
    /// The tokens make no tree, or one beyond [`TreeLimits`].
    Tree {
        /// What is wrong.
        error: TreeError,
        /// Where.
        offset: usize,
    },
    /// It is an overlay: changes to another tree, which means nothing without it.
    Overlay,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a usable flattened devicetree: ")?;
        match self {
            Self::NoHeader { len } => write!(f, "{len} bytes, the header alone has {HEADER}"),
            Self::BadMagic { magic } => {
                write!(f, "it begins with {magic:#010x} instead of {MAGIC:#010x}")
            }
            Self::BadTotalSize { total, len } => {
                write!(f, "its header says {total} bytes, there are {len}; is the file cut off?")
            }
            Self::BadVersion { version, compatible } => {
                write!(f, "format version {version} (compatible with {compatible}); 17 is read")
            }
            Self::BadBlock { block, offset } => {
                write!(f, "the {block} at {offset:#x} does not lie within it or is misaligned")
            }
            Self::Truncated { block, offset } => {
                write!(f, "the {block} ends too early, at {offset:#x}")
            }
            Self::BadToken { token, offset } => {
                write!(f, "unknown token {token:#x} at {offset:#x}")
            }
            Self::BadNameOffset { name, offset } => {
                write!(
                    f,
                    "the property at {offset:#x} has its name at {name:#x}, outside of the strings block"
                )
            }
            Self::NotText { offset } => write!(f, "the name at {offset:#x} is no text"),
            Self::Tree { error, offset } => write!(f, "{error} at {offset:#x}"),
            Self::Overlay => f.write_str(
                "it is an overlay, which must be applied to its base tree first (fdtoverlay, or --overlay)",
            ),
        }
    }
}

impl core::error::Error for ReadError {}

/// An entry of the memory reservation block: start and length in bytes, as they stand there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryReservation {
    /// First byte.
    pub start: u64,
    /// Number of bytes.
    pub len: u64,
}

/// The blob's parts, within bounds.
#[derive(Clone, Copy, Debug)]
pub struct FlatTree<'a> {
    structure: &'a [u8],
    structure_offset: usize,
    strings: &'a [u8],
    reservations: &'a [u8],
    reservations_offset: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let chunk = bytes.get(at..)?.first_chunk::<4>()?;
    Some(u32::from_be_bytes(*chunk))
}

fn double(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..)?.first_chunk::<8>()?;
    Some(u64::from_be_bytes(*chunk))
}

impl<'a> FlatTree<'a> {
    /// Checks the header of `blob`, which may be longer than the tree.
    ///
    /// # Errors
    ///
    /// The header is malformed or points outside.
    pub fn new(blob: &'a [u8]) -> Result<Self, ReadError> {
        let no_header = ReadError::NoHeader { len: blob.len() };
        let field = |index: usize| word(blob, index.saturating_mul(4)).ok_or(no_header);
        let magic = field(0)?;
        if magic != MAGIC {
            return Err(ReadError::BadMagic { magic });
        }
        // The last of the ten fields; with it, all are there.
        let structure_len = field(9)?;
        let total = field(1)?;
        let bad_total = ReadError::BadTotalSize { total, len: blob.len() };
        let blob = blob.get(..total as usize).filter(|b| b.len() >= HEADER).ok_or(bad_total)?;
        let (version, compatible) = (field(5)?, field(6)?);
        if version < COMPATIBLE || compatible > COMPATIBLE {
            return Err(ReadError::BadVersion { version, compatible });
        }
        let structure = block(blob, Block::Structure, field(2)?, Some(structure_len), 4)?;
        let strings = block(blob, Block::Strings, field(3)?, Some(field(8)?), 1)?;
        let reservations = block(blob, Block::Reservations, field(4)?, None, 8)?;
        Ok(Self {
            structure,
            structure_offset: field(2)? as usize,
            strings,
            reservations,
            reservations_offset: field(4)? as usize,
        })
    }

    /// The entries of the memory reservation block.
    ///
    /// # Errors
    ///
    /// The block does not end within the blob.
    pub fn reservations(&self) -> Result<alloc::vec::Vec<MemoryReservation>, ReadError> {
        let mut entries = alloc::vec::Vec::new();
        for at in (0..self.reservations.len()).step_by(16) {
            let pair =
                (double(self.reservations, at), double(self.reservations, at.saturating_add(8)));
            match pair {
                (Some(0), Some(0)) => return Ok(entries),
                (Some(start), Some(len)) => entries.push(MemoryReservation { start, len }),
                _ => break,
            }
        }
        let offset = self.reservations_offset.saturating_add(self.reservations.len());
        Err(ReadError::Truncated { block: Block::Reservations, offset })
    }

    /// Reads the structure block.
    ///
    /// # Errors
    ///
    /// It is malformed, or the tree exceeds [`TreeLimits`].
    pub fn tree(&self) -> Result<Tree<'a>, ReadError> {
        let mut cursor = Cursor { flat: *self, at: 0 };
        let mut builder = TreeBuilder::new();
        loop {
            let offset = cursor.offset();
            let at_offset = |error| ReadError::Tree { error, offset };
            match cursor.word()? {
                BEGIN_NODE => builder.begin_node(cursor.node_name()?).map_err(at_offset)?,
                END_NODE => builder.end_node().map_err(at_offset)?,
                PROP => {
                    let (name, value) = cursor.property(offset)?;
                    builder.property(name, value).map_err(at_offset)?;
                }
                NOP => {}
                END => return builder.finish().map_err(at_offset),
                token => return Err(ReadError::BadToken { token, offset }),
            }
        }
    }
}

/// The block at `offset`; of the given length, or up to the blob's end.
fn block(
    blob: &[u8],
    block: Block,
    offset: u32,
    len: Option<u32>,
    align: usize,
) -> Result<&[u8], ReadError> {
    let start = offset as usize;
    let rest = blob.get(start..).filter(|_| start >= HEADER && start.is_multiple_of(align));
    let bytes = rest.and_then(|rest| match len {
        Some(len) => rest.get(..len as usize),
        None => Some(rest),
    });
    bytes.ok_or(ReadError::BadBlock { block, offset })
}

/// A position in the structure block, always a multiple of 4.
struct Cursor<'a> {
    flat: FlatTree<'a>,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn offset(&self) -> usize {
        self.flat.structure_offset.saturating_add(self.at)
    }

    fn truncated(&self) -> ReadError {
        ReadError::Truncated { block: Block::Structure, offset: self.offset() }
    }

    fn word(&mut self) -> Result<u32, ReadError> {
        let value = word(self.flat.structure, self.at).ok_or_else(|| self.truncated())?;
        self.at = self.at.saturating_add(4);
        Ok(value)
    }

    fn bytes(&mut self, len: usize) -> Result<&'a [u8], ReadError> {
        let end = self.at.checked_add(len).ok_or_else(|| self.truncated())?;
        let bytes = self.flat.structure.get(self.at..end).ok_or_else(|| self.truncated())?;
        // A block may end without the padding of its last value; the next token is missed then.
        self.at = end.checked_next_multiple_of(4).ok_or_else(|| self.truncated())?;
        Ok(bytes)
    }

    fn node_name(&mut self) -> Result<&'a str, ReadError> {
        let offset = self.offset();
        let rest = self.flat.structure.get(self.at..).unwrap_or_default();
        let len = match text_len(rest) {
            Some(len) => len,
            None if rest.len() > TreeLimits::NAME => {
                let error = TreeError::NameTooLong(TreeLimits::NAME.saturating_add(1));
                return Err(ReadError::Tree { error, offset });
            }
            None => return Err(self.truncated()),
        };
        let bytes = self.bytes(len.saturating_add(1))?;
        let name = bytes.strip_suffix(b"\0").unwrap_or(bytes);
        core::str::from_utf8(name).map_err(|_| ReadError::NotText { offset })
    }

    fn property(&mut self, offset: usize) -> Result<(&'a str, &'a [u8]), ReadError> {
        let len = self.word()?;
        let name = self.word()?;
        let bad_name = ReadError::BadNameOffset { name, offset };
        let rest = self.flat.strings.get(name as usize..).ok_or(bad_name)?;
        let text = text_len(rest).and_then(|len| rest.get(..len)).ok_or(bad_name)?;
        let text = core::str::from_utf8(text).map_err(|_| ReadError::NotText { offset })?;
        Ok((text, self.bytes(len as usize)?))
    }
}

/// Length of the text before the first NUL, which is looked for no further than a name may reach.
fn text_len(bytes: &[u8]) -> Option<usize> {
    bytes.iter().take(TreeLimits::NAME.saturating_add(1)).position(|byte| *byte == 0)
}

#[cfg(test)]
#[path = "flat_tests.rs"]
mod tests;
