//! The driver's own changes of stream table entries, watched from outside: every store to the entry, every confirmation that the unit gave.

use super::*;
use crate::Options;
use crate::entry::tests::{Seen, Watch, meaning_of_ste};
use portcullis_addr::{PageSize, PageSizes, PhysAddr};
use portcullis_machine::{
    Machine, MachineClock, PhysicalMemory, Policy, Profile, SmmuRegisters, TimeSource,
};
use portcullis_platform::host::HostPlatform;
use portcullis_platform::{MemoryWatch, WatchedMemory};
use portcullis_spec::smmuv3::{CMDQ_CONS, CMDQ_PROD};
use std::sync::Mutex;
use std::vec;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happened {
    Store(PhysAddr, u64),
    /// The driver has read that everything it sent was carried out.
    Confirmed,
}

type Log = Arc<Mutex<Vec<Happened>>>;

struct StoreLog(Log);

impl MemoryWatch for StoreLog {
    fn stores(&self, address: PhysAddr, value: u64) {
        self.0.lock().expect("no test panics here").push(Happened::Store(address, value));
    }
}

struct WatchedRegisters {
    inner: SmmuRegisters,
    log: Log,
    /// The write index that the driver still waits for.
    awaited: Mutex<Option<u32>>,
}

impl Registers for WatchedRegisters {
    fn read32(&self, offset: usize) -> u32 {
        let value = self.inner.read32(offset);
        if offset == CMDQ_CONS.offset {
            let mut awaited = self.awaited.lock().expect("no test panics here");
            if awaited.take_if(|produced| *produced == value).is_some() {
                self.log.lock().expect("no test panics here").push(Happened::Confirmed);
            }
        }
        value
    }
    fn write32(&self, offset: usize, value: u32) {
        if offset == CMDQ_PROD.offset {
            *self.awaited.lock().expect("no test panics here") = Some(value);
        }
        self.inner.write32(offset, value);
    }
    fn len(&self) -> usize {
        self.inner.len()
    }
}

type WatchedPlatform = HostPlatform<WatchedMemory<PhysicalMemory, StoreLog>, Arc<MachineClock>>;

const STREAM: StreamId = StreamId::new(0x10);

struct Stand {
    driver: Smmu<WatchedPlatform, WatchedRegisters>,
    log: Log,
    targets: Vec<(&'static str, StreamTarget)>,
}

impl Stand {
    fn new() -> Self {
        let time = TimeSource::Virtual { step: 1000 };
        let machine = Machine::builder().policy(Policy::default()).time(time).build();
        let unit = machine.add_smmuv3(Profile { sid_bits: 8, ..Profile::qemu10() });
        let log = Log::default();
        let inner = Arc::clone(machine.memory());
        let memory = Arc::new(WatchedMemory::new(inner, StoreLog(Arc::clone(&log))));
        let awaited = Mutex::new(None);
        let registers =
            WatchedRegisters { inner: unit.registers(), log: Arc::clone(&log), awaited };
        let platform = Arc::new(WatchedPlatform::with_clock(memory, Arc::clone(machine.clock())));
        let driver = Smmu::bring_up(platform, registers, Options::default()).expect("comes up");
        driver.claim(&[StreamSpec::exact(STREAM)]).expect("claimed");
        let mut targets = vec![("blocked", StreamTarget::Blocked)];
        targets.push(("identity", StreamTarget::Identity));
        for (name, stage2) in [("s1", false), ("s1'", false), ("s2", true), ("s2'", true)] {
            let table = table(&driver, stage2);
            let tag = driver.bind_space(&table).expect("bound");
            targets.push((name, StreamTarget::Space(tag)));
        }
        Self { driver, log, targets }
    }

    fn entry(&self) -> Entry {
        let held = self.driver.streams.claims.hold(&[STREAM]).expect("claimed");
        self.driver.streams.read(&held[0])
    }

    /// Attaches under a watch.
    fn change(&self, to: StreamTarget) -> Seen {
        let wanted = match to {
            StreamTarget::Blocked => [0; 8],
            StreamTarget::Identity => bypass_entry(&self.driver.features),
            StreamTarget::Space(tag) => self.driver.spaces.entry(tag).expect("bound"),
        };
        let base = self.driver.streams.entry_address(STREAM).expect("claimed").raw();
        let mut watch = Watch::new(meaning_of_ste, self.entry(), &wanted);
        self.log.lock().expect("no test panics here").clear();
        self.driver.attach(&[StreamSpec::exact(STREAM)], None, to).expect("attached");
        for happened in self.log.lock().expect("no test panics here").iter() {
            match *happened {
                Happened::Confirmed => watch.confirm(),
                Happened::Store(at, value) if (base..base + 64).contains(&at.raw()) => {
                    watch.store((at.raw() - base) as usize / 8, value);
                }
                Happened::Store(..) => {}
            }
        }
        assert_eq!(meaning_of_ste(&self.entry()), meaning_of_ste(&wanted));
        watch.seen
    }
}

fn table(driver: &Smmu<WatchedPlatform, WatchedRegisters>, stage2: bool) -> Arc<dyn AddressSpace> {
    let memory = driver.unit.platform().memory();
    let granule = PageSize::SIZE_4K;
    let params = TableParams {
        granule,
        input_bits: 40,
        output_bits: 44,
        leaf_sizes: PageSizes::ALL,
        force_snoop: false,
        coherent: true,
    };
    if stage2 {
        Arc::new(TableSpace::new(
            IoPageTable::<ArmLpaeStage2, _>::new(memory, params).expect("a table"),
        ))
    } else {
        Arc::new(TableSpace::new(
            IoPageTable::<ArmLpaeStage1, _>::new(memory, params).expect("a table"),
        ))
    }
}

/// How many confirmations a change costs: rows are the old target, columns the new one.
const MOST: [[usize; 6]; 6] = [
    // blocked, identity, s1, s1', s2, s2'
    [1, 2, 2, 2, 2, 2],
    [1, 0, 2, 2, 2, 2],
    [1, 2, 0, 1, 3, 3],
    [1, 2, 1, 0, 3, 3],
    [1, 2, 3, 3, 0, 3],
    [1, 2, 3, 3, 3, 0],
];

#[test]
fn every_pair_of_targets_is_old_new_or_invalid_at_every_store() {
    let stand = Stand::new();
    for (row, &(from_name, from)) in stand.targets.iter().enumerate() {
        for (column, &(to_name, to)) in stand.targets.iter().enumerate() {
            stand.driver.attach(&[StreamSpec::exact(STREAM)], None, from).expect("attached");
            let seen = stand.change(to);
            let pair = std::format!("{from_name} to {to_name}");
            // An invalid entry whose other words already suit needs one less.
            let spared = usize::from(from == StreamTarget::Blocked);
            let most = MOST[row][column];
            assert!((most - spared.min(most)..=most).contains(&seen.confirmations), "{pair}");
            // Two stages, or two VMIDs, differ in two words.
            assert_eq!(seen.made_invalid, most == 3, "{pair}");
        }
    }
}

#[test]
fn several_streams_share_their_confirmations() {
    let stand = Stand::new();
    let streams: Vec<_> = (0x20..0x60).map(|id| StreamSpec::exact(StreamId::new(id))).collect();
    stand.driver.claim(&streams).expect("claimed");
    stand.log.lock().expect("no test panics here").clear();
    stand.driver.attach(&streams, None, stand.targets[2].1).expect("attached");
    let log = stand.log.lock().expect("no test panics here");
    let confirmed = log.iter().filter(|happened| **happened == Happened::Confirmed).count();
    assert_eq!(confirmed, 2, "as for one stream");
}
