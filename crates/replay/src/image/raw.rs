//! From the file that a distribution ships to the bytes that a boot loader jumps into.

use super::u32_at;
use crate::error::Error;
use std::io::Read;

/// The largest image that is believed: real ones have 30 to 60 MiB.
const MOST: u64 = 512 << 20;

/// Magic number 2 of the arm64 image header (Documentation/arch/arm64/booting.rst, "Call the kernel image": "ARM\x64" at byte 56).
const MAGIC: u32 = 0x644d_5241;

/// Takes off a compression: none, gzip, or an EFI zboot envelope with gzip, xz or zstd (drivers/firmware/efi/libstub/zboot-header.S).
///
/// # Errors
/// [`Error::Image`] if what is inside is no arm64 image.
pub fn unpack(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let image = if bytes.starts_with(&[0x1f, 0x8b]) {
        decompress("gzip", bytes)?
    } else if bytes.get(4..8) == Some(b"zimg") {
        zboot(bytes)?
    } else {
        bytes.to_vec()
    };
    if u32_at(&image, 56) == Some(MAGIC) {
        return Ok(image);
    }
    Err(Error::Image("it is no arm64 Image (`ARM\\x64` is missing at byte 56)".into()))
}

/// zboot-header.S: `zimg` at 4, the payload's offset at 8 and size at 12, the compression's name at 24.
fn zboot(bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let broken = || Error::Image("a zboot image whose header points outside".into());
    let number = |at| u32_at(bytes, at).map(|number| number as usize).ok_or_else(broken);
    let (start, len) = (number(8)?, number(12)?);
    let payload =
        start.checked_add(len).and_then(|end| bytes.get(start..end)).ok_or_else(broken)?;
    let name = bytes.get(24..32).ok_or_else(broken)?;
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let kind = match name {
        b"gzip" => "gzip",
        b"xzkern" => "xz",
        b"zstd22" => "zstd",
        other => {
            let name = String::from_utf8_lossy(other);
            return Err(Error::Image(format!("zboot compression `{name}` is not supported")));
        }
    };
    decompress(kind, payload)
}

/// Decompresses `bytes` by `kind`: `gzip`, `xz` or `zstd`.
///
/// # Errors
/// [`Error::Image`] if the data are damaged, or larger than any kernel.
pub(crate) fn decompress(kind: &str, bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let damaged = |error: String| Error::Image(format!("damaged {kind} data: {error}"));
    let mut out = Vec::new();
    let reader: Box<dyn Read + '_> = match kind {
        "gzip" => Box::new(flate2::read::GzDecoder::new(bytes)),
        "xz" => Box::new(lzma_rust2::XzReader::new(bytes, false)),
        "zstd" => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(bytes);
            Box::new(decoder.map_err(|error| damaged(error.to_string()))?)
        }
        other => return Err(Error::Image(format!("compression `{other}` is not supported"))),
    };
    let read = reader.take(MOST + 1).read_to_end(&mut out);
    read.map_err(|error| damaged(error.to_string()))?;
    if out.len() as u64 > MOST {
        return Err(damaged("more than 512 MiB".into()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn image() -> Vec<u8> {
        let mut image = vec![0; 64];
        image[56..60].copy_from_slice(b"ARM\x64");
        image.extend([1, 2, 3]);
        image
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(bytes).and_then(|()| out.finish()).expect("writing to memory")
    }

    #[test]
    fn plain_gzip_and_zboot_images() {
        assert_eq!(unpack(&image()).ok(), Some(image()));
        assert_eq!(unpack(&gzip(&image())).ok(), Some(image()));
        let payload = gzip(&image());
        let mut zboot = b"MZ\0\0zimg".to_vec();
        zboot.extend(64_u32.to_le_bytes());
        zboot.extend(u32::try_from(payload.len()).expect("small").to_le_bytes());
        zboot.resize(24, 0);
        zboot.extend(b"gzip");
        zboot.resize(64, 0);
        zboot.extend(payload);
        assert_eq!(unpack(&zboot).ok(), Some(image()));
        zboot.truncate(70);
        assert!(unpack(&zboot).is_err(), "a payload that is cut off");
    }

    #[test]
    fn other_files_are_refused() {
        let says = |bytes: &[u8]| unpack(bytes).map_err(|error| error.to_string()).unwrap_err();
        assert!(says(b"\x7fELF").contains("no arm64 Image"));
        assert!(says(&gzip(b"x")).contains("no arm64 Image"));
        assert!(says(&[0x1f, 0x8b, 0]).contains("damaged gzip"));
    }
}
