//! What all targets do with an input: hand it to a reader, hold the result against the reader's promises, and watch the processor time.

use portcullis::DmaPath;
use portcullis_firmware::acpi::loader::link;
use portcullis_firmware::{
    DescribedDevice, MachineDescription, RequesterId, read_acpi, read_devicetree, sharing,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// No input may take longer: issued as a crash, with the input kept.
pub const SLOWEST_NS: u64 = 50_000_000;

/// Length of the header that all ACPI tables begin with (ACPI 6.5, section 5.2.6).
const HEADER: usize = 36;

/// Processor time of this thread, so that whatever else the machine does is not counted.
fn thread_time_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that the call fills, and lives longer than the call.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(result, 0, "this system has no clock of a thread's processor time");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs `read` on an input of `len` bytes. Each input that took longer than all before it is reported on a line of its own.
///
/// # Panics
///
/// It took longer than [`SLOWEST_NS`].
pub fn timed(len: usize, read: impl FnOnce()) {
    static SLOWEST: AtomicU64 = AtomicU64::new(0);
    let begin = thread_time_ns();
    read();
    let took = thread_time_ns() - begin;
    if SLOWEST.fetch_max(took, Ordering::Relaxed) < took {
        eprintln!("slowest so far: {} us for {len} bytes", took / 1000);
    }
    assert!(took <= SLOWEST_NS, "{took} ns for {len} bytes");
}

/// Bytes as the table `signature`. Signature and length are made to fit, so that an input of at least a header's length gets past the header.
pub fn table(signature: &[u8; 4], bytes: &[u8]) {
    let mut table = bytes.to_vec();
    if bytes.len() >= HEADER {
        table[..4].copy_from_slice(signature);
        table[4..8].copy_from_slice(&(bytes.len() as u32).to_le_bytes());
    }
    timed(table.len(), || match read_acpi([table.as_slice()], "fuzzed") {
        Ok(machine) => check_tables(&machine),
        Err(error) => assert!(!error.to_string().is_empty()),
    });
}

/// Bytes as a script and the files that it names: refused, or files that are no larger than what was handed over, whose tables are found or not.
///
/// The first two bytes say how many of the others are the script, the third how many after it are the root pointer's file; the rest is every other file.
pub fn loader(bytes: &[u8]) {
    let Some(([low, high, root], rest)) = bytes.split_first_chunk() else { return };
    let script = usize::from(u16::from_le_bytes([*low, *high])).min(rest.len());
    let (script, files) = rest.split_at(script);
    let (root, tables) = files.split_at(usize::from(*root).min(files.len()));
    let file = |name: &str| if name == "etc/acpi/rsdp" { root } else { tables };
    let linked = || link(script, 0x1000_0000..0x2000_0000, |name| Some(file(name).to_vec()));
    timed(bytes.len(), || match linked() {
        Ok(linked) => {
            let most = root.len().max(tables.len());
            assert!(linked.files.iter().all(|placed| placed.bytes.len() <= most));
            if let Ok(tables) = linked.tables() {
                let _ = read_acpi(tables, "fuzzed");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    });
}

/// Bytes as a flattened devicetree.
pub fn devicetree(blob: &[u8]) {
    timed(blob.len(), || match read_devicetree(blob, "fuzzed") {
        Ok(machine) => check_tree(&machine),
        Err(error) => assert!(!error.to_string().is_empty()),
    });
}

/// Nothing that a table put behind a unit is direct, whatever enumeration finds.
fn check_tables(machine: &MachineDescription) {
    assert!(machine.iommus.is_sorted_by_key(|iommu| iommu.node));
    for device in &machine.devices {
        let described = device.bus.is_some() || !device.streams.is_empty();
        assert!(!described || device.description.dma != DmaPath::Direct);
        for function in &device.functions {
            assert_ne!(function.description.dma, DmaPath::Direct);
        }
        if let Some(bus) = &device.bus {
            // Enumeration that finds every bridge, and one that finds none.
            let all = bus.resolve(|bridge| u8::try_from(bridge.0 >> 8).ok().map(|bus| (bus, 0xff)));
            let none = bus.resolve(|_| None);
            assert!(all.scopes().is_empty() && none.scopes().is_empty());
        }
    }
}

fn check_tree(machine: &MachineDescription) {
    assert_eq!(sharing(machine).len(), machine.devices.len());
    assert!(machine.iommus.is_sorted_by_key(|iommu| iommu.node));
    for device in &machine.devices {
        never_direct_behind_an_enabled_iommu(machine, device);
        let Some(bus) = &device.bus else { continue };
        // A range may reach beyond what the mask lets through.
        for map in bus.maps().iter().filter(|map| map.rid_last() & !bus.mask() == 0) {
            let (_, stream) = bus.stream(RequesterId(map.rid_last())).expect("the range's last id");
            let beyond = if map.constant { 0 } else { map.length - 1 };
            assert_eq!(stream.id.raw() - map.id_base, beyond);
        }
    }
}

fn never_direct_behind_an_enabled_iommu(machine: &MachineDescription, device: &DescribedDevice) {
    if device.description.dma == DmaPath::Direct {
        // Its own path is that of its streams where it has any, of its map otherwise.
        let maps =
            device.bus.iter().flat_map(|bus| bus.maps()).filter(|_| device.streams.is_empty());
        let mut named = device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu));
        assert!(named.all(|node| machine.iommu(node).is_some_and(|iommu| !iommu.enabled)));
    }
}
