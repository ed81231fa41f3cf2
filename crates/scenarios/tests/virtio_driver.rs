//! The driver on the machine's virtio-iommu and on QEMU's, both on the memory bus; as it is, and with one kind of its requests altered on their way. Each alteration must be noticed: a device
//! reaches what it must not, or does not reach what it must, or the driver gets to know that something was refused.

use portcullis::{
    AddressSpace, IommuOps, SpaceError, SpaceRequest, SpaceTag, StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Device, DmaRequest, Machine, MachinePlatform, Policy, RegisterBlock, VirtioIommu, VirtioProfile,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, PageLayout, Platform, Registers};
use portcullis_qemu::endpoint::Edu;
use portcullis_qemu::{BusId, Mmio, QemuPlatform, Virt, VirtMachine, for_test};
use portcullis_spec::virtio::iommu::{config, map, request};
use portcullis_spec::virtio::mmio;
use portcullis_virtio_iommu::{Iommu, Options, Transport};
use std::sync::{Arc, Mutex};

/// The functions 00:02.0 and 00:03.0.
const DEVICES: [u32; 2] = [0x10, 0x18];
/// 00:04.0, to which nothing is done by the driver.
const SPARE: u64 = 0x20;
const SPARE_DOMAIN: u64 = 0x77;
const PAGE: u64 = 0x1000;
const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + PAGE;
const PAIR: u64 = 0x4000_0000;

/// One of both platforms.
trait Bench {
    type Platform: Platform;
    type Registers: Registers;
    fn platform(&self) -> Arc<Self::Platform>;
    fn registers(&self) -> Self::Registers;
    /// Device `index` writes four bytes.
    fn write(&self, index: usize, iova: u64);
}

struct Model {
    machine: Arc<Machine>,
    unit: Arc<VirtioIommu>,
    devices: Vec<Arc<Device>>,
}

impl Model {
    /// The oracle does not judge: altered requests are broken on purpose.
    fn new(policy: Policy) -> Self {
        let machine = Machine::builder().policy(policy.verify(false)).build();
        let unit = machine.add_virtio(VirtioProfile::qemu10());
        let device = |id: u32| machine.add_client(format!("{id:#x}"), &unit, StreamId::new(id));
        let devices = [DEVICES[0], DEVICES[1], SPARE as u32].map(device).to_vec();
        Self { machine, unit, devices }
    }
}

impl Bench for Model {
    type Platform = MachinePlatform<HostThreads>;
    type Registers = RegisterBlock<VirtioIommu>;

    fn platform(&self) -> Arc<Self::Platform> {
        Arc::new(MachinePlatform::new(&self.machine))
    }

    fn registers(&self) -> Self::Registers {
        self.unit.registers()
    }

    fn write(&self, index: usize, iova: u64) {
        let request = DmaRequest::write(Iova::new(iova), &[0xaa; 4]);
        // Whether it arrived shows in memory.
        let _ = self.machine.dma_of(&self.devices[index], request);
    }
}

struct Emulated {
    machine: VirtMachine,
    edus: Vec<Edu>,
}

impl Emulated {
    fn new() -> Self {
        let slots = [2, 3, 4].map(|device| BusId::ROOT.slot(device));
        let mut board = Virt::virtio_slot();
        for slot in slots {
            board.edu(slot);
        }
        let machine = board.start().expect("QEMU starts");
        let edus = slots.iter().map(|slot| machine.edu(*slot).expect("an edu")).collect();
        Self { machine, edus }
    }
}

impl Bench for Emulated {
    type Platform = QemuPlatform;
    type Registers = Mmio;

    fn platform(&self) -> Arc<Self::Platform> {
        Arc::new(self.machine.platform())
    }

    fn registers(&self) -> Self::Registers {
        self.machine.iommu()
    }

    fn write(&self, index: usize, iova: u64) {
        self.edus[index].write_memory(Iova::new(iova), 0, 4).expect("the edu ends");
    }
}

/// The 64-bit words of the longest request that is altered, a MAP.
type Words = [u64; 5];

/// What is done to the driver on its way to the device.
#[derive(Clone, Copy)]
enum Alteration {
    /// To each request of this kind.
    Request(u8, fn(&mut Words)),
    /// The bypass is not closed; a driver that reads it back sees that or, where this is set, sees it closed.
    LeftOpen(bool),
}

/// Where the request queue is, and up to where its requests have been looked at.
#[derive(Default)]
struct Ring {
    selected: u32,
    entries: u16,
    descriptors: u64,
    available: u64,
    seen: u16,
}

/// The registers; requests are altered where they stand when the device is told of them.
struct Altering<R, M> {
    inner: R,
    memory: Arc<M>,
    alteration: Option<Alteration>,
    ring: Mutex<Ring>,
}

impl<R: Registers, M: DmaMemory> Altering<R, M> {
    fn load(&self, at: u64) -> u64 {
        self.memory.load64(PhysAddr::new(at & !7)) >> (8 * (at & 7))
    }

    fn alter(&self, ring: &mut Ring) {
        let index = (self.load(ring.available) >> 16) as u16;
        while ring.seen != index && ring.entries > 0 {
            let place = u64::from(ring.seen % ring.entries);
            let head = self.load(ring.available + 4 + 2 * place) & 0xffff;
            let at = self.load(ring.descriptors + 16 * head);
            let mut words: Words = std::array::from_fn(|word| self.load(at + 8 * word as u64));
            if let Some(Alteration::Request(kind, alter)) = self.alteration
                && words[0] as u8 == kind
            {
                alter(&mut words);
                // An ATTACH or a DETACH has 20 bytes, of which the last four are reserved.
                let count = if matches!(kind, request::MAP | request::UNMAP) { 5 } else { 2 };
                for (word, value) in words.into_iter().enumerate().take(count) {
                    if kind != request::UNMAP || word < 3 {
                        self.memory.store64(PhysAddr::new(at + 8 * word as u64), value);
                    }
                }
            }
            ring.seen = ring.seen.wrapping_add(1);
        }
    }
}

impl<R: Registers, M: DmaMemory> Registers for Altering<R, M> {
    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut ring = self.ring.lock().expect("not poisoned");
        let half = |old: u64| match offset & 4 {
            0 => old & !0xffff_ffff | u64::from(value),
            _ => old & 0xffff_ffff | u64::from(value) << 32,
        };
        match (offset, ring.selected) {
            (mmio::QUEUE_SELECT, _) => ring.selected = value,
            (mmio::QUEUE_SIZE, 0) => ring.entries = value as u16,
            (at, 0) if at & !4 == mmio::QUEUE_DESCRIPTORS => {
                ring.descriptors = half(ring.descriptors)
            }
            (at, 0) if at & !4 == mmio::QUEUE_DRIVER => ring.available = half(ring.available),
            (mmio::QUEUE_NOTIFY, _) if value == 0 => self.alter(&mut ring),
            (mmio::STATUS, _) if value == 0 => *ring = Ring::default(),
            _ => {}
        }
        drop(ring);
        self.inner.write32(offset, value);
    }

    fn read8(&self, offset: usize) -> u8 {
        match (offset, self.alteration) {
            (at, Some(Alteration::LeftOpen(true))) if at == mmio::CONFIG + config::BYPASS => 0,
            _ => self.inner.read8(offset),
        }
    }

    fn write8(&self, offset: usize, value: u8) {
        let is_bypass = offset == mmio::CONFIG + config::BYPASS;
        if !is_bypass || !matches!(self.alteration, Some(Alteration::LeftOpen(_))) {
            self.inner.write8(offset, value);
        }
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}

/// A driver at work, two devices claimed.
struct Driven<'b, B: Bench> {
    bench: &'b B,
    memory: Arc<<B::Platform as Platform>::Memory>,
    ops: Box<dyn IommuOps>,
}

struct Space {
    table: Arc<dyn AddressSpace>,
    tag: SpaceTag,
}

fn spec(device: usize) -> StreamSpec {
    StreamSpec::exact(StreamId::new(DEVICES[device]))
}

fn page(memory: &impl DmaMemory) -> u64 {
    let layout = PageLayout::new(2 * PAGE as usize, 2 * PAGE as usize).expect("two pages");
    memory.allocate(layout).expect("memory").raw()
}

/// What the driver refuses or is told counts as noticed.
fn told<T, E: std::fmt::Debug>(what: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{what}: {error:?}"))
}

impl<'b, B: Bench> Driven<'b, B> {
    fn new(bench: &'b B, alteration: Option<Alteration>) -> Result<Self, String> {
        let platform = bench.platform();
        let memory = Arc::clone(platform.memory());
        let registers = Altering {
            inner: bench.registers(),
            memory: Arc::clone(&memory),
            alteration,
            ring: Mutex::default(),
        };
        let options = Options::default();
        let ops = Iommu::bring_up(platform, registers, Transport::Mmio, options);
        let ops: Box<dyn IommuOps> = Box::new(told("bring-up", ops)?);
        told("claim", ops.claim(&[spec(0), spec(1)]))?;
        Ok(Self { bench, memory, ops })
    }

    fn space(&self) -> Result<Space, String> {
        let support = *self.ops.capabilities().formats.first().expect("a format");
        let request = SpaceRequest { support, coherent_walk: true };
        let table = told("space", self.ops.create_space(&request))?;
        let tag = told("bind", self.ops.bind_space(&table))?;
        Ok(Space { table, tag })
    }

    fn attach(&self, device: usize, target: StreamTarget) -> Result<(), String> {
        told("attach", self.ops.attach(&[spec(device)], None, target))
    }

    fn map(&self, space: &Space, iova: u64, page: u64, len: u64, prot: Prot) -> Result<(), String> {
        let mut gather = IotlbGather::new();
        let mapped = space.table.map(Iova::new(iova), PhysAddr::new(page), len, prot, &mut gather);
        told::<_, SpaceError>("map", mapped)
    }

    fn unmap(&self, space: &Space, iova: u64, len: u64) -> Result<(), String> {
        let mut gather = IotlbGather::new();
        told("unmap", space.table.unmap(Iova::new(iova), len, &mut gather))?;
        told("invalidate", self.ops.invalidate(space.tag, &gather))?;
        drop(gather.confirm());
        Ok(())
    }

    /// Has a device write; complains where it reaches `page` and must not, or the other way round.
    fn expect(&self, device: usize, iova: u64, page: u64, reaches: bool) -> Result<(), String> {
        self.memory.store64(PhysAddr::new(page), u64::MAX);
        self.bench.write(device, iova);
        let landed = self.memory.load64(PhysAddr::new(page)) != u64::MAX;
        match landed == reaches {
            true => Ok(()),
            false => Err(format!("device {device} at {iova:#x}: reached is {landed}")),
        }
    }
}

/// A driver's life: what two devices reach at each of its steps.
fn story<B: Bench>(bench: &B, alteration: Option<Alteration>) -> Result<(), String> {
    let driven = Driven::new(bench, alteration)?;
    let pages = [(); 4].map(|()| page(&*driven.memory));
    let [first, second, other, pair] = pages;
    driven.expect(0, first, first, false)?;
    let (a, b) = (driven.space()?, driven.space()?);
    let both = Prot::READ | Prot::WRITE;
    // Before and after the attachment: the first is requested at the attachment.
    driven.map(&a, IOVA, first, PAGE, both)?;
    driven.attach(0, StreamTarget::Space(a.tag))?;
    driven.attach(1, StreamTarget::Space(b.tag))?;
    driven.map(&b, IOVA, other, PAGE, both)?;
    driven.expect(0, IOVA, first, true)?;
    driven.expect(1, IOVA, other, true)?;
    driven.expect(0, NEXT, first + PAGE, false)?;
    driven.map(&a, NEXT, second, PAGE, both)?;
    driven.expect(0, NEXT, second, true)?;
    driven.map(&a, PAIR, pair, 2 * PAGE, Prot::READ)?;
    driven.expect(0, PAIR, pair, false)?;
    driven.unmap(&a, PAIR, 2 * PAGE)?;
    driven.map(&a, PAIR, pair, 2 * PAGE, both)?;
    driven.expect(0, PAIR + PAGE, pair + PAGE, true)?;
    driven.unmap(&a, IOVA, PAGE)?;
    driven.expect(0, IOVA, first, false)?;
    driven.expect(0, NEXT, second, true)?;
    driven.expect(1, IOVA, other, true)?;
    driven.attach(0, StreamTarget::Blocked)?;
    driven.expect(0, NEXT, second, false)?;
    driven.expect(1, IOVA, other, true)?;
    driven.attach(0, StreamTarget::Space(b.tag))?;
    driven.expect(0, IOVA, other, true)?;
    driven.attach(1, StreamTarget::Blocked)?;
    driven.expect(1, IOVA, other, false)?;
    driven.attach(0, StreamTarget::Blocked)?;
    driven.expect(0, IOVA, other, false)?;
    for space in [a, b] {
        told("unbind", driven.ops.unbind_space(space.tag))?;
    }
    told("shutdown", driven.ops.shutdown())?;
    driven.expect(0, first, first, false)
}

use Alteration::{LeftOpen, Request};

/// Instead of a request that is dropped: one that changes nothing for the driver's devices.
fn spare(words: &mut Words) {
    words[0] = u64::from(request::ATTACH) | SPARE_DOMAIN << 32;
    words[1] = SPARE;
}

fn other_domain(words: &mut Words) {
    words[0] ^= 1 << 32;
}

fn other_endpoint(words: &mut Words) {
    words[1] ^= u64::from(DEVICES[0] ^ DEVICES[1]);
}

fn page_more(words: &mut Words) {
    words[2] += PAGE;
}

fn page_less(words: &mut Words) {
    words[2] = words[2].wrapping_sub(PAGE);
}

fn elsewhere(words: &mut Words) {
    words[1] += 1 << 40;
    words[2] += 1 << 40;
}

/// Every request that the driver issues, dropped, aimed at something else, or of another extent.
const ALTERATIONS: [(&str, Alteration); 19] = [
    ("the bypass is left open", LeftOpen(true)),
    ("the bypass stays open, and says so", LeftOpen(false)),
    ("ATTACH is dropped", Request(request::ATTACH, spare)),
    ("ATTACH to another domain", Request(request::ATTACH, other_domain)),
    ("ATTACH of another endpoint", Request(request::ATTACH, other_endpoint)),
    (
        "ATTACH to a domain that passes",
        Request(request::ATTACH, |words| words[1] |= u64::from(request::ATTACH_BYPASS) << 32),
    ),
    ("DETACH is dropped", Request(request::DETACH, spare)),
    ("DETACH from another domain", Request(request::DETACH, other_domain)),
    ("DETACH of another endpoint", Request(request::DETACH, other_endpoint)),
    ("MAP in another domain", Request(request::MAP, other_domain)),
    ("MAP is dropped, another address is mapped", Request(request::MAP, elsewhere)),
    ("MAP of a page more", Request(request::MAP, page_more)),
    ("MAP up to an end that is not included", Request(request::MAP, |words| words[2] += 1)),
    ("MAP to another page", Request(request::MAP, |words| words[3] += PAGE)),
    (
        "MAP with the right to write",
        Request(request::MAP, |words| words[4] |= u64::from(map::WRITE)),
    ),
    ("UNMAP is dropped, another address is unmapped", Request(request::UNMAP, elsewhere)),
    ("UNMAP in another domain", Request(request::UNMAP, other_domain)),
    ("UNMAP of a page more", Request(request::UNMAP, page_more)),
    ("UNMAP of a page less", Request(request::UNMAP, page_less)),
];

#[test]
fn the_driver_as_it_is_keeps_its_promises_on_both() {
    for policy in [Policy::like_qemu(), Policy::default()] {
        assert_eq!(story(&Model::new(policy), None), Ok(()));
    }
    if for_test("the_driver_as_it_is_keeps_its_promises_on_both").is_some() {
        assert_eq!(story(&Emulated::new(), None), Ok(()));
    }
}

#[test]
fn every_altered_request_is_noticed_on_both() {
    let qemu = for_test("every_altered_request_is_noticed_on_both");
    let mut missed = Vec::new();
    for (name, alteration) in ALTERATIONS {
        let here = story(&Model::new(Policy::like_qemu()), Some(alteration));
        let there = qemu.map(|_| story(&Emulated::new(), Some(alteration)));
        println!("{name}: model {here:?}, QEMU {there:?}");
        if here.is_ok() || there.as_ref().is_some_and(Result::is_ok) {
            missed.push((name, here, there));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");
}
