//! What PVH's loader hands over: Xen's `hvm_start_info` (`xen/include/public/arch-x86/hvm/start_info.h`).

const MAGIC: u32 = 0x336e_c578;
const RAM: u32 = 1;
/// The root pointer of revision 2.
const ROOT_POINTER_BYTES: u64 = 36;

#[repr(C)]
struct Head {
    magic: u32,
    version: u32,
    flags: u32,
    modules: u32,
    module_list: u64,
    command_line: u64,
    root_pointer: u64,
    memory_map: u64,
    memory_entries: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Memory {
    start: u64,
    len: u64,
    kind: u32,
    reserved: u32,
}

pub struct StartInfo {
    root_pointer: u64,
    memory: &'static [Memory],
}

impl StartInfo {
    /// # Safety
    ///
    /// The address comes from a PVH loader, and memory below 4 GiB is mapped 1:1.
    pub unsafe fn read(at: usize) -> Self {
        let head: *const Head = core::ptr::with_exposed_provenance(at);
        // SAFETY: the caller's; whatever stands there is numbers.
        let head = unsafe { head.read() };
        assert!(head.magic == MAGIC && head.version >= 1, "no start information with a memory map");
        let map = core::ptr::with_exposed_provenance(head.memory_map as usize);
        // SAFETY: the loader's map.
        let memory = unsafe { core::slice::from_raw_parts(map, head.memory_entries as usize) };
        Self { root_pointer: head.root_pointer, memory }
    }

    /// Start and length of the RAM that the image is in.
    pub fn ram(&self) -> (u64, u64) {
        unsafe extern "C" {
            static __image_end: u8;
        }
        let end = (&raw const __image_end).addr() as u64;
        let ram = self.around(end).filter(|memory| memory.kind == RAM).expect("RAM");
        (ram.start, ram.len)
    }

    /// ACPI's RSDP.
    pub fn root_pointer(&self) -> &'static [u8] {
        let bytes = self.bytes_at(self.root_pointer).expect("an RSDP");
        &bytes[..bytes.len().min(ROOT_POINTER_BYTES as usize)]
    }

    /// Memory from `address` to the end of what the map says of it.
    pub fn bytes_at(&self, address: u64) -> Option<&'static [u8]> {
        let memory = self.around(address)?;
        let len = memory.start + memory.len - address;
        // SAFETY: memory by the loader's map, mapped; nobody writes what firmware left.
        Some(unsafe {
            core::slice::from_raw_parts(
                core::ptr::with_exposed_provenance(address as usize),
                len as usize,
            )
        })
    }

    fn around(&self, address: u64) -> Option<Memory> {
        let holds = |memory: &&Memory| {
            address >= memory.start && address - memory.start < memory.len && address > 0
        };
        self.memory.iter().find(holds).copied()
    }
}
