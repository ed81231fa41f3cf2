//! The whole of it on QEMU: the core decides a device's path, the driver programs QEMU's SMMUv3, and a real device driver works through the handle that its
//! probe was given.

use portcullis::{
    BindOutcome, BoundDriver, Device, DeviceDescription, DmaBuffer, DmaHandle, DmaPath, Driver,
    FaultReason, FwNode, FwSpec, FwStream, Policy, ProbeContext, ProbeError, Reach, Subsystem,
};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_qemu::endpoint::{self, Edu, Nvme, NvmeBuffers, NvmeIdentity};
use portcullis_qemu::{BusId, QemuPlatform, Slot, SmmuStages, Virt, VirtMachine, disk_block};
use portcullis_scenarios::for_driver_test;
use portcullis_scenarios::virtio::QemuTransport;
use portcullis_smmuv3::{Options, Smmu};
use portcullis_virtio::{AccessPlatform, HalState, IommuHal, Kernel};
use std::cell::RefCell;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use virtio_drivers::device::{blk::VirtIOBlk, rng::VirtIORng};

const SMMU: FwNode = FwNode(1);

/// A machine whose devices are described as behind its SMMU, which is not registered yet.
struct System {
    machine: Arc<VirtMachine>,
    core: Subsystem<QemuPlatform>,
}

impl System {
    fn new(virt: &Virt) -> Self {
        let machine = Arc::new(virt.start().expect("board"));
        let core = Subsystem::new(Arc::new(machine.platform()), Policy::default());
        Self { machine, core }
    }

    fn device(&self, slot: Slot) -> Arc<Device<QemuPlatform>> {
        let function = self.machine.function(slot).expect("a device in the slot");
        let id = StreamId::new(function.dma_alias().requester_id().into());
        let spec = FwSpec { streams: vec![FwStream::new(SMMU, id)] };
        let path = format!("/pcie@10000000/{}", function.address);
        let description = DeviceDescription::new(path, DmaPath::Translated(spec));
        self.core.add_device(description).expect("a description without contradictions")
    }

    fn register_smmu(&self) {
        let platform = Arc::clone(self.core.platform());
        let smmu = Smmu::bring_up(platform, self.machine.iommu(), Options::default());
        self.core.register(SMMU, Box::new(smmu.expect("bring-up"))).expect("the first one");
    }

    fn faults(&self) -> Vec<(FaultReason, Option<Iova>)> {
        let mut faults = Vec::new();
        let serviced = self.core.drain_faults(SMMU, |report, device| {
            assert!(device.is_some(), "every fault has its device");
            faults.push((report.fault.reason, report.fault.iova));
        });
        assert_eq!((serviced.overflows, serviced.errors), (0, portcullis::GlobalErrors::empty()));
        faults
    }
}

/// A driver whose probe is a function.
struct Probing<F>(&'static str, F);

impl<F> Driver<QemuPlatform> for Probing<F>
where
    F: Fn(DmaHandle<QemuPlatform>) -> Result<Box<dyn BoundDriver>, ProbeError> + Send + Sync,
{
    fn name(&self) -> &str {
        self.0
    }

    fn probe(
        &self,
        _device: &ProbeContext<'_>,
        dma: DmaHandle<QemuPlatform>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        (self.1)(dma)
    }
}

fn failed(error: impl std::fmt::Display) -> ProbeError {
    ProbeError::Failed(error.to_string())
}

/// Holds what a probe made until the device is unbound.
struct Holding<T>(T);

impl<T: Send> BoundDriver for Holding<T> {}

fn page(dma: &DmaHandle<QemuPlatform>) -> Result<DmaBuffer<QemuPlatform>, ProbeError> {
    dma.allocate(4096).map_err(failed)
}

fn seen_by_device(buffer: &DmaBuffer<QemuPlatform>) -> endpoint::DmaBuffer {
    let iova = Iova::new(buffer.device_address());
    endpoint::DmaBuffer { phys: buffer.pages().address(), iova, len: buffer.pages().len() }
}

type Found = Arc<Mutex<Option<(NvmeIdentity, Vec<Vec<u8>>)>>>;

/// Queues and data at I/O virtual addresses; identifies the controller and reads 40 blocks.
fn nvme_driver(
    machine: &Arc<VirtMachine>,
    slot: Slot,
    found: &Found,
) -> Arc<dyn Driver<QemuPlatform>> {
    let (machine, found) = (Arc::clone(machine), Arc::clone(found));
    Arc::new(Probing("nvme", move |dma: DmaHandle<QemuPlatform>| {
        let buffers: Vec<_> = (0..5).map(|_| page(&dma)).collect::<Result<_, _>>()?;
        for buffer in &buffers {
            assert_ne!(buffer.device_address(), buffer.pages().address().raw(), "translated");
        }
        let at = |index: usize| seen_by_device(&buffers[index]);
        let queues = NvmeBuffers {
            admin_submissions: at(0),
            admin_completions: at(1),
            io_submissions: at(2),
            io_completions: at(3),
            data: at(4),
        };
        let mut nvme: Nvme = machine.nvme(slot, queues).map_err(failed)?;
        let identity = nvme.identify().map_err(failed)?;
        let blocks: Result<_, _> = (0..40).map(|lba| nvme.read_block(lba)).collect();
        *found.lock().expect("no panic") = Some((identity, blocks.map_err(failed)?));
        Ok(Box::new(Holding((nvme, buffers))) as Box<dyn BoundDriver>)
    }))
}

#[test]
fn nvme_works_through_the_handle_and_not_after_unbind() {
    if for_driver_test("nvme_works_through_the_handle_and_not_after_unbind").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(3);
    let system = System::new(Virt::new(SmmuStages::Newest).nvme(slot));
    let device = system.device(slot);
    let found = Found::default();
    let driver = nvme_driver(&system.machine, slot, &found);
    // The client comes first: it waits for its IOMMU and is bound when that is there.
    let outcome = system.core.bind(&device, driver).expect("an attempt");
    assert_eq!(outcome, BindOutcome::Deferred(SMMU));
    assert!(found.lock().expect("no panic").is_none(), "no probe before its path is final");
    system.register_smmu();
    system.core.run_deferred();
    let (identity, blocks) = found.lock().expect("no panic").take().expect("the probe ran");
    assert_eq!((identity.vendor, identity.namespaces > 0), (0x1b36, true));
    for (lba, block) in (0..).zip(&blocks) {
        assert_eq!(block[..], disk_block(lba), "block {lba}");
    }
    assert_eq!(system.faults(), [], "nothing was refused");
    assert_eq!(system.core.counts().mappings, 5);
    system.core.unbind(&device).expect("it is bound");
    assert_eq!(system.core.counts().mappings, 0);
    assert_eq!(system.core.counts().quarantined, 0);
}

#[test]
fn a_device_reaches_nothing_after_unbind() {
    if for_driver_test("a_device_reaches_nothing_after_unbind").is_none() {
        return;
    }
    let slot = BusId::ROOT.slot(2);
    let system = System::new(Virt::new(SmmuStages::Newest).edu(slot));
    let device = system.device(slot);
    system.register_smmu();
    let place: Arc<Mutex<Option<endpoint::DmaBuffer>>> = Arc::default();
    let note = Arc::clone(&place);
    let driver = Probing("edu", move |dma: DmaHandle<QemuPlatform>| {
        assert_eq!(dma.reach(), Reach::Translated);
        let buffer = page(&dma)?;
        *note.lock().expect("no panic") = Some(seen_by_device(&buffer));
        Ok(Box::new(Holding(buffer)) as Box<dyn BoundDriver>)
    });
    let outcome = system.core.bind(&device, Arc::new(driver)).expect("an attempt");
    assert_eq!(outcome, BindOutcome::Bound(Reach::Translated));
    let buffer = place.lock().expect("no panic").take().expect("the probe ran");
    let (ram, edu) = (system.machine.ram(), system.machine.edu(slot).expect("edu"));
    let sent: Vec<u8> = (0..Edu::BUFFER_LEN).map(|index| (index * 13) as u8).collect();
    ram.write(buffer.phys, &sent);
    edu.read_memory(buffer.iova, 0, sent.len()).expect("transfer");
    ram.write(buffer.phys, &vec![0; sent.len()]);
    edu.write_memory(buffer.iova, 0, sent.len()).expect("transfer");
    assert_eq!(ram.read_vec(buffer.phys, sent.len()), sent, "both ways");
    // By its physical address it reaches nothing, bound or not.
    ram.write(buffer.phys, &[0xaa; 4]);
    edu.write_memory(Iova::new(buffer.phys.raw()), 0, 4).expect("transfer");
    assert_eq!(ram.read_vec(buffer.phys, 4), [0xaa; 4]);
    let refused = |iova| (FaultReason::Translation, Some(iova));
    assert_eq!(system.faults(), [refused(Iova::new(buffer.phys.raw()))]);
    system.core.unbind(&device).expect("it is bound");
    edu.write_memory(buffer.iova, 0, 4).expect("transfer");
    assert_eq!(ram.read_vec(buffer.phys, 4), [0xaa; 4], "gone with the driver");
    assert_eq!(system.faults(), [refused(buffer.iova)]);
}

#[test]
fn devices_that_the_smmu_cannot_tell_apart_share_a_domain() {
    if for_driver_test("devices_that_the_smmu_cannot_tell_apart_share_a_domain").is_none() {
        return;
    }
    let mut virt = Virt::new(SmmuStages::Newest);
    let bus = virt.express_to_conventional_bridge(BusId::ROOT.slot(6));
    let slots = [bus.slot(1), bus.slot(2), BusId::ROOT.slot(2)];
    for slot in slots {
        virt.edu(slot);
    }
    let system = System::new(&virt);
    let devices = slots.map(|slot| system.device(slot));
    assert_eq!(devices.len(), 3);
    system.register_smmu();
    system.core.run_deferred();
    let groups: Vec<_> = system.core.reports().iter().map(|report| report.group).collect();
    // Sorted by path: 00:02.0, then the twins 01:01.0 and 01:02.0.
    assert_eq!(groups[1], groups[2]);
    assert_ne!(groups[0], groups[1]);
    assert_eq!(system.core.counts().groups, 2);
}

thread_local! {
    /// A kernel has a static here; tests run side by side.
    static STATE: RefCell<Option<Arc<HalState<QemuPlatform>>>> = const { RefCell::new(None) };
}

/// This process as the kernel.
struct ThisProcess;

fn current() -> Arc<HalState<QemuPlatform>> {
    STATE.with_borrow(|state| state.clone().expect("the probe has installed it"))
}

thread_local! {
    static MACHINE: RefCell<Option<Arc<VirtMachine>>> = const { RefCell::new(None) };
}

impl Kernel for ThisProcess {
    type Platform = QemuPlatform;

    fn state() -> Arc<HalState<QemuPlatform>> {
        current()
    }

    fn pointer(address: PhysAddr, len: usize) -> NonNull<u8> {
        MACHINE.with_borrow(|machine| {
            machine.as_ref().expect("the test has installed it").ram().pointer(address, len)
        })
    }

    fn registers(address: PhysAddr, _len: usize) -> NonNull<u8> {
        panic!("{address}: registers over qtest are not mapped")
    }
}

type ThisHal = IommuHal<ThisProcess>;

#[test]
fn virtio_drivers_run_behind_the_iommu() {
    if for_driver_test("virtio_drivers_run_behind_the_iommu").is_none() {
        return;
    }
    let (rng_slot, disk_slot) = (BusId::ROOT.slot(4), BusId::ROOT.slot(7));
    let system =
        System::new(Virt::new(SmmuStages::Newest).virtio_rng(rng_slot).virtio_blk(disk_slot));
    MACHINE.set(Some(Arc::clone(&system.machine)));
    let (rng, disk) = (system.device(rng_slot), system.device(disk_slot));
    system.register_smmu();
    let machine = Arc::clone(&system.machine);
    let drawn: Arc<Mutex<Vec<[u8; 40]>>> = Arc::default();
    let note = Arc::clone(&drawn);
    let driver = Probing("virtio-rng", move |dma: DmaHandle<QemuPlatform>| {
        STATE.set(Some(Arc::new(HalState::new(dma))));
        let transport = QemuTransport::new(machine.virtio(rng_slot).map_err(failed)?);
        let transport = AccessPlatform::new(transport);
        let mut rng = VirtIORng::<ThisHal, _>::new(transport).map_err(failed)?;
        for _ in 0..20 {
            let mut bytes = [0; 40];
            assert_eq!(rng.request_entropy(&mut bytes).map_err(failed)?, 40);
            note.lock().expect("no panic").push(bytes);
        }
        let lent = current().lent();
        assert!(lent > 0, "the queue is lent to the device");
        drop(rng);
        assert_eq!(current().lent(), 0, "and given back");
        STATE.set(None);
        Ok(Box::new(Holding(())) as Box<dyn BoundDriver>)
    });
    let outcome = system.core.bind(&rng, Arc::new(driver)).expect("an attempt");
    assert_eq!(outcome, BindOutcome::Bound(Reach::Translated));
    let drawn = std::mem::take(&mut *drawn.lock().expect("no panic"));
    assert_eq!(drawn.len(), 20);
    assert_ne!(drawn[0], drawn[19]);
    let machine = Arc::clone(&system.machine);
    let driver = Probing("virtio-blk", move |dma: DmaHandle<QemuPlatform>| {
        STATE.set(Some(Arc::new(HalState::new(dma))));
        let transport = QemuTransport::new(machine.virtio(disk_slot).map_err(failed)?);
        let transport = AccessPlatform::new(transport);
        let mut disk = VirtIOBlk::<ThisHal, _>::new(transport).map_err(failed)?;
        assert_eq!(disk.capacity(), 2048);
        for lba in 0..40 {
            let mut block = [0; 512];
            disk.read_blocks(lba, &mut block).map_err(failed)?;
            assert_eq!(block, disk_block(lba as u64), "block {lba}");
        }
        disk.write_blocks(7, &[0x77; 512]).map_err(failed)?;
        let mut block = [0; 512];
        disk.read_blocks(7, &mut block).map_err(failed)?;
        assert_eq!(block, [0x77; 512]);
        drop(disk);
        assert_eq!(current().lent(), 0, "everything is given back");
        STATE.set(None);
        Ok(Box::new(Holding(())) as Box<dyn BoundDriver>)
    });
    let outcome = system.core.bind(&disk, Arc::new(driver)).expect("an attempt");
    assert_eq!(outcome, BindOutcome::Bound(Reach::Translated));
    assert_eq!(system.faults(), [], "nothing was refused");
    assert_eq!(system.core.counts().mappings, 0);
    MACHINE.set(None);
}
