//! A configuration space as `lspci -xxxx` prints it.

use crate::bdf::Bdf;
use crate::config::{ConfigSpace, Width};
use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// A segment's configuration space that was recorded: each function's own, up to 4096 bytes. Reading beyond what was recorded gives ones, as does a function that is not there.
///
/// The text is that of `lspci -xxxx`, which only root can make whole: a line with the address of a function, then lines of an offset and 16 bytes. A line `*`
/// stands for repetitions of the one before, up to the next offset or, at the end, to 4096 bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[doc(alias = "lspci")]
pub struct Recorded {
    functions: BTreeMap<Bdf, Vec<u8>>,
}

/// Why a text is no recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

impl core::error::Error for RecordError {}

/// A recording cannot be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadOnly;

impl fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a recorded configuration space cannot be written")
    }
}

impl core::error::Error for ReadOnly {}

const LEN: usize = 4096;
const LINE: usize = 16;

impl Recorded {
    /// Reads the functions of one segment out of a text; others are left out.
    ///
    /// # Errors
    ///
    /// The first line of bytes that cannot be, or that no function is for it. Text between functions is passed over.
    pub fn parse(text: &str, segment: u16) -> Result<Self, RecordError> {
        let mut all = Self::default();
        // The function whose lines come, or one of another segment.
        let mut current: Option<Option<Bdf>> = None;
        let mut repeat = false;
        for (number, line) in text.lines().enumerate() {
            let wrong = |what: &str| RecordError { line: number + 1, what: what.into() };
            if let Some((of, address)) = address(line) {
                all.finish(current.flatten(), repeat);
                repeat = false;
                current = Some((of == segment).then_some(address));
                if of == segment && all.functions.insert(address, Vec::new()).is_some() {
                    return Err(wrong("this function was there before"));
                }
            } else if line.trim() == "*" {
                repeat = true;
            } else if let Some((offset, bytes)) = bytes(line) {
                let bytes = bytes.ok_or_else(|| wrong("no 16 bytes"))?;
                let function = current.ok_or_else(|| wrong("bytes of no function"))?;
                let Some(space) = function.and_then(|it| all.functions.get_mut(&it)) else {
                    continue;
                };
                if repeat {
                    repeat_to(space, offset);
                    repeat = false;
                }
                if offset != space.len() || offset >= LEN {
                    return Err(wrong("not the next offset"));
                }
                space.extend(bytes);
            }
        }
        all.finish(current.flatten(), repeat);
        Ok(all)
    }

    fn finish(&mut self, function: Option<Bdf>, repeat: bool) {
        if let Some(space) = function.and_then(|it| self.functions.get_mut(&it)).filter(|_| repeat)
        {
            repeat_to(space, LEN);
        }
    }

    /// The functions that are in it.
    pub fn functions(&self) -> impl Iterator<Item = Bdf> {
        self.functions.keys().copied()
    }

    /// The buses that no bridge leads to: bus 0 and those of further host bridges.
    pub fn roots(&self) -> Vec<u8> {
        let mut led_to = [false; 256];
        for space in self.functions.values() {
            if space.get(0xe).is_some_and(|header| header & 0x7f == 1)
                && let (Some(first), Some(last)) = (space.get(0x19), space.get(0x1a))
                && *first > 0
            {
                (*first..=*last).for_each(|bus| led_to[usize::from(bus)] = true);
            }
        }
        let mut buses: Vec<u8> = self.functions.keys().map(|it| it.bus()).collect();
        buses.dedup();
        buses.retain(|bus| led_to.get(usize::from(*bus)) == Some(&false));
        buses
    }
}

fn repeat_to(space: &mut Vec<u8>, end: usize) {
    let Some(last) = space.last_chunk::<LINE>().copied() else { return };
    while space.len() < end.min(LEN) {
        space.extend(last);
    }
}

/// `0000:01:02.3 ...` or `01:02.3 ...`.
fn address(line: &str) -> Option<(u16, Bdf)> {
    let word = line.split_whitespace().next().filter(|_| !line.starts_with(char::is_whitespace))?;
    let mut parts = word.rsplit(':');
    let (device, function) = parts.next()?.split_once('.')?;
    let bus = u8::from_str_radix(parts.next()?, 16).ok()?;
    let segment = parts.next().map_or(Ok(0), |it| u16::from_str_radix(it, 16)).ok()?;
    let device = u8::from_str_radix(device, 16).ok().filter(|it| *it < 32)?;
    let function = u8::from_str_radix(function, 16).ok().filter(|it| *it < 8)?;
    Some((segment, Bdf::new(bus, device, function)))
}

/// `0a0: 01 02 ...`; the inner `None` where the bytes are not 16.
fn bytes(line: &str) -> Option<(usize, Option<[u8; LINE]>)> {
    let (offset, rest) = line.split_once(": ")?;
    let offset = usize::from_str_radix(offset, 16).ok().filter(|_| offset.len() <= 3)?;
    let bytes: Option<Vec<u8>> =
        rest.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).ok()).collect();
    Some((offset, bytes.and_then(|bytes| bytes.try_into().ok())))
}

impl ConfigSpace for Recorded {
    type Error = ReadOnly;

    fn read(&self, function: Bdf, offset: u16, width: Width) -> Result<u32, ReadOnly> {
        let start = usize::from(offset);
        let space =
            self.functions.get(&function).and_then(|it| it.get(start..start + width.bytes()));
        Ok(space.map_or(width.ones(), |bytes| {
            bytes.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte))
        }))
    }

    fn write(&self, _: Bdf, _: u16, _: Width, _: u32) -> Result<(), ReadOnly> {
        Err(ReadOnly)
    }
}
