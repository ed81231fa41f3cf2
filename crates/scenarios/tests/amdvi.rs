//! The AMD IOMMU on two platforms: the software machine's model and QEMU's `q35` with `amd-iommu`. Each scenario says what the specification (48882, revision 3) says of each access, and both platforms must show that, but for the
//! departures of QEMU that are on record ([`DIFFERENCES`]). The driver's invalidations, dropped or misaimed one by one, must each be noticed by the model, and by QEMU where it can show it.
//!
//! QEMU 10 writes no event (`amdvi_log_event` returns early): what an event says is compared where there are events, and that there are none is one of the departures.

use portcullis::IommuOps;
use portcullis_addr::PhysAddr;
use portcullis_amdvi::{Iommu, Options};
use portcullis_machine::{AmdVi, AmdViProfile, Machine};
use portcullis_pgtable::TableFormat;
use portcullis_platform::{Platform, Registers};
use portcullis_qemu::{Architecture, Version, Virt};
use portcullis_scenarios::families::{
    Action, ByHand, Desk, Difference, Family, Hardware, Later, Mutant, Ring, Scenario,
    assert_invalidations, assert_qemu_does, assert_software_does, page_of,
};
use portcullis_spec::amdvi::event::{self, code};
use std::cell::Cell;
use std::sync::Arc;

/// Device ids: function 0 of devices 2, 3 and 8.
const IDS: [u32; 3] = [0x10, 0x18, 0x40];
const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + 0x1000;
/// The domain of the first device.
const DOMAIN: u64 = 5;
/// V and TV: permits nothing.
const VALID: u64 = 3;
/// IR and IW, the same in both kinds of entry.
const RW: u64 = 3 << 61;
const IR: u64 = 1 << 61;
const IW: u64 = 1 << 62;
const PR: u64 = 1;
/// A page that may be read and written.
const LEAF: u64 = PR | RW;
const WAIT: u64 = 1 << 60;
const ENTRY: u64 = 2 << 60;
const PAGES: u64 = 3 << 60;
const ALL: u64 = 8 << 60;
/// S and PDE, and the address that stands for everything.
const SIZED: u64 = 1;
const PDE: u64 = 2;
const EVERYTHING: u64 = 0x7fff_ffff_ffff_f000 | SIZED | PDE;
const COMMANDS: u32 = 256;

/// AMD-Vi.
#[derive(Debug)]
struct Amd;

impl Family for Amd {
    type Model = AmdVi;
    type Rig = Rig;
    const DEVICES: [u32; 3] = IDS;
    const RAM: PhysAddr = PhysAddr::new(0x100_0000);
    const NOTHING: [u64; 2] = [WAIT, 0];

    fn software(machine: &Machine) -> Arc<AmdVi> {
        machine.add_amdvi(AmdViProfile::qemu10())
    }

    fn qemu() -> Virt {
        Virt::amd()
    }

    fn bring_up<P: Platform, R: Registers>(platform: Arc<P>, registers: R) -> Box<dyn IommuOps> {
        let options = Options { spaces: 1, ..Options::default() };
        Box::new(Iommu::bring_up(platform, registers, options).expect("the unit comes up"))
    }

    fn follow(ring: &mut Ring, offset: usize, _: usize, value: u64) -> Option<u32> {
        match offset {
            0x8 => {
                let base = value & 0xf_ffff_ffff_f000;
                *ring = Ring { base, entries: 1 << (value >> 56 & 0xf), tail: 0 };
                None
            }
            0x2008 => Some((value >> 4) as u32),
            _ => None,
        }
    }
}

/// A unit programmed by hand.
struct Rig {
    desk: Desk,
    commands: u64,
    events: u64,
    table: u64,
    done: u64,
    count: Cell<u64>,
    tail: Cell<u32>,
    head: Cell<u64>,
    /// Whether the unit writes events at all.
    logs: Cell<bool>,
}

impl std::ops::Deref for Rig {
    type Target = Desk;

    fn deref(&self) -> &Desk {
        &self.desk
    }
}

impl ByHand for Rig {
    /// Off, which passes everything.
    fn open(hw: &dyn Hardware) {
        hw.registers().write64(0x18, 0);
    }

    /// Queues installed, a table of one page in which everything is blocked, unit off. Whether it writes events is found by trying.
    fn take(desk: Desk) -> Self {
        let [commands, events, table, done] = [(); 4].map(|()| desk.page());
        let rig = Self {
            desk,
            commands,
            events,
            table,
            done,
            count: Cell::new(0),
            tail: Cell::new(0),
            head: Cell::new(0),
            logs: Cell::new(true),
        };
        (0..128).for_each(|device| rig.store(table + 32 * device, VALID));
        let registers = rig.hw.registers();
        registers.write64(0x0, table);
        registers.write64(0x8, commands | 8 << 56);
        registers.write64(0x10, events | 8 << 56);
        [0x2000, 0x2008, 0x2010, 0x2018].iter().for_each(|index| registers.write64(*index, 0));
        rig.on();
        rig.hw.writes(2, IOVA);
        rig.logs.set(!rig.records().is_empty());
        registers.write64(0x18, 0);
        rig
    }

    fn desk(&self) -> &Desk {
        &self.desk
    }

    fn faults(&self) -> Vec<String> {
        self.records().iter().map(describe).collect()
    }

    /// Whether it lands is compared everywhere, what the event says where there are events.
    fn write(&self, device: usize, iova: u64, physical: u64, expected: &str) {
        self.store(physical, 0xeeee_eeee_eeee_eeee);
        self.hw.writes(device, iova);
        let landed = self.load(physical) & 0xffff_ffff != 0xeeee_eeee;
        let what = match iova == physical {
            true => format!("{:#x}: write a physical address", IDS[device]),
            false => format!("{:#x}: write {iova:#x}", IDS[device]),
        };
        let word = |landed| if landed { "landed" } else { "blocked" };
        self.check(&*what, word(expected == "landed"), word(landed));
        self.event(&what, expected);
    }

    fn read(&self, device: usize, iova: u64, expected: &str) {
        self.hw.reads(device, iova);
        self.event(&format!("{:#x}: read {iova:#x}", IDS[device]), expected);
    }
}

impl Rig {
    fn event(&self, what: &str, expected: &str) {
        let seen = self.faults().into_iter().next();
        if self.logs.get() {
            let expected =
                if ["landed", "blocked"].contains(&expected) { "none" } else { expected };
            let seen = seen.unwrap_or_else(|| "none".to_owned());
            self.check(format!("{what}: event"), expected, seen);
        }
    }

    /// Unit, log and queue on, and nothing cached.
    fn on(&self) {
        self.hw.registers().write64(0x18, 1 | 1 << 2 | 1 << 12);
        self.settle(0x2020, 0x18, 0x18);
        self.run(&[[ALL, 0]]);
    }

    fn push(&self, commands: &[[u64; 2]]) {
        for words in commands {
            let at = self.commands + 16 * u64::from(self.tail.get());
            self.store(at, words[0]);
            self.store(at + 8, words[1]);
            self.tail.set((self.tail.get() + 1) % COMMANDS);
        }
        self.hw.registers().write64(0x2008, u64::from(self.tail.get()) << 4);
    }

    /// Commands, carried out.
    fn run(&self, commands: &[[u64; 2]]) {
        self.count.set(self.count.get() + 1);
        self.push(commands);
        self.push(&[[WAIT | self.done | 1, self.count.get()]]);
        let done = || self.load(self.done) == self.count.get();
        let settled = (0..1000).any(|_| {
            self.hw.registers().read64(0x2020);
            done()
        });
        assert!(settled, "the commands are not carried out");
    }

    fn entry(&self, device: usize, words: [u64; 2]) {
        let at = self.table + 32 * u64::from(IDS[device]);
        self.store(at + 8, words[1]);
        self.store(at, words[0]);
    }

    /// Stores `entry` for an address in a table of level `at.1`, making the tables above it from a root of `levels` levels.
    fn map(&self, root: u64, levels: u32, at: (u64, u32), entry: u64) {
        let (address, leaf) = at;
        let mut table = root;
        for level in (leaf..=levels).rev() {
            let slot = table + 8 * (address >> (12 + 9 * (level - 1)) & 0x1ff);
            if level == leaf {
                return self.store(slot, entry);
            }
            if self.load(slot) & PR == 0 {
                self.store(slot, self.page() | LEAF | u64::from(level - 1) << 9);
            }
            table = self.load(slot) & 0xf_ffff_ffff_f000;
        }
    }

    fn records(&self) -> Vec<[u64; 2]> {
        let tail = self.hw.registers().read64(0x2018) >> 4;
        let mut records = Vec::new();
        while self.head.get() != tail {
            let at = self.events + 16 * self.head.get();
            records.push([self.load(at), self.load(at + 8)]);
            self.head.set((self.head.get() + 1) % 256);
        }
        self.hw.registers().write64(0x2010, self.head.get() << 4);
        records
    }

    /// The first device with three levels under [`DOMAIN`], a page mapped at [`IOVA`] and another one at [`NEXT`], each used.
    fn used(&self) -> (u64, u64, u64) {
        let (root, page, other) = (self.page(), self.page(), self.page());
        self.entry(0, translating(root, 3));
        self.map(root, 3, (IOVA, 1), page | LEAF);
        self.map(root, 3, (NEXT, 1), other | LEAF);
        self.on();
        self.write(0, IOVA, page, "landed");
        self.write(0, NEXT, other, "landed");
        (root, page, other)
    }
}

fn translating(root: u64, levels: u64) -> [u64; 2] {
    [VALID | levels << 9 | root | RW, DOMAIN]
}

/// A record in words.
fn describe(record: &[u64; 2]) -> String {
    let number = event::CODE.read(record);
    let known = code::CODES.iter().find(|code| code.value == number);
    let name = known.map_or("an unknown event", |code| code.name);
    let access = if event::RW.read(record) == 1 { "write" } else { "read" };
    let (device, address) = (event::DEVICE.read(record), event::ADDRESS.read(record));
    let mut words = format!("{name} of {device:#x}, {access} {address:#x}");
    for (field, word) in [(event::PR, "present"), (event::PE, "denied"), (event::RZ, "reserved")] {
        if field.read(record) == 1 {
            words += &format!(", {word}");
        }
    }
    words
}

/// A write of the first device that finds nothing.
fn absent(address: u64) -> String {
    format!("IO_PAGE_FAULT of 0x10, write {address:#x}")
}

fn denied(address: u64) -> String {
    absent(address) + ", present, denied"
}

/// Name, whether something must be refused, what happens.
const SCENARIOS: &[Scenario<Rig>] = &[
    ("off-passes", false, |rig| {
        let page = rig.page();
        rig.write(0, page, page, "landed");
    }),
    ("not-valid-passes", false, |rig| {
        let page = rig.page();
        rig.entry(0, [0, 0]);
        rig.on();
        rig.write(0, page, page, "landed");
    }),
    ("permits-nothing", true, |rig| {
        rig.on();
        let page = rig.page();
        rig.write(0, page, page, &denied(page));
    }),
    ("no-translation", true, |rig| {
        let page = rig.page();
        rig.entry(0, [1 | RW, DOMAIN]);
        rig.on();
        rig.write(0, page, page, &absent(page));
    }),
    ("no-levels-permits", false, |rig| {
        let page = rig.page();
        rig.entry(0, [VALID | RW, DOMAIN]);
        rig.on();
        rig.write(0, page, page, "landed");
    }),
    ("no-levels-read-only", true, |rig| {
        let page = rig.page();
        rig.entry(0, [VALID | IR, DOMAIN]);
        rig.on();
        rig.write(0, page, page, &denied(page));
    }),
    ("another-devices-entry", true, |rig| {
        let page = rig.page();
        rig.entry(1, [VALID | RW, DOMAIN]);
        rig.on();
        rig.write(1, page, page, "landed");
        rig.write(0, page, page, &denied(page));
    }),
    ("entry-reserved-bit", true, |rig| bad_entry(rig, [VALID | RW | 1 << 2, DOMAIN], true)),
    ("entry-reserved-bit-high", true, |rig| bad_entry(rig, [VALID | RW, DOMAIN | 1 << 42], true)),
    ("guest-tables-without-support", true, |rig| {
        bad_entry(rig, [VALID | RW | 1 << 55, DOMAIN], true);
    }),
    ("seven-levels", true, |rig| bad_entry(rig, [VALID | RW | 7 << 9, DOMAIN], false)),
    ("domain-of-nine-bits", false, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.entry(0, [translating(root, 3)[0], 0x1ff]);
        rig.map(root, 3, (IOVA, 1), page | LEAF);
        rig.on();
        rig.write(0, IOVA, page, "landed");
    }),
    ("one-level", false, |rig| deep(rig, 1, 0x5000)),
    ("two-levels", false, |rig| deep(rig, 2, 0x1234_5000)),
    ("three-levels", false, |rig| deep(rig, 3, IOVA)),
    ("four-levels", false, |rig| deep(rig, 4, 0x7654_1234_5000)),
    ("five-levels", false, |rig| deep(rig, 5, 0x76_5432_1234_5000)),
    ("six-levels", false, |rig| deep(rig, 6, 0x3e76_5432_1234_5000)),
    ("skipped-level", false, |rig| {
        let (root, pages, page) = (rig.page(), rig.page(), rig.page());
        rig.entry(0, translating(root, 3));
        rig.store(root, pages | LEAF | 1 << 9);
        rig.store(pages + 8 * 5, page | LEAF);
        rig.on();
        rig.write(0, 0x5000, page, "landed");
    }),
    ("skipped-level-not-zero", true, |rig| {
        let (root, pages, page) = (rig.page(), rig.page(), rig.page());
        rig.entry(0, translating(root, 3));
        rig.store(root, pages | LEAF | 1 << 9);
        rig.store(pages + 8 * 5, page | LEAF);
        rig.on();
        rig.write(0, 0x20_5000, page, &absent(0x20_5000));
    }),
    ("sized-8-kib", false, |rig| sized(rig, 13)),
    ("sized-64-kib", false, |rig| sized(rig, 16)),
    ("sized-1-mib", false, |rig| sized(rig, 20)),
    ("two-mib-page", false, |rig| {
        let (root, page) = (rig.page(), page_of(&*rig.hw, 2 << 20));
        rig.entry(0, translating(root, 3));
        rig.map(root, 3, (0x40_0000, 2), page | LEAF);
        rig.on();
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
    }),
    ("sized-4-mib", false, |rig| {
        let (root, page) = (rig.page(), page_of(&*rig.hw, 4 << 20));
        let leaf = page | 0x1f_f000 | 7 << 9 | LEAF;
        rig.entry(0, translating(root, 3));
        rig.map(root, 3, (0x40_0000, 2), leaf);
        rig.map(root, 3, (0x60_0000, 2), leaf);
        rig.on();
        rig.write(0, 0x40_3000, page + 0x3000, "landed");
        rig.write(0, 0x60_3000, page + 0x20_3000, "landed");
    }),
    ("unmapped-write", true, |rig| {
        let (_, page, _) = rig.used();
        rig.write(0, IOVA + 0x5000, page, &absent(IOVA + 0x5000));
    }),
    ("unmapped-read", true, |rig| {
        let (_, page, _) = rig.used();
        rig.read(0, IOVA + 0x5000, "IO_PAGE_FAULT of 0x10, read 0x123456c000");
        rig.read(0, IOVA, "landed");
        rig.write(0, IOVA + 0x5000, page, &absent(IOVA + 0x5000));
    }),
    ("unmapped-directory", true, |rig| {
        let (_, page, _) = rig.used();
        rig.write(0, IOVA + (1 << 30), page, &absent(IOVA + (1 << 30)));
    }),
    ("read-only", true, |rig| {
        leaf_of(rig, PR | IR, &denied(IOVA));
        rig.read(0, IOVA, "landed");
    }),
    ("write-only", true, |rig| {
        leaf_of(rig, PR | IW, "landed");
        rig.read(0, IOVA, "IO_PAGE_FAULT of 0x10, read 0x1234567000, present, denied");
    }),
    ("permits-nothing-leaf", true, |rig| leaf_of(rig, PR, &denied(IOVA))),
    ("not-present-but-permitted", true, |rig| leaf_of(rig, RW, &absent(IOVA))),
    ("leaf-reserved-bit", true, |rig| {
        leaf_of(rig, LEAF | 1 << 55, &(absent(IOVA) + ", present, reserved"));
    }),
    ("read-only-directory", true, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.entry(0, translating(root, 3));
        rig.map(root, 3, (IOVA, 1), page | LEAF);
        let slot = root + 8 * (IOVA >> 30 & 0x1ff);
        rig.store(slot, rig.load(slot) & !IW);
        rig.on();
        rig.write(0, IOVA, page, &denied(IOVA));
    }),
    ("read-only-entry", true, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.entry(0, [translating(root, 3)[0] & !IW, DOMAIN]);
        rig.map(root, 3, (IOVA, 1), page | LEAF);
        rig.on();
        rig.write(0, IOVA, page, &denied(IOVA));
    }),
    ("beyond-three-levels", true, |rig| {
        let (_, page, _) = rig.used();
        let at = IOVA | 1 << 39;
        rig.write(0, at, page, &absent(at));
    }),
    ("doorbells-are-not-translated", true, |rig| {
        let (root, page) = (rig.page(), rig.page());
        rig.entry(0, translating(root, 3));
        rig.map(root, 3, (0xfee0_0000, 1), page | LEAF);
        rig.map(root, 3, (0xfef0_0000, 1), page | LEAF);
        rig.on();
        rig.write(0, 0xfee0_0000, page, "blocked");
        rig.write(0, 0xfef0_0000, page, "landed");
    }),
    ("exclusion-for-all", false, |rig| {
        let page = rig.page();
        rig.hw.registers().write64(0x20, page | 3);
        rig.hw.registers().write64(0x28, page);
        rig.on();
        rig.write(0, page, page, "landed");
        let other = rig.page();
        rig.write(0, other, other, &denied(other));
    }),
    ("exclusion-for-some", true, |rig| {
        let page = rig.page();
        rig.hw.registers().write64(0x20, page | 1);
        rig.hw.registers().write64(0x28, page);
        rig.entry(1, [VALID, 1 << 39]);
        rig.on();
        rig.write(1, page, page, "landed");
        rig.write(0, page, page, &denied(page));
    }),
    ("page-forgotten", true, |rig| {
        let (root, page, other) = rig.used();
        rig.map(root, 3, (IOVA, 1), 0);
        rig.write(0, IOVA, page, "landed");
        rig.run(&[[PAGES | DOMAIN << 32, IOVA]]);
        rig.write(0, IOVA, page, &absent(IOVA));
        rig.write(0, NEXT, other, "landed");
    }),
    ("page-neighbour", false, |rig| stale(rig, [PAGES | DOMAIN << 32, NEXT])),
    ("page-of-another-domain", false, |rig| stale(rig, [PAGES | (DOMAIN + 1) << 32, IOVA])),
    ("domain-forgotten", true, |rig| gone(rig, [PAGES | DOMAIN << 32, EVERYTHING])),
    ("another-domain-forgotten", false, |rig| {
        stale(rig, [PAGES | (DOMAIN + 1) << 32, EVERYTHING]);
    }),
    ("range-forgotten", true, |rig| {
        // 64 KiB: the lowest 0 is bit 15.
        gone(rig, [PAGES | DOMAIN << 32, IOVA & !0xffff | 0x7000 | SIZED]);
    }),
    ("range-elsewhere", false, |rig| {
        stale(rig, [PAGES | DOMAIN << 32, ((IOVA & !0xffff) + 0x1_7000) | SIZED]);
    }),
    ("everything-forgotten", true, |rig| gone(rig, [ALL, 0])),
    ("directory-forgotten", true, |rig| {
        let (root, page, _) = rig.used();
        rig.store(root + 8 * (IOVA >> 30 & 0x1ff), 0);
        rig.run(&[[PAGES | DOMAIN << 32, IOVA | PDE]]);
        rig.write(0, IOVA, page, &absent(IOVA));
    }),
    ("entry-alone-forgotten", false, |rig| {
        let (_, page, _) = rig.used();
        rig.entry(0, [VALID, 0]);
        rig.run(&[[ENTRY | 0x10, 0]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("domain-alone-forgotten", false, |rig| {
        let (_, page, _) = rig.used();
        rig.entry(0, [VALID, 0]);
        rig.run(&[[PAGES | DOMAIN << 32, EVERYTHING]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("entry-and-domain-forgotten", true, |rig| {
        let (_, page, _) = rig.used();
        rig.entry(0, [VALID, 0]);
        rig.run(&[[ENTRY | 0x10, 0], [PAGES | DOMAIN << 32, EVERYTHING]]);
        rig.write(0, IOVA, page, &denied(IOVA));
    }),
    ("another-entry-forgotten", false, |rig| {
        let (_, page, _) = rig.used();
        rig.entry(0, [VALID, 0]);
        rig.run(&[[ENTRY | 0x18, 0], [PAGES | DOMAIN << 32, EVERYTHING]]);
        rig.write(0, IOVA, page, "landed");
    }),
    ("illegal-opcode", true, |rig| illegal(rig, [9 << 60, 0])),
    ("illegal-reserved-bit", true, |rig| illegal(rig, [WAIT | 1 << 55, 0])),
    ("illegal-guest-pages", true, |rig| illegal(rig, [PAGES | DOMAIN << 32, IOVA | 4])),
    ("completion-stores", false, |rig| {
        let page = rig.page();
        rig.on();
        rig.run(&[[WAIT | page | 1, 0xcafe]]);
        rig.check("what the completion stored", "0xcafe", format!("{:#x}", rig.load(page)));
    }),
    ("completion-tells", false, |rig| {
        rig.on();
        rig.run(&[[WAIT | 2, 0]]);
        let told = rig.hw.registers().read64(0x2020) >> 2 & 1;
        rig.check("ComWaitInt", 1, told);
        rig.hw.registers().write64(0x2020, 4);
        rig.check("ComWaitInt cleared", 0, rig.hw.registers().read64(0x2020) >> 2 & 1);
    }),
    ("queue-goes-round", false, |rig| {
        rig.on();
        (0..150).for_each(|_| rig.run(&[[ALL, 0]]));
        let head = rig.hw.registers().read64(0x2000) >> 4;
        rig.check("head after 304 commands in a queue of 256", 48, head);
    }),
    ("events-are-written", true, |rig| {
        rig.on();
        (0..3).for_each(|_| rig.hw.writes(0, IOVA));
        rig.check("events of three blocked writes", 3, rig.records().len());
        let told = rig.hw.registers().read64(0x2020) >> 1 & 1;
        rig.check("EventLogInt", 1, told);
    }),
    ("event-log-overflows", true, |rig| {
        rig.on();
        (0..260).for_each(|_| rig.hw.writes(0, IOVA));
        let registers = rig.hw.registers();
        let status = registers.read64(0x2020);
        rig.check("EventOverflow", 1, status & 1);
        rig.check("EventLogRun", 0, status >> 3 & 1);
        let before = registers.read64(0x2018);
        rig.records();
        rig.hw.writes(0, IOVA);
        rig.check("the tail stands", before, registers.read64(0x2018));
        registers.write64(0x18, 1 | 1 << 12);
        registers.write64(0x2020, 1);
        registers.write64(0x18, 1 | 1 << 2 | 1 << 12);
        rig.settle(0x2020, 8, 8);
        rig.hw.writes(0, IOVA);
        rig.check("events after it was started anew", 1, rig.records().len());
    }),
];

fn bad_entry(rig: &Rig, words: [u64; 2], reserved: bool) {
    let page = rig.page();
    rig.entry(0, words);
    rig.on();
    let event = format!("ILLEGAL_DEV_TABLE_ENTRY of 0x10, write {page:#x}");
    rig.write(0, page, page, &(event + if reserved { ", reserved" } else { "" }));
}

fn deep(rig: &Rig, levels: u32, iova: u64) {
    let (root, page) = (rig.page(), rig.page());
    rig.entry(0, translating(root, levels.into()));
    rig.map(root, levels, (iova, 1), page | LEAF);
    rig.on();
    rig.write(0, iova, page, "landed");
}

/// A leaf whose address encodes a size among pages of 4 KiB, in each entry that it covers.
fn sized(rig: &Rig, log2: u32) {
    let (root, page) = (rig.page(), page_of(&*rig.hw, 1 << log2));
    rig.entry(0, translating(root, 3));
    let leaf = page | ((1 << (log2 - 1)) - 1) & !0xfff | 7 << 9 | LEAF;
    let iova = 0x12_3400_0000;
    for at in (0..1u64 << log2).step_by(4096) {
        rig.map(root, 3, (iova + at, 1), leaf);
    }
    rig.on();
    rig.write(0, iova, page, "landed");
    let last = (1 << log2) - 4096;
    rig.write(0, iova + last, page + last, "landed");
}

fn leaf_of(rig: &Rig, bits: u64, expected: &str) {
    let (root, page) = (rig.page(), rig.page());
    rig.entry(0, translating(root, 3));
    rig.map(root, 3, (IOVA, 1), page | bits);
    rig.on();
    rig.write(0, IOVA, page, expected);
}

/// After the command the old translation is still used: it does not cover it.
fn stale(rig: &Rig, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.map(root, 3, (IOVA, 1), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, "landed");
}

fn gone(rig: &Rig, command: [u64; 2]) {
    let (root, page, _) = rig.used();
    rig.map(root, 3, (IOVA, 1), 0);
    rig.run(&[command]);
    rig.write(0, IOVA, page, &absent(IOVA));
}

/// The queue stops at the command, and goes on with another one in its place.
fn illegal(rig: &Rig, command: [u64; 2]) {
    rig.on();
    let at = rig.tail.get();
    rig.push(&[command]);
    let runs = || rig.hw.registers().read64(0x2020) >> 4 & 1;
    let stopped = (0..1000).any(|_| runs() == 0);
    rig.check("the queue stops", true, stopped);
    if !stopped {
        return;
    }
    rig.check("head", at, rig.hw.registers().read64(0x2000) >> 4);
    let event = rig.faults().into_iter().next().unwrap_or_default();
    let place = rig.commands + 16 * u64::from(at);
    let said = format!("ILLEGAL_COMMAND_ERROR of 0x0, read {place:#x}");
    rig.check("the event", true, event == said);
    rig.store(place, WAIT);
    rig.store(place + 8, 0);
    rig.hw.registers().write64(0x18, 1 | 1 << 2);
    rig.hw.registers().write64(0x18, 1 | 1 << 2 | 1 << 12);
    rig.settle(0x2020, 0x10, 0x10);
    rig.run(&[]);
}

/// Where QEMU departs from the specification.
const DIFFERENCES: &[Difference] = &[
    (
        "no-translation",
        PHYSICAL,
        "landed",
        "2.2.2.1: TV = 0 is no translation. QEMU lets pass as IR and IW say.",
    ),
    (
        "entry-reserved-bit-high",
        PHYSICAL,
        "landed",
        "2.2.2.1: a reserved bit is an illegal entry. QEMU does not look at this one.",
    ),
    (
        "guest-tables-without-support",
        PHYSICAL,
        "landed",
        "2.2.2.1: GV without GTSup is reserved, and with it Mode 0 does not mean \"pass\". QEMU says GTSup and does not look at GV.",
    ),
    (
        "domain-of-nine-bits",
        AT_IOVA,
        "blocked",
        "2.2.2.1: a domain has 16 bits. QEMU takes its bit 8 for a reserved one, and the entry for an illegal one, whose device passes untranslated (no memory is there).",
    ),
    (
        "skipped-level-not-zero",
        "0x10: write 0x205000",
        "landed",
        "2.2.3: addresses of a level that is left out must be 0. QEMU does not look.",
    ),
    (
        "not-present-but-permitted",
        AT_IOVA,
        "landed",
        "2.2.3: PR = 0 is not present. QEMU does not look at PR of the last entry, only whether it is all 0.",
    ),
    ("leaf-reserved-bit", AT_IOVA, "landed", "2.2.3: a reserved bit faults. QEMU does not look."),
    (
        "beyond-three-levels",
        "0x10: write 0x9234567000",
        "landed",
        "2.2.3: addresses beyond the levels are not mapped. QEMU cuts them off.",
    ),
    ("exclusion-for-all", PHYSICAL, "blocked", NO_EXCLUSION),
    ("exclusion-for-some", "0x18: write a physical address", "blocked", NO_EXCLUSION),
    ("page-neighbour", AT_IOVA, "blocked", WHOLE_DOMAIN),
    ("range-elsewhere", AT_IOVA, "blocked", WHOLE_DOMAIN),
    ("domain-alone-forgotten", AT_IOVA, "blocked", NO_ENTRIES),
    ("another-entry-forgotten", AT_IOVA, "blocked", NO_ENTRIES),
    ("illegal-opcode", STOPS, "false", GOES_ON),
    ("illegal-reserved-bit", STOPS, "false", GOES_ON),
    ("illegal-guest-pages", STOPS, "false", GOES_ON),
    (
        "completion-tells",
        "ComWaitInt cleared",
        "1",
        "3.4: written 1 to clear. QEMU ignores writes to the status register.",
    ),
    ("events-are-written", "events of three blocked writes", "0", NO_EVENTS),
    ("events-are-written", "EventLogInt", "0", NO_EVENTS),
    ("event-log-overflows", "EventOverflow", "0", NO_EVENTS),
    ("event-log-overflows", "EventLogRun", "1", NO_EVENTS),
    ("event-log-overflows", "events after it was started anew", "0", NO_EVENTS),
];

/// What Debian 13's 10.0.13 does otherwise.
const LATER: Later = Later {
    version: Version { major: 10, minor: 0, micro: 13 },
    mended: &["domain-of-nine-bits"],
    new: &[],
};

const PHYSICAL: &str = "0x10: write a physical address";
const AT_IOVA: &str = "0x10: write 0x1234567000";
const STOPS: &str = "the queue stops";
const NO_EXCLUSION: &str =
    "3.4: the exclusion range is not translated. QEMU has the registers alone.";
const GOES_ON: &str =
    "2.5.6: the queue stops at an illegal command. QEMU goes on with the next one.";
const NO_EVENTS: &str =
    "2.5: refused accesses are recorded. QEMU 10 gives up before it writes (`amdvi_log_event`).";
const NO_ENTRIES: &str =
    "2.4.2: entries stay cached until they are invalidated. QEMU reads them anew.";
const WHOLE_DOMAIN: &str =
    "2.4.3: an address covers its page. QEMU drops the whole domain, whatever the address.";

#[test]
fn the_software_machine_does_what_the_specification_says() {
    assert_software_does::<Amd>(SCENARIOS);
}

#[test]
fn qemu_does_the_same_but_for_what_is_on_record() {
    let test = "qemu_does_the_same_but_for_what_is_on_record";
    assert_qemu_does::<Amd>(SCENARIOS, DIFFERENCES, &LATER, Architecture::X86_64, test);
}

/// Each invalidation that the driver issues while it serves, in each way in which it can be wrong.
fn mutants() -> Vec<Mutant> {
    const OPCODE: u64 = 0xf << 60;
    // What an address with S means tells a range from everything.
    const WHOLE: u64 = 1 << 62;
    let page = ([OPCODE, SIZED], [PAGES, 0]);
    let range = ([OPCODE, SIZED | WHOLE], [PAGES, SIZED]);
    let domain = ([OPCODE, SIZED | WHOLE], [PAGES, SIZED | WHOLE]);
    let entry = ([OPCODE, 0], [ENTRY, 0]);
    let another_domain = Some([1 << 32, 0]);
    [
        (entry, None, Some(NO_ENTRIES)),
        (entry, Some([8, 0]), Some(NO_ENTRIES)),
        (page, None, None),
        (page, Some([0, 0x1000]), Some(WHOLE_DOMAIN)),
        (page, another_domain, None),
        (range, None, None),
        (range, Some([0, 0x20_0000]), Some(WHOLE_DOMAIN)),
        (range, another_domain, None),
        (domain, None, None),
        (domain, another_domain, None),
    ]
    .map(|((mask, kind), change, unseen_on_qemu)| {
        let action = Action { mask, kind, change };
        Mutant { format: TableFormat::AmdV1, action, unseen_on_qemu }
    })
    .to_vec()
}

#[test]
fn the_drivers_invalidations_are_all_needed_and_enough() {
    let test = "the_drivers_invalidations_are_all_needed_and_enough";
    let formats = [TableFormat::AmdV1];
    assert_invalidations::<Amd>(&formats, &[], &mutants(), Architecture::X86_64, test);
}
