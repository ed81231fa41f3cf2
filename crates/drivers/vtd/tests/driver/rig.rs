//! A software machine with one VT-d unit, its driver, and a device behind it.

use portcullis::{
    AddressSpace, Fault, FormatSupport, IommuOps, OpsError, SpaceFormat, SpaceRequest, SpaceTag,
    StreamSpec, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::{
    Device, DmaRequest, Expectation, Machine, MachinePlatform, PhysicalMemory, Policy,
    RegisterBlock, TimeSource, VtdIommu, VtdProfile,
};
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_platform::host::HostThreads;
use portcullis_platform::{Clock, DmaPages, PageLayout, Registers};
use portcullis_vtd::{BringUpError, Iommu, Mode, Options};
use std::sync::Arc;

pub(crate) type Platform = MachinePlatform<HostThreads>;
pub(crate) type Driver = Iommu<Platform, RegisterBlock<VtdIommu>>;

pub(crate) const ID: StreamId = StreamId::new(0x18);
pub(crate) const PAGE: u64 = 4096;
pub(crate) const IOVA: u64 = 0x12_3456_7000;
/// How far the clock goes each time somebody looks, in nanoseconds.
const STEP: u64 = 1_000_000;

/// Everything below the driver.
pub(crate) struct Board {
    pub(crate) machine: Arc<Machine>,
    pub(crate) unit: Arc<VtdIommu>,
    pub(crate) device: Arc<Device>,
}

impl Board {
    pub(crate) fn new(profile: VtdProfile, policy: Policy) -> Self {
        let time = TimeSource::Virtual { step: STEP };
        let machine = Machine::builder().seed(7).policy(policy).time(time).build();
        let unit = machine.add_vtd(profile);
        let device = machine.add_client("client", &unit, ID);
        Self { machine, unit, device }
    }

    pub(crate) fn bring_up(&self, options: Options) -> Result<Driver, BringUpError> {
        let platform = Arc::new(Platform::new(&self.machine));
        Iommu::bring_up(platform, self.unit.registers(), options)
    }

    pub(crate) fn frame(&self) -> DmaPages<PhysicalMemory> {
        let layout = PageLayout::new(PAGE as usize, PAGE as usize).expect("a page");
        DmaPages::new(self.machine.memory(), layout).expect("memory for a page")
    }

    pub(crate) fn write(&self, iova: u64) -> bool {
        let request = DmaRequest::write(Iova::new(iova), b"written by the device");
        self.machine.dma_of(&self.device, request).is_completed()
    }

    pub(crate) fn register(&self, offset: usize) -> u32 {
        self.unit.registers().read32(offset)
    }

    /// How often somebody has looked at the clock.
    pub(crate) fn clock_reads(&self) -> u64 {
        self.machine.clock().now() / STEP
    }

    pub(crate) fn assert_clean(&self) {
        assert_eq!(self.machine.violations(), []);
    }

    /// Firmware's own tables, by which the device passes unchanged, installed in the unit by hand; its queue is on. What it keeps must live as long as the unit may read it.
    pub(crate) fn translate_all_by_firmware(&self, mode: Mode) -> Vec<DmaPages<PhysicalMemory>> {
        let pages: Vec<_> = (0..5).map(|_| self.frame()).collect();
        let at = |page: usize| pages[page].address().raw();
        let store = |page: usize, offset: usize, value| pages[page].store64(offset, value);
        let source = ID.raw() as usize;
        match mode {
            Mode::Legacy => {
                store(0, 0, at(1) | 1);
                store(1, source * 16, 1 | 2 << 2);
                store(1, source * 16 + 8, 2 | 7 << 8);
            }
            Mode::Scalable => {
                store(0, 0, at(1) | 1);
                store(1, source * 32, at(2) | 1);
                store(2, 0, at(3) | 1);
                store(3, 0, 1 | 4 << 6 | 2 << 2);
                store(3, 8, 7);
            }
        }
        for page in &pages {
            page.publish(0, PAGE as usize, portcullis_platform::Coherency::NonCoherent);
        }
        let registers = self.unit.registers();
        let command = |bit: u32| {
            let kept = registers.read32(0x1c) & 0x96ff_ffff;
            registers.write32(0x18, kept | 1 << bit);
            while registers.read32(0x1c) >> bit & 1 == 0 {}
        };
        let ttm = if mode == Mode::Scalable { 1 << 10 } else { 0 };
        registers.write64(0x20, at(0) | ttm);
        command(30);
        registers.write64(0x88, 0);
        registers.write64(0x90, at(4));
        command(26);
        command(31);
        pages
    }
}

/// A board whose driver serves, with the device claimed and a space bound.
pub(crate) struct World {
    pub(crate) board: Board,
    pub(crate) driver: Driver,
    pub(crate) table: Arc<dyn AddressSpace>,
    pub(crate) tag: SpaceTag,
}

impl World {
    pub(crate) fn new(profile: VtdProfile, policy: Policy) -> Self {
        Self::on(Board::new(profile, policy), small())
    }

    pub(crate) fn on(board: Board, options: Options) -> Self {
        let driver = board.bring_up(options).expect("the unit comes up");
        board.device.expect(Expectation::Blocked);
        let support = *driver.capabilities().formats.first().expect("a format");
        let support = FormatSupport { page_sizes: PageSizes::from_bitmap(u64::MAX), ..support };
        let coherent_walk = driver.capabilities().coherent_walk;
        let request = SpaceRequest { support, coherent_walk };
        let table = driver.create_space(&request).expect("a table");
        let tag = driver.bind_space(&table).expect("a tag");
        driver.claim(&[StreamSpec::exact(ID)]).expect("the device is free");
        Self { board, driver, table, tag }
    }

    pub(crate) fn is_first_stage(&self) -> bool {
        let formats = self.driver.capabilities().formats;
        let first = formats.first().expect("a format").format;
        first == SpaceFormat::Table(TableFormat::VtdFirstStage)
    }

    pub(crate) fn lead(&self, target: StreamTarget) -> Result<(), OpsError> {
        self.driver.attach(&[StreamSpec::exact(ID)], None, target)
    }

    pub(crate) fn attach(&self) {
        self.lead(StreamTarget::Space(self.tag)).expect("attached");
        self.board.device.expect(Expectation::Translated);
    }

    /// Maps, and tells hardware where that must be.
    pub(crate) fn map(&self, iova: u64, phys: PhysAddr) {
        self.board.device.permit(Iova::new(iova), PAGE);
        let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
        self.table.map(Iova::new(iova), phys, PAGE, prot, &mut gather).expect("mapped");
        if self.driver.capabilities().map_needs_sync {
            let (start, last) = (Iova::new(iova), Iova::new(iova + PAGE - 1));
            let leaf = portcullis_addr::PageSize::SIZE_4K;
            let range = portcullis_pgtable::FlushRange { start, last, leaf, tables_freed: true };
            gather.add(range);
            self.driver.invalidate(self.tag, &gather).expect("confirmed");
            self.table.retire(gather.confirm());
        }
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
        assert!(serviced.errors.is_empty() && !serviced.more, "{serviced:?}");
        faults
    }
}

/// The smallest queue.
pub(crate) fn small() -> Options {
    Options { command_queue_log2: 0, ..Options::default() }
}

/// Units of every kind that the driver treats differently.
pub(crate) fn profiles() -> Vec<(&'static str, VtdProfile)> {
    let server = VtdProfile::server;
    vec![
        ("QEMU's", VtdProfile::qemu10()),
        ("QEMU's, second stage", VtdProfile::qemu10_scalable(false)),
        ("QEMU's, first stage", VtdProfile::qemu10_scalable(true)),
        ("server", server()),
        ("server, legacy", VtdProfile { scalable: false, ..server() }),
        (
            "second stage of five levels",
            VtdProfile { first_stage: None, widths: [false, false, true], ..server() },
        ),
        ("no abort-dma mode", VtdProfile { abort_mode: false, ..server() }),
        ("page walks do not snoop", VtdProfile { scalable_coherent: false, ..server() }),
        ("early", VtdProfile::early()),
        ("caching mode", VtdProfile { caching_mode: true, ..VtdProfile::qemu10() }),
        (
            "caching mode, scalable",
            VtdProfile { caching_mode: true, first_stage: None, ..server() },
        ),
        ("caching mode, first stage", VtdProfile { caching_mode: true, ..server() }),
        ("write buffer", VtdProfile { write_buffer: true, coherent: true, ..VtdProfile::qemu10() }),
    ]
}

pub(crate) fn policies() -> [(&'static str, Policy); 3] {
    [
        ("as QEMU", Policy::like_qemu()),
        ("default", Policy::default()),
        ("harshest", Policy::harshest()),
    ]
}
