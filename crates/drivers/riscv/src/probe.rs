//! From any state to serving, and back to off.

use crate::command::Command;
use crate::command_queue::CommandQueue;
use crate::context::Spaces;
use crate::error::{BringUpCause, BringUpError};
use crate::event_queue::EventQueue;
use crate::hooks::{Safeguard, omitted};
use crate::identify::{Features, Interrupts, choose_features, identify};
use crate::stream_table::{DeviceDirectory, MOST_BITS, levels_for};
use crate::unit::{GONE, Unit};
use crate::{Iommu, Options};
use alloc::sync::Arc;
use portcullis::OpsError;
use portcullis_driver_parts::answer;
use portcullis_driver_parts::{Consumer as _, Running};
use portcullis_platform::{AllocError, Coherency, Lock, LockLabel, Platform, Registers, Timeout};
use portcullis_spec::Register;
use portcullis_spec::riscv::{self as spec, cqcsr, ddtp, iommu_mode, ipsr, msi_addr, msi_vec_ctl};

impl<P: Platform, R: Registers> Iommu<P, R> {
    /// Takes over the unit behind `registers`: turns it off first, then allocates, installs and enables.
    ///
    /// The order is that of §6.2 ("Guidelines for initialization") with one step before it: a unit that firmware or an earlier kernel left in any other mode is turned off, which aborts every access, before anything else is
    /// written.
    ///
    /// # Errors
    ///
    /// [`BringUpError`], which also says whether the unit has confirmed that its devices are blocked.
    #[doc(alias = "riscv_iommu_init")]
    pub fn bring_up(
        platform: Arc<P>,
        registers: R,
        options: Options,
    ) -> Result<Self, BringUpError> {
        let unit = Unit::new(platform, registers).map_err(BringUpCause::unknown)?;
        // Reads only: what is not a unit that this driver knows is not written to.
        let features = identify(&unit).map_err(BringUpCause::unknown)?;
        unit.block(&features).map_err(BringUpCause::unknown)?;
        let mut iommu = Self::assemble(unit, features, options).map_err(BringUpCause::blocked)?;
        match iommu.start().and_then(|()| iommu.find_levels()) {
            Ok(()) => Ok(iommu),
            // What the unit was told of is freed or leaked when `iommu` is dropped, as it answers here.
            Err(cause) => Err(match iommu.stop() {
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
        let coherent = options.coherent.unwrap_or(true);
        let running = Running::new(Coherency::of(coherent));
        let (platform, label, bits) = (&**unit.platform(), options.index, features.output_bits);
        let message = options.message.filter(|_| features.messages);
        choose_features(&unit, &features, features.choose_interrupts(message.is_some()))?;
        let log2 = largest(&unit, spec::CQB, options.command_queue_log2);
        let commands = CommandQueue::new(platform, &running, log2, bits, label)
            .map_err(for_the("command queue"))?;
        let log2 = largest(&unit, spec::FQB, options.event_queue_log2);
        let events = EventQueue::new(platform, &running, log2, bits, label)
            .map_err(for_the("fault queue"))?;
        let levels = levels_for(&features, options.stream_id_bits.min(MOST_BITS));
        let directory = DeviceDirectory::new(platform, &running, &features, levels, label)
            .map_err(for_the("device directory"))?;
        let spaces = Spaces::new(&features, coherent, options.spaces, label);
        let restarting = Lock::<P, _>::new(LockLabel::new("riscv.restart", label), ());
        Ok(Self {
            unit,
            index: label,
            features,
            coherent,
            running,
            commands,
            events,
            directory,
            spaces,
            message,
            restarting,
        })
    }

    /// Installs the queues in a unit that is off, and has it forget whatever an earlier owner left in its caches.
    fn start(&self) -> Result<(), BringUpCause> {
        let interrupts = self.interrupts();
        self.route_interrupts(interrupts);
        self.running.set(true);
        let wanted = interrupts != Interrupts::Polled;
        self.commands.install(&self.unit, wanted)?;
        self.forget_everything().map_err(BringUpCause::Commands)?;
        self.events.install(&self.unit, wanted)
    }

    /// All causes go to vector 0 (§5.27); as a message, to where the kernel said (§5.28).
    fn route_interrupts(&self, interrupts: Interrupts) {
        self.unit.write64(spec::ICVEC, 0);
        if !self.features.messages {
            return;
        }
        let mask = |masked: u64| msi_vec_ctl::M.of(masked) as u32;
        self.unit.write(spec::MSI_VEC_CTL_0, mask(1));
        if let (Interrupts::Message, Some(message)) = (interrupts, self.message) {
            self.unit.write64(spec::MSI_ADDR_0, msi_addr::ADDR.in_place(message.address));
            self.unit.write(spec::MSI_DATA_0, message.data);
            self.unit.write(spec::MSI_VEC_CTL_0, mask(0));
        }
    }

    /// Which directory the unit takes is found by trying (§6.2): the depth that the ids need, then flatter ones, then deeper ones. The root is empty, so every access is refused meanwhile.
    fn find_levels(&mut self) -> Result<(), BringUpCause> {
        let wanted = self.directory.levels();
        for levels in (1..=wanted).rev().chain(wanted + 1..=3) {
            if self.enable(levels)? {
                self.directory.set_levels(levels);
                return Ok(());
            }
        }
        Err(BringUpCause::NoDirectory)
    }

    /// Turns a unit that is off on; whether it takes a directory of so many levels.
    fn enable(&self, levels: u8) -> Result<bool, BringUpCause> {
        let mode = u64::from(levels) - 1 + iommu_mode::LEVELS_1;
        let root = ddtp::PPN.of(self.directory.root().raw() >> 12);
        self.unit.write64(spec::DDTP, root | mode);
        let found = self.unit.await_value(spec::DDTP, ddtp::BUSY.mask(), 0)?;
        Ok(ddtp::IOMMU_MODE.get(found.into()) == mode)
    }

    /// Takes a unit that does not carry out its commands through a restart: it aborts everything, forgets all that it cached, and serves on with the same tables. Whoever waits for a command is told that it was
    /// not carried out.
    pub(crate) fn restart(&self) -> Result<(), OpsError> {
        let _alone = self.restarting.lock();
        if !self.running.is_set() {
            return Err(answer::shut_down());
        }
        let off = self.unit.block(&self.features);
        let started = off.and_then(|()| self.start());
        let enabled = started.and_then(|()| self.enable(self.directory.levels()));
        match enabled {
            Ok(true) => Ok(()),
            Ok(false) => Err(BringUpCause::NoDirectory.as_ops_error()),
            Err(cause) => Err(cause.as_ops_error()),
        }
    }

    /// Has the unit forget contexts, first stages and second stages, all of them.
    pub(crate) fn forget_everything(&self) -> Result<(), OpsError> {
        let all = [Command::forget_contexts(), Command::forget_hosts(), Command::forget_guests()];
        let second = self.features.second_stage > 0;
        let count = if second { 3 } else { 2 };
        self.commands.with(&self.unit).execute(count, all.into_iter())
    }

    /// Turns the unit off, confirmed, so that its memory can be freed.
    pub(crate) fn stop(&self) -> Result<(), BringUpCause> {
        if !self.running.is_set() {
            return Ok(());
        }
        self.unit.block(&self.features)?;
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

impl<P: Platform, R: Registers> Unit<P, R> {
    /// Makes the unit refuse every access, and turns its queues off.
    pub(crate) fn block(&self, features: &Features) -> Result<(), BringUpCause> {
        self.turn_off()?;
        let queues = [spec::CQCSR, spec::FQCSR, spec::PQCSR];
        let count = if features.page_requests { 3 } else { 2 };
        for csr in queues.into_iter().take(count) {
            self.turn_queue_off(csr)?;
        }
        self.write(spec::IPSR, (ipsr::CIP.mask() | ipsr::FIP.mask() | ipsr::PIP.mask()) as u32);
        Ok(())
    }

    /// `ddtp` to "off", its page number unchanged (§5.5). Also where it reads so: a write of an earlier owner may be under way.
    fn turn_off(&self) -> Result<(), BringUpCause> {
        self.await_value(spec::DDTP, ddtp::BUSY.mask(), 0)?;
        let kept = ddtp::PPN.in_place(self.read64(spec::DDTP));
        self.write64(spec::DDTP, kept | iommu_mode::OFF);
        if omitted::<P>(Safeguard::WaitUntilOff) {
            return Ok(());
        }
        let found = self.await_value(spec::DDTP, ddtp::BUSY.mask(), 0)?;
        if ddtp::IOMMU_MODE.get(found.into()) == iommu_mode::OFF {
            return Ok(());
        }
        let (register, wanted, timeout) = (spec::DDTP.name, 0, Timeout { after: 0 });
        Err(BringUpCause::Stuck { register, wanted, found, timeout })
    }

    /// The control registers of all queues have `on` and `busy` in the same place (§5.15 to §5.17).
    fn turn_queue_off(&self, csr: Register) -> Result<(), BringUpCause> {
        let busy = cqcsr::BUSY.mask();
        self.await_value(csr, busy, 0)?;
        self.write(csr, 0);
        self.await_value(csr, busy | cqcsr::CQON.mask(), 0).map(drop)
    }
}

/// log2 of the entries that a queue can have, at most `wanted`: what is written beyond that does not stay (§5.6, §5.9). Found on a queue that is off.
fn largest<P: Platform, R: Registers>(unit: &Unit<P, R>, base: Register, wanted: u8) -> u8 {
    let wanted = wanted.clamp(1, 32);
    unit.write64(base, spec::cqb::LOG2SZ.of(u64::from(wanted) - 1));
    let found = unit.read(base);
    if found == GONE { wanted } else { (spec::cqb::LOG2SZ.get(found.into()) as u8 + 1).min(wanted) }
}

fn for_the(what: &'static str) -> impl Fn(AllocError) -> BringUpCause {
    move |error| BringUpCause::NoMemory { what, error }
}

// The fields that a queue turned off is watched by are the same in each of its registers.
const _: () = assert!(
    cqcsr::BUSY.mask() == spec::fqcsr::BUSY.mask()
        && cqcsr::BUSY.mask() == spec::pqcsr::BUSY.mask()
);
const _: () = assert!(
    cqcsr::CQON.mask() == spec::fqcsr::FQON.mask()
        && cqcsr::CQON.mask() == spec::pqcsr::PQON.mask()
);
