//! From any state to serving, and to a stop that blocks.

use crate::command::Command;
use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::error::{BringUpCause, BringUpError};
use crate::event_queue::FaultRegisters;
use crate::hooks::{Safeguard, omitted};
use crate::identify::{Features, Mode, identify};
use crate::stream_table::RootTable;
use crate::unit::Unit;
use crate::{FirmwareTranslation, Iommu, Options};
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::{Consumer as _, Running, answer};
use portcullis_platform::{AllocError, Coherency, Lock, LockLabel, Platform, Registers, wait_for};
use portcullis_spec::vtd::{self as spec, gcmd, gsts, iqh, pmen, rtaddr, ttm};

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Takes over the unit behind `registers`: installs an empty root table and a queue, has everything forgotten that it may have cached, and turns translation on if it is off.
    ///
    /// A unit that translates goes on doing so with whatever it had until it has forgotten that; from then on every device is blocked. One that does not translate lets everything pass until then.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which also says whether the unit has confirmed that its devices are blocked.
    #[doc(alias = "intel_iommu_init")]
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unit = Unit::new(platform, registers, options.index).map_err(BringUpCause::unknown)?;
        // Reads only: what is not a unit that this driver knows is not written to.
        let features = identify(&unit, options.scalable).map_err(BringUpCause::unknown)?;
        let found = unit.status().map_err(BringUpCause::unknown)?;
        let translates = gsts::TES.is_set(found.into());
        if translates && options.firmware == FirmwareTranslation::Copy {
            return Err(BringUpCause::CopyUnsupported.unknown());
        }
        let iommu = Self::assemble(unit, features, options).map_err(BringUpCause::unknown)?;
        match iommu.start(translates) {
            Ok(()) => Ok(iommu),
            // What the unit was told of is freed or leaked when `iommu` is dropped, as it answers here.
            Err(cause) => Err(match iommu.stop() {
                Ok(true) => cause.blocked(),
                Ok(false) | Err(_) => cause.unknown(),
            }),
        }
    }

    fn assemble(
        unit: Unit<P, R>,
        features: Features,
        options: Options,
    ) -> Result<Self, BringUpCause> {
        let running = Running::new(Coherency::of(features.coherent));
        let (platform, label) = (&**unit.platform(), options.index);
        let bits = options.address_bits.min(52);
        let (log2, wide) = (options.command_queue_log2, features.mode == Mode::Scalable);
        let commands = CommandQueue::new(platform, &running, log2, wide, bits, label)
            .map_err(for_the("invalidation queue"))?;
        let root = RootTable::new(platform, &running, &features, bits, label)
            .map_err(for_the("root table"))?;
        let spaces = Spaces::new(&features, bits, options.spaces, label);
        let faults = FaultRegisters::new(features.fault_registers, label);
        let restarting = Lock::<P, _>::new(LockLabel::new("vtd.restart", label), ());
        Ok(Self {
            unit,
            index: label,
            features,
            running,
            commands,
            faults,
            root,
            spaces,
            message: options.message,
            restarting,
        })
    }

    fn start(&self, translates: bool) -> Result<(), BringUpCause> {
        self.mask_interrupts();
        if omitted::<P>(Safeguard::StayOn) {
            self.unit.enable(gcmd::TE, false)?;
        }
        self.turn_queue_off()?;
        self.running.set(true);
        self.root.set_in_use(true);
        if translates && self.features.abort_mode {
            // Whatever mode it is in: it blocks everything while that changes.
            self.unit.set_root(rtaddr::TTM.of(ttm::ABORT))?;
        }
        self.flush_write_buffer().map_err(BringUpCause::Commands)?;
        self.unit.set_root(self.root.rtaddr())?;
        self.commands.install(&self.unit)?;
        self.forget_everything().map_err(BringUpCause::Commands)?;
        self.unit.enable(gcmd::TE, true)?;
        self.open_protected_memory()?;
        // Faults of the time before are nobody's business.
        let _old = self.serve_interrupt(usize::MAX, &mut |_| {});
        self.route_interrupts();
        Ok(())
    }

    /// Turns the queue off; what an earlier owner left in it is given the time to end first (§6.5.2).
    fn turn_queue_off(&self) -> Result<(), BringUpCause> {
        if gsts::QIES.is_set(self.unit.status()?.into()) {
            let end = iqh::QH.in_place(self.unit.read(spec::IQT).into()) as u32;
            // One that stands still is turned off all the same.
            let _ended = wait_for(self.unit.clock(), crate::REGISTER_BOUND, || {
                self.unit.read(spec::IQH) == end
            });
        }
        self.unit.enable(gcmd::QIE, false)
    }

    /// Turns off the protection of memory regions, which firmware uses before there is translation (§11.4.8.1).
    fn open_protected_memory(&self) -> Result<(), BringUpCause> {
        if !self.features.protected_memory {
            return Ok(());
        }
        let status = self.unit.read(spec::PMEN);
        self.unit.write(spec::PMEN, pmen::EPM.with(status.into(), 0) as u32);
        self.unit.await_value(spec::PMEN, pmen::PRS.mask(), 0).map(drop)
    }

    /// Takes a unit that does not carry out its descriptors through a restart of its queue: it goes on translating by the same tables, and forgets all that it cached. Whoever waits for a descriptor is told that it was
    /// not carried out.
    pub(crate) fn restart(&self) -> Result<(), OpsError> {
        let _alone = self.restarting.lock();
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        let off = self.unit.enable(gcmd::QIE, false);
        off.and_then(|()| self.commands.install(&self.unit)).map_err(BringUpCause::as_ops_error)?;
        self.forget_everything()
    }

    /// Has the unit forget entries and translations, all of them (§6.6).
    pub(crate) fn forget_everything(&self) -> Result<(), OpsError> {
        self.flush_write_buffer()?;
        let scalable = self.features.mode == Mode::Scalable;
        let pasids = scalable.then(Command::forget_pasids);
        let all = [Command::forget_contexts()].into_iter().chain(pasids);
        let all = all.chain([Command::forget_translations()]);
        self.commands.with(&self.unit).execute(2 + usize::from(scalable), all)
    }

    /// Shows what was stored to a unit that has write buffers.
    pub(crate) fn flush_write_buffer(&self) -> Result<(), OpsError> {
        if !self.features.write_buffer || omitted::<P>(Safeguard::FlushWriteBuffer) {
            return Ok(());
        }
        self.unit.flush_write_buffer().map_err(BringUpCause::as_ops_error)
    }

    /// Cuts every device off, confirmed, so that all memory can be freed but, on a unit without abort-dma mode, the root table. Whether the unit blocks then: one that never translated lets everything pass.
    pub(crate) fn stop(&self) -> Result<bool, BringUpCause> {
        if !self.running.is_set() {
            return Ok(true);
        }
        let translates = gsts::TES.is_set(self.unit.status()?.into());
        if translates {
            match self.features.abort_mode {
                true => self.unit.set_root(rtaddr::TTM.of(ttm::ABORT))?,
                false => self.root.clear(),
            }
            self.forget_everything().map_err(BringUpCause::Commands)?;
        }
        self.mask_interrupts();
        self.unit.enable(gcmd::QIE, false)?;
        self.root.set_in_use(translates && !self.features.abort_mode);
        self.running.set(false);
        Ok(translates)
    }
}

impl<P: Platform, R: Registers> Drop for Iommu<P, R> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            self.spaces.leak();
        }
    }
}

fn for_the(what: &'static str) -> impl Fn(AllocError) -> BringUpCause {
    move |error| BringUpCause::NoMemory { what, error }
}
