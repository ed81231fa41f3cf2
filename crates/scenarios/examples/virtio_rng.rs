//! A driver of the `virtio-drivers` crate behind an IOMMU, from nothing to random bytes: what a kernel author would copy.
//!
//! `cargo run -p portcullis-scenarios --example virtio_rng` (needs QEMU). QEMU stands for the machine; [`ThisKernel`] is what a kernel has to write.

use portcullis::{
    BoundDriver, DeviceDescription, DmaHandle, DmaPath, Driver, FwNode, FwSpec, FwStream, Policy,
    ProbeContext, ProbeError, Subsystem,
};
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_qemu::{BusId, QemuPlatform, SmmuStages, Virt, VirtMachine};
use portcullis_scenarios::virtio::QemuTransport;
use portcullis_smmuv3::{Options, Smmu};
use portcullis_virtio::{AccessPlatform, HalState, IommuHal, Kernel};
use std::error::Error;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use virtio_drivers::device::rng::VirtIORng;

/// `Hal` has functions without `self`, so the machine and the device being driven are found through statics.
static MACHINE: OnceLock<Arc<VirtMachine>> = OnceLock::new();
static STATE: Mutex<Option<Arc<HalState<QemuPlatform>>>> = Mutex::new(None);

struct ThisKernel;

impl Kernel for ThisKernel {
    type Platform = QemuPlatform;

    fn state() -> Arc<HalState<QemuPlatform>> {
        let state = STATE.lock().unwrap_or_else(PoisonError::into_inner);
        state.clone().expect("the probe installs it before it uses the device")
    }

    // A kernel: its linear map.
    fn pointer(address: PhysAddr, len: usize) -> NonNull<u8> {
        MACHINE.get().expect("main sets it first").ram().pointer(address, len)
    }

    // A kernel: ioremap.
    fn registers(address: PhysAddr, _len: usize) -> NonNull<u8> {
        panic!("{address}: QEMU's registers are reached over a socket, not mapped")
    }
}

struct Rng;

impl Driver<QemuPlatform> for Rng {
    fn name(&self) -> &str {
        "virtio-rng"
    }

    fn probe(
        &self,
        device: &ProbeContext<'_>,
        dma: DmaHandle<QemuPlatform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        let failed = |error: &dyn std::fmt::Display| ProbeError::Failed(error.to_string());
        println!("{}: probed, its path to memory is {:?}", device.path(), dma.reach());
        let state = Some(Arc::new(HalState::new(dma)));
        *STATE.lock().unwrap_or_else(PoisonError::into_inner) = state;
        let machine = MACHINE.get().expect("main sets it first");
        let transport = machine.virtio(BusId::ROOT.slot(4)).map_err(|error| failed(&error))?;
        let mut rng = VirtIORng::<IommuHal<ThisKernel>, _>::new(AccessPlatform::new(
            QemuTransport::new(transport),
        ))
        .map_err(|error| failed(&error))?;
        let mut bytes = [0; 16];
        rng.request_entropy(&mut bytes).map_err(|error| failed(&error))?;
        println!("16 random bytes, through the IOMMU: {bytes:02x?}");
        Ok(Box::new(Bound))
    }
}

struct Bound;

impl BoundDriver for Bound {}

fn main() -> Result<(), Box<dyn Error>> {
    let slot = BusId::ROOT.slot(4);
    let machine = Arc::new(Virt::new(SmmuStages::Newest).virtio_rng(slot).start()?);
    let machine = MACHINE.get_or_init(|| machine);
    let platform = Arc::new(machine.platform());
    let core = Subsystem::new(Arc::clone(&platform), Policy::default());

    let smmu = FwNode(1);
    let id = StreamId::new(machine.function(slot)?.dma_alias().requester_id().into());
    let spec = FwSpec { streams: vec![FwStream::new(smmu, id)] };
    let rng = core.add_device(DeviceDescription::new("/pcie/rng", DmaPath::Translated(spec)))?;

    // The client comes first, as it may.
    println!("before its IOMMU: {:?}", core.bind(&rng, Arc::new(Rng))?);
    let instance = Smmu::bring_up(platform, machine.iommu(), Options::default())?;
    core.register(smmu, Box::new(instance))?;
    core.run_deferred();
    println!("after it: {:?}", rng.stage());
    Ok(())
}
