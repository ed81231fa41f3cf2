//! A driver written for `dma-api` moves memory with QEMU's edu device behind QEMU's SMMUv3.
#![expect(unsafe_code, reason = "whoever makes the back end vouches for the linear map")]

use dma_api::{DmaCoherency, DmaConstraints, DmaDirection};
use portcullis::{
    BoundDriver, DeviceDescription, DeviceStage, DmaHandle, DmaPath, Driver, FaultReason, FwNode,
    FwSpec, FwStream, Policy, ProbeContext, ProbeError, Subsystem,
};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_dma_api::IommuDma;
use portcullis_qemu::{BusId, QemuPlatform, SmmuStages, Virt, VirtMachine};
use portcullis_smmuv3::{Options, Smmu};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

/// A kernel's linear map has no `self` either.
static MACHINE: OnceLock<VirtMachine> = OnceLock::new();

const SMMU: FwNode = FwNode(1);

fn machine() -> &'static VirtMachine {
    MACHINE.get().expect("the test sets it first")
}

fn linear(address: PhysAddr, len: usize) -> NonNull<u8> {
    machine().ram().pointer(address, len)
}

struct EduDriver;

struct Bound;

impl BoundDriver for Bound {}

impl Driver<QemuPlatform> for EduDriver {
    fn name(&self) -> &str {
        "edu"
    }

    fn probe(
        &self,
        _: &ProbeContext<'_>,
        dma: DmaHandle<QemuPlatform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        let failed = |error: &dyn std::fmt::Display| ProbeError::Failed(error.to_string());
        // SAFETY: QEMU's RAM is mapped for as long as the machine lives, which is for ever.
        let op: &'static _ = Box::leak(Box::new(unsafe { IommuDma::new(dma.clone(), linear) }));
        // The device has 28 address bits (QEMU docs/specs/edu.rst).
        let device = op.device(DmaCoherency::Coherent, DmaConstraints::new((1 << 28) - 1));
        let device = device.map_err(|error| failed(&error))?;
        let edu = machine().edu(BusId::ROOT.slot(1)).map_err(|error| failed(&error))?;

        let mut from = device.coherent_array_zero::<u32>(16).map_err(|error| failed(&error))?;
        let to = device.coherent_array_zero::<u32>(16).map_err(|error| failed(&error))?;
        (0..16).for_each(|at| from.set_cpu(at, 0x1000 + at as u32));
        let moved = edu
            .read_memory(Iova::new(from.dma_addr().as_u64()), 0, 64)
            .and_then(|()| edu.write_memory(Iova::new(to.dma_addr().as_u64()), 0, 64));
        moved.map_err(|error| failed(&error))?;
        assert!((0..16).all(|at| to.read_cpu(at) == Some(0x1000 + at as u32)));

        // A streaming buffer is a copy for the device, and copied back when the device has written.
        let mut bytes = [7u8; 100];
        let lent = device
            .map_streaming_slice(&mut bytes, 1, DmaDirection::FromDevice)
            .map_err(|error| failed(&error))?;
        edu.write_memory(Iova::new(lent.dma_addr().as_u64()), 0, 64)
            .map_err(|error| failed(&error))?;
        lent.read_from_device(100, |seen| assert_eq!(seen[..8], [0, 0x10, 0, 0, 1, 0x10, 0, 0]));
        assert_eq!((op.lent(), dma.live_mappings()), (3, 3));
        drop(lent);

        // What was given back is out of reach: the SMMU refuses it.
        let gone = Iova::new(to.dma_addr().as_u64());
        drop((from, to));
        assert_eq!((op.lent(), dma.live_mappings()), (0, 0));
        edu.write_memory(gone, 0, 4).map_err(|error| failed(&error))?;
        Ok(Box::new(Bound))
    }
}

#[test]
fn a_dma_api_driver_works_behind_the_iommu_and_only_where_it_was_let() {
    let Some(qemu) = portcullis_qemu::for_test("dma-api") else { return };
    let slot = BusId::ROOT.slot(1);
    let mut virt = Virt::new(SmmuStages::Newest);
    let started = virt.edu(slot).start_on(qemu).expect("a board");
    assert!(MACHINE.set(started).is_ok());
    let platform = Arc::new(machine().platform());
    let core = Subsystem::new(Arc::clone(&platform), Policy::default());
    let smmu = Smmu::bring_up(platform, machine().iommu(), Options::default()).expect("bring-up");
    core.register(SMMU, Box::new(smmu)).expect("the first one");
    let function = machine().function(slot).expect("the device");
    let id = StreamId::new(function.dma_alias().requester_id().into());
    let spec = FwSpec { streams: vec![FwStream::new(SMMU, id)] };
    let description = DeviceDescription::new("/pcie/edu", DmaPath::Translated(spec));
    let device = core.add_device(description).expect("a sound description");
    core.bind(&device, Arc::new(EduDriver)).expect("not within a callback");
    assert_eq!(device.stage(), DeviceStage::Bound);

    let mut faults = Vec::new();
    let serviced = core.drain_faults(SMMU, |report, _| faults.push(report.fault.reason));
    assert_eq!(serviced.overflows, 0);
    assert_eq!(faults, [FaultReason::Translation]);
}
