//! From any state to serving, and back.

use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::error::{BringUpCause, BringUpError};
use crate::event_queue::EventQueue;
use crate::identify::{Features, identify, negotiate};
use crate::properties::ProbeBuffer;
use crate::unit::{Transport, Unit};
use crate::{Device, Iommu, Options};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::{Claims, Running, answer};
use portcullis_platform::{AllocError, Coherency, Lock, LockLabel, Platform, Registers};
use portcullis_spec::virtio::iommu::{EVENT_QUEUE, REQUEST_QUEUE, feature};
use portcullis_spec::virtio::status;

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Takes over the device behind `registers`: resets it, agrees on features, closes its bypass, and only then gives it queues and starts it.
    ///
    /// A device that offers [`feature::BYPASS_CONFIG`] blocks every endpoint from the moment on at which its field `bypass` reads 0, also over later resets (QEMU keeps the field until the machine is reset; where
    /// a device does not, it is written again at once). One that does not offer it blocks when it was started without [`feature::BYPASS`]; what it does before, and after a reset, nobody says.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which also says whether the device has confirmed that its endpoints are blocked.
    #[doc(alias = "viommu_probe")]
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        transport: Transport,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unit = Unit::new(platform, registers, transport).map_err(BringUpCause::unknown)?;
        unit.reset().map_err(BringUpCause::unknown)?;
        let accepted = negotiate(&unit).map_err(BringUpCause::unknown)?;
        let closed = accepted & feature::BYPASS_CONFIG != 0;
        let tell = |cause: BringUpCause| if closed { cause.blocked() } else { cause.unknown() };
        let features = identify(&unit, accepted).map_err(tell)?;
        let iommu = Self::assemble(unit, features, &options).map_err(tell)?;
        match iommu.start() {
            Ok(()) => Ok(iommu),
            // What the device was told of is freed or leaked when `iommu` is dropped, as it answers here.
            Err(cause) => Err(match iommu.stop() {
                Ok(()) => tell(cause),
                Err(_) => cause.unknown(),
            }),
        }
    }

    fn assemble(
        unit: Unit<P, R>,
        features: Features,
        options: &Options,
    ) -> Result<Self, BringUpCause> {
        let running = Running::new(Coherency::of(options.coherent.unwrap_or(true)));
        let (platform, label) = (Arc::clone(unit.platform()), options.index);
        let most = queue(&unit, REQUEST_QUEUE, "request queue", 2)?;
        let log2 = options.command_queue_log2;
        let commands = CommandQueue::new(&*platform, &running, log2, most, label)
            .map_err(for_the("request queue"))?;
        let most = queue(&unit, EVENT_QUEUE, "event queue", 1)?;
        let events = EventQueue::new(&*platform, &running, options.event_queue_log2, most, label)
            .map_err(for_the("event queue"))?;
        let probe = ProbeBuffer::new(&*platform, &running, features.probe_bytes, label)
            .map_err(for_the("properties"))?;
        let lock = |class| LockLabel::new(class, label);
        Ok(Self {
            index: label,
            spaces: Spaces::new(&features, options.spaces, label),
            device: Arc::new(Device { unit, features, commands, running }),
            events,
            probe,
            claims: Claims::new((), label),
            endpoints: Lock::<P, _>::new(lock("virtio.endpoints"), BTreeMap::new()),
            restarting: Lock::<P, _>::new(lock("virtio.restart"), ()),
        })
    }

    /// Gives queues to a device that agreed on features, and starts it.
    fn start(&self) -> Result<(), BringUpCause> {
        let Device { unit, commands, running, .. } = &*self.device;
        running.set(true);
        commands.install(unit);
        self.events.install(unit);
        let ready = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
        unit.set_status(ready);
        self.events.fill(unit);
        if unit.is_gone() {
            return Err(BringUpCause::Gone);
        }
        if unit.needs_reset() { Err(BringUpCause::NeedsReset) } else { Ok(()) }
    }

    /// Resets a device that does not answer or says that it cannot go on, starts it again, attaches what was attached, and requests what is mapped. Whoever waits for a request is told that it was not
    /// carried out. With [`feature::BYPASS_CONFIG`] endpoints are blocked meanwhile.
    pub(crate) fn restart(&self) -> Result<(), OpsError> {
        let _alone = self.restarting.lock();
        if !self.device.running.is_set() {
            return Err(answer::shut_down());
        }
        let unit = &self.device.unit;
        let again = unit.reset().and_then(|()| negotiate(unit));
        let accepted = again.map_err(BringUpCause::as_ops_error)?;
        if accepted != self.device.features.accepted {
            return Err(answer::stopped(accepted as u32));
        }
        self.start().map_err(BringUpCause::as_ops_error)?;
        self.device.commands.note_reset();
        self.revive()
    }

    /// Resets the device, confirmed, so that its memory can be freed.
    pub(crate) fn stop(&self) -> Result<(), OpsError> {
        let Device { unit, running, features, .. } = &*self.device;
        if !running.is_set() {
            return Ok(());
        }
        unit.reset().map_err(BringUpCause::as_ops_error)?;
        running.set(false);
        self.device.commands.close();
        // Its memory is free; whether its endpoints are blocked nobody says.
        if features.closes_bypass() { Ok(()) } else { Err(answer::shut_down()) }
    }
}

impl<P: Platform, R: Registers> Drop for Iommu<P, R> {
    fn drop(&mut self) {
        // What the device may still read is leaked by its owners.
        let _confirmed = self.stop();
    }
}

/// How many entries a queue can have; an error for fewer than `least`.
fn queue<P: Platform, R: Registers>(
    unit: &Unit<P, R>,
    number: u16,
    what: &'static str,
    least: u32,
) -> Result<u32, BringUpCause> {
    match unit.most_entries(number) {
        most if most < least || most > 1 << 15 => {
            Err(BringUpCause::Configuration { field: what, value: most.into() })
        }
        most => Ok(most),
    }
}

fn for_the(what: &'static str) -> impl Fn(AllocError) -> BringUpCause {
    move |error| BringUpCause::NoMemory { what, error }
}
