//! The RISC-V IOMMU on two platforms: the software machine's model and QEMU's `virt,iommu-sys=on`. Each scenario says what the specification (RISC-V IOMMU 1.0) says of each access, and both platforms must show that, but for the
//! departures of QEMU that are on record ([`DIFFERENCES`]). The driver's invalidations, dropped or misaimed one by one, must each be noticed on both.

use portcullis::IommuOps;
use portcullis_addr::PhysAddr;
use portcullis_machine::{Machine, RiscvIommu, RiscvProfile};
use portcullis_pgtable::TableFormat;
use portcullis_platform::{Platform, Registers};
use portcullis_qemu::{Architecture, Version, Virt};
use portcullis_riscv::{Iommu, Options};
use portcullis_scenarios::families::{
    Action, ByHand, Desk, Difference, Family, Hardware, Later, Mutant, Ring, Scenario,
    assert_invalidations, assert_qemu_does, assert_software_does, page_of,
};
use portcullis_spec::riscv::fault::{self, cause};
use std::cell::Cell;
use std::sync::Arc;

/// Device ids: function 0 of devices 2, 3 and 8. The third is beyond a directory of one level.
const IDS: [u32; 3] = [0x10, 0x18, 0x40];
const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + 0x1000;
/// A leaf that may be read and written: V, R, W, U, A, D.
const RW: u64 = 0xd7;
const VMA: u64 = 1;
const GVMA: u64 = 1 | 1 << 7;
const FENCE: u64 = 2;
const IODIR: u64 = 3;
const AV: u64 = 1 << 10;
const PSCV: u64 = 1 << 32;
const GV: u64 = 1 << 33;
const DV: u64 = 1 << 33;

/// The RISC-V IOMMU.
#[derive(Debug)]
struct Riscv;

impl Family for Riscv {
    type Model = RiscvIommu;
    type Rig = Rig;
    const DEVICES: [u32; 3] = IDS;
    const RAM: PhysAddr = PhysAddr::new(0x8000_0000);
    const NOTHING: [u64; 2] = [FENCE, 0];

    fn software(machine: &Machine) -> Arc<RiscvIommu> {
        machine.add_riscv(RiscvProfile::qemu10())
    }

    fn qemu() -> Virt {
        Virt::riscv()
    }

    fn bring_up<P: Platform, R: Registers>(platform: Arc<P>, registers: R) -> Box<dyn IommuOps> {
        let options = Options { spaces: 1, ..Options::default() };
        Box::new(Iommu::bring_up(platform, registers, options).expect("the unit comes up"))
    }

    fn follow(ring: &mut Ring, offset: usize, _: usize, value: u64) -> Option<u32> {
        match offset {
            0x18 => {
                *ring = Ring { base: value >> 10 << 12, entries: 2 << (value & 0x1f), tail: 0 };
                None
            }
            0x24 => Some(value as u32),
            _ => None,
        }
    }
}

/// A unit programmed by hand.
struct Rig {
    desk: Desk,
    commands: u64,
    faults: u64,
    root: u64,
    tail: Cell<u32>,
    head: Cell<u32>,
}

const FAULTS_LOG2: u32 = 3;

impl std::ops::Deref for Rig {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl ByHand for Rig {
    /// Mode "bare", which needs neither table nor queue.
    fn open(hw: &dyn Hardware) {
        hw.registers().write64(0x10, 1);
        let settled = (0..1000).any(|_| hw.registers().read32(0x10) & 0x10 == 0);
        assert!(settled, "ddtp does not settle");
    }

    /// Queues on, unit off.
    fn take(desk: Desk) -> Self {
        let (commands, faults, root) = (desk.page(), desk.page(), desk.page());
        let rig = Self { desk, commands, faults, root, tail: Cell::new(0), head: Cell::new(0) };
        rig.mode(0, 0);
        let registers = rig.hw.registers();
        registers.write64(0x18, commands >> 12 << 10 | 2);
        registers.write32(0x24, 0);
        registers.write32(0x48, 1);
        registers.write64(0x28, faults >> 12 << 10 | u64::from(FAULTS_LOG2 - 1));
        registers.write32(0x30, 0);
        registers.write32(0x4c, 1);
        rig.settle(0x48, 0x3_0000, 0x1_0000);
        rig.settle(0x4c, 0x3_0000, 0x1_0000);
        rig
    }

    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn faults(&self) -> Vec<String> {
        self.records().iter().map(describe).collect()
    }
}

impl Rig {
    fn mode(&self, mode: u64, root: u64) {
        self.hw.registers().write64(0x10, root >> 12 << 10 | mode);
        self.settle(0x10, 0x10, 0);
    }

    /// A directory of one level, and nothing cached.
    fn on(&self) {
        self.on_with(1);
    }

    /// A directory of so many levels, and nothing cached.
    fn on_with(&self, levels: u64) {
        self.mode(levels + 1, self.root);
        self.run(&[[IODIR, 0], [VMA, 0], [GVMA, 0]]);
    }

    fn push(&self, commands: &[[u64; 2]]) {
        for words in commands {
            let at = self.commands + 16 * u64::from(self.tail.get());
            self.store(at, words[0]);
            self.store(at + 8, words[1]);
            self.tail.set((self.tail.get() + 1) & 7);
        }
        self.hw.registers().write32(0x24, self.tail.get());
    }

    /// Commands and a fence, carried out.
    fn run(&self, commands: &[[u64; 2]]) {
        self.push(commands);
        self.push(&[[FENCE, 0]]);
        self.settle(0x20, u32::MAX, self.tail.get());
    }

    fn context(&self, device: usize, words: [u64; 4]) {
        let at = self.root + 64 * u64::from(IDS[device] & 63);
        self.store_context(at, words);
    }

    fn store_context(&self, at: u64, words: [u64; 4]) {
        for word in (0..4).rev() {
            self.store(at + 8 * word as u64, words[word]);
        }
    }

    /// Maps one leaf in a table of `levels` levels, at `level`.
    fn leaf(&self, root: u64, levels: u32, second: bool, at: (u64, u32), entry: u64) {
        let (address, leaf) = at;
        let mut table = root;
        for level in (leaf..levels).rev() {
            let wide = second && level + 1 == levels;
            let index = address >> (12 + 9 * level) & if wide { 0x7ff } else { 0x1ff };
            let slot = table + 8 * index;
            if level == leaf {
                return self.store(slot, entry);
            }
            if self.load(slot) & 1 == 0 {
                self.store(slot, self.page() >> 12 << 10 | 1);
            }
            table = self.load(slot) >> 10 << 12;
        }
    }

    fn records(&self) -> Vec<[u64; 4]> {
        let tail = self.hw.registers().read32(0x34);
        let mut records = Vec::new();
        while self.head.get() != tail {
            let at = self.faults + 32 * u64::from(self.head.get());
            records.push([0, 8, 16, 24].map(|offset| self.load(at + offset)));
            self.head.set((self.head.get() + 1) & ((1 << FAULTS_LOG2) - 1));
        }
        self.hw.registers().write32(0x30, self.head.get());
        records
    }

    /// The first device with a Sv39 table of its own under PSCID 5, a page mapped at [`IOVA`] and another one at [`NEXT`], each used.
    fn used(&self) -> (u64, u64, u64) {
        let (root, page, other) = (self.page(), self.page(), self.page());
        self.context(0, first(root, 8));
        self.on();
        self.leaf(root, 3, false, (IOVA, 0), pte(page, RW));
        self.leaf(root, 3, false, (NEXT, 0), pte(other, RW));
        self.write(0, IOVA, page, "landed");
        self.write(0, NEXT, other, "landed");
        (root, page, other)
    }

    /// As [`used`](Self::used) with a Sv39x4 table under GSCID 3.
    fn guest(&self) -> (u64, u64) {
        let (root, page) = (page_of(&*self.hw, 16384), self.page());
        self.context(0, second(root, 8));
        self.on();
        self.leaf(root, 3, true, (IOVA, 0), pte(page, RW));
        self.write(0, IOVA, page, "landed");
        (root, page)
    }
}

fn pte(physical: u64, bits: u64) -> u64 {
    physical >> 12 << 10 | bits
}

fn first(root: u64, mode: u64) -> [u64; 4] {
    [1, 0, 5 << 12, mode << 60 | root >> 12]
}

fn second(root: u64, mode: u64) -> [u64; 4] {
    [1, mode << 60 | 3 << 44 | root >> 12, 0, 0]
}

/// A record in words. Of a refusal by the configuration the address is left out: QEMU does not tell it.
fn describe(record: &[u64; 4]) -> String {
    let number = fault::CAUSE.read(record);
    let known = cause::CODES.iter().find(|code| code.value == number);
    let name = known.map_or("an unknown cause", |code| code.name);
    let device = fault::DID.read(record);
    if number >= cause::ALL_DISALLOWED {
        return format!("{name} of {device:#x}");
    }
    let guest = match fault::IOTVAL2.read(record) {
        0 => String::new(),
        guest => format!(", guest {guest:#x}"),
    };
    format!("{name} of {device:#x} at {:#x}{guest}", fault::IOTVAL.read(record))
}

const WRITE: &str = "Write/AMO page fault of 0x10 at 0x1234567000";

/// Name, whether something must be refused, what happens.
const SCENARIOS: &[Scenario<Rig>] = &[
    ("off-blocks", true, |rig| {
        let page = rig.page();
        rig.write(0, page, page, "All inbound transactions disallowed of 0x10");
    }),
    ("bare-passes", false, |rig| {
        rig.mode(1, 0);
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("no-context", true, |rig| {
        rig.on();
        rig.write(0, IOVA, rig.page(), "DDT entry not valid of 0x10");
    }),
    ("identity-context", false, |rig| {
        rig.context(0, [1, 0, 0, 0]);
        rig.on();
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("another-devices-context", true, |rig| {
        rig.context(1, [1, 0, 0, 0]);
        rig.on();
        let page = rig.page();
        rig.write(1, page, page, "landed");
        rig.write(0, page, page, "DDT entry not valid of 0x10");
    }),
    ("reserved-control-bit", true, |rig| misconfigured(rig, [1 | 1 << 12, 0, 0, 0])),
    ("reserved-first-mode", true, |rig| misconfigured(rig, [1, 0, 0, 5 << 60])),
    ("reserved-second-mode", true, |rig| misconfigured(rig, [1, 5 << 60, 0, 0])),
    ("misaligned-second-root", true, |rig| misconfigured(rig, [1, 8 << 60 | 1, 0, 0])),
    ("flags-by-hardware", true, |rig| misconfigured(rig, [1 | 1 << 8, 0, 0, 0])),
    ("pri-without-ats", true, |rig| misconfigured(rig, [1 | 1 << 2, 0, 0, 0])),
    ("default-process-without-directory", true, |rig| misconfigured(rig, [1 | 1 << 9, 0, 0, 0])),
    ("big-endian-tables", true, |rig| misconfigured(rig, [1 | 1 << 10, 0, 0, 0])),
    ("id-beyond-one-level", true, |rig| {
        rig.on();
        rig.write(2, IOVA, rig.page(), "Transaction type disallowed of 0x40");
    }),
    ("two-levels", false, |rig| {
        let (below, page) = (rig.page(), rig.page());
        rig.store(rig.root + 8, below >> 12 << 10 | 1);
        rig.store_context(below, [1, 0, 0, 0]);
        rig.on_with(2);
        rig.write(2, page, page, "landed");
        rig.write(0, page, page, "DDT entry not valid of 0x10");
    }),
    ("three-levels", false, |rig| {
        let (middle, below, page) = (rig.page(), rig.page(), rig.page());
        rig.store(rig.root, middle >> 12 << 10 | 1);
        rig.store(middle + 8, below >> 12 << 10 | 1);
        rig.store_context(below, [1, 0, 0, 0]);
        rig.on_with(3);
        rig.write(2, page, page, "landed");
    }),
    ("directory-reserved-bit", true, |rig| {
        rig.store(rig.root, rig.page() >> 12 << 10 | 1 | 2);
        rig.on_with(2);
        rig.write(0, IOVA, rig.page(), "DDT entry misconfigured of 0x10");
    }),
    ("directory-outside-memory", true, |rig| {
        rig.store(rig.root, 0x20_0000_0000 >> 12 << 10 | 1);
        rig.on_with(2);
        rig.write(0, IOVA, rig.page(), "DDT entry load access fault of 0x10");
    }),
    ("sv39", false, |rig| {
        rig.used();
        rig.read(0, IOVA, "no fault");
    }),
    ("sv48", false, |rig| wide(rig, 9, 4, 0x7654_1234_5000)),
    ("sv57", false, |rig| wide(rig, 10, 5, 0x76_5432_1234_5000)),
    ("unmapped-write", true, |rig| {
        let (_, page, _) = rig.used();
        rig.write(0, IOVA + 0x5000, page, "Write/AMO page fault of 0x10 at 0x123456c000");
    }),
    ("unmapped-read", true, |rig| {
        rig.used();
        rig.read(0, IOVA + 0x5000, "Read page fault of 0x10 at 0x123456c000");
    }),
    ("read-only", true, |rig| {
        leaf_of(rig, RW & !4, WRITE);
        rig.read(0, IOVA, "no fault");
    }),
    ("writable-but-not-readable", true, |rig| leaf_of(rig, RW & !2, WRITE)),
    ("not-accessed", true, |rig| leaf_of(rig, RW & !(1 << 6), WRITE)),
    ("not-dirty", true, |rig| leaf_of(rig, RW & !(1 << 7), WRITE)),
    ("not-for-users", true, |rig| leaf_of(rig, RW & !(1 << 4), WRITE)),
    ("reserved-leaf-bit", true, |rig| leaf_of(rig, RW | 1 << 58, WRITE)),
    ("beyond-sv39", true, |rig| {
        let (_, page, _) = rig.used();
        let at = IOVA | 1 << 39;
        rig.write(0, at, page, &format!("Write/AMO page fault of 0x10 at {at:#x}"));
    }),
    ("two-mib-page", false, |rig| {
        let (root, page) = (rig.page(), page_of(&*rig.hw, 2 << 20));
        rig.context(0, first(root, 8));
        rig.on();
        rig.leaf(root, 3, false, (0x40_0000, 1), pte(page, RW));
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
    }),
    ("two-mib-page-misaligned", true, |rig| {
        let (root, page) = (rig.page(), page_of(&*rig.hw, 2 << 20));
        rig.context(0, first(root, 8));
        rig.on();
        rig.leaf(root, 3, false, (0x40_0000, 1), pte(page + 0x1000, RW));
        rig.write(0, 0x40_3000, page, "Write/AMO page fault of 0x10 at 0x403000");
    }),
    ("sv39x4", false, |rig| {
        rig.guest();
        rig.read(0, IOVA, "no fault");
    }),
    ("sv39x4-unmapped", true, |rig| {
        let (_, page) = rig.guest();
        let fault = "Write/AMO guest-page fault of 0x10 at 0x1234568000, guest 0x1234568000";
        rig.write(0, NEXT, page, fault);
    }),
    ("nested", false, |rig| _ = nested(rig, RW, true)),
    ("nested-hole-for-data", true, |rig| {
        let root = page_of(&*rig.hw, 16384);
        let (own, page) = (rig.page(), rig.page());
        rig.context(0, [1, 8 << 60 | 3 << 44 | root >> 12, 5 << 12, 8 << 60 | own >> 12]);
        rig.on();
        rig.leaf(own, 3, false, (IOVA, 0), pte(0x8_0000_1000, RW));
        for table in tables_of(rig, own) {
            rig.leaf(root, 3, true, (table, 0), pte(table, RW));
        }
        let fault = "Write/AMO guest-page fault of 0x10 at 0x1234567000, guest 0x800001000";
        rig.write(0, IOVA, page, fault);
    }),
    ("nested-hole-for-table", true, |rig| {
        let (own, page) = nested(rig, RW, false);
        let fault = format!(
            "Write/AMO guest-page fault of 0x10 at 0x1234567000, guest {:#x}",
            (own + 8 * (IOVA >> 30)) | 1
        );
        rig.write(0, IOVA, page, &fault);
    }),
    ("vma-page", true, |rig| {
        let (root, page, other) = rig.used();
        rig.leaf(root, 3, false, (IOVA, 0), 0);
        rig.write(0, IOVA, page, "landed");
        rig.run(&[[VMA | AV | PSCV | 5 << 12, IOVA >> 12 << 10]]);
        rig.write(0, IOVA, page, WRITE);
        rig.write(0, NEXT, other, "landed");
    }),
    ("vma-neighbour", false, |rig| stale(rig, [VMA | AV | PSCV | 5 << 12, NEXT >> 12 << 10])),
    ("vma-wrong-process", false, |rig| stale(rig, [VMA | AV | PSCV | 6 << 12, IOVA >> 12 << 10])),
    ("vma-page-of-all", true, |rig| gone(rig, [VMA | AV, IOVA >> 12 << 10])),
    ("vma-process", true, |rig| gone(rig, [VMA | PSCV | 5 << 12, 0])),
    ("vma-another-process", false, |rig| stale(rig, [VMA | PSCV | 6 << 12, 0])),
    ("vma-all", true, |rig| gone(rig, [VMA, 0])),
    ("vma-of-guests", false, |rig| stale(rig, [VMA | GV | 3 << 44, 0])),
    ("gvma-guest", true, |rig| guest_gone(rig, [GVMA | GV | 3 << 44, 0])),
    ("gvma-page", true, |rig| guest_gone(rig, [GVMA | GV | AV | 3 << 44, IOVA >> 12 << 10])),
    ("gvma-all", true, |rig| guest_gone(rig, [GVMA, 0])),
    ("gvma-another-guest", false, |rig| {
        let (root, page) = rig.guest();
        rig.leaf(root, 3, true, (IOVA, 0), 0);
        rig.run(&[[GVMA | GV | 4 << 44, 0]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("iodir-device", true, |rig| context_gone(rig, [IODIR | DV | 0x10 << 40, 0])),
    ("iodir-all", true, |rig| context_gone(rig, [IODIR, 0])),
    ("iodir-another-device", false, |rig| {
        let (_, page, _) = rig.used();
        rig.context(0, [0; 4]);
        rig.run(&[[IODIR | DV | 0x18 << 40, 0]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("illegal-opcode", true, |rig| illegal(rig, [9, 0])),
    ("illegal-reserved-bit", true, |rig| illegal(rig, [VMA | 1 << 11, 0])),
    ("illegal-process-of-gvma", true, |rig| illegal(rig, [GVMA | PSCV, 0])),
    ("illegal-process-directory-of-nobody", true, |rig| illegal(rig, [IODIR | 1 << 7, 0])),
    ("fence-stores", false, |rig| {
        let page = rig.page();
        rig.run(&[[FENCE | 1 << 10 | 0xcafe << 32, page >> 2]]);
        rig.check("what the fence stored", "0xcafe", format!("{:#x}", rig.load(page)));
    }),
    ("queue-goes-round", false, |rig| {
        (0..5).for_each(|_| rig.run(&[[VMA, 0], [GVMA, 0], [IODIR, 0]]));
        rig.check("head after 20 commands in a queue of 8", 4, rig.hw.registers().read32(0x20));
    }),
    ("fault-queue-overflows", true, |rig| {
        rig.on();
        (0..10).for_each(|_| rig.hw.writes(0, IOVA));
        let status = rig.hw.registers().read32(0x4c);
        rig.check("fqof", 1, status >> 9 & 1);
        rig.check("records of 10 in a queue of 8", 7, rig.records().len());
        rig.hw.writes(0, IOVA);
        rig.check("records while fqof stands", 0, rig.records().len());
        rig.hw.registers().write32(0x4c, 0x201);
        rig.settle(0x4c, 0x2_0000, 0);
        rig.write(0, IOVA, rig.page(), "DDT entry not valid of 0x10");
    }),
];

fn misconfigured(rig: &Rig, context: [u64; 4]) {
    rig.context(0, context);
    rig.on();
    rig.write(0, IOVA, rig.page(), "DDT entry misconfigured of 0x10");
}

fn wide(rig: &Rig, mode: u64, levels: u32, iova: u64) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, first(root, mode));
    rig.on();
    rig.leaf(root, levels, false, (iova, 0), pte(page, RW));
    rig.write(0, iova, page, "landed");
}

fn leaf_of(rig: &Rig, bits: u64, expected: &str) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, first(root, 8));
    rig.on();
    rig.leaf(root, 3, false, (IOVA, 0), pte(page, bits));
    rig.write(0, IOVA, page, expected);
}

/// The pages of a Sv39 table on the way to [`IOVA`].
fn tables_of(rig: &Rig, root: u64) -> Vec<u64> {
    let middle = rig.load(root + 8 * (IOVA >> 30)) >> 10 << 12;
    let last = rig.load(middle + 8 * (IOVA >> 21 & 0x1ff)) >> 10 << 12;
    vec![root, middle, last]
}

/// Both stages; whether the second one maps the first one's tables.
fn nested(rig: &Rig, bits: u64, tables: bool) -> (u64, u64) {
    let root = page_of(&*rig.hw, 16384);
    let (own, page, guest) = (rig.page(), rig.page(), 0x8_0000_1000);
    rig.context(0, [1, 8 << 60 | 3 << 44 | root >> 12, 5 << 12, 8 << 60 | own >> 12]);
    rig.on();
    rig.leaf(own, 3, false, (IOVA, 0), pte(guest, bits));
    rig.leaf(root, 3, true, (guest, 0), pte(page, RW));
    if tables {
        for table in tables_of(rig, own) {
            rig.leaf(root, 3, true, (table, 0), pte(table, RW));
        }
        rig.write(0, IOVA, page, "landed");
    }
    (own, page)
}

/// After the command the old translation is still used: it does not cover it.
fn stale(rig: &Rig, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 3, false, (IOVA, 0), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, "landed");
}

fn gone(rig: &Rig, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 3, false, (IOVA, 0), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, WRITE);
}

fn guest_gone(rig: &Rig, command: [u64; 2]) {
    let (root, page) = rig.guest();
    rig.leaf(root, 3, true, (IOVA, 0), 0);
    rig.write(0, IOVA, page, "landed");
    rig.run(&[command]);
    let fault = "Write/AMO guest-page fault of 0x10 at 0x1234567000, guest 0x1234567000";
    rig.write(0, IOVA, page, fault);
}

fn context_gone(rig: &Rig, command: [u64; 2]) {
    let (_, page, _) = rig.used();
    rig.context(0, [0; 4]);
    rig.write(0, IOVA, page, "landed");
    rig.run(&[command]);
    rig.write(0, IOVA, page, "DDT entry not valid of 0x10");
}

/// The queue stops at the command, and goes on with another one in its place.
fn illegal(rig: &Rig, command: [u64; 2]) {
    rig.run(&[[VMA, 0]]);
    let at = rig.tail.get();
    rig.push(&[command]);
    let stopped = (0..1000).any(|_| rig.hw.registers().read32(0x48) >> 10 & 1 == 1);
    rig.check("cmd_ill", true, stopped);
    rig.check("head", at, rig.hw.registers().read32(0x20));
    rig.store(rig.commands + 16 * u64::from(at), VMA);
    rig.hw.registers().write32(0x48, 0x401);
    rig.settle(0x48, 0x2_0000, 0);
    rig.run(&[]);
    rig.check("cmd_ill after it was mended", 0, rig.hw.registers().read32(0x48) >> 10 & 1);
}

/// Where QEMU departs from the specification.
const DIFFERENCES: &[Difference] = &[
    (
        "off-blocks",
        PHYSICAL,
        "landed",
        "2.3, step 1: \"off\" lets nothing through. QEMU goes on with what it learnt in \"bare\" until IODIR.INVAL_DDT.",
    ),
    (
        "reserved-control-bit",
        AT_IOVA,
        "blocked",
        "2.1.4, 1: a reserved bit is a misconfiguration. QEMU does not look, and lets the device pass untranslated (no memory is there).",
    ),
    (
        "flags-by-hardware",
        AT_IOVA,
        "blocked",
        "2.1.4: SADE without AMO_HWAD is a misconfiguration. QEMU does not look.",
    ),
    (
        "misaligned-second-root",
        AT_IOVA,
        "Write/AMO guest-page fault of 0x10 at 0x1234567000",
        "2.1.4: the second stage's root lies on 16 KiB. QEMU walks on.",
    ),
    (
        "not-accessed",
        AT_IOVA,
        "landed",
        "2.1.3.1: with SADE 0 a clear A flag faults. QEMU does not look.",
    ),
    (
        "not-for-users",
        AT_IOVA,
        "landed",
        "2.3, step 17: accesses without a process are a user's, and the leaf says no. QEMU does not look.",
    ),
    (
        "reserved-leaf-bit",
        AT_IOVA,
        "blocked",
        "Privileged Architecture, 4.4.1: a reserved bit faults. QEMU takes it for a part of the page number and finds no memory there.",
    ),
    (
        "sv39x4-unmapped",
        "0x10: write 0x1234568000",
        "Write/AMO guest-page fault of 0x10 at 0x1234568000",
        NO_GUEST,
    ),
    ("nested-hole-for-table", AT_IOVA, GUEST_FAULT, NO_GUEST),
    ("gvma-guest", AT_IOVA, GUEST_FAULT, NO_GUEST),
    ("gvma-page", AT_IOVA, GUEST_FAULT, NO_GUEST),
    ("gvma-all", AT_IOVA, GUEST_FAULT, NO_GUEST),
    ("illegal-reserved-bit", "cmd_ill", "false", RESERVED_COMMAND),
    ("illegal-reserved-bit", "head", "3", RESERVED_COMMAND),
];

const PAGE_FAULT: &str = "Write/AMO page fault of 0x10 at 0x1234567000, guest 0x1234567000";
const GUEST_TOO: &str = "3.2: iotval2 is for guest-page faults. QEMU puts the address there for faults of the first stage, too (`riscv_iommu_translate` reports `translated_addr` whatever the cause).";

/// What Debian 13's 10.0.13 does otherwise.
const LATER: Later = Later {
    version: Version { major: 10, minor: 0, micro: 13 },
    mended: &[
        "off-blocks",
        "misaligned-second-root",
        "not-accessed",
        "not-for-users",
        "reserved-leaf-bit",
        "sv39x4-unmapped",
        "nested-hole-for-table",
        "gvma-guest",
        "gvma-page",
        "gvma-all",
    ],
    new: &[
        (
            "unmapped-write",
            "0x10: write 0x123456c000",
            "Write/AMO page fault of 0x10 at 0x123456c000, guest 0x123456c000",
            GUEST_TOO,
        ),
        (
            "unmapped-read",
            "0x10: read 0x123456c000",
            "Read page fault of 0x10 at 0x123456c000, guest 0x123456c000",
            GUEST_TOO,
        ),
        (
            "two-mib-page-misaligned",
            "0x10: write 0x403000",
            "Write/AMO page fault of 0x10 at 0x403000, guest 0x403000",
            GUEST_TOO,
        ),
        ("read-only", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("writable-but-not-readable", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("not-accessed", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("not-dirty", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("not-for-users", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("reserved-leaf-bit", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("vma-page", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("vma-page-of-all", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("vma-process", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        ("vma-all", AT_IOVA, PAGE_FAULT, GUEST_TOO),
        (
            "nested-hole-for-table",
            AT_IOVA,
            "Write/AMO guest-page fault of 0x10 at 0x1234567000, guest 0x80208000",
            "3.2: bit 0 of iotval2 marks an implicit access of the first stage. QEMU names the page alone.",
        ),
    ],
};

const PHYSICAL: &str = "0x10: write a physical address";
const AT_IOVA: &str = "0x10: write 0x1234567000";
const GUEST_FAULT: &str = "Write/AMO guest-page fault of 0x10 at 0x1234567000";
const NO_GUEST: &str =
    "3.2: iotval2 of a guest-page fault is the guest's address. QEMU leaves it 0 here.";
const RESERVED_COMMAND: &str = "3.1: a reserved bit makes a command illegal. QEMU carries it out.";

#[test]
fn the_software_machine_does_what_the_specification_says() {
    assert_software_does::<Riscv>(SCENARIOS);
}

#[test]
fn qemu_does_the_same_but_for_what_is_on_record() {
    let test = "qemu_does_the_same_but_for_what_is_on_record";
    assert_qemu_does::<Riscv>(SCENARIOS, DIFFERENCES, &LATER, Architecture::Riscv64, test);
}

const FORMATS: [TableFormat; 2] = [TableFormat::RiscvFirstStage, TableFormat::RiscvSecondStage];

/// Each invalidation that the driver issues while it serves, in each way in which it can be wrong. The same slip must show on QEMU.
fn mutants() -> Vec<Mutant> {
    let [one, two] = FORMATS;
    let tag = |format| if format == one { 1 << 12 } else { 1 << 44 };
    let mut mutants = Vec::new();
    let mut add = |format, kind, addressed, change| {
        let kind = [kind | if addressed { AV } else { 0 }, 0];
        let action = Action { mask: [0x3ff | AV, 0], kind, change };
        mutants.push(Mutant { format, action, unseen_on_qemu: None });
    };
    for (format, kind) in [(one, VMA), (two, GVMA)] {
        for change in [None, Some([0, 1 << 10]), Some([tag(format), 0])] {
            add(format, kind, true, change);
        }
        for change in [None, Some([tag(format), 0])] {
            add(format, kind, false, change);
        }
    }
    for change in [None, Some([1 << 40, 0])] {
        add(one, IODIR, false, change);
    }
    mutants
}

#[test]
fn the_drivers_invalidations_are_all_needed_and_enough() {
    let test = "the_drivers_invalidations_are_all_needed_and_enough";
    let function = [Virt::riscv_function(1)];
    assert_invalidations::<Riscv>(&FORMATS, &function, &mutants(), Architecture::Riscv64, test);
}
