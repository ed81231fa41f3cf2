//! On a unit that does not snoop the caches every store must be published before hardware is led to it. Each publication is left out in turn.

use crate::world::{STREAM, any_space, exact, small};
use portcullis::{IommuOps, StreamTarget};
use portcullis_addr::{Iova, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    DmaRequest, Expectation, Machine, MachineClock, PhysicalMemory, Policy, Profile, TimeSource,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostPlatform;
use portcullis_platform::{Coherency, DmaPages, MemoryWatch, PageLayout, Registers, WatchedMemory};
use portcullis_smmuv3::Smmu;
use portcullis_spec::smmuv3::{CMDQ_BASE, STRTAB_BASE, cmdq_base, l1std, ste, strtab_base};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Publication number `forget` does not happen.
#[derive(Debug)]
struct Forgetful {
    forget: u64,
    published: AtomicU64,
    /// All of them: where and how long.
    places: Mutex<Vec<(u64, usize)>>,
}

impl MemoryWatch for Forgetful {
    fn publishes(&self, address: PhysAddr, len: usize, to: Coherency) -> bool {
        assert_eq!(to, Coherency::NonCoherent, "nothing here is for a unit that snoops");
        let n = self.published.fetch_add(1, Ordering::Relaxed) + 1;
        self.places.lock().expect("no test panics here").push((address.raw(), len));
        n != self.forget
    }
}

type Careless = HostPlatform<WatchedMemory<PhysicalMemory, Forgetful>, Arc<MachineClock>>;

/// What one life of a device came to.
struct Life {
    /// Everything went as it should, and the machine had no objection.
    right: bool,
    /// Every publication: what it was for.
    published: Vec<&'static str>,
}

/// Up, map, DMA, unmap, block, down, with publication number `forget` (from 1) left out.
fn life(forget: u64) -> Life {
    let time = TimeSource::Virtual { step: 1_000_000 };
    let machine = Machine::builder().policy(Policy::default()).time(time).seed(3).build();
    let unit = machine.add_smmuv3(Profile::non_coherent());
    let device = machine.add_client("client", &unit, STREAM);
    let inner = Arc::clone(machine.memory());
    let watch = Forgetful { forget, published: AtomicU64::new(0), places: Mutex::default() };
    let memory = Arc::new(WatchedMemory::new(inner, watch));
    let platform = Careless::with_clock(Arc::clone(&memory), Arc::clone(machine.clock()));
    let mut bases = [0; 2];
    let run = || {
        let smmu = Smmu::bring_up(Arc::new(platform), unit.registers(), small()).ok()?;
        let registers = unit.registers();
        bases = [
            strtab_base::ADDR.in_place(registers.read64(STRTAB_BASE.offset)),
            cmdq_base::ADDR.in_place(registers.read64(CMDQ_BASE.offset)),
        ];
        device.expect(Expectation::Blocked);
        let write =
            |iova: Iova| machine.dma(device.id(), DmaRequest::write(iova, b"x")).is_completed();
        let iova = Iova::new(0x5000_0000);
        let mut right = !write(iova);
        smmu.claim(&[exact(STREAM), exact(StreamId::new(0x200))]).ok()?;
        let table = smmu.create_space(&any_space(&smmu)).ok()?;
        let tag = smmu.bind_space(&table).ok()?;
        smmu.attach(&[exact(STREAM)], None, StreamTarget::Space(tag)).ok()?;
        device.expect(Expectation::Translated);
        let layout = PageLayout::new(4096, 4096)?;
        let frame = DmaPages::new(machine.memory(), layout).ok()?;
        let mut gather = IotlbGather::new();
        table.map(iova, frame.address(), 4096, Prot::READ | Prot::WRITE, &mut gather).ok()?;
        right &= write(iova);
        table.unmap(iova, 4096, &mut gather).ok()?;
        smmu.invalidate(tag, &gather).ok()?;
        table.retire(gather.confirm());
        right &= !write(iova);
        table.map(iova, frame.address(), 4096, Prot::READ | Prot::WRITE, &mut gather).ok()?;
        right &= write(iova);
        device.expect(Expectation::Blocked);
        smmu.attach(&[exact(STREAM)], None, StreamTarget::Blocked).ok()?;
        right &= !write(iova);
        smmu.unbind_space(tag).ok()?;
        smmu.shutdown().ok()?;
        Some(right)
    };
    let right = run().unwrap_or(false) && machine.violations().is_empty();
    let places = memory.watch().places.lock().expect("no test panics here");
    let published = places.iter().map(|place| purpose(*place, &bases)).collect();
    Life { right, published }
}

/// Addresses of the stream table and of the command queue.
type Bases = [u64; 2];

fn purpose((address, len): (u64, usize), [streams, commands]: &Bases) -> &'static str {
    match len {
        _ if address >> 12 == commands >> 12 => "command",
        l1std::BYTES if (*streams..streams + 0x800).contains(&address) => "descriptor",
        ste::BYTES => "entry",
        _ => "other",
    }
}

#[test]
fn each_kind_of_publication_is_missed_when_it_does_not_happen() {
    let complete = life(0);
    assert!(complete.right);
    let mut missed = BTreeSet::new();
    for (index, purpose) in complete.published.iter().enumerate() {
        if !life(index as u64 + 1).right {
            missed.insert(*purpose);
        }
    }
    // "other": page tables, and the one word that blocks a stream.
    assert_eq!(missed, BTreeSet::from(["command", "descriptor", "entry", "other"]));
}
