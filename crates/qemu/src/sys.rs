//! The calls that the standard library does not offer: a memory file shared with QEMU, and what a child does before it becomes QEMU.
#![expect(unsafe_code, reason = "mmap, memfd_create and pre_exec have no safe form")]

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64};

/// A memory file: bytes without a name in any file system, gone with its last user.
pub(crate) fn memory_file(name: &CStr, len: u64) -> io::Result<File> {
    // SAFETY: `name` is NUL terminated and lives through the call, which only reads it.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above just returned `fd` to us; nobody else owns it.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    file.set_len(len)?;
    Ok(file)
}

/// A memory file mapped into this process; another process may have mapped it too, so every access is atomic.
///
/// # Invariants
///
/// `start` is the page-aligned begin of `len` bytes that stay mapped, readable and writable, until drop.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    len: usize,
    file: File,
}

// SAFETY: the mapping belongs to the process, not to a thread, and is reached through atomics only.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

macro_rules! atomic_view {
    ($name:ident, $atomic:ty) => {
        /// The naturally aligned word at byte `offset`; panics outside the mapping.
        pub(crate) fn $name(&self, offset: usize) -> &$atomic {
            let pointer = self.pointer(offset, size_of::<$atomic>()).cast::<$atomic>();
            assert!(pointer.is_aligned(), "offset {offset:#x} is not aligned");
            // SAFETY: `pointer` gave a place inside the mapping, the line above checked its alignment, the mapping outlives
            // the borrow of self, and all accesses in this process are atomic.
            unsafe { pointer.as_ref() }
        }
    };
}

impl Mapping {
    /// `len` zero bytes, a multiple of the page size.
    pub(crate) fn new(name: &CStr, len: usize) -> io::Result<Self> {
        let file = memory_file(name, len as u64)?;
        // SAFETY: a fresh shared mapping of a file that is `len` bytes long, at an address the kernel chooses.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::other("mapped at 0"))?;
        // INVARIANT: mmap succeeded for `len` bytes; only drop unmaps them.
        Ok(Self { start, len, file })
    }

    /// Bytes mapped.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The file behind it.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Where the `len` bytes from `offset` are; panics when they leave the mapping.
    pub(crate) fn pointer(&self, offset: usize, len: usize) -> NonNull<u8> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        assert!(inside, "{len} bytes at offset {offset:#x} leave the {:#x} bytes of RAM", self.len);
        // SAFETY: `offset <= self.len` was checked, and the mapping is one allocation of that length.
        unsafe { self.start.add(offset) }
    }

    atomic_view!(byte, AtomicU8);
    atomic_view!(half, AtomicU16);
    atomic_view!(word, AtomicU32);
    atomic_view!(double, AtomicU64);
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the type's invariant: these bytes were mapped by `new` and nothing borrows them any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

/// Makes the process that `command` starts inherit exactly `files` (under their present numbers) beside the standard three, and die with the
/// thread that spawns it.
pub(crate) fn confine(command: &mut Command, files: Vec<RawFd>) {
    let parent = std::process::id();
    // SAFETY: the closure runs between fork and exec; it allocates nothing, takes no lock and calls only async-signal-safe system calls.
    unsafe { command.pre_exec(move || become_child(parent, &files)) };
}

fn become_child(parent: u32, files: &[RawFd]) -> io::Result<()> {
    // SAFETY: prctl with PR_SET_PDEATHSIG only changes an attribute of the calling process.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The parent may have died before the line above took effect; then the signal never comes.
    // SAFETY: getppid has no preconditions.
    if unsafe { libc::getppid() }.cast_unsigned() != parent {
        return Err(io::Error::from(io::ErrorKind::NotFound));
    }
    // Kernels before 5.11 do not know the call: then only what others left inheritable leaks, which does not harm us.
    // SAFETY: sets close-on-exec, closes nothing.
    unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    for &file in files {
        // SAFETY: changes a flag of a descriptor that the caller keeps open across the fork.
        if unsafe { libc::fcntl(file, libc::F_SETFD, 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::atomic::Ordering;

    #[test]
    fn a_mapping_and_its_file_are_the_same_bytes() {
        let mapping = Mapping::new(c"test", 4096).expect("memory file");
        mapping.double(8).store(0x1122_3344_5566_7788, Ordering::Release);
        let mut bytes = [0; 16];
        let mut file = mapping.file();
        file.read_exact(&mut bytes).expect("16 of 4096 bytes");
        assert_eq!(bytes[8..], 0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(mapping.word(12).load(Ordering::Acquire), 0x1122_3344);
    }

    #[test]
    #[should_panic(expected = "leave the 0x1000 bytes of RAM")]
    fn the_end_is_guarded() {
        let mapping = Mapping::new(c"test", 4096).expect("memory file");
        mapping.double(4096);
    }

    #[test]
    #[should_panic(expected = "not aligned")]
    fn alignment_is_checked() {
        let mapping = Mapping::new(c"test", 4096).expect("memory file");
        mapping.double(4);
    }
}
