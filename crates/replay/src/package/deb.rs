//! Debian packages: an `ar` archive that holds a compressed `tar` (deb(5)).

use crate::error::{Error, io, io_at};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// A package file.
#[derive(Debug)]
pub struct Deb {
    path: PathBuf,
}

impl Deb {
    /// The package at `path`.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Calls `take` with the path (without a leading `./`) and the contents of every regular file that `wanted` says yes to.
    ///
    /// # Errors
    /// [`Error::Io`] and [`Error::File`] if the file is no package or is damaged, and what `take` says.
    pub fn each(
        &self,
        wanted: impl Fn(&str) -> bool,
        mut take: impl FnMut(&str, Vec<u8>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let damaged = |what: String| Error::File { path: self.path.clone(), what };
        let file = File::open(&self.path).map_err(io_at(&self.path))?;
        let mut archive = ar::Archive::new(BufReader::new(file));
        while let Some(member) = archive.next_entry() {
            let member = member.map_err(|error| damaged(format!("no package: {error}")))?;
            let name = String::from_utf8_lossy(member.header().identifier()).into_owned();
            let name = name.trim_end_matches('/');
            if !name.starts_with("data.tar") {
                continue;
            }
            let reader: Box<dyn Read + '_> = match name.rsplit('.').next() {
                Some("xz") => Box::new(lzma_rust2::XzReader::new(BufReader::new(member), true)),
                Some("gz") => Box::new(flate2::read::GzDecoder::new(member)),
                Some("zst") => Box::new(
                    ruzstd::decoding::StreamingDecoder::new(member)
                        .map_err(|error| damaged(error.to_string()))?,
                ),
                Some("tar") => Box::new(member),
                _ => return Err(damaged(format!("`{name}` has an unknown compression"))),
            };
            return files(reader, wanted, &mut take).map_err(|error| match error {
                Error::Io { what, error } => damaged(format!("{what}: {error}")),
                other => other,
            });
        }
        Err(damaged("a package without data.tar".into()))
    }
}

fn files(
    reader: impl Read,
    wanted: impl Fn(&str) -> bool,
    take: &mut impl FnMut(&str, Vec<u8>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut archive = tar::Archive::new(BufReader::with_capacity(1 << 16, reader));
    for entry in archive.entries().map_err(io("reading the archive"))? {
        let mut entry = entry.map_err(io("reading the archive"))?;
        let path = entry.path().map_err(io("reading a path"))?.to_string_lossy().into_owned();
        let path = path.trim_start_matches("./");
        if entry.header().entry_type().is_file() && wanted(path) {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).map_err(io(path))?;
            take(path, bytes)?;
        }
    }
    Ok(())
}

/// A package with these files, for tests.
#[cfg(test)]
pub(crate) fn package(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut data =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        data.append_data(&mut header, format!("./{path}"), *bytes).expect("writing to memory");
    }
    let data =
        data.into_inner().and_then(flate2::write::GzEncoder::finish).expect("writing to memory");
    let mut out = ar::Builder::new(Vec::new());
    let mut member = |name: &[u8], bytes: &[u8]| {
        let header = ar::Header::new(name.to_vec(), bytes.len() as u64);
        out.append(&header, bytes).expect("writing to memory");
    };
    member(b"debian-binary", b"2.0\n");
    member(b"control.tar.gz", b"");
    member(b"data.tar.gz", &data);
    out.into_inner().expect("writing to memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wanted_files_come_out() {
        let folder = crate::scratch::Folder::new("deb");
        let path = folder.path().join("a.deb");
        std::fs::write(
            &path,
            package(&[("boot/vmlinuz-1", b"image"), ("usr/share/doc/x", b"text")]),
        )
        .expect("the folder is ours");
        let mut found = Vec::new();
        Deb::new(&path)
            .each(
                |path| path.starts_with("boot/"),
                |path, bytes| {
                    found.push((path.to_owned(), bytes));
                    Ok(())
                },
            )
            .expect("the package is whole");
        assert_eq!(found, [("boot/vmlinuz-1".to_owned(), b"image".to_vec())]);
    }

    #[test]
    fn other_files_are_refused() {
        let folder = crate::scratch::Folder::new("no-deb");
        let path = folder.path().join("a.deb");
        let whole = package(&[("boot/vmlinuz-1", &[7; 5000])]);
        for bytes in [&b"not a package"[..], &whole[..whole.len() - 40]] {
            std::fs::write(&path, bytes).expect("the folder is ours");
            assert!(Deb::new(&path).each(|_| true, |_, _| Ok(())).is_err());
        }
    }
}
