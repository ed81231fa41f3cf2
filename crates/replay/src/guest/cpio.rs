//! Archives in the form `newc`, as the kernel unpacks them (Documentation/driver-api/early-userspace/buffer-format.rst).

/// An archive under construction.
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    files: u32,
}

/// File types of the mode word (stat(2)).
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER: u32 = 0o020_000;

impl Archive {
    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, permissions: u32, contents: &[u8]) {
        self.entry(path, REGULAR | permissions, (0, 0), contents);
    }

    /// Adds a character device.
    pub(crate) fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.entry(path, CHARACTER | 0o600, (major, minor), &[]);
    }

    /// The archive with its end mark.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    /// A header of 6 + 13 * 8 characters, the name with its NUL, the contents; name and contents padded to 4.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), contents: &[u8]) {
        self.files += 1;
        let size = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let fields = [self.files, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.iter().flat_map(|field| format!("{field:08X}").into_bytes()));
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::default();
        archive.folder("dev");
        archive.device("dev/console", 5, 1);
        archive.file("init", 0o755, b"#!/bin/sh\n");
        archive.finish()
    }

    /// The first header, character by character from the document.
    #[test]
    fn the_first_header() {
        let archive = sample();
        let header = std::str::from_utf8(&archive[..110]).expect("a header is text");
        let inode_mode = "00000001000041ED";
        let owner_links_time_size = "0000000000000000000000010000000000000000";
        let devices = "00000000000000000000000000000000";
        let name_check = "0000000400000000";
        assert_eq!(
            header,
            format!("070701{inode_mode}{owner_links_time_size}{devices}{name_check}")
        );
        assert_eq!(&archive[110..116], b"dev\0\0\0");
    }

    /// GNU cpio reads it, where it is installed.
    #[test]
    fn gnu_cpio_lists_it() {
        let child = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else {
            let required = std::env::var_os(portcullis_qemu::REQUIRE_VARIABLE);
            assert!(required.is_none_or(|value| value != "1"), "cpio is not installed");
            let _ = std::io::stderr().write_all(b"SKIP gnu_cpio_lists_it: cpio is not installed\n");
            return;
        };
        child.stdin.take().expect("it was piped").write_all(&sample()).expect("cpio reads");
        let output = child.wait_with_output().expect("cpio ends");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[1].contains("5,   1"), "{text}");
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains("10"), "{text}");
    }
}
