//! What the core asks of a unit.

use crate::Smmu;
use crate::banks::{self, Banks, Name};
use crate::error;
use crate::groups::{Destination, Held, Settled};
use crate::hooks::{Safeguard, omitted};
use crate::identify::{GRANULES, Granule};
use alloc::sync::Arc;
use portcullis::{
    AddressSpace, Breakage, Capabilities, Fault, FormatSupport, Formats, IommuOps, MsiDoorbell,
    OpsError, Pasid, Serviced, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec, StreamTarget,
    TableSpace, Ticket, Unsupported,
};
use portcullis_addr::PageSizes;
use portcullis_pgtable::{
    Aarch32LpaeStage1, Aarch32LpaeStage2, ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable,
    IotlbGather, TableError, TableFormat, TableParams,
};
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv2::bank::{self, tlbiipas2, tlbiva};
use portcullis_spec::smmuv2::global0::{self, s2cr};
use portcullis_spec::smmuv2::s2cr_type;

/// More single addresses than this are answered by dropping the whole space: refilling its TLB entries costs less than so many register writes.
const MAX_SINGLE: u64 = 64;

/// The ticket of an invalidation that owes nothing.
const NOTHING: Ticket = Ticket([u64::MAX; 3]);

impl<P: Platform, R: Registers> Smmu<P, R> {
    fn formats(&self) -> Formats {
        let features = &self.features;
        let (one, two) = if features.aarch64() {
            (TableFormat::ArmLpaeStage1, TableFormat::ArmLpaeStage2)
        } else {
            (TableFormat::Aarch32LpaeStage1, TableFormat::Aarch32LpaeStage2)
        };
        let support = |format, input_bits| FormatSupport {
            format: SpaceFormat::Table(format),
            page_sizes: features.page_sizes(),
            input_bits,
            output_bits: features.output_bits,
        };
        let (stage1, stage2) =
            (support(one, self.input_bits(false)), support(two, self.input_bits(true)));
        let stage1 = features.stage1.then_some(stage1);
        stage1.into_iter().chain(features.stage2.then_some(stage2)).collect()
    }

    /// The widest input addresses of a stage.
    fn input_bits(&self, stage2: bool) -> u8 {
        let features = &self.features;
        match (features.aarch64(), stage2) {
            (true, false) => features.upstream_bits,
            // A table of AArch64 takes as many bits as it puts out.
            (true, true) => features.intermediate_bits.min(features.output_bits),
            (false, false) => 32,
            (false, true) => features.intermediate_bits.min(features.output_bits).min(40),
        }
    }

    /// The first granule, in order of preference, all of whose leaf sizes were asked for.
    fn granule(&self, request: &SpaceRequest) -> Option<&'static Granule> {
        let wanted = request.support.page_sizes.bitmap();
        let served = |granule: &&Granule| {
            let leaves = self.features.leaves(granule);
            self.features.walks(granule) && wanted & leaves == leaves
        };
        GRANULES.iter().find(served)
    }

    fn table<F: Format + 'static>(
        &self,
        params: TableParams,
    ) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let memory = self.unit.platform().memory();
        match IoPageTable::<F, P::Memory>::new(memory, params) {
            Ok(table) => Ok(Arc::new(TableSpace::new(table))),
            Err(TableError::NoMemory(error)) => Err(OpsError::NoMemory(error)),
            Err(_) => Err(OpsError::Unsupported(Unsupported::AddressWidth)),
        }
    }

    /// Leads groups to `destination` and has the unit confirm it. What passed is dropped from the TLB too, where it may have been kept.
    fn lead(&self, groups: &[Held], destination: Destination) -> Result<(), OpsError> {
        let written = groups.iter().try_for_each(|held| {
            let before = self.unit.read_group(global0::S2CR, held.group);
            if s2cr::TYPE.get(before.into()) == s2cr_type::BYPASS {
                self.unit.write(global0::TLBIALLNSNH, 0);
            }
            self.groups.lead(&self.unit, held.group, destination)
        });
        self.groups.doubt(groups);
        written.map_err(|found| match found {
            u32::MAX => error::gone(),
            found => error::refused(found),
        })?;
        self.unit.sync()?;
        self.let_go(&self.groups.trust(groups).over);
        Ok(())
    }

    /// Has groups fault, confirmed; those that nobody claims are free then.
    fn block(&self, groups: &[Held]) -> Result<(), OpsError> {
        if groups.is_empty() {
            return Ok(());
        }
        self.lead(groups, Destination::Fault)?;
        self.give_back(groups);
        Ok(())
    }

    /// Notes that groups act as they say, and frees those that nobody claims.
    pub(crate) fn give_back(&self, groups: &[Held]) {
        let Settled { unclaimed, over } = self.groups.trust(groups);
        self.let_go(&over);
        unclaimed.iter().for_each(|held| self.groups.unmatch(&self.unit, held.group));
        self.groups.free(&unclaimed);
    }

    /// Drops all that has a space's tag.
    fn forget_space(&self, name: Name) {
        if name.stage2 {
            self.unit.write_bank(bank::TLBIALL, name.index(), 0);
        } else {
            self.unit.write_bank(bank::TLBIASID, name.index(), self.features.tag_of(name).into());
        }
    }

    fn forget_address(&self, name: Name, address: u64, leaf: bool) {
        let page = address >> 12;
        let (register, value) = match (name.stage2, name.aarch64) {
            (true, _) => (
                if leaf { bank::TLBIIPAS2L } else { bank::TLBIIPAS2 },
                page & tlbiipas2::ADDRESS.mask(),
            ),
            (false, true) => (
                if leaf { bank::TLBIVAL } else { bank::TLBIVA },
                page & tlbiva::ADDRESS.mask() | tlbiva::ASID.of(self.features.tag_of(name).into()),
            ),
            // With tables of 32 bits the address stands in place and the ASID below it.
            (false, false) => (
                if leaf { bank::TLBIVAL } else { bank::TLBIVA },
                address & 0xffff_f000 | u64::from(self.features.tag_of(name)),
            ),
        };
        if name.aarch64 {
            self.unit.write_bank64(register, name.index(), value);
        } else {
            self.unit.write_bank(register, name.index(), value as u32);
        }
    }

    fn forget(&self, name: Name, gather: &IotlbGather) {
        let Some(range) = gather.range() else { return self.forget_space(name) };
        let stride = range.leaf.bytes();
        let start = range.start.raw() & !(stride - 1);
        let leaves = (range.last.raw() - start) / stride + 1;
        if leaves > MAX_SINGLE {
            return self.forget_space(name);
        }
        for leaf in 0..leaves {
            self.forget_address(name, start + leaf * stride, !range.tables_freed);
        }
    }
}

impl<P: Platform, R: Registers> IommuOps for Smmu<P, R> {
    fn driver_name(&self) -> &'static str {
        "smmuv2"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            formats: self.formats(),
            id_bits: self.features.id_bits,
            pasid_bits: 0,
            coherent_walk: self.features.coherent,
            identity: !self.features.s2cr_is_trapped,
            map_needs_sync: false,
            range_invalidation: false,
            msi: MsiDoorbell::Translated,
        }
    }

    fn claim(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        let claimed = self.groups.claim(streams)?;
        let undo = |error| {
            let last = self.groups.unclaim(streams);
            // What was never led anywhere needs no confirmation.
            let fresh = |held: &Held| claimed.fresh.iter().any(|(it, _)| it == held);
            let unused: alloc::vec::Vec<_> = last.into_iter().filter(fresh).collect();
            self.give_back(&unused);
            error
        };
        for (held, spec) in &claimed.fresh {
            let done = self.groups.set_up(&self.unit, held.group, *spec);
            done.map_err(|found| undo(error::refused(found)))?;
        }
        // Left over from a release that the unit did not confirm.
        self.block(&claimed.doubtful).map_err(undo)
    }

    fn release(&self, streams: &[StreamSpec]) -> Result<(), OpsError> {
        // Not confirmed: the groups stay on record as doubtful and go on matching, and the next claim must confirm them first.
        self.block(&self.groups.unclaim(streams))
    }

    fn create_space(&self, request: &SpaceRequest) -> Result<Arc<dyn AddressSpace>, OpsError> {
        let unsupported = OpsError::Unsupported(Unsupported::PageSizes);
        let granule = self.granule(request).ok_or(unsupported)?;
        let wanted = &request.support;
        let SpaceFormat::Table(format) = wanted.format else {
            return Err(OpsError::Unsupported(Unsupported::Format));
        };
        let stage2 = matches!(format, TableFormat::ArmLpaeStage2 | TableFormat::Aarch32LpaeStage2);
        let most = self.features.output_bits.min(if self.features.aarch64() { 48 } else { 40 });
        let bits = wanted.output_bits.min(most);
        let output_bits = [48, 44, 42, 40, 36, 32].into_iter().find(|size| *size <= bits);
        let leaf_sizes = if self.features.pages_only {
            PageSizes::from_bitmap(self.features.leaves(granule))
        } else {
            wanted.page_sizes
        };
        let params = TableParams {
            granule: granule.size,
            // The narrowest table of the format is 32 bits wide.
            input_bits: wanted.input_bits.min(self.input_bits(stage2)).max(32),
            output_bits: output_bits.ok_or(OpsError::Unsupported(Unsupported::AddressWidth))?,
            leaf_sizes,
            force_snoop: false,
            coherent: request.coherent_walk && self.features.coherent,
        };
        let (aarch64, one, two) =
            (self.features.aarch64(), self.features.stage1, self.features.stage2);
        match format {
            TableFormat::ArmLpaeStage1 if aarch64 && one => self.table::<ArmLpaeStage1>(params),
            TableFormat::ArmLpaeStage2 if aarch64 && two => self.table::<ArmLpaeStage2>(params),
            TableFormat::Aarch32LpaeStage1 if !aarch64 && one => {
                self.table::<Aarch32LpaeStage1>(params)
            }
            TableFormat::Aarch32LpaeStage2 if !aarch64 && two => {
                self.table::<Aarch32LpaeStage2>(params)
            }
            _ => Err(OpsError::Unsupported(Unsupported::Format)),
        }
    }

    fn bind_space(&self, space: &Arc<dyn AddressSpace>) -> Result<SpaceTag, OpsError> {
        let name = self.banks.take(space)?;
        let config = space.table().ok_or(OpsError::IncompatibleSpace)?.config();
        banks::set_up(&self.unit, &self.features, name, &config);
        Ok(Banks::<P>::tag(name))
    }

    fn unbind_space(&self, tag: SpaceTag) -> Result<(), OpsError> {
        let name = self.banks.quarantine(tag)?;
        self.unit.alive()?;
        // Streams whose blocking was not confirmed may still use the bank: the global sync covers them too.
        let doubts = self.groups.doubts();
        if !omitted::<P>(Safeguard::CleanBeforeReuse) {
            self.forget_space(name);
            self.unit.sync()?;
        }
        self.give_back(&doubts);
        self.unit.write_bank(bank::SCTLR, name.index(), 0);
        self.banks.free(name);
        Ok(())
    }

    fn attach(
        &self,
        streams: &[StreamSpec],
        pasid: Option<Pasid>,
        target: StreamTarget,
    ) -> Result<(), OpsError> {
        if let Some(pasid) = pasid {
            return Err(OpsError::Unsupported(Unsupported::Pasid(pasid)));
        }
        let groups = self.groups.hold(streams)?;
        let led = match target {
            StreamTarget::Blocked => return self.lead(&groups, Destination::Fault),
            StreamTarget::Identity if self.features.s2cr_is_trapped => {
                Err(OpsError::Unsupported(Unsupported::Identity))
            }
            StreamTarget::Identity => self.lead(&groups, Destination::Bypass),
            StreamTarget::Space(tag) => self
                .banks
                .open(tag)
                .and_then(|name| self.lead(&groups, Destination::Bank(name.bank))),
        };
        let Err(error) = led else { return Ok(()) };
        // Whatever went wrong, the streams end blocked.
        Err(match (error, self.lead(&groups, Destination::Fault)) {
            (OpsError::Hardware { breakage: Breakage::CommandRefused, status }, Ok(())) => {
                OpsError::Blocked { breakage: Breakage::CommandRefused, status }
            }
            (error, Err(unconfirmed)) if !error.is_unconfirmed() => unconfirmed,
            (error, _) => error,
        })
    }

    fn submit(&self, tag: SpaceTag, gather: &IotlbGather) -> Result<Ticket, OpsError> {
        let name = self.banks.name(tag)?;
        self.unit.alive()?;
        if gather.is_empty() {
            return Ok(NOTHING);
        }
        self.forget(name, gather);
        self.unit.begin_bank_sync(name.index());
        Ok(Ticket([name.bank.into(), 0, 0]))
    }

    fn wait(&self, ticket: Ticket) -> Result<(), OpsError> {
        if ticket == NOTHING {
            return Ok(());
        }
        self.unit.end_bank_sync(ticket.0[0] as usize)
    }

    fn forget_all(&self) -> Result<(), OpsError> {
        let (doubts, spaces) = (self.groups.doubts(), self.banks.quarantined());
        self.unit.write(global0::TLBIALLNSNH, 0);
        self.unit.sync()?;
        self.give_back(&doubts);
        spaces.into_iter().for_each(|name| {
            self.unit.write_bank(bank::SCTLR, name.index(), 0);
            self.banks.free(name);
        });
        Ok(())
    }

    fn service(&self, budget: usize, sink: &mut dyn FnMut(Fault)) -> Serviced {
        self.serve_interrupt(budget, sink)
    }

    fn shutdown(&self) -> Result<(), OpsError> {
        self.stop()
    }
}
