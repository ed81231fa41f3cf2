//! What a kernel image tells about itself: symbols, structure layouts, call sites. No debug package is needed.

mod arm64;
mod btf;
mod kallsyms;
mod raw;
#[cfg(test)]
pub(crate) mod sample;

pub(crate) use arm64::{calls, stores_of_byte};
pub use btf::Btf;
pub(crate) use btf::Place;
pub use kallsyms::{Layout, Symbols};
pub(crate) use raw::decompress;
pub use raw::unpack;

use crate::error::Error;

/// A kernel's `Image`, read.
#[derive(Debug)]
pub struct KernelImage {
    /// The bytes that QEMU loads.
    pub bytes: Vec<u8>,
    /// Its symbol table.
    pub symbols: Symbols,
    /// Its type information.
    pub btf: Btf,
}

impl KernelImage {
    /// Reads an arm64 kernel image, which may be compressed with gzip or be an EFI zboot image.
    ///
    /// # Errors
    /// [`Error::Image`] with what is missing: the image's header, its `kallsyms` tables, its BTF.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        let bytes = unpack(bytes)?;
        let symbols = Symbols::find(&bytes)?;
        let btf = Btf::find(&bytes)?;
        Ok(Self { bytes, symbols, btf })
    }

    /// The release that the image names: `6.1.0-56-arm64` of `Linux version 6.1.0-56-arm64 (...`.
    ///
    /// # Errors
    /// [`Error::Image`] where there is no such text.
    pub fn release(&self) -> Result<&str, Error> {
        banner(&self.bytes)
            .and_then(|text| text.split(' ').nth(2))
            .ok_or_else(|| Error::Image("it has no `Linux version` text".into()))
    }

    /// The version with its stable number, `(6, 1, 192)`. Debian writes it near the end of the banner; else the release has it.
    ///
    /// # Errors
    /// [`Error::Image`] where no version can be read.
    pub fn version(&self) -> Result<(u32, u32, u32), Error> {
        let banner = banner(&self.bytes).unwrap_or_default();
        let debian = banner.split("Debian ").last().and_then(version_of);
        let release = version_of(self.release()?);
        debian
            .into_iter()
            .chain(release)
            .max()
            .ok_or_else(|| Error::Image(format!("no version in `{banner}`")))
    }
}

/// The kernel's banner: the longest text that begins as one does.
fn banner(bytes: &[u8]) -> Option<&str> {
    let needle = b"Linux version ";
    let starts = find_all(bytes, needle);
    let text = |start: usize| {
        let end = bytes[start..].iter().take(512).position(|&b| b == b'\n' || b == 0)?;
        std::str::from_utf8(&bytes[start..start + end]).ok()
    };
    starts
        .filter_map(text)
        .filter(|text| version_of(&text[needle.len()..]).is_some())
        .max_by_key(|text| text.len())
}

/// `6.1.192-2 (...)` as numbers; a missing third one is 0.
fn version_of(text: &str) -> Option<(u32, u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit() && c != '.').next()?.split('.');
    let mut next = || numbers.next().and_then(|digits| digits.parse::<u32>().ok());
    let (major, minor) = (next()?, next()?);
    Some((major, minor, next().unwrap_or(0)))
}

/// Every place where `needle` begins.
pub(crate) fn find_all<'a>(bytes: &'a [u8], needle: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let first = needle[0];
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let at = from + bytes.get(from..)?.iter().position(|&byte| byte == first)?;
            from = at + 1;
            if bytes[at..].starts_with(needle) {
                return Some(at);
            }
        }
    })
}

/// A little-endian 32-bit word.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_le_bytes(word.try_into().ok()?))
}

/// A little-endian 64-bit word.
pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let word = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes(word.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Banners as they stand in Debian's packages of 6.1.192 and 6.12.118.
    #[test]
    fn versions_in_banners() {
        let image = |text: &str| {
            let text = format!("\0Linux version \0{text}\n\0");
            let bytes = text.into_bytes();
            banner(&bytes).map(|banner| {
                let debian = banner.split("Debian ").last().and_then(version_of);
                debian.or_else(|| version_of(&banner[14..]))
            })
        };
        assert_eq!(
            image(
                "Linux version 6.1.0-56-arm64 (debian-kernel@lists.debian.org) (gcc-12 (Debian 12.2.0-14+deb12u1) 12.2.0, GNU ld (GNU Binutils for Debian) 2.40) #1 SMP Debian 6.1.192-2 (2026-11-15)"
            ),
            Some(Some((6, 1, 192)))
        );
        assert_eq!(image("Linux version 6.18.0 (x@y) #1 SMP"), Some(Some((6, 18, 0))));
        assert_eq!(image("nothing"), None);
    }
}
