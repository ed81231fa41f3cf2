//! From any state to serving, and back to "nobody may do anything".

use crate::command::Command;
use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::error::{BringUpCause, BringUpError};
use crate::event_queue::EventLog;
use crate::firmware::{Fate, FirmwareStream, FirmwareTable, WhyBlocked, judge};
use crate::hooks::{Safeguard, omitted};
use crate::identify::identify;
use crate::stream_table::{DeviceTable, MOST_BITS};
use crate::unit::Unit;
use crate::{Iommu, Options};
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis::OpsError;
use portcullis_addr::StreamId;
use portcullis_driver_parts::{Consumer as _, Running, answer};
use portcullis_platform::{AllocError, Coherency, Lock, LockLabel, Platform, Registers};
use portcullis_spec::amdvi::{self as spec, control, status};

/// The queues, and what else may be on that this driver does not use.
const TURNED_OFF: u64 = control::EVENT_LOG_EN.mask()
    | control::EVENT_INT_EN.mask()
    | control::COM_WAIT_INT_EN.mask()
    | control::CMD_BUF_EN.mask()
    | control::PPR_LOG_EN.mask()
    | control::PPR_INT_EN.mask()
    | control::PPR_EN.mask()
    | control::GT_EN.mask()
    | control::GA_LOG_EN.mask()
    | control::GA_INT_EN.mask();
/// What says that these are off.
const RUNNING: u64 = status::EVENT_LOG_RUN.mask()
    | status::CMD_BUF_RUN.mask()
    | status::PPR_LOG_RUN.mask()
    | status::GA_LOG_RUN.mask();
/// What this driver turns on.
const TURNED_ON: u64 = control::IOMMU_EN.mask()
    | control::EVENT_LOG_EN.mask()
    | control::EVENT_INT_EN.mask()
    | control::CMD_BUF_EN.mask();
const SERVES: u64 = status::EVENT_LOG_RUN.mask() | status::CMD_BUF_RUN.mask();
const PENDING: u64 =
    status::EVENT_OVERFLOW.mask() | status::EVENT_LOG_INT.mask() | status::COM_WAIT_INT.mask();

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Takes over the unit behind `registers`: prepares a table in which everything is blocked, and only then shows it and enables the unit.
    ///
    /// A unit that is off lets everything pass until then. One that was found on stays on; its queues are turned off, and its table is replaced.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which also says whether the unit has confirmed that its devices are blocked.
    #[doc(alias = "early_enable_iommus")]
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unit = Unit::new(platform, registers, options.index).map_err(BringUpCause::unknown)?;
        // Reads only: what is not a unit that this driver knows is not written to.
        let iommu = Self::assemble(unit, options).map_err(BringUpCause::unknown)?;
        match iommu.start() {
            Ok(()) => Ok(iommu),
            // What the unit was told of is freed or leaked when `iommu` is dropped, as it answers here.
            Err(cause) => Err(match iommu.stop() {
                Ok(()) if iommu.shown.is_set() => cause.blocked(),
                _ => cause.unknown(),
            }),
        }
    }

    fn assemble(unit: Unit<P, R>, options: Options) -> Result<Self, BringUpCause> {
        let features = identify(&unit)?;
        let Options { index, caches_absence, .. } = options;
        let coherent = options.coherent.unwrap_or(true);
        let output_bits = options.output_bits.min(52);
        let running = Running::new(Coherency::of(coherent));
        let shown = Running::new(Coherency::of(coherent));
        let platform = &**unit.platform();
        let log2 = options.command_queue_log2;
        let commands = CommandQueue::new(platform, &running, log2, output_bits, index)
            .map_err(for_the("command queue"))?;
        let log2 = options.event_queue_log2;
        let events = EventLog::new(platform, &running, log2, output_bits, index)
            .map_err(for_the("event log"))?;
        let found = unit.control();
        // Of a unit that is on the number of segments stays; of another one as many as it has make the pieces small.
        let segments = match control::IOMMU_EN.is_set(found) {
            true => control::DEV_TBL_SEG_EN.get(found) as u8,
            false if options.stream_id_bits >= MOST_BITS => features.segments_log2,
            false => 0,
        };
        let bits = options.stream_id_bits;
        let devices = DeviceTable::new(platform, &shown, bits, segments.min(3), output_bits, index)
            .map_err(for_the("device table"))?;
        let spaces = Spaces::new(&features, coherent, output_bits, options.spaces, index);
        let restarting = Lock::<P, _>::new(LockLabel::new("amdvi.restart", index), ());
        let growing = Lock::<P, _>::new(LockLabel::new("amdvi.growing", index), ());
        let mut iommu = Self {
            unit,
            index,
            features,
            coherent,
            caches_absence,
            output_bits,
            running,
            shown,
            commands,
            events,
            devices,
            spaces,
            firmware: Vec::new(),
            restarting,
            growing,
        };
        if let FirmwareTable::Keep(entries) = &options.firmware_table {
            let kept = |(stream, entry)| iommu.keep(stream, entry);
            iommu.firmware = entries.iter().copied().map(kept).collect();
        }
        Ok(iommu)
    }

    /// Lets a device go on as firmware's entry says, if that can be.
    fn keep(&self, stream: StreamId, found: crate::entry::Entry) -> FirmwareStream {
        let fate = match judge(&found, &self.features) {
            Err(why) => Fate::Blocked(why),
            Ok(entry) if !self.spaces.adopt(crate::entry::domain(&entry)) => {
                Fate::Blocked(WhyBlocked::Domain)
            }
            Ok(entry) if self.devices.adopt(stream, &entry) => Fate::Kept,
            Ok(_) => Fate::Blocked(WhyBlocked::OutOfRange),
        };
        FirmwareStream { stream, fate }
    }

    fn start(&self) -> Result<(), BringUpCause> {
        let unit = &self.unit;
        unit.change_control(TURNED_OFF, 0);
        unit.await_status(RUNNING, 0)?;
        if !omitted::<P>(Safeguard::NoExclusion) {
            unit.write(spec::EXCLUSION_BASE, 0);
            unit.write(spec::EXCLUSION_LIMIT, 0);
        }
        unit.write(spec::STATUS, PENDING);
        self.commands.install(unit);
        self.events.install(unit);
        self.shown.set(true);
        self.devices.install(unit);
        self.running.set(true);
        let segments = control::DEV_TBL_SEG_EN.of(self.devices.segments_log2().into());
        let coherent = control::COHERENT.of(self.coherent.into());
        let replaced = control::DEV_TBL_SEG_EN.mask() | control::COHERENT.mask();
        unit.change_control(replaced, TURNED_ON | segments | coherent);
        unit.await_status(SERVES, SERVES)?;
        // Whatever an earlier owner left in its caches.
        self.forget_everything().map_err(BringUpCause::Commands)
    }

    /// Takes a unit that does not carry out its commands through a restart of its queue. Devices go on as their entries say. Whoever waits for a command is told that it was not carried out.
    pub(crate) fn restart(&self) -> Result<(), OpsError> {
        let _alone = self.restarting.lock();
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        let (unit, bit) = (&self.unit, control::CMD_BUF_EN.mask());
        let run = status::CMD_BUF_RUN.mask();
        unit.change_control(bit, 0);
        let off = unit.await_status(run, 0);
        if off.is_ok() {
            self.commands.install(unit);
        }
        unit.change_control(0, bit);
        off.and_then(|()| unit.await_status(run, run)).map_err(BringUpCause::as_ops_error)?;
        self.forget_everything()
    }

    /// Has the unit forget all entries and all translations.
    pub(crate) fn forget_everything(&self) -> Result<(), OpsError> {
        let queue = self.commands.with(&self.unit);
        if self.features.invalidate_all {
            return queue.execute(1, core::iter::once(Command::forget_all()));
        }
        let devices = 0..1u32 << self.devices.bits();
        let domains = 0..=u16::MAX;
        let count = devices.len() + domains.len();
        let entries = devices.map(|id| Command::forget_entry(StreamId::new(id)));
        queue.execute(count, entries.chain(domains.map(Command::forget_domain)))
    }

    /// Blocks every device, confirmed, and turns the queues off so that their memory can be freed. The unit stays on with its table.
    pub(crate) fn stop(&self) -> Result<(), BringUpCause> {
        if !self.running.is_set() {
            return Ok(());
        }
        self.devices.block_all();
        self.forget_everything().or_else(|_| self.restart()).map_err(BringUpCause::Commands)?;
        let off = if omitted::<P>(Safeguard::StayOn) { control::IOMMU_EN.mask() } else { 0 };
        self.unit.change_control(TURNED_OFF | off, 0);
        self.unit.await_status(RUNNING, 0)?;
        self.running.set(false);
        Ok(())
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
