//! The RISC-V IOMMU on two platforms: the software machine's model and QEMU's `virt,iommu-sys=on`. Each scenario says what the specification (RISC-V IOMMU 1.0) says of each access, and both platforms must show that, but for the
//! departures of QEMU that are on record ([`DIFFERENCES`]). The driver's invalidations, dropped or misaimed one by one, must each be noticed on both.

use portcullis::{
    AddressSpace, FormatSupport, IommuOps, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    AccessKind, Device, Machine, MachinePlatform, Policy, RiscvIommu, RiscvProfile,
};
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaMemory, PageLayout, Platform, Registers};
use portcullis_qemu::endpoint::Edu;
use portcullis_qemu::{Architecture, BusId, Installation, Virt, VirtMachine, for_test_on};
use portcullis_riscv::{Iommu, Options};
use portcullis_spec::riscv::fault::{self, cause};
use std::cell::{Cell, RefCell};
use std::sync::{Arc, Mutex};

/// Device ids: function 0 of devices 2, 3 and 8. The third is beyond a directory of one level.
const IDS: [u32; 3] = [0x10, 0x18, 0x40];
const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + 0x1000;
/// A leaf that may be read and written: V, R, W, U, A, D.
const RW: u64 = 0xd7;
const VMA: u64 = 1;
const GVMA: u64 = 1 | 1 << 7;
const IODIR: u64 = 3;
const AV: u64 = 1 << 10;
const PSCV: u64 = 1 << 32;
const GV: u64 = 1 << 33;
const DV: u64 = 1 << 33;

/// A platform with three devices.
trait Hardware {
    fn memory(&self) -> &dyn DmaMemory;
    fn registers(&self) -> &dyn Registers;
    fn writes(&self, device: usize, iova: u64);
    fn reads(&self, device: usize, iova: u64);
    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps>;
    fn offences(&self) -> Vec<String>;
}

struct Software {
    machine: Arc<Machine>,
    unit: Arc<RiscvIommu>,
    devices: [Arc<Device>; 3],
    registers: portcullis_machine::RegisterBlock<RiscvIommu>,
}

impl Software {
    fn new(policy: Policy) -> Self {
        let policy = policy.verify(false);
        let ram = PhysAddr::new(0x8000_0000);
        let machine = Machine::builder().ram(ram, 64 << 20).policy(policy).build();
        let unit = machine.add_riscv(RiscvProfile::qemu10());
        let devices =
            IDS.map(|id| machine.add_client(format!("{id:#x}"), &unit, StreamId::new(id)));
        let registers = unit.registers();
        Self { machine, unit, devices, registers }
    }

    fn copy(&self, kind: AccessKind, device: usize, iova: u64) {
        // Whether it arrived shows in memory and in the fault queue.
        let _ = self.devices[device].copy(&self.machine, kind, Iova::new(iova), 0, 4);
    }
}

impl Hardware for Software {
    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.memory()
    }

    fn registers(&self) -> &dyn Registers {
        &self.registers
    }

    fn writes(&self, device: usize, iova: u64) {
        self.copy(AccessKind::Write, device, iova);
    }

    fn reads(&self, device: usize, iova: u64) {
        self.copy(AccessKind::Read, device, iova);
    }

    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps> {
        let platform: Arc<MachinePlatform<HostThreads>> =
            Arc::new(MachinePlatform::new(&self.machine));
        bring_up(platform, self.unit.registers(), tamper)
    }

    fn offences(&self) -> Vec<String> {
        self.machine.violations().iter().map(ToString::to_string).collect()
    }
}

struct Emulated {
    machine: VirtMachine,
    edus: [Edu; 3],
    registers: portcullis_qemu::Mmio,
}

impl Emulated {
    fn start(installation: &Installation) -> Self {
        Self::on(Virt::riscv(), installation)
    }

    fn on(mut virt: Virt, installation: &Installation) -> Self {
        let slots = IDS.map(|id| BusId::ROOT.slot((id >> 3) as u8));
        for slot in slots {
            virt.edu(slot);
        }
        let machine = virt.start_on(installation).expect("QEMU starts");
        let edus = slots.map(|slot| machine.edu(slot).expect("an edu"));
        let registers = machine.iommu();
        Self { machine, edus, registers }
    }
}

impl Hardware for Emulated {
    fn memory(&self) -> &dyn DmaMemory {
        &**self.machine.ram()
    }

    fn registers(&self) -> &dyn Registers {
        &self.registers
    }

    fn writes(&self, device: usize, iova: u64) {
        self.edus[device].write_memory(Iova::new(iova), 0, 4).expect("it ends");
    }

    fn reads(&self, device: usize, iova: u64) {
        self.edus[device].read_memory(Iova::new(iova), 0, 4).expect("it ends");
    }

    fn driver(&self, tamper: Option<Action>) -> Box<dyn IommuOps> {
        bring_up(Arc::new(self.machine.platform()), self.machine.iommu(), tamper)
    }

    fn offences(&self) -> Vec<String> {
        self.machine.qemu().check().err().map(|error| error.to_string()).into_iter().collect()
    }
}

/// What is done to the driver's commands of one kind on their way to the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Action {
    /// Opcode and function; whether it has an address.
    kind: u64,
    addressed: bool,
    /// Added to the first word and to the second; `None`: it is not sent.
    change: Option<(u64, u64)>,
}

impl Action {
    fn apply(self, words: [u64; 2]) -> [u64; 2] {
        if words[0] & 0x3ff != self.kind || (words[0] & AV != 0) != self.addressed {
            return words;
        }
        match self.change {
            // A fence stands for a command that is not sent.
            None => [2, 0],
            Some((first, second)) => [words[0] + first, words[1] + second],
        }
    }
}

/// The unit's registers; commands are altered where they stand when `cqt` shows them.
struct Tampering<R, M> {
    inner: R,
    memory: Arc<M>,
    action: Option<Action>,
    base: Mutex<(u64, u32)>,
}

impl<R: Registers, M: DmaMemory> Registers for Tampering<R, M> {
    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        let mut base = self.base.lock().expect("test");
        match offset {
            0x1c => base.0 = u64::from(value) << 32 | base.0 & 0xffff_ffff,
            0x18 => *base = (base.0 & !0xffff_ffff | u64::from(value), 0),
            0x24 => {
                let mask = (2u32 << (base.0 & 0x1f)) - 1;
                while let (Some(action), true) = (self.action, base.1 != value) {
                    let at = (base.0 >> 10 << 12) + 16 * u64::from(base.1);
                    let at = [PhysAddr::new(at), PhysAddr::new(at + 8)];
                    let words = action.apply(at.map(|at| self.memory.load64(at)));
                    at.iter().zip(words).for_each(|(at, word)| self.memory.store64(*at, word));
                    base.1 = (base.1 + 1) & mask;
                }
            }
            _ => {}
        }
        self.inner.write32(offset, value);
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}

fn bring_up<P: Platform, R: Registers>(
    platform: Arc<P>,
    inner: R,
    action: Option<Action>,
) -> Box<dyn IommuOps> {
    let memory = Arc::clone(platform.memory());
    let registers = Tampering { inner, memory, action, base: Mutex::default() };
    let options = Options { spaces: 1, ..Options::default() };
    Box::new(Iommu::bring_up(platform, registers, options).expect("the unit comes up"))
}

/// What was looked at, what the specification says, what was seen.
type Check = (String, String, String);

/// A unit programmed by hand.
struct Rig<'a> {
    hw: &'a dyn Hardware,
    commands: u64,
    faults: u64,
    root: u64,
    tail: Cell<u32>,
    head: Cell<u32>,
    checks: RefCell<Vec<Check>>,
}

const FAULTS_LOG2: u32 = 3;

impl<'a> Rig<'a> {
    /// Queues on, unit off, a token in each device's buffer.
    fn new(hw: &'a dyn Hardware) -> Self {
        let page = || page_of(hw, 4096);
        let (commands, faults, root, token) = (page(), page(), page(), page());
        let (tail, head) = (Cell::new(0), Cell::new(0));
        let rig = Self { hw, commands, faults, root, tail, head, checks: RefCell::default() };
        rig.mode(1, 0);
        for device in 0..IDS.len() {
            rig.store(token, 0x1000_0001 + device as u64);
            hw.reads(device, token);
        }
        rig.mode(0, 0);
        let registers = hw.registers();
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

    fn settle(&self, offset: usize, mask: u32, wanted: u32) {
        let settled = (0..1000).any(|_| self.hw.registers().read32(offset) & mask == wanted);
        assert!(settled, "register {offset:#x} does not settle");
    }

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

    fn page(&self) -> u64 {
        page_of(self.hw, 4096)
    }

    fn store(&self, address: u64, word: u64) {
        self.hw.memory().store64(PhysAddr::new(address), word);
    }

    fn load(&self, address: u64) -> u64 {
        self.hw.memory().load64(PhysAddr::new(address))
    }

    fn check(&self, what: impl Into<String>, expected: impl ToString, seen: impl ToString) {
        let check = (what.into(), expected.to_string(), seen.to_string());
        self.checks.borrow_mut().push(check);
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
        self.push(&[[2, 0]]);
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

    /// Lets a device write its token, and looks whether it is at `physical`.
    fn write(&self, device: usize, iova: u64, physical: u64, expected: &str) {
        self.store(physical, 0xeeee_eeee_eeee_eeee);
        self.hw.writes(device, iova);
        let token = 0x1000_0001 + device as u64;
        let landed = self.load(physical) & 0xffff_ffff == token;
        let what = match iova == physical {
            true => format!("{:#x}: write a physical address", IDS[device]),
            false => format!("{:#x}: write {iova:#x}", IDS[device]),
        };
        self.tell(what, landed, expected);
    }

    /// Lets a device read; what it reads stays in it.
    fn read(&self, device: usize, iova: u64, expected: &str) {
        self.hw.reads(device, iova);
        let records = self.records();
        let seen = records.first().map_or_else(|| "no fault".to_owned(), describe);
        self.check(format!("{:#x}: read {iova:#x}", IDS[device]), expected, seen);
    }

    fn tell(&self, what: String, landed: bool, expected: &str) {
        let records = self.records();
        let seen = match (landed, records.first()) {
            (true, None) => "landed".to_owned(),
            (true, Some(record)) => format!("landed; {}", describe(record)),
            (false, None) => "blocked".to_owned(),
            (false, Some(record)) => describe(record),
        };
        self.check(what, expected, seen);
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
        let (root, page) = (page_of(self.hw, 16384), self.page());
        self.context(0, second(root, 8));
        self.on();
        self.leaf(root, 3, true, (IOVA, 0), pte(page, RW));
        self.write(0, IOVA, page, "landed");
        (root, page)
    }
}

fn page_of(hw: &dyn Hardware, bytes: usize) -> u64 {
    let layout = PageLayout::new(bytes, bytes).expect("a page");
    hw.memory().allocate(layout).expect("memory").raw()
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

type Scenario = (&'static str, bool, fn(&Rig<'_>));

const WRITE: &str = "Write/AMO page fault of 0x10 at 0x1234567000";

/// Name, whether something must be refused, what happens.
const SCENARIOS: &[Scenario] = &[
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
        let (root, page) = (rig.page(), page_of(rig.hw, 2 << 20));
        rig.context(0, first(root, 8));
        rig.on();
        rig.leaf(root, 3, false, (0x40_0000, 1), pte(page, RW));
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
    }),
    ("two-mib-page-misaligned", true, |rig| {
        let (root, page) = (rig.page(), page_of(rig.hw, 2 << 20));
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
        let root = page_of(rig.hw, 16384);
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
        rig.run(&[[2 | 1 << 10 | 0xcafe << 32, page >> 2]]);
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

fn misconfigured(rig: &Rig<'_>, context: [u64; 4]) {
    rig.context(0, context);
    rig.on();
    rig.write(0, IOVA, rig.page(), "DDT entry misconfigured of 0x10");
}

fn wide(rig: &Rig<'_>, mode: u64, levels: u32, iova: u64) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, first(root, mode));
    rig.on();
    rig.leaf(root, levels, false, (iova, 0), pte(page, RW));
    rig.write(0, iova, page, "landed");
}

fn leaf_of(rig: &Rig<'_>, bits: u64, expected: &str) {
    let (root, page) = (rig.page(), rig.page());
    rig.context(0, first(root, 8));
    rig.on();
    rig.leaf(root, 3, false, (IOVA, 0), pte(page, bits));
    rig.write(0, IOVA, page, expected);
}

/// The pages of a Sv39 table on the way to [`IOVA`].
fn tables_of(rig: &Rig<'_>, root: u64) -> Vec<u64> {
    let middle = rig.load(root + 8 * (IOVA >> 30)) >> 10 << 12;
    let last = rig.load(middle + 8 * (IOVA >> 21 & 0x1ff)) >> 10 << 12;
    vec![root, middle, last]
}

/// Both stages; whether the second one maps the first one's tables.
fn nested(rig: &Rig<'_>, bits: u64, tables: bool) -> (u64, u64) {
    let root = page_of(rig.hw, 16384);
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
fn stale(rig: &Rig<'_>, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 3, false, (IOVA, 0), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, "landed");
}

fn gone(rig: &Rig<'_>, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.leaf(root, 3, false, (IOVA, 0), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, WRITE);
}

fn guest_gone(rig: &Rig<'_>, command: [u64; 2]) {
    let (root, page) = rig.guest();
    rig.leaf(root, 3, true, (IOVA, 0), 0);
    rig.write(0, IOVA, page, "landed");
    rig.run(&[command]);
    let fault = "Write/AMO guest-page fault of 0x10 at 0x1234567000, guest 0x1234567000";
    rig.write(0, IOVA, page, fault);
}

fn context_gone(rig: &Rig<'_>, command: [u64; 2]) {
    let (_, page, _) = rig.used();
    rig.context(0, [0; 4]);
    rig.write(0, IOVA, page, "landed");
    rig.run(&[command]);
    rig.write(0, IOVA, page, "DDT entry not valid of 0x10");
}

/// The queue stops at the command, and goes on with another one in its place.
fn illegal(rig: &Rig<'_>, command: [u64; 2]) {
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

/// Scenario, what was looked at, what QEMU 10 shows, why.
type Difference = (&'static str, &'static str, &'static str, &'static str);

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

const PHYSICAL: &str = "0x10: write a physical address";
const AT_IOVA: &str = "0x10: write 0x1234567000";
const GUEST_FAULT: &str = "Write/AMO guest-page fault of 0x10 at 0x1234567000";
const NO_GUEST: &str =
    "3.2: iotval2 of a guest-page fault is the guest's address. QEMU leaves it 0 here.";
const RESERVED_COMMAND: &str = "3.1: a reserved bit makes a command illegal. QEMU carries it out.";

fn told(hw: &dyn Hardware, scenario: &Scenario) -> Vec<Check> {
    let rig = Rig::new(hw);
    (scenario.2)(&rig);
    let checks = rig.checks.take();
    assert!(hw.offences().is_empty(), "{}: {:?}", scenario.0, hw.offences());
    assert!(!checks.is_empty(), "{}", scenario.0);
    checks
}

fn wrong(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|(_, expected, seen)| expected != seen).collect()
}

#[test]
fn the_software_machine_does_what_the_specification_says() {
    for scenario in SCENARIOS {
        for policy in [Policy::like_qemu(), Policy::default()] {
            let checks = told(&Software::new(policy), scenario);
            assert!(wrong(&checks).is_empty(), "{}: {:#?}", scenario.0, wrong(&checks));
        }
    }
    let negative = SCENARIOS.iter().filter(|scenario| scenario.1).count();
    assert!(SCENARIOS.len() >= 40 && 2 * negative >= SCENARIOS.len());
}

#[test]
fn qemu_does_the_same_but_for_what_is_on_record() {
    let test = "qemu_does_the_same_but_for_what_is_on_record";
    let Some(qemu) = for_test_on(Architecture::Riscv64, test) else { return };
    let mut complaints = Vec::new();
    for scenario in SCENARIOS {
        let checks = told(&Emulated::start(qemu), scenario);
        let mut open: Vec<_> = DIFFERENCES.iter().filter(|known| known.0 == scenario.0).collect();
        for check in wrong(&checks) {
            match open.iter().position(|known| known.1 == check.0 && known.2 == check.2) {
                Some(at) => drop(open.remove(at)),
                None => complaints.push(format!("{}: {check:?}", scenario.0)),
            }
        }
        complaints.extend(open.iter().map(|known| format!("no longer differs: {known:?}")));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// An address space of the driver.
struct Space {
    table: Arc<dyn AddressSpace>,
    tag: SpaceTag,
}

/// The driver, with the first device claimed.
struct Driven<'a> {
    hw: &'a dyn Hardware,
    ops: Box<dyn IommuOps>,
    format: TableFormat,
}

const SPEC: StreamSpec = StreamSpec::exact(StreamId::new(IDS[0]));

impl<'a> Driven<'a> {
    fn new(hw: &'a dyn Hardware, format: TableFormat, tamper: Option<Action>) -> Self {
        drop(Rig::new(hw));
        let ops = hw.driver(tamper);
        ops.claim(&[SPEC]).expect("free");
        Self { hw, ops, format }
    }

    fn space(&self) -> Space {
        let formats = self.ops.capabilities().formats;
        let wanted = SpaceFormat::Table(self.format);
        let support = *formats.iter().find(|it| it.format == wanted).expect("a format");
        let page_sizes = PageSizes::from_bitmap(0x20_1000);
        let support = FormatSupport { page_sizes, ..support };
        let request = SpaceRequest { support, coherent_walk: true };
        let table = self.ops.create_space(&request).expect("a table");
        let tag = self.ops.bind_space(&table).expect("a tag");
        Space { table, tag }
    }

    fn attach(&self, target: StreamTarget) {
        self.ops.attach(&[SPEC], None, target).expect("confirmed");
    }

    fn map(&self, space: &Space, iova: u64, page: u64, len: u64) {
        let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
        let mapped = space.table.map(Iova::new(iova), PhysAddr::new(page), len, prot, &mut gather);
        mapped.expect("mapped");
    }

    fn unmap(&self, space: &Space, iova: u64, len: u64) {
        let mut gather = IotlbGather::new();
        space.table.unmap(Iova::new(iova), len, &mut gather).expect("unmapped");
        self.ops.invalidate(space.tag, &gather).expect("confirmed");
        space.table.retire(gather.confirm());
    }

    /// Whether the device's token arrives.
    fn lands(&self, iova: u64, page: u64) -> bool {
        let memory = self.hw.memory();
        memory.store64(PhysAddr::new(page), 0xeeee_eeee_eeee_eeee);
        self.hw.writes(0, iova);
        memory.load64(PhysAddr::new(page)) & 0xffff_ffff == 0x1000_0001
    }
}

/// Everything that the driver must forget, forgotten: which access got through although it must not.
fn slips(hw: &dyn Hardware, format: TableFormat, tamper: Option<Action>) -> Option<&'static str> {
    let driven = Driven::new(hw, format, tamper);
    let (page, large) = (page_of(hw, 4096), page_of(hw, 2 << 20));
    if driven.lands(page, page) {
        return Some("a device that passed before");
    }
    let space = driven.space();
    driven.attach(StreamTarget::Space(space.tag));
    driven.map(&space, IOVA, page, 4096);
    driven.map(&space, 0x40_0000, large, 2 << 20);
    assert!(driven.lands(IOVA, page) && driven.lands(0x40_3000, large + 0x3000));
    driven.unmap(&space, IOVA, 4096);
    if driven.lands(IOVA, page) {
        return Some("an unmapped page");
    }
    driven.unmap(&space, 0x40_0000, 2 << 20);
    if driven.lands(0x40_3000, large + 0x3000) {
        return Some("an unmapped large page");
    }
    driven.map(&space, NEXT, page, 4096);
    assert!(driven.lands(NEXT, page));
    driven.attach(StreamTarget::Blocked);
    if driven.lands(NEXT, page) {
        return Some("a blocked device");
    }
    driven.ops.unbind_space(space.tag).expect("confirmed");
    let next = driven.space();
    assert_eq!(next.tag, space.tag, "one space at a time has one tag");
    driven.attach(StreamTarget::Space(next.tag));
    if driven.lands(NEXT, page) {
        return Some("the space before");
    }
    driven.ops.shutdown().expect("confirmed");
    driven.lands(NEXT, page).then_some("a unit that is off")
}

const FORMATS: [TableFormat; 2] = [TableFormat::RiscvFirstStage, TableFormat::RiscvSecondStage];

/// Each invalidation that the driver issues while it serves, in each way in which it can be wrong.
fn mutants() -> Vec<(TableFormat, Action)> {
    let [one, two] = FORMATS;
    let tag = |format| if format == one { 1 << 12 } else { 1 << 44 };
    let mut mutants = Vec::new();
    for (format, kind) in [(one, VMA), (two, GVMA)] {
        for change in [None, Some((0, 1 << 10)), Some((tag(format), 0))] {
            mutants.push((format, Action { kind, addressed: true, change }));
        }
        for change in [None, Some((tag(format), 0))] {
            mutants.push((format, Action { kind, addressed: false, change }));
        }
    }
    for change in [None, Some((1 << 40, 0))] {
        mutants.push((one, Action { kind: IODIR, addressed: false, change }));
    }
    mutants
}

#[test]
fn the_drivers_invalidations_are_all_needed_and_enough() {
    let test = "the_drivers_invalidations_are_all_needed_and_enough";
    let software = || Software::new(Policy::like_qemu());
    let qemu = for_test_on(Architecture::Riscv64, test);
    for format in FORMATS {
        assert_eq!(slips(&software(), format, None), None, "{format:?}");
        assert_eq!(slips(&Software::new(Policy::default()), format, None), None, "{format:?}");
        if let Some(qemu) = qemu {
            assert_eq!(slips(&Emulated::start(qemu), format, None), None, "{format:?} on QEMU");
            let function = Emulated::on(Virt::riscv_function(1), qemu);
            assert_eq!(slips(&function, format, None), None, "{format:?} on QEMU's PCI function");
        }
    }
    let mut survivors = Vec::new();
    for (format, action) in mutants() {
        let here = slips(&software(), format, Some(action));
        let there = qemu.map(|qemu| slips(&Emulated::start(qemu), format, Some(action)));
        println!("{action:x?}: software {here:?}, QEMU {there:?}");
        if here.is_none() || there == Some(None) {
            survivors.push((format, action, here, there));
        }
    }
    assert!(survivors.is_empty(), "{survivors:#x?}");
}
