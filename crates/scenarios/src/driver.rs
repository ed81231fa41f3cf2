//! The SMMU driven by the real driver, through the interface that the core uses.

use crate::bench::{Bench, Client, Failure, failing};
use crate::check::{Check, Direction};
use crate::pattern::{self, LANDING_OFFSET, allocate, outcome, target};
use crate::tamper::{CommandFilter, Tampering};
use portcullis::{
    AccessKind, AddressSpace, Fault, FaultReason, FormatSupport, GlobalErrors, IommuOps,
    SpaceRequest, SpaceTag, Stage, StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::{Platform, Registers};
use portcullis_smmuv3::{Options, Smmu};
use std::sync::Arc;

/// Brings the unit behind `registers` up.
pub(crate) fn bring_up<P: Platform, R: Registers>(
    platform: Arc<P>,
    registers: R,
    setup: &Setup,
) -> Result<Box<dyn IommuOps>, Failure> {
    let options =
        Options { event_queue_log2: setup.events_log2, spaces: setup.spaces, ..Options::default() };
    let registers = Tampering::new(registers, platform.memory(), setup.filter.clone());
    let smmu = Smmu::bring_up(platform, registers, options).map_err(failing("bring-up"))?;
    Ok(Box::new(smmu))
}

/// How the driver is started.
#[derive(Clone)]
pub struct Setup {
    /// log2 of the event queue's entries.
    pub events_log2: u8,
    /// Address spaces at the same time.
    pub spaces: u32,
    /// Drops or alters the driver's commands.
    pub filter: Option<CommandFilter>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { events_log2: 6, spaces: u32::MAX, filter: None }
    }
}

impl std::fmt::Debug for Setup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Setup").field("spaces", &self.spaces).finish_non_exhaustive()
    }
}

/// Where every space has a page through which a device can write out what it read.
const EXIT: u64 = 0x7f_ffff_f000;

/// An address space.
#[derive(Debug)]
pub struct Space {
    table: Arc<dyn AddressSpace>,
    tag: SpaceTag,
    exit: PhysAddr,
}

impl Space {
    /// The name under which the instance knows it.
    pub fn tag(&self) -> SpaceTag {
        self.tag
    }
}

/// What an access must come to.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The bytes arrive, no fault is reported.
    Landed,
    /// They do not, because nothing may pass.
    StreamBlocked,
    /// They do not, and this is why.
    Refused(FaultReason, Stage),
    /// They do not, and nothing is reported.
    Silence,
}

/// An SMMU in the hands of its driver.
pub struct Driven<'a> {
    bench: &'a dyn Bench,
    ops: Box<dyn IommuOps>,
    checks: Vec<Check>,
    tokens: u32,
}

impl std::fmt::Debug for Driven<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driven").field("ops", &self.ops).finish_non_exhaustive()
    }
}

impl<'a> Driven<'a> {
    /// Fills the devices' buffers and brings the unit up.
    ///
    /// # Errors
    ///
    /// When the platform fails or the driver refuses.
    pub fn start(bench: &'a dyn Bench, setup: &Setup) -> Result<Self, Failure> {
        pattern::load(bench)?;
        Self::take_over(bench, setup)
    }

    /// Brings up a unit that somebody else has used.
    ///
    /// # Errors
    ///
    /// When the driver refuses.
    pub fn take_over(bench: &'a dyn Bench, setup: &Setup) -> Result<Self, Failure> {
        let ops = bench.start_driver(setup)?;
        Ok(Self { bench, ops, checks: Vec::new(), tokens: 0x1000_0000 })
    }

    /// The instance.
    pub fn ops(&self) -> &dyn IommuOps {
        &*self.ops
    }

    /// A page of 4 KiB, or more on its natural boundary.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn memory(&self, bytes: usize) -> Result<PhysAddr, Failure> {
        allocate(self.bench, bytes)
    }

    /// Claims the stream of `client`.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn claim(&self, client: Client) -> Result<(), Failure> {
        self.ops.claim(&[client.spec()]).map_err(failing("claim"))
    }

    /// A new space with all leaf sizes of the unit.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn space(&self) -> Result<Space, Failure> {
        self.space_of(self.preferred()?.page_sizes)
    }

    /// A new space with leaves of `page_sizes` only.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn space_of(&self, page_sizes: PageSizes) -> Result<Space, Failure> {
        let support = FormatSupport { page_sizes, ..self.preferred()? };
        let coherent_walk = self.ops.capabilities().coherent_walk;
        let request = SpaceRequest { support, coherent_walk };
        let table = self.ops.create_space(&request).map_err(failing("create_space"))?;
        let tag = self.ops.bind_space(&table).map_err(failing("bind_space"))?;
        let granule = page_sizes.smallest().map_or(4096, |size| size.bytes());
        let exit = self.memory(granule as usize)?;
        let space = Space { table, tag, exit };
        let all = Prot::READ | Prot::WRITE | Prot::CACHE;
        self.map(&space, EXIT & !(granule - 1), exit, granule, all)?;
        Ok(space)
    }

    /// The driver's preferred representation of address spaces.
    fn preferred(&self) -> Result<FormatSupport, Failure> {
        let formats = self.ops.capabilities().formats;
        formats.first().copied().ok_or_else(|| failing("formats")("none"))
    }

    /// Points the stream of `client` to `target`.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn attach(&self, client: Client, target: StreamTarget) -> Result<(), Failure> {
        self.ops.attach(&[client.spec()], None, target).map_err(failing("attach"))
    }

    /// Claims the stream of `client` and attaches it to a new space.
    ///
    /// # Errors
    ///
    /// The driver's.
    pub fn attached(&self, client: Client) -> Result<Space, Failure> {
        self.claim(client)?;
        let space = self.space()?;
        self.attach(client, StreamTarget::Space(space.tag))?;
        Ok(space)
    }

    /// Maps.
    ///
    /// # Errors
    ///
    /// The table's.
    pub fn map(
        &self,
        space: &Space,
        iova: u64,
        phys: PhysAddr,
        len: u64,
        prot: Prot,
    ) -> Result<(), Failure> {
        let mut gather = IotlbGather::new();
        let mapped = space.table.map(Iova::new(iova), phys, len, prot, &mut gather);
        mapped.map_err(failing("map"))?;
        // What an SMMUv3 maps owes nothing.
        if gather.is_empty() { Ok(()) } else { Err(failing("map")("it owes an invalidation")) }
    }

    /// Unmaps, as the core does it: the frames may be reused when this returns.
    ///
    /// # Errors
    ///
    /// The table's or the driver's.
    pub fn unmap(&self, space: &Space, iova: u64, len: u64) -> Result<(), Failure> {
        self.unmap_together(space, &[iova], len)
    }

    /// Unmaps `len` bytes at each of several addresses with one invalidation for all.
    ///
    /// # Errors
    ///
    /// The table's or the driver's.
    pub fn unmap_together(&self, space: &Space, iovas: &[u64], len: u64) -> Result<(), Failure> {
        let mut gather = IotlbGather::new();
        for iova in iovas {
            space.table.unmap(Iova::new(*iova), len, &mut gather).map_err(failing("unmap"))?;
        }
        self.ops.invalidate(space.tag, &gather).map_err(failing("invalidate"))?;
        space.table.retire(gather.confirm());
        Ok(())
    }

    /// Lets `client` write a word at `iova`, looks for it at `phys`, and checks that against `expected`.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn writes(
        &mut self,
        client: Client,
        iova: u64,
        phys: PhysAddr,
        expected: Expected,
    ) -> Result<(), Failure> {
        let landed = pattern::write(self.bench, client, iova, phys)?;
        self.judge(client, Direction::Write, iova, phys, landed, expected);
        Ok(())
    }

    /// Lets `client`, which is attached to `space`, read the word at `iova`, which is expected to come from `phys`, and checks that against `expected`.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn reads(
        &mut self,
        client: Client,
        space: &Space,
        iova: u64,
        phys: PhysAddr,
        expected: Expected,
    ) -> Result<(), Failure> {
        self.tokens += 0x0101_0101;
        let token = self.tokens;
        self.bench.write_bytes(phys, &token.to_le_bytes());
        self.bench.device_reads(client, Iova::new(iova), LANDING_OFFSET, 4)?;
        let granule = space.table.page_sizes().smallest().map_or(4096, |size| size.bytes());
        let exit = Iova::new(EXIT & !(granule - 1));
        self.bench.device_writes(client, exit, LANDING_OFFSET, 4)?;
        let landed = pattern::word(self.bench, space.exit) == token;
        self.judge(client, Direction::Read, iova, phys, landed, expected);
        Ok(())
    }

    /// Takes the faults that were reported, and how often hardware said that it had lost some.
    pub fn faults(&self) -> (Vec<Fault>, u64) {
        let mut faults = Vec::new();
        let serviced = self.ops.service(usize::MAX, &mut |fault| faults.push(fault));
        let unwritten = serviced.errors.contains(GlobalErrors::FAULT_RECORD);
        (faults, u64::from(serviced.overflows) + u64::from(unwritten))
    }

    /// Adds one observation.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        expected: impl ToString,
        observed: impl ToString,
    ) {
        let (expected, observed) = (expected.to_string(), observed.to_string());
        self.checks.push(Check { what: what.into(), expected, observed });
    }

    /// What was seen.
    pub fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    fn judge(
        &mut self,
        client: Client,
        direction: Direction,
        iova: u64,
        phys: PhysAddr,
        landed: bool,
        expected: Expected,
    ) {
        let (faults, lost) = self.faults();
        let mut lines: Vec<_> = faults.iter().map(|fault| line(fault, iova, phys)).collect();
        if lost > 0 {
            lines.push(format!("{lost} lost"));
        }
        let access = match direction {
            Direction::Read => AccessKind::Read,
            Direction::Write => AccessKind::Write,
        };
        let mut fault = Fault {
            stream: client.stream(),
            pasid: None,
            reason: FaultReason::StreamBlocked,
            iova: None,
            access: None,
            stage: None,
            raw: [0; 4],
        };
        let expected = match expected {
            Expected::Landed => outcome(true, &[]),
            Expected::Silence => outcome(false, &[]),
            Expected::StreamBlocked => outcome(false, &[line(&fault, iova, phys)]),
            Expected::Refused(reason, stage) => {
                (fault.reason, fault.stage) = (reason, Some(stage));
                (fault.iova, fault.access) = (Some(Iova::new(iova)), Some(access));
                outcome(false, &[line(&fault, iova, phys)])
            }
        };
        let what = format!("{client}, {direction} {}", target(iova, phys));
        self.check(what, expected, outcome(landed, &lines));
    }
}

fn line(fault: &Fault, iova: u64, phys: PhysAddr) -> String {
    let mut line = format!("{}: {}", fault.stream, fault.reason);
    if let Some(access) = fault.access {
        line += match access {
            AccessKind::Read => ", read",
            AccessKind::Write => ", write",
        };
    }
    if let Some(address) = fault.iova {
        let address = address.raw();
        let text = if address == iova { target(iova, phys) } else { format!("{address:#x}") };
        line += &format!(" {text}");
    }
    if let Some(stage) = fault.stage {
        line += match stage {
            Stage::One => ", stage 1",
            Stage::Two => ", stage 2",
        };
    }
    line
}
