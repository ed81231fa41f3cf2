//! From any state to serving, and back to stopped.

use crate::command::Command;
use crate::command_queue::CommandQueue;
use crate::context::{Spaces, walk_attributes};
use crate::error::{BringUpCause, BringUpError};
use crate::event_queue::EventQueue;
use crate::identify::{Features, identify};
use crate::stream_table::StreamTable;
use crate::unit::Unit;
use crate::{Options, Smmu};
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::Running;
use portcullis_driver_parts::answer;
use portcullis_platform::{AllocError, Coherency, Lock, LockLabel, Platform, Registers};
use portcullis_spec::Field;
use portcullis_spec::smmuv3::{self as spec, cr0, cr1, cr2, gbpa, irq_ctrl};

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Takes over the unit behind `registers`: blocks everything first, then reads what it can do, allocates, installs and enables.
    ///
    /// The order is that of §3.11 ("Reset, Enable and initialization"), with one step before it: a unit that firmware or an earlier kernel left
    /// enabled is made to abort before it is disabled, so that no access slips through in between.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which also says whether the unit has confirmed that its devices are blocked.
    #[doc(alias = "arm_smmu_device_probe")]
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unit = Unit::new(platform, registers).map_err(BringUpCause::unknown)?;
        unit.block().map_err(BringUpCause::unknown)?;
        // Blocked and disabled: nothing until `start` changes that.
        let features = identify(&unit).map_err(BringUpCause::blocked)?;
        let smmu = Self::assemble(unit, features, options).map_err(BringUpCause::blocked)?;
        match smmu.start() {
            Ok(()) => Ok(smmu),
            // What the unit was told of is freed or leaked when `smmu` is dropped, as it answers here.
            Err(cause) => Err(match smmu.stop() {
                Ok(()) => cause.blocked(),
                Err(_) => cause.unknown(),
            }),
        }
    }

    fn assemble(
        unit: Unit<P, R>,
        features: Features,
        options: Options,
    ) -> Result<Self, BringUpCause> {
        let coherent = options.coherent.unwrap_or(features.coherent);
        let running = Running::new(Coherency::of(coherent));
        let (platform, label, bits) = (&**unit.platform(), options.index, features.output_bits);
        let log2 = options.command_queue_log2.min(features.command_queue_log2);
        let commands = CommandQueue::new(platform, &running, log2, bits, label)
            .map_err(for_the("command queue"))?;
        let log2 = options.event_queue_log2.min(features.event_queue_log2);
        let events = EventQueue::new(platform, &running, log2, bits, label)
            .map_err(for_the("event queue"))?;
        let limit = options.stream_id_bits;
        let streams = StreamTable::new(platform, &running, &features, limit, label)
            .map_err(for_the("stream table"))?;
        let spaces = Spaces::new(&features, coherent, &running, options.spaces, label);
        let index = options.index;
        let restarting = Lock::<P, _>::new(LockLabel::new("smmu.restart", index), ());
        Ok(Self {
            unit,
            index,
            features,
            coherent,
            running,
            commands,
            events,
            streams,
            spaces,
            restarting,
        })
    }

    /// Installs tables and queues in the blocked unit and enables it.
    fn start(&self) -> Result<(), BringUpCause> {
        self.write_attributes();
        self.running.set(true);
        self.streams.install(&self.unit);
        self.commands.install(&self.unit);
        let mut enabled = enable(0, cr0::CMDQEN);
        self.unit.set_cr0(enabled)?;
        self.forget_everything().map_err(BringUpCause::Commands)?;
        self.events.install(&self.unit);
        enabled = enable(enabled, cr0::EVENTQEN);
        self.unit.set_cr0(enabled)?;
        self.enable_interrupts()?;
        enabled = enable(enabled, cr0::SMMUEN);
        self.unit.set_cr0(enabled)
    }

    /// Takes a unit that does not carry out its commands through a reset of its queues: it aborts everything, forgets all that it cached, and serves on with the same
    /// tables. Whoever waits for a command is told that it was not carried out.
    pub(crate) fn restart(&self) -> Result<(), OpsError> {
        let _alone = self.restarting.lock();
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        self.unit.block().and_then(|()| self.start()).map_err(BringUpCause::as_ops_error)
    }

    /// How the unit reads tables and queues, and what it records (§6.3.11, §6.3.12).
    fn write_attributes(&self) {
        let (cache, share) = walk_attributes(self.coherent);
        let value = cr1::QUEUE_IC.of(cache)
            | cr1::QUEUE_OC.of(cache)
            | cr1::QUEUE_SH.of(share)
            | cr1::TABLE_IC.of(cache)
            | cr1::TABLE_OC.of(cache)
            | cr1::TABLE_SH.of(share);
        self.unit.write(spec::CR1, value as u32);
        let value = cr2::PTM.of(1) | cr2::RECINVSID.of(1);
        self.unit.write(spec::CR2, value as u32);
    }

    /// Drops whatever an earlier owner left in the unit's caches.
    pub(crate) fn forget_everything(&self) -> Result<(), OpsError> {
        let deadline = self.unit.deadline();
        let hyp = self.features.hyp.then(Command::tlbi_el2_all);
        let kinds = [Command::cfgi_all(), Command::tlbi_nsnh_all()].into_iter().chain(hyp);
        // Each with a CMD_SYNC of its own (`Consequence::SyncBetweenKinds`).
        for command in kinds {
            self.commands.execute_one(&self.unit, deadline, command)?;
        }
        Ok(())
    }

    /// Wired interrupts for events and global errors (§6.3.16).
    fn enable_interrupts(&self) -> Result<(), BringUpCause> {
        if self.features.msi {
            self.unit.write64(spec::GERROR_IRQ_CFG0, 0);
            self.unit.write64(spec::EVENTQ_IRQ_CFG0, 0);
            if self.features.pri {
                self.unit.write64(spec::PRIQ_IRQ_CFG0, 0);
            }
        }
        let value = irq_ctrl::GERROR_IRQEN.of(1) | irq_ctrl::EVENTQ_IRQEN.of(1);
        self.unit.set_irq_ctrl(value as u32)
    }

    /// Aborts everything and disables the unit; once it confirmed that, it reads no memory any more.
    pub(crate) fn stop(&self) -> Result<(), BringUpCause> {
        if !self.running.is_set() {
            return Ok(());
        }
        self.unit.block()?;
        self.unit.write64(spec::STRTAB_BASE, 0);
        self.unit.write(spec::STRTAB_BASE_CFG, 0);
        self.unit.write64(spec::CMDQ_BASE, 0);
        self.unit.write64(spec::EVENTQ_BASE, 0);
        self.running.set(false);
        Ok(())
    }
}

impl<P: Platform, R: Registers> Drop for Smmu<P, R> {
    fn drop(&mut self) {
        if self.stop().is_err() {
            self.spaces.leak();
        }
    }
}

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Makes the unit abort everything while it is disabled, and disables it: translation, queues, interrupts.
    pub(crate) fn block(&self) -> Result<(), BringUpCause> {
        self.abort_by_default()?;
        self.set_cr0(0)?;
        self.set_irq_ctrl(0)
    }

    /// Sets GBPA.ABORT by its hand-shake (§6.3.14).
    fn abort_by_default(&self) -> Result<(), BringUpCause> {
        let update = gbpa::UPDATE.mask() as u32;
        let abort = gbpa::ABORT.mask() as u32;
        self.await_value(spec::GBPA, update, 0)?;
        let kept = self.read(spec::GBPA) & !update;
        self.write(spec::GBPA, kept | abort | update);
        self.await_value(spec::GBPA, update | abort, abort)
    }

    fn set_cr0(&self, value: u32) -> Result<(), BringUpCause> {
        self.write(spec::CR0, value);
        self.await_value(spec::CR0ACK, u32::MAX, value)
    }

    fn set_irq_ctrl(&self, value: u32) -> Result<(), BringUpCause> {
        self.write(spec::IRQ_CTRL, value);
        self.await_value(spec::IRQ_CTRLACK, u32::MAX, value)
    }
}

fn enable(cr0: u32, field: Field) -> u32 {
    cr0 | field.mask() as u32
}

fn for_the(what: &'static str) -> impl Fn(AllocError) -> BringUpCause {
    move |error| BringUpCause::NoMemory { what, error }
}
