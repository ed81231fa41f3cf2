//! Intel VT-d on two platforms: the software machine's model and QEMU's `intel-iommu`. Each scenario says what the specification (4.1) says of each access, and both platforms must show that, but for the departures of QEMU that are on record
//! ([`DIFFERENCES`]). The driver's invalidations, dropped or misaimed one by one, must each be noticed.

use portcullis::IommuOps;
use portcullis_addr::PhysAddr;
use portcullis_machine::{Machine, VtdIommu, VtdProfile};
use portcullis_pgtable::TableFormat;
use portcullis_platform::{Coherency, Platform, Registers};
use portcullis_qemu::{Architecture, Version, Virt, VtdStages};
use portcullis_scenarios::families::{
    Action, ByHand, Desk, Difference, Family, Hardware, Later, Mutant, Ring, Scenario,
    assert_invalidations, assert_qemu_does, assert_software_does, page_of,
};
use portcullis_spec::vtd::fault::{self, reason};
use portcullis_vtd::{Iommu, Options};
use std::cell::Cell;
use std::sync::Arc;

/// Source ids: function 0 of devices 2, 3 and 8.
const IDS: [u32; 3] = [0x10, 0x18, 0x40];
const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + 0x1000;
/// A leaf that may be read and written.
const RW: u64 = 3;
/// Descriptor types, and their granularities where these are needed.
const CONTEXT: u64 = 1;
const IOTLB: u64 = 2;
const WAIT: u64 = 5;
const PASID_CACHE: u64 = 7;
const GLOBAL: u64 = 1 << 4;
const DOMAIN: u64 = 2 << 4;
/// Of the IOTLB by page, of contexts by device.
const ONE: u64 = 3 << 4;
const DID: u64 = 5;

/// A unit in the mode `MODE` of the driver: legacy, or scalable with the second or the first stage. Scenarios are told in both modes on the second one's board.
#[derive(Debug)]
struct Vtd<const MODE: u8>;

const LEGACY: u8 = 0;
const SECOND: u8 = 1;
const FIRST: u8 = 2;

impl<const MODE: u8> Family for Vtd<MODE> {
    type Model = VtdIommu;
    type Rig = Rig;
    const DEVICES: [u32; 3] = IDS;
    const RAM: PhysAddr = PhysAddr::new(0x20_0000);
    /// It forgets a domain that nobody has.
    const NOTHING: [u64; 2] = [IOTLB | DOMAIN | 0xffff << 16, 0];

    fn software(machine: &Machine) -> Arc<VtdIommu> {
        machine.add_vtd(VtdProfile::qemu10_scalable(MODE == FIRST))
    }

    fn qemu() -> Virt {
        Virt::vtd(if MODE == FIRST { VtdStages::ScalableFirst } else { VtdStages::ScalableSecond })
    }

    fn bring_up<P: Platform, R: Registers>(platform: Arc<P>, registers: R) -> Box<dyn IommuOps> {
        let options = Options { spaces: 1, scalable: MODE != LEGACY, ..Options::default() };
        Box::new(Iommu::bring_up(platform, registers, options).expect("the unit comes up"))
    }

    /// In units of 16 bytes; where descriptors have 32, every other one is zeroes.
    fn follow(ring: &mut Ring, offset: usize, _: usize, value: u64) -> Option<u32> {
        match offset {
            0x90 => {
                *ring = Ring { base: value & !0xfff, entries: 256 << (value & 7), tail: 0 };
                None
            }
            0x88 => Some((value >> 4) as u32),
            _ => None,
        }
    }
}

/// A unit programmed by hand.
struct Rig {
    desk: Desk,
    queue: u64,
    status: u64,
    root: u64,
    /// Bytes.
    tail: Cell<u64>,
    /// log2 of the bytes of a descriptor.
    width: Cell<u32>,
    waits: Cell<u64>,
    /// Where the fault recording registers are.
    records: usize,
}

impl std::ops::Deref for Rig {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl ByHand for Rig {
    /// Out of reset everything passes.
    fn open(_: &dyn Hardware) {}

    /// The queue on, translation off.
    fn take(desk: Desk) -> Self {
        let (queue, status, root) = (desk.page(), desk.page(), desk.page());
        let cap = desk.hw.registers().read64(0x8);
        let records = 16 * (cap >> 24 & 0x3ff) as usize;
        let (tail, width, waits) = (Cell::new(0), Cell::new(4), Cell::new(0));
        let rig = Self { desk, queue, status, root, tail, width, waits, records };
        rig.queue_on(4);
        rig
    }

    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn faults(&self) -> Vec<String> {
        let registers = self.hw.registers();
        let half = |at: usize| u64::from(registers.read32(self.records + at));
        let record = [half(0) | half(4) << 32, half(8) | half(12) << 32];
        if fault::F.read(&record) == 0 {
            return Vec::new();
        }
        registers.write32(self.records + 12, 1 << 31);
        registers.write32(0x34, 1);
        vec![describe(&record)]
    }
}

impl Rig {
    /// Neither platform's unit says that it snoops.
    fn store(&self, address: u64, word: u64) {
        let address = PhysAddr::new(address);
        self.hw.memory().store64(address, word);
        self.hw.memory().publish(address, 8, Coherency::NonCoherent);
    }

    fn command(&self, bit: u32, on: bool) {
        let kept = self.hw.registers().read32(0x1c) & 0x96ff_ffff & !(1 << bit);
        self.hw.registers().write32(0x18, kept | u32::from(on) << bit);
        self.settle(0x1c, 1 << bit, u32::from(on) << bit);
    }

    /// A queue of one page with descriptors of `2^width` bytes.
    fn queue_on(&self, width: u32) {
        let registers = self.hw.registers();
        if registers.read32(0x1c) >> 26 & 1 == 1 {
            // QEMU turns its queue off only behind a wait.
            self.run(&[]);
            self.command(26, false);
        }
        registers.write64(0x88, 0);
        registers.write64(0x90, self.queue | u64::from(width - 4) << 11);
        self.command(26, true);
        self.tail.set(0);
        self.width.set(width);
    }

    fn set_root(&self, rtaddr: u64) {
        self.hw.registers().write64(0x20, rtaddr);
        self.command(30, true);
    }

    /// Legacy mode, with nothing cached, translating.
    fn on(&self) {
        self.set_root(self.root);
        self.run(&[[CONTEXT | GLOBAL, 0], [IOTLB | GLOBAL, 0]]);
        self.command(31, true);
    }

    /// Scalable mode, with nothing cached, translating.
    fn scalable(&self) {
        self.queue_on(5);
        self.set_root(self.root | 1 << 10);
        self.run(&[[CONTEXT | GLOBAL, 0], [PASID_CACHE | ONE, 0], [IOTLB | GLOBAL, 0]]);
        self.command(31, true);
    }

    fn push(&self, descriptors: &[[u64; 2]]) {
        for words in descriptors {
            let at = self.queue + self.tail.get();
            (0..4).for_each(|word| self.store(at + 8 * word, 0));
            self.store(at, words[0]);
            self.store(at + 8, words[1]);
            self.tail.set((self.tail.get() + (1 << self.width.get())) & 0xfff);
        }
        self.hw.registers().write32(0x88, self.tail.get() as u32);
    }

    /// Descriptors and a wait, carried out.
    fn run(&self, descriptors: &[[u64; 2]]) {
        self.push(descriptors);
        self.waits.set(self.waits.get() + 1);
        self.push(&[[WAIT | 1 << 5 | self.waits.get() << 32, self.status]]);
        let over = |_| {
            self.hw.registers().read32(0x34);
            self.load(self.status) & 0xffff_ffff == self.waits.get()
        };
        assert!((0..1000).any(over), "the wait does not end");
    }

    /// The table that an entry leads to, made where it is not there.
    fn below(&self, at: u64, bits: u64) -> u64 {
        if self.load(at) & bits == 0 {
            self.store(at, self.page() | bits);
        }
        self.load(at) & !0xfff
    }

    /// The context entry of a device in legacy mode, under a root entry that is present.
    fn context(&self, device: usize, words: [u64; 2]) {
        let at = self.below(self.root, 1) + 16 * u64::from(IDS[device]);
        self.store(at + 8, words[1]);
        self.store(at, words[0]);
    }

    /// The entry of PASID 0 of a device in scalable mode.
    fn pasid(&self, device: usize, words: [u64; 2]) {
        let context = self.below(self.root, 1) + 32 * u64::from(IDS[device]);
        let at = self.below(self.below(context, 1), 1);
        self.store(at + 8, words[1]);
        self.store(at, words[0]);
    }

    /// Maps one leaf in a second stage of `levels` levels, at `level`.
    fn leaf(&self, root: u64, levels: u32, (address, leaf): (u64, u32), entry: u64) {
        let mut table = root;
        for level in (leaf..levels).rev() {
            let slot = table + 8 * (address >> (12 + 9 * level) & 0x1ff);
            if level == leaf {
                return self.store(slot, entry);
            }
            table = self.below(slot, RW);
        }
    }

    /// The first device with a table of four levels of its own under domain 5, a page mapped at [`IOVA`] and another one at [`NEXT`], each used.
    fn used(&self) -> (u64, u64, u64) {
        let (root, page, other) = (self.page(), self.page(), self.page());
        self.context(0, second(root, 4));
        self.on();
        self.leaf(root, 4, (IOVA, 0), page | RW);
        self.leaf(root, 4, (NEXT, 0), other | RW);
        self.write(0, IOVA, page, "landed");
        self.write(0, NEXT, other, "landed");
        (root, page, other)
    }

    /// The same in scalable mode.
    fn used_scalable(&self) -> (u64, u64) {
        let (root, page) = (self.page(), self.page());
        self.pasid(0, second_of_pasid(root));
        self.scalable();
        self.leaf(root, 4, (IOVA, 0), page | RW);
        self.write(0, IOVA, page, "landed");
        (root, page)
    }
}

/// A context entry that leads to a second stage.
fn second(root: u64, levels: u64) -> [u64; 2] {
    [root | 1, (levels - 2) | DID << 8]
}

/// A PASID entry that leads to a second stage of four levels.
fn second_of_pasid(root: u64) -> [u64; 2] {
    [root | 1 | 2 << 2 | 2 << 6, DID]
}

/// A record in words.
fn describe(record: &[u64; 2]) -> String {
    let number = fault::FR.read(record);
    let known = reason::CODES.iter().find(|code| code.value == number);
    let name = known.map_or("an unknown reason", |code| code.name);
    let kind = if fault::T1.read(record) == 1 { "read" } else { "write" };
    let source = fault::SID.read(record);
    format!("{name}: {kind} of {source:#x} at {:#x}", fault::FI.read(record) << 12)
}

fn at_iova(reason: &str) -> String {
    format!("{reason}: write of 0x10 at {IOVA:#x}")
}

const NO_WRITE: &str = "PTE Write access is not set: write of 0x10 at 0x1234567000";

/// Name, whether something must be refused, what happens.
const SCENARIOS: &[Scenario<Rig>] = &[
    ("off-passes", false, |rig| {
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("no-root", true, |rig| {
        rig.on();
        rig.write(0, IOVA, rig.page(), &at_iova("Present bit in root entry is clear"));
    }),
    ("no-context", true, |rig| refused(rig, [0, 0], "Present bit in context entry is clear")),
    ("pass-through", false, |rig| {
        rig.context(0, [1 | 2 << 2, 2 | DID << 8]);
        rig.on();
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("another-devices-context", true, |rig| {
        rig.context(1, [1 | 2 << 2, 2 | DID << 8]);
        rig.on();
        let page = rig.page();
        rig.write(1, page, page, "landed");
        rig.write(0, IOVA, page, &at_iova("Present bit in context entry is clear"));
    }),
    ("reserved-root-bit", true, |rig| {
        rig.store(rig.root, rig.page() | 1 | 2);
        rig.on();
        rig.write(0, IOVA, rig.page(), &at_iova("non-zero reserved fields in RTP"));
    }),
    ("reserved-upper-root", true, |rig| {
        rig.store(rig.root, rig.page() | 1);
        rig.store(rig.root + 8, 1);
        rig.on();
        rig.write(0, IOVA, rig.page(), &at_iova("non-zero reserved fields in RTP"));
    }),
    ("context-table-outside-memory", true, |rig| {
        rig.store(rig.root, 0x20_0000_0000 | 1);
        rig.on();
        rig.write(0, IOVA, rig.page(), &at_iova("Context table ptr is invalid"));
    }),
    ("root-outside-memory", true, |rig| {
        rig.set_root(0x20_0000_0000);
        rig.run(&[[CONTEXT | GLOBAL, 0], [IOTLB | GLOBAL, 0]]);
        rig.command(31, true);
        rig.write(0, IOVA, rig.page(), &at_iova("Root table address invalid"));
    }),
    ("reserved-context-bit", true, |rig| {
        refused(rig, [1 | 1 << 4, 2 | DID << 8], "non-zero reserved fields in CTP");
    }),
    ("reserved-upper-context-bit", true, |rig| {
        refused(rig, [1, 2 | DID << 8 | 1 << 7], "non-zero reserved fields in CTP");
    }),
    ("reserved-type", true, |rig| invalid(rig, [1 | 3 << 2, 2 | DID << 8])),
    ("device-tlb-without-support", true, |rig| invalid(rig, [1 | 1 << 2, 2 | DID << 8])),
    ("five-levels-without-support", true, |rig| invalid(rig, [1, 3 | DID << 8])),
    ("two-levels", true, |rig| invalid(rig, [1, DID << 8])),
    ("ignored-context-bits", false, |rig| {
        let (root, page) = (rig.page(), rig.page());
        let [low, high] = second(root, 4);
        rig.context(0, [low, high | 0xf << 3]);
        rig.on();
        rig.leaf(root, 4, (IOVA, 0), page | RW);
        rig.write(0, IOVA, page, "landed");
    }),
    ("faults-not-recorded", true, |rig| {
        let [low, high] = second(rig.page(), 4);
        rig.context(0, [low | 2, high]);
        rig.on();
        rig.write(0, IOVA, rig.page(), "blocked");
    }),
    ("three-levels", false, |rig| deep(rig, 3, 0x76_5432_1000)),
    ("four-levels", false, |rig| deep(rig, 4, 0x7654_1234_5000)),
    ("unmapped-write", true, |rig| {
        let (_, page, _) = rig.used();
        let fault = "PTE Write access is not set: write of 0x10 at 0x123456c000";
        rig.write(0, IOVA + 0x5000, page, fault);
    }),
    ("unmapped-read", true, |rig| {
        rig.used();
        rig.read(0, IOVA + 0x5000, "PTE Read access is not set: read of 0x10 at 0x123456c000");
    }),
    ("read-only", true, |rig| {
        leaf_of(rig, 1, NO_WRITE);
        rig.read(0, IOVA, "no fault");
    }),
    ("write-only", true, |rig| {
        leaf_of(rig, 2, "landed");
        rig.read(0, IOVA, "PTE Read access is not set: read of 0x10 at 0x1234567000");
    }),
    ("read-only-table", true, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.context(0, second(root, 4));
        rig.on();
        rig.leaf(root, 4, (IOVA, 0), page | RW);
        let slot = root + 8 * (IOVA >> 39 & 0x1ff);
        rig.store(slot, rig.load(slot) & !2);
        rig.write(0, IOVA, page, NO_WRITE);
        rig.read(0, IOVA, "no fault");
    }),
    ("snoop-bit-without-control", true, |rig| {
        leaf_of(rig, RW | 1 << 11, &at_iova("non-zero reserved fields in PTE"));
    }),
    ("leaf-beyond-the-host", true, |rig| {
        leaf_of(rig, RW | 1 << 50, &at_iova("non-zero reserved fields in PTE"));
    }),
    ("ignored-leaf-bits", false, |rig| leaf_of(rig, RW | 1 << 52 | 1 << 10, "landed")),
    ("table-outside-memory", true, |rig| {
        let root = rig.page();
        rig.context(0, second(root, 4));
        rig.on();
        rig.store(root + 8 * (IOVA >> 39 & 0x1ff), 0x20_0000_0000 | RW);
        rig.write(0, IOVA, rig.page(), &at_iova("Next page table ptr is invalid"));
    }),
    ("beyond-three-levels", true, |rig| beyond(rig, 3, 1 << 39)),
    ("beyond-the-unit", true, |rig| beyond(rig, 4, 1 << 48)),
    ("two-mib-page", false, |rig| {
        let page = large(rig, 0);
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
    }),
    ("two-mib-page-misaligned", true, |rig| {
        let page = large(rig, 0x1000);
        let fault = "non-zero reserved fields in PTE: write of 0x10 at 0x403000";
        rig.write(0, 0x40_3000, page, fault);
    }),
    ("one-gib-page", false, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.context(0, second(root, 4));
        rig.on();
        rig.leaf(root, 4, (1 << 30, 2), RW | 1 << 7);
        rig.write(0, 1 << 30 | page, page, "landed");
    }),
    ("leaf-of-512-gib", true, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.context(0, second(root, 4));
        rig.on();
        rig.leaf(root, 4, (0, 3), RW | 1 << 7);
        let fault = format!("non-zero reserved fields in PTE: write of 0x10 at {page:#x}");
        rig.write(0, page, page, &fault);
    }),
    ("interrupts-are-not-translated", true, |rig| {
        let (root, page, _) = rig.used();
        rig.leaf(root, 4, (0xfee0_0000, 0), page | RW);
        rig.write(0, 0xfee0_0000, page, "blocked");
    }),
    ("a-page-is-forgotten", true, |rig| {
        let (root, page, other) = rig.used();
        rig.leaf(root, 4, (IOVA, 0), 0);
        rig.write(0, IOVA, page, "landed");
        rig.run(&[[IOTLB | ONE | DID << 16, IOVA]]);
        rig.write(0, IOVA, page, NO_WRITE);
        rig.write(0, NEXT, other, "landed");
    }),
    ("a-page-is-forgotten-but-not-its-tables", true, |rig| {
        gone(rig, [IOTLB | ONE | DID << 16, IOVA | 1 << 6]);
    }),
    ("two-pages-are-forgotten", true, |rig| {
        gone(rig, [IOTLB | ONE | DID << 16, (IOVA & !0x1fff) | 1]);
    }),
    ("the-neighbour-is-forgotten", false, |rig| stale(rig, [IOTLB | ONE | DID << 16, NEXT])),
    ("a-page-of-another-domain", false, |rig| stale(rig, [IOTLB | ONE | 6 << 16, IOVA])),
    ("a-domain-is-forgotten", true, |rig| gone(rig, [IOTLB | DOMAIN | DID << 16, 0])),
    ("another-domain-is-forgotten", false, |rig| stale(rig, [IOTLB | DOMAIN | 6 << 16, 0])),
    ("everything-is-forgotten", true, |rig| gone(rig, [IOTLB | GLOBAL, 0])),
    ("drains", true, |rig| gone(rig, [IOTLB | DOMAIN | 3 << 6 | DID << 16, 0])),
    ("a-large-page-is-forgotten", true, |rig| {
        let page = large(rig, 0);
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
        let root = rig.load(rig.load(rig.root) & !0xfff | 0x100) & !0xfff;
        rig.leaf(root, 4, (0x40_0000, 1), 0);
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
        rig.run(&[[IOTLB | ONE | DID << 16, 0x40_0000 | 9]]);
        let fault = "PTE Write access is not set: write of 0x10 at 0x403000";
        rig.write(0, 0x40_3000, page + 0x3000, fault);
    }),
    ("a-context-is-forgotten", true, |rig| {
        let entry = CONTEXT | ONE | DID << 16 | 0x10 << 32;
        context_gone(rig, &[[entry, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
    }),
    ("a-context-under-a-function-mask", true, |rig| {
        let entry = CONTEXT | ONE | DID << 16 | 0x17 << 32 | 3 << 48;
        context_gone(rig, &[[entry, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
    }),
    ("the-contexts-of-a-domain", true, |rig| {
        let entry = CONTEXT | DOMAIN | DID << 16;
        context_gone(rig, &[[entry, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
    }),
    ("all-contexts", true, |rig| {
        context_gone(rig, &[[CONTEXT | GLOBAL, 0], [IOTLB | GLOBAL, 0]]);
    }),
    ("the-context-of-another-device", false, |rig| {
        let (_, page, _) = rig.used();
        rig.context(0, [0, 0]);
        rig.run(&[[CONTEXT | ONE | DID << 16 | 0x18 << 32, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("a-context-under-another-domain", false, |rig| {
        let (_, page, _) = rig.used();
        rig.context(0, [0, 0]);
        rig.run(&[[CONTEXT | ONE | 6 << 16 | 0x10 << 32, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("another-root-table", true, |rig| {
        let (_, page, _) = rig.used();
        rig.set_root(rig.page());
        rig.run(&[[CONTEXT | GLOBAL, 0], [IOTLB | GLOBAL, 0]]);
        rig.write(0, IOVA, page, &at_iova("Present bit in root entry is clear"));
    }),
    ("off-again", false, |rig| {
        let (_, page, _) = rig.used();
        rig.command(31, false);
        rig.write(0, page, page, "landed");
    }),
    ("unknown-type", true, |rig| illegal(rig, [0xf, 0])),
    ("reserved-bit-of-a-context-invalidation", true, |rig| {
        illegal(rig, [CONTEXT | GLOBAL | 1 << 6, 0]);
    }),
    ("context-invalidation-without-granularity", true, |rig| illegal(rig, [CONTEXT, 0])),
    ("iotlb-invalidation-without-granularity", true, |rig| illegal(rig, [IOTLB, 0])),
    ("reserved-bit-of-an-iotlb-invalidation", true, |rig| {
        illegal(rig, [IOTLB | GLOBAL | 1 << 8, 0]);
    }),
    ("too-large-a-mask", true, |rig| illegal(rig, [IOTLB | ONE | DID << 16, 19])),
    ("reserved-bit-of-a-wait", true, |rig| illegal(rig, [WAIT | 1 << 5 | 1 << 8, rig.status])),
    ("tail-beyond-the-queue", true, |rig| {
        rig.hw.registers().write32(0x88, 0x2000);
        rig.settle(0x34, 1 << 4, 1 << 4);
        rig.check("IQE", 1, rig.hw.registers().read32(0x34) >> 4 & 1);
    }),
    ("a-wait-stores", false, |rig| {
        let page = rig.page();
        rig.run(&[[WAIT | 1 << 5 | 0xcafe << 32, page]]);
        rig.check("what the wait stored", "0xcafe", format!("{:#x}", rig.load(page)));
    }),
    ("a-wait-with-an-event", false, |rig| {
        rig.run(&[[WAIT | 1 << 4, 0]]);
        rig.check("IWC", 1, rig.hw.registers().read32(0x9c) & 1);
        rig.check("an event is pending", 1, rig.hw.registers().read32(0xa0) >> 30 & 1);
        rig.hw.registers().write32(0x9c, 1);
        rig.check("IWC, cleared", 0, rig.hw.registers().read32(0x9c) & 1);
    }),
    ("queue-goes-round", false, |rig| {
        (0..130).for_each(|_| rig.run(&[[IOTLB | GLOBAL, 0]]));
        rig.check("head after 260 in a queue of 256", 0x40, rig.hw.registers().read32(0x80));
    }),
    ("faults-overflow", true, |rig| {
        rig.on();
        rig.hw.writes(0, IOVA);
        rig.hw.writes(1, IOVA);
        rig.check("PPF and PFO", 3, rig.hw.registers().read32(0x34) & 3);
        let fault = at_iova("Present bit in root entry is clear");
        rig.check("the record", &fault, rig.faults().join("; "));
        rig.check("PPF and PFO", 0, rig.hw.registers().read32(0x34) & 3);
        rig.write(0, IOVA, rig.page(), &fault);
    }),
    ("scalable-no-root", true, |rig| {
        rig.scalable();
        rig.write(0, IOVA, rig.page(), &at_iova("SM: Present bit in Root Entry is clear"));
    }),
    ("scalable-no-context", true, |rig| {
        rig.below(rig.root, 1);
        rig.scalable();
        rig.write(0, IOVA, rig.page(), &at_iova("SM: Present bit in Context Entry is clear"));
    }),
    ("scalable-no-directory", true, |rig| {
        let context = rig.below(rig.root, 1) + 32 * 0x10;
        rig.below(context, 1);
        rig.scalable();
        rig.write(0, IOVA, rig.page(), &at_iova("SM: Present bit in Directory Entry is clear"));
    }),
    ("scalable-no-pasid", true, |rig| {
        rig.pasid(0, [0, 0]);
        rig.scalable();
        rig.write(0, IOVA, rig.page(), &at_iova("SM: Present bit in PASID Table Entry is clear"));
    }),
    ("scalable-second-stage", false, |rig| {
        rig.used_scalable();
        rig.read(0, IOVA, "no fault");
    }),
    ("scalable-pass-through", false, |rig| {
        rig.pasid(0, [1 | 2 << 2 | 4 << 6, DID]);
        rig.scalable();
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("scalable-reserved-type", true, |rig| no_pasid(rig, [1 | 2 << 2 | 7 << 6, DID])),
    ("scalable-nested-without-support", true, |rig| no_pasid(rig, [1 | 2 << 2 | 3 << 6, DID])),
    ("scalable-first-without-support", true, |rig| no_pasid(rig, [1 | 2 << 2 | 1 << 6, DID])),
    ("scalable-unmapped", true, |rig| {
        let (_, page) = rig.used_scalable();
        let fault = "SM: Read/Write permission error in second-level paging entry";
        rig.write(0, NEXT, page, &format!("{fault}: write of 0x10 at {NEXT:#x}"));
    }),
    ("scalable-a-page-is-forgotten", true, |rig| {
        let (root, page) = rig.used_scalable();
        rig.leaf(root, 4, (IOVA, 0), 0);
        rig.write(0, IOVA, page, "landed");
        rig.run(&[[IOTLB | ONE | DID << 16, IOVA]]);
        let fault = "SM: Read/Write permission error in second-level paging entry";
        rig.write(0, IOVA, page, &at_iova(fault));
    }),
    ("scalable-a-pasid-is-forgotten", true, |rig| {
        let (_, page) = rig.used_scalable();
        rig.pasid(0, [0, 0]);
        rig.run(&[[PASID_CACHE | 1 << 4 | DID << 16, 0], [IOTLB | DOMAIN | DID << 16, 0]]);
        rig.write(0, IOVA, page, &at_iova("SM: Present bit in PASID Table Entry is clear"));
    }),
    ("scalable-narrow-descriptors", true, |rig| {
        rig.set_root(rig.root | 1 << 10);
        illegal(rig, [IOTLB | GLOBAL, 0]);
    }),
];

fn refused(rig: &Rig, context: [u64; 2], reason: &str) {
    rig.context(0, context);
    rig.on();
    rig.write(0, IOVA, rig.page(), &at_iova(reason));
}

fn invalid(rig: &Rig, context: [u64; 2]) {
    refused(rig, [context[0] | rig.page(), context[1]], "Invalid context entry");
}

fn no_pasid(rig: &Rig, [low, high]: [u64; 2]) {
    rig.pasid(0, [low | rig.page(), high]);
    rig.scalable();
    rig.write(0, IOVA, rig.page(), &at_iova("SM: Invalid Scalable-Mode PASID Table Entry"));
}

fn deep(rig: &Rig, levels: u32, iova: u64) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, second(root, levels.into()));
    rig.on();
    rig.leaf(root, levels, (iova, 0), page | RW);
    rig.write(0, iova, page, "landed");
}

fn beyond(rig: &Rig, levels: u32, bit: u64) {
    let root = rig.page();
    rig.context(0, second(root, levels.into()));
    rig.on();
    let at = bit | 0x34_5000;
    rig.write(0, at, rig.page(), &format!("Access beyond MGAW: write of 0x10 at {at:#x}"));
}

fn leaf_of(rig: &Rig, bits: u64, expected: &str) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, second(root, 4));
    rig.on();
    rig.leaf(root, 4, (IOVA, 0), page | bits);
    rig.write(0, IOVA, page, expected);
}

/// A page of 2 MiB at 4 MiB, `off` bytes away from where it could be.
fn large(rig: &Rig, off: u64) -> u64 {
    let (root, page) = (rig.page(), page_of(&*rig.hw, 2 << 20));
    rig.context(0, second(root, 4));
    rig.on();
    rig.leaf(root, 4, (0x40_0000, 1), (page + off) | RW | 1 << 7);
    page
}

/// A page unmapped, and what makes it forgotten.
fn gone(rig: &Rig, descriptor: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 4, (IOVA, 0), 0);
    rig.run(&[descriptor]);
    rig.write(0, IOVA, page, NO_WRITE);
}

/// A page unmapped, and what does not make it forgotten.
fn stale(rig: &Rig, descriptor: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 4, (IOVA, 0), 0);
    rig.run(&[descriptor]);
    rig.write(0, IOVA, page, "landed");
}

fn context_gone(rig: &Rig, descriptors: &[[u64; 2]]) {
    let (_, page, _) = rig.used();
    rig.context(0, [0, 0]);
    rig.run(descriptors);
    rig.write(0, IOVA, page, &at_iova("Present bit in context entry is clear"));
}

/// The queue stops at the descriptor, and goes on when another one stands there.
fn illegal(rig: &Rig, descriptor: [u64; 2]) {
    let at = rig.tail.get();
    rig.push(&[descriptor]);
    let stopped = (0..1000).any(|_| rig.hw.registers().read32(0x34) >> 4 & 1 == 1);
    rig.check("IQE", true, stopped);
    rig.check("the head stays", at, u64::from(rig.hw.registers().read32(0x80)));
}

const AT_IOVA: &str = "0x10: write 0x1234567000";
const LEGACY_REASON: &str =
    "7.2.3: scalable mode has reasons of its own. QEMU gives those of legacy mode.";
const PASID_REASON: &str =
    "7.2.3: a PASID entry that is not present has a reason of its own. QEMU calls it invalid.";
const NARROW: &str =
    "11.4.9.3: scalable mode takes descriptors of 32 bytes. QEMU carries out the others too.";

const DIFFERENCES: &[Difference] = &[
    (
        "write-only",
        "0x10: read 0x1234567000",
        "no fault",
        "7.3: every blocked request is recorded. QEMU does not record one that a cached translation blocks.",
    ),
    (
        "snoop-bit-without-control",
        AT_IOVA,
        "landed",
        "9.8: SNP is reserved without ECAP.SC. QEMU lets it pass on every unit that has scalable mode.",
    ),
    (
        "a-context-under-another-domain",
        AT_IOVA,
        "Present bit in context entry is clear: write of 0x10 at 0x1234567000",
        "6.5.2.1: an entry goes under the domain id that it had. QEMU looks at the source id alone.",
    ),
    (
        "scalable-no-root",
        AT_IOVA,
        "Present bit in root entry is clear: write of 0x10 at 0x1234567000",
        LEGACY_REASON,
    ),
    (
        "scalable-no-context",
        AT_IOVA,
        "Present bit in context entry is clear: write of 0x10 at 0x1234567000",
        LEGACY_REASON,
    ),
    (
        "scalable-no-pasid",
        AT_IOVA,
        "SM: Invalid Scalable-Mode PASID Table Entry: write of 0x10 at 0x1234567000",
        PASID_REASON,
    ),
    (
        "scalable-a-pasid-is-forgotten",
        AT_IOVA,
        "SM: Invalid Scalable-Mode PASID Table Entry: write of 0x10 at 0x1234567000",
        PASID_REASON,
    ),
    (
        "scalable-unmapped",
        "0x10: write 0x1234568000",
        "PTE Write access is not set: write of 0x10 at 0x1234568000",
        LEGACY_REASON,
    ),
    (
        "scalable-a-page-is-forgotten",
        AT_IOVA,
        "PTE Write access is not set: write of 0x10 at 0x1234567000",
        LEGACY_REASON,
    ),
    ("scalable-narrow-descriptors", "IQE", "false", NARROW),
    ("scalable-narrow-descriptors", "the head stays", "16", NARROW),
];

/// Debian 13's 10.0.13 does the same.
const LATER: Later =
    Later { version: Version { major: 10, minor: 0, micro: 13 }, mended: &[], new: &[] };

#[test]
fn the_software_machine_does_what_the_specification_says() {
    assert_software_does::<Vtd<SECOND>>(SCENARIOS);
}

#[test]
fn qemu_does_the_same_but_for_what_is_on_record() {
    let test = "qemu_does_the_same_but_for_what_is_on_record";
    assert_qemu_does::<Vtd<SECOND>>(SCENARIOS, DIFFERENCES, &LATER, Architecture::X86_64, test);
}

/// Bits of a descriptor by which its kind is told: type and granularity.
const KIND: [u64; 2] = [0x3f, 0];

/// One descriptor of the driver, by type and granularity, in each way in which it can be wrong.
fn spoilt(format: TableFormat, kind: u64, changes: &[Option<[u64; 2]>]) -> Vec<Mutant> {
    let mutant = |change: &Option<[u64; 2]>| {
        let action = Action { mask: KIND, kind: [kind, 0], change: *change };
        let unseen_on_qemu = match (kind & 0xf, *change) {
            (PASID_CACHE, _) => Some("it keeps no PASID entries"),
            (CONTEXT, Some(WRONG_TAG)) => Some("it forgets a context by its source id alone"),
            _ => None,
        };
        Mutant { format, action, unseen_on_qemu }
    };
    changes.iter().map(mutant).collect()
}

/// Another domain than the one that is meant.
const WRONG_TAG: [u64; 2] = [1 << 16, 0];

/// Not sent; for another domain.
const WRONG_DOMAIN: [Option<[u64; 2]>; 2] = [None, Some(WRONG_TAG)];
/// And for the page behind.
const WRONG_PAGE: [Option<[u64; 2]>; 3] = [None, Some(WRONG_TAG), Some([0, 1 << 21])];

#[test]
fn the_drivers_invalidations_are_all_needed_and_enough_in_legacy_mode() {
    let test = "the_drivers_invalidations_are_all_needed_and_enough_in_legacy_mode";
    let format = TableFormat::VtdSecondStage;
    let boards = [Virt::vtd(VtdStages::Legacy)];
    let mut mutants = spoilt(format, IOTLB | ONE, &WRONG_PAGE);
    mutants.extend(spoilt(format, IOTLB | DOMAIN, &WRONG_DOMAIN));
    mutants.extend(spoilt(format, CONTEXT | ONE, &[None, Some(WRONG_TAG), Some([1 << 35, 0])]));
    assert_invalidations::<Vtd<LEGACY>>(&[format], &boards, &mutants, Architecture::X86_64, test);
}

#[test]
fn the_drivers_invalidations_are_all_needed_and_enough_in_scalable_mode() {
    let test = "the_drivers_invalidations_are_all_needed_and_enough_in_scalable_mode";
    let (format, x86) = (TableFormat::VtdSecondStage, Architecture::X86_64);
    let mut mutants = spoilt(format, IOTLB | ONE, &WRONG_PAGE);
    mutants.extend(spoilt(format, IOTLB | DOMAIN, &WRONG_DOMAIN));
    mutants.extend(spoilt(format, PASID_CACHE | 1 << 4, &WRONG_DOMAIN));
    assert_invalidations::<Vtd<SECOND>>(&[format], &[], &mutants, x86, test);
    let format = TableFormat::VtdFirstStage;
    const PASID_IOTLB: u64 = 6;
    let mut mutants = spoilt(format, PASID_IOTLB | ONE, &WRONG_PAGE);
    mutants.extend(spoilt(format, PASID_IOTLB | DOMAIN, &WRONG_DOMAIN));
    mutants.extend(spoilt(format, PASID_CACHE | 1 << 4, &WRONG_DOMAIN));
    assert_invalidations::<Vtd<FIRST>>(&[format], &[], &mutants, x86, test);
}
