//! An IOMMU that does nothing, or spins for as long as real set-up takes: what is left is the core's own cost.

use portcullis::{
    AddressSpace, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell, OpsError,
    Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget, TableSpace,
    Ticket,
};
use portcullis_addr::{Iova, IovaRange, PageSize, PageSizes, PhysAddr, PhysRange, Prot};
use portcullis_pgtable::{
    IotlbGather, MapError, PageTable, TableConfig, TableFormat, TableRoot, UnmapError,
};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug)]
pub struct NullIommu {
    /// How long each device's set-up spins.
    pub set_up: Duration,
    space: Arc<dyn AddressSpace>,
}

impl NullIommu {
    /// One whose set-up of a device takes `set_up`.
    pub fn new(set_up: Duration) -> Self {
        Self { set_up, space: Arc::new(TableSpace::new(NullTable)) }
    }
}

/// Keeps a CPU busy for `time`.
fn spin(time: Duration) {
    if time.is_zero() {
        return;
    }
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

impl IommuOps for NullIommu {
    fn driver_name(&self) -> &'static str {
        "null"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: Formats::of(&[FormatSupport {
                format: SpaceFormat::Table(TableFormat::ArmLpaeStage1),
                page_sizes: PageSizes::of(&[PageSize::SIZE_4K]),
                input_bits: 48,
                output_bits: 48,
            }]),
            id_bits: 32,
            pasid_bits: 0,
            coherent_walk: true,
            identity: true,
            map_needs_sync: false,
            range_invalidation: true,
            msi: MsiDoorbell::Translated,
        }
    }
    fn claim(&self, _: &[StreamSpec]) -> Result<(), OpsError> {
        Ok(())
    }
    fn release(&self, _: &[StreamSpec]) -> Result<(), OpsError> {
        Ok(())
    }
    fn create_space(&self, _: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        Ok(Arc::clone(&self.space))
    }
    fn bind_space(&self, _: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        Ok(SpaceTag(1))
    }
    fn unbind_space(&self, _: SpaceTag) -> Result<(), OpsError> {
        Ok(())
    }
    fn attach(&self, _: &[StreamSpec], _: Option<Pasid>, _: StreamTarget) -> Result<(), OpsError> {
        spin(self.set_up);
        Ok(())
    }
    fn submit(&self, _: SpaceTag, _: &IotlbGather) -> Result<Ticket, OpsError> {
        Ok(Ticket([0; 3]))
    }
    fn wait(&self, _: Ticket) -> Result<(), OpsError> {
        Ok(())
    }
    fn forget_all(&self) -> Result<(), OpsError> {
        Ok(())
    }
    fn service(&self, _: usize, _: &mut dyn FnMut(Fault)) -> Serviced {
        Serviced::default()
    }
    fn shutdown(&self) -> Result<(), OpsError> {
        Ok(())
    }
}

#[derive(Debug)]
struct NullTable;

impl PageTable for NullTable {
    fn config(&self) -> TableConfig {
        TableConfig {
            format: TableFormat::ArmLpaeStage1,
            granule: PageSize::SIZE_4K,
            input_bits: 48,
            output_bits: 48,
            root: TableRoot::Arm { address: PhysAddr::new(0), start_level: 0, tables: 1 },
            coherent_walk: true,
            force_snoop: false,
        }
    }
    fn page_sizes(&self) -> PageSizes {
        PageSizes::of(&[PageSize::SIZE_4K])
    }
    fn input_range(&self) -> IovaRange {
        IovaRange::new(Iova::new(0), 1 << 48).expect("48 bits fit")
    }
    fn map(&self, _: Iova, _: PhysAddr, _: u64, _: Prot) -> Result<(), MapError> {
        Ok(())
    }
    fn map_segments(&self, _: Iova, _: &[PhysRange], _: Prot) -> Result<(), MapError> {
        Ok(())
    }
    fn unmap(&self, _: Iova, _: u64, _: &mut IotlbGather) -> Result<(), UnmapError> {
        Ok(())
    }
    fn translate(&self, _: Iova) -> Option<(PhysAddr, Prot)> {
        None
    }
    fn table_pages(&self) -> usize {
        0
    }
}
