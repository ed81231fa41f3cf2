//! A machine with one SMMUv3, a driver on it, and a device behind it.

use crate::meddler::{Meddler, Rule};
use portcullis::{
    AddressSpace, Fault, FormatSupport, IommuOps, OpsError, Serviced, SpaceRequest, SpaceTag,
    StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Device, DmaOutcome, DmaRequest, Expectation, Machine, MachinePlatform, Policy, Profile, SmmuV3,
    TimeSource,
};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::host::HostThreads;
use portcullis_platform::{DmaPages, PageLayout};
use portcullis_smmuv3::{BringUpError, Options, Smmu};
use std::sync::Arc;

pub(crate) type Platform = MachinePlatform<HostThreads>;
pub(crate) type Driver = Smmu<Platform, Meddler>;

pub(crate) const STREAM: StreamId = StreamId::new(0x10);
pub(crate) const PAGE: u64 = 4096;

/// Everything below the driver.
pub(crate) struct Board {
    pub(crate) machine: Arc<Machine>,
    pub(crate) unit: Arc<SmmuV3>,
    pub(crate) device: Arc<Device>,
    /// Alters what the driver sends.
    pub(crate) rule: Option<Rule>,
}

impl Board {
    pub(crate) fn new(profile: Profile, policy: Policy) -> Self {
        Self::timed(profile, policy, TimeSource::Virtual { step: 10_000 })
    }

    pub(crate) fn timed(profile: Profile, policy: Policy, time: TimeSource) -> Self {
        let machine = Machine::builder().seed(7).policy(policy).time(time).build();
        let unit = machine.add_smmuv3(profile);
        let device = machine.add_client("client", &unit, STREAM);
        Self { machine, unit, device, rule: None }
    }

    pub(crate) fn bring_up(&self, options: Options) -> Result<Driver, BringUpError> {
        let platform = Arc::new(Platform::new(&self.machine));
        let registers = self.unit.registers();
        let meddler = Meddler::new(registers, self.machine.memory(), self.rule.clone());
        Smmu::bring_up(platform, meddler, options)
    }

    /// One page of ordinary memory.
    pub(crate) fn frame(&self) -> DmaPages<portcullis_machine::PhysicalMemory> {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    pub(crate) fn write(&self, iova: Iova) -> DmaOutcome {
        self.machine.dma(self.device.id(), DmaRequest::write(iova, b"written by the device"))
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.machine.violations(), []);
    }

    pub(crate) fn contents(&self, address: PhysAddr) -> [u8; 21] {
        let mut bytes = [0; 21];
        assert!(self.machine.memory().read_bytes(address, &mut bytes));
        bytes
    }
}

/// Whatever the driver likes best.
pub(crate) fn any_space(driver: &impl IommuOps) -> SpaceRequest {
    let support = *driver.capabilities().formats.first().expect("a format");
    let support = FormatSupport { page_sizes: PageSizes::from_bitmap(u64::MAX), ..support };
    SpaceRequest { support, coherent_walk: true }
}

/// That stream and no other.
pub(crate) const fn exact(id: StreamId) -> StreamSpec {
    StreamSpec::exact(id)
}

/// Maps one page; hardware that this driver drives needs no invalidation for that.
pub(crate) fn map_into(space: &dyn AddressSpace, iova: Iova, phys: PhysAddr, prot: Prot) {
    let mut gather = IotlbGather::new();
    space.map(iova, phys, PAGE, prot, &mut gather).expect("mapped");
    assert!(gather.is_empty());
}

/// Small queues, so that every test meets their ends.
pub(crate) fn small() -> Options {
    Options { command_queue_log2: 3, event_queue_log2: 3, ..Options::default() }
}

/// A board whose driver serves, with the device claimed and a space bound.
pub(crate) struct World {
    pub(crate) board: Board,
    pub(crate) driver: Driver,
    pub(crate) table: Arc<dyn AddressSpace>,
    pub(crate) tag: SpaceTag,
}

impl World {
    pub(crate) fn new(profile: Profile, policy: Policy, options: Options) -> Self {
        let board = Board::new(profile, policy);
        Self::on(board, options)
    }

    pub(crate) fn on(board: Board, options: Options) -> Self {
        let driver = board.bring_up(options).expect("the unit comes up");
        board.device.expect(Expectation::Blocked);
        let table = driver.create_space(&any_space(&driver)).expect("a table");
        let tag = driver.bind_space(&table).expect("a tag");
        driver.claim(&[exact(STREAM)]).expect("the stream is free");
        Self { board, driver, table, tag }
    }

    pub(crate) fn attach(&self) {
        self.driver
            .attach(&[exact(STREAM)], None, StreamTarget::Space(self.tag))
            .expect("attached");
        self.board.device.expect(Expectation::Translated);
    }

    pub(crate) fn map(&self, iova: u64, phys: PhysAddr) {
        let prot = Prot::READ | Prot::WRITE | Prot::CACHE;
        self.board.device.permit(Iova::new(iova), PAGE);
        map_into(&*self.table, Iova::new(iova), phys, prot);
    }

    /// A strict unmap, up to the confirmed invalidation.
    pub(crate) fn unmap(&self, iova: u64) -> Result<(), OpsError> {
        let mut gather = IotlbGather::new();
        self.table.unmap(Iova::new(iova), PAGE, &mut gather).expect("was mapped");
        let flushed = self.driver.invalidate(self.tag, &gather);
        if flushed.is_ok() {
            self.table.retire(gather.confirm());
            self.board.device.forbid(Iova::new(iova), PAGE);
        } else {
            self.table.quarantine(&mut gather);
        }
        flushed
    }

    pub(crate) fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let serviced = self.driver.service(usize::MAX, &mut |fault| faults.push(fault));
        assert_eq!(serviced, Serviced { faults: faults.len(), ..Serviced::default() });
        faults
    }
}
