//! An SMMUv3 that costs nothing: registers that act at once and walk no table. What is left is what the CPU does.

use crate::pool::{FastMemory, memory};
use portcullis::{
    BoundDriver, DeviceDescription, DmaHandle, DmaPath, Driver, FwNode, FwSpec, FwStream, Policy,
    ProbeContext, ProbeError, ReadyInstance, Subsystem,
};
use portcullis_addr::StreamId;
use portcullis_platform::Registers;
use portcullis_platform::host::HostPlatform;
use portcullis_smmuv3::{Options, Smmu};
use portcullis_spec::Register;
use portcullis_spec::smmuv3::{self as spec, address_size, gbpa, idr0, idr1, idr3, idr5, ttf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// The platform that is measured: this process's locks, the pool's memory.
pub type Host = HostPlatform<FastMemory>;

/// Registers whose every write has taken effect when it returns: CR0 and IRQ_CTRL are acknowledged, and commands are consumed when CMDQ_PROD is written.
#[derive(Debug)]
pub struct InstantRegisters {
    words: Box<[AtomicU32]>,
    /// On a line of its own, as in a unit: who waits does not disturb who writes other registers.
    consumed: Line,
}

#[derive(Debug)]
#[repr(align(128))]
struct Line(AtomicU32);

impl InstantRegisters {
    /// A unit with stage 1 and 2, 48 address bits, 4 KiB pages, coherent walks; `ranges`: with range invalidation.
    pub fn new(ranges: bool) -> Self {
        let words = (0..spec::BLOCK_SIZE / 4).map(|_| AtomicU32::new(0)).collect();
        let registers = Self { words, consumed: Line(AtomicU32::new(0)) };
        let set = |register: Register, value: u64| {
            registers.words[register.offset / 4].store(value as u32, Ordering::Relaxed);
        };
        let stages = idr0::S1P.of(1) | idr0::S2P.of(1) | idr0::COHACC.of(1);
        set(spec::IDR0, stages | idr0::TTF.of(ttf::AARCH64) | idr0::ASID16.of(1));
        set(spec::IDR1, idr1::SIDSIZE.of(8) | idr1::CMDQS.of(8) | idr1::EVENTQS.of(8));
        set(spec::IDR3, idr3::RIL.of(ranges.into()));
        set(spec::IDR5, idr5::OAS.of(address_size::BITS_48) | idr5::GRAN4K.of(1));
        registers
    }
}

impl Registers for InstantRegisters {
    #[inline(always)]
    fn read32(&self, offset: usize) -> u32 {
        if offset == spec::CMDQ_CONS.offset {
            return self.consumed.0.load(Ordering::Acquire);
        }
        self.words[offset / 4].load(Ordering::Acquire)
    }

    #[inline(always)]
    fn write32(&self, offset: usize, value: u32) {
        if offset == spec::CMDQ_PROD.offset || offset == spec::CMDQ_CONS.offset {
            return self.consumed.0.store(value, Ordering::Release);
        }
        let set = |offset: usize, value| self.words[offset / 4].store(value, Ordering::Release);
        if offset == spec::CR0.offset {
            set(spec::CR0ACK.offset, value);
        } else if offset == spec::IRQ_CTRL.offset {
            set(spec::IRQ_CTRLACK.offset, value);
        }
        let done = if offset == spec::GBPA.offset { gbpa::UPDATE.mask() as u32 } else { 0 };
        set(offset, value & !done);
    }

    fn len(&self) -> usize {
        spec::BLOCK_SIZE
    }
}

/// The unit's driver on such registers.
pub type InstantSmmu = Smmu<Host, InstantRegisters>;

/// A platform on the pool.
pub fn platform() -> Arc<Host> {
    Arc::new(Host::new(Arc::new(memory())))
}

/// A unit that serves.
///
/// # Panics
///
/// If the driver refuses it.
pub fn unit(platform: &Arc<Host>, ranges: bool) -> InstantSmmu {
    let registers = InstantRegisters::new(ranges);
    let unit = Smmu::bring_up(Arc::clone(platform), registers, Options::default());
    unit.expect("the unit has all that the driver needs")
}

/// A machine with one such unit and one device that is bound: the device's handle, and what keeps it valid.
pub struct BoundDevice {
    /// For mapping and unmapping.
    pub handle: DmaHandle<Host>,
    _subsystem: Subsystem<Host>,
}

impl std::fmt::Debug for BoundDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.handle.fmt(f)
    }
}

impl BoundDevice {
    /// Brings it up. `ranges`: with range invalidation.
    ///
    /// # Panics
    ///
    /// If the device does not come to be bound.
    pub fn new(ranges: bool) -> Self {
        Self::with(ranges, Policy::default())
    }

    /// The same under `policy`.
    ///
    /// # Panics
    ///
    /// If the device does not come to be bound.
    pub fn with(ranges: bool, policy: Policy) -> Self {
        let unit = unit(&platform(), ranges);
        Self::behind(Box::new(unit), policy)
    }

    /// The same behind `unit`.
    ///
    /// # Panics
    ///
    /// If the device does not come to be bound.
    pub fn behind(unit: ReadyInstance, policy: Policy) -> Self {
        let subsystem = Subsystem::new(platform(), policy);
        let node = FwNode(1);
        let stream = FwStream::new(node, StreamId::new(1));
        let path = DmaPath::Translated(FwSpec { streams: vec![stream] });
        let device = subsystem.add_device(DeviceDescription::new("/device", path));
        let device = device.expect("a sound description");
        subsystem.register(node, unit).expect("the node is free");
        let keeper = Arc::new(Keeper(Mutex::new(None)));
        let driver: Arc<dyn Driver<Host>> = keeper.clone();
        subsystem.bind(&device, driver).expect("not bound yet");
        let handle = keeper.0.lock().expect("no panic inside").take();
        Self { handle: handle.expect("probed at once"), _subsystem: subsystem }
    }
}

/// A driver that gives its handle away.
struct Keeper(Mutex<Option<DmaHandle<Host>>>);

struct Bound;

impl BoundDriver for Bound {}

impl Driver<Host> for Keeper {
    fn name(&self) -> &str {
        "bench"
    }

    fn probe(
        &self,
        _: &ProbeContext<'_>,
        handle: DmaHandle<Host>,
    ) -> Result<Box<dyn BoundDriver>, ProbeError> {
        *self.0.lock().expect("no panic inside") = Some(handle);
        Ok(Box::new(Bound))
    }
}
