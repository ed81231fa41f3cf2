//! The machine's RAM: a memory file that this process and QEMU have both mapped.
#![expect(
    unsafe_code,
    reason = "DmaMemory's obligations are promised here; no line needs more than the word"
)]

use crate::error::{Error, ErrorKind};
use crate::extents::Extents;
use crate::sys::Mapping;
use portcullis_addr::PhysAddr;
use portcullis_platform::{AllocError, Coherency, DmaMemory, PageLayout};
use std::fs::File;
use std::ptr::NonNull;
use std::sync::atomic::{Ordering, fence};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Guest memory. Tables, queues and buffers in it are ordinary memory to this process; QEMU's devices and IOMMU reach the same bytes.
///
/// Accesses by address panic outside the RAM, as [`DmaMemory`] allows: addresses come from the driver, never from hardware.
#[derive(Debug)]
pub struct Ram {
    mapping: Mapping,
    base: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    extents: Extents,
    /// Allocations that still succeed before one fails.
    countdown: Option<u64>,
}

impl Ram {
    /// `len` bytes of zeroes (a multiple of 4 KiB) at physical address `base`; the allocator keeps off the first `reserved` bytes, where the machine puts its own things.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where the kernel has no such memory.
    pub fn new(base: PhysAddr, len: usize, reserved: u64) -> Result<Self, Error> {
        let mapping = Mapping::new(c"portcullis-ram", len)
            .map_err(|error| ErrorKind::Io { what: "allocating guest RAM", error })?;
        let base = base.raw();
        let extents = Extents::new(base + reserved, base + len as u64);
        Ok(Self { mapping, base, state: Mutex::new(State { extents, countdown: None }) })
    }

    /// Where it begins.
    pub fn base(&self) -> PhysAddr {
        PhysAddr::new(self.base)
    }

    /// Its length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a machine without RAM cannot be made")]
    pub fn len(&self) -> usize {
        self.mapping.len()
    }

    /// Bytes that are allocated now: back at its old value after every balanced use.
    pub fn allocated_bytes(&self) -> u64 {
        self.state().extents.used_bytes()
    }

    /// Lets the next `successes` allocations succeed and fails the one after them, once.
    pub fn fail_allocation_after(&self, successes: u64) {
        self.state().countdown = Some(successes);
    }

    /// Whether all of `[address, address + len)` is RAM.
    pub fn contains(&self, address: PhysAddr, len: u64) -> bool {
        address
            .raw()
            .checked_sub(self.base)
            .and_then(|offset| offset.checked_add(len))
            .is_some_and(|end| end <= self.len() as u64)
    }

    /// Copies out the bytes from `address` on.
    ///
    /// # Panics
    ///
    /// When they leave the RAM.
    pub fn read(&self, address: PhysAddr, bytes: &mut [u8]) {
        let start = self.offset(address);
        fence(Ordering::Acquire);
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = self.mapping.byte(start + index).load(Ordering::Relaxed);
        }
    }

    /// The `len` bytes from `address` on.
    ///
    /// # Panics
    ///
    /// When they leave the RAM.
    pub fn read_vec(&self, address: PhysAddr, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read(address, &mut bytes);
        bytes
    }

    /// Copies `bytes` to `address` on.
    ///
    /// # Panics
    ///
    /// When they leave the RAM.
    pub fn write(&self, address: PhysAddr, bytes: &[u8]) {
        let start = self.offset(address);
        for (index, byte) in bytes.iter().enumerate() {
            self.mapping.byte(start + index).store(*byte, Ordering::Relaxed);
        }
        fence(Ordering::Release);
    }

    /// Reads 16 bits at a multiple of 2, acquire ordering.
    ///
    /// # Panics
    ///
    /// When they leave the RAM or are not aligned.
    pub fn load16(&self, address: PhysAddr) -> u16 {
        u16::from_le(self.mapping.half(self.offset(address)).load(Ordering::Acquire))
    }

    /// Writes 16 bits at a multiple of 2, release ordering.
    ///
    /// # Panics
    ///
    /// When they leave the RAM or are not aligned.
    pub fn store16(&self, address: PhysAddr, value: u16) {
        self.mapping.half(self.offset(address)).store(value.to_le(), Ordering::Release);
    }

    /// Reads 32 bits at a multiple of 4, acquire ordering.
    ///
    /// # Panics
    ///
    /// When they leave the RAM or are not aligned.
    pub fn load32(&self, address: PhysAddr) -> u32 {
        u32::from_le(self.mapping.word(self.offset(address)).load(Ordering::Acquire))
    }

    /// Writes 32 bits at a multiple of 4, release ordering.
    ///
    /// # Panics
    ///
    /// When they leave the RAM or are not aligned.
    pub fn store32(&self, address: PhysAddr, value: u32) {
        self.mapping.word(self.offset(address)).store(value.to_le(), Ordering::Release);
    }

    /// Where this process sees the `len` bytes from `address` on: what `phys_to_virt` is in a kernel. The pointer is valid while the RAM lives; QEMU may write there at any time.
    ///
    /// # Panics
    ///
    /// When they leave the RAM.
    #[doc(alias = "phys_to_virt")]
    pub fn pointer(&self, address: PhysAddr, len: usize) -> NonNull<u8> {
        self.mapping.pointer(self.offset(address), len)
    }

    /// The physical address of a place that [`pointer`](Self::pointer) gave; `None` for a pointer outside the RAM.
    #[doc(alias = "virt_to_phys")]
    pub fn physical(&self, pointer: NonNull<u8>) -> Option<PhysAddr> {
        let start = self.mapping.pointer(0, 0).addr().get();
        let offset = pointer.addr().get().checked_sub(start)?;
        (offset < self.len()).then(|| PhysAddr::new(self.base + offset as u64))
    }

    /// The memory file, to hand to QEMU.
    pub(crate) fn file(&self) -> &File {
        self.mapping.file()
    }

    fn offset(&self, address: PhysAddr) -> usize {
        let offset = address.raw().checked_sub(self.base).and_then(|o| usize::try_from(o).ok());
        offset.unwrap_or_else(|| panic!("{address} is below the RAM at {:#x}", self.base))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn zero(&self, address: u64, size: usize) {
        let start = self.offset(PhysAddr::new(address));
        let words = if start.is_multiple_of(8) { size / 8 } else { 0 };
        for word in 0..words {
            self.mapping.double(start + 8 * word).store(0, Ordering::Relaxed);
        }
        for byte in 8 * words..size {
            self.mapping.byte(start + byte).store(0, Ordering::Relaxed);
        }
        fence(Ordering::Release);
    }
}

impl State {
    fn take(&mut self, layout: PageLayout) -> Option<u64> {
        match self.countdown {
            Some(0) => {
                self.countdown = None;
                return None;
            }
            Some(left) => self.countdown = Some(left - 1),
            None => {}
        }
        self.extents.take(layout.size() as u64, layout.align() as u64, layout.last())
    }
}

// SAFETY: the memory is a mapping of its own that no Rust object lies in, and is reached as atomics whose place `Mapping` checks. The extents give no byte out
// twice and know what they gave.
unsafe impl DmaMemory for Ram {
    fn allocate(&self, layout: PageLayout) -> Result<PhysAddr, AllocError> {
        let address = self.state().take(layout).ok_or(AllocError { layout })?;
        self.zero(address, layout.size());
        Ok(PhysAddr::new(address))
    }

    fn free(&self, address: PhysAddr, layout: PageLayout) {
        let known = self.state().extents.give_back(address.raw(), layout.size() as u64);
        assert!(known, "freeing {} bytes at {address}, which are not allocated", layout.size());
    }

    fn load64(&self, address: PhysAddr) -> u64 {
        u64::from_le(self.mapping.double(self.offset(address)).load(Ordering::Acquire))
    }

    fn store64(&self, address: PhysAddr, value: u64) {
        self.mapping.double(self.offset(address)).store(value.to_le(), Ordering::Release);
    }

    fn compare_exchange64(&self, address: PhysAddr, old: u64, new: u64) -> Result<(), u64> {
        self.mapping
            .double(self.offset(address))
            .compare_exchange(old.to_le(), new.to_le(), Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
            .map_err(u64::from_le)
    }

    // QEMU reads the very pages that this process writes: nothing to clean, only order to keep.
    fn publish(&self, _address: PhysAddr, _len: usize, _to: Coherency) {
        fence(Ordering::SeqCst);
    }

    fn refresh(&self, _address: PhysAddr, _len: usize, _from: Coherency) {
        fence(Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PhysAddr = PhysAddr::new(0x4000_0000);

    fn ram() -> Ram {
        Ram::new(BASE, 1 << 20, 0x1000).expect("memory file")
    }

    fn layout(size: usize, align: usize) -> PageLayout {
        PageLayout::new(size, align).expect("test layout")
    }

    #[test]
    fn memory_comes_zeroed_and_aligned_even_when_reused() {
        let ram = ram();
        let page = layout(4096, 4096);
        let first = ram.allocate(page).expect("room");
        assert_eq!(first, PhysAddr::new(0x4000_1000), "the reserved part is left alone");
        ram.write(first, &[0xff; 4096]);
        ram.free(first, page);
        let second = ram.allocate(page).expect("room");
        assert_eq!(second, first);
        assert_eq!(ram.read_vec(second, 4096), vec![0; 4096]);
        let odd = ram.allocate(layout(13, 1)).expect("room");
        let next = ram.allocate(layout(64, 64)).expect("room");
        assert!(next.is_aligned(64) && next.raw() >= odd.raw() + 13);
        assert_eq!(ram.allocated_bytes(), 4096 + 13 + 64);
    }

    #[test]
    fn the_countdown_fails_one_allocation_and_changes_nothing() {
        let ram = ram();
        let page = layout(4096, 4096);
        ram.fail_allocation_after(1);
        let kept = ram.allocate(page).expect("the first succeeds");
        let before = ram.allocated_bytes();
        assert_eq!(ram.allocate(page), Err(AllocError { layout: page }));
        assert_eq!(ram.allocated_bytes(), before);
        assert_ne!(ram.allocate(page).expect("only one fails"), kept);
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(ram().allocate(layout(1 << 20, 4096)).is_err());
    }

    #[test]
    #[should_panic(expected = "not allocated")]
    fn freeing_twice_is_noticed() {
        let ram = ram();
        let page = layout(4096, 4096);
        let address = ram.allocate(page).expect("room");
        ram.free(address, page);
        ram.free(address, page);
    }

    #[test]
    fn words_are_little_endian_and_exchange_is_conditional() {
        let ram = ram();
        let at = ram.allocate(layout(64, 64)).expect("room");
        ram.store64(at, 0x1122_3344_5566_7788);
        assert_eq!(ram.read_vec(at, 2), [0x88, 0x77]);
        assert_eq!(ram.load16(at), 0x7788);
        assert_eq!(ram.load32(PhysAddr::new(at.raw() + 4)), 0x1122_3344);
        assert_eq!(ram.compare_exchange64(at, 1, 2), Err(0x1122_3344_5566_7788));
        assert_eq!(ram.compare_exchange64(at, 0x1122_3344_5566_7788, 2), Ok(()));
        assert_eq!(ram.load64(at), 2);
        assert_eq!(ram.physical(ram.pointer(at, 8)), Some(at));
        assert!(ram.contains(BASE, 1 << 20) && !ram.contains(BASE, (1 << 20) + 1));
    }
}
