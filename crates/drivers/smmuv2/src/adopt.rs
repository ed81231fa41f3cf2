//! Streams that firmware left running and that go on: how they are taken over, and how what they went on through ends.

use crate::Smmu;
use crate::firmware::{Fate, FirmwareStream, Kept, Plan, Plans, Ran, WhyBlocked};
use crate::groups::{Destination, GoesOn, Held};
use crate::hooks::{Safeguard, omitted};
use alloc::vec::Vec;
use portcullis::{
    IommuOps, OpsError, ReservedKind, ReservedRegion, SpaceRequest, SpaceTag, Unsupported,
    merge_regions,
};
use portcullis_addr::{Iova, PhysAddr, Prot};
use portcullis_pgtable::IotlbGather;
use portcullis_platform::{Platform, Registers};
use portcullis_spec::smmuv2::{bank, global0};

impl<P: Platform, R: Registers> Smmu<P, R> {
    /// Takes over what is to go on, and notes what became of each stream. Whatever cannot go on is blocked.
    ///
    /// # Errors
    ///
    /// The unit did not confirm it.
    pub(crate) fn adopt(&mut self, plans: Plans) -> Result<(), OpsError> {
        let Plans { adopt, spaces, mut blocked } = plans;
        let through_bank = |plan: &Plan| match plan.ran {
            Ran::Translated(bank) => Some(bank),
            _ => None,
        };
        let mut banks: Vec<u8> = adopt.iter().filter_map(through_bank).collect();
        banks.sort_unstable();
        banks.dedup();
        // First, so that no space of ours takes one of them.
        banks.iter().for_each(|bank| self.banks.leave_to_firmware(&self.unit, *bank));
        let spaces: Vec<_> = spaces
            .iter()
            .enumerate()
            .map(|(index, kept)| {
                let used = |plan: &Plan| plan.space == index && through_bank(plan).is_none();
                adopt.iter().any(used).then(|| self.regions_alone(kept))
            })
            .collect();
        for plan in &adopt {
            let space = spaces[plan.space].unwrap_or(Err(OpsError::IncompatibleSpace));
            let fate = self.take_over(plan, space).unwrap_or_else(|error| {
                self.give_up(plan);
                Fate::Blocked(WhyBlocked::NoSpace(error))
            });
            blocked.push(FirmwareStream { stream: plan.stream, ran: plan.ran, fate });
        }
        let spaces = spaces.into_iter().flatten().flatten().map(GoesOn::Space);
        let unused = spaces.chain(banks.into_iter().map(GoesOn::Bank));
        self.let_go(&unused.filter(|by| !self.groups.goes_on(*by)).collect::<Vec<_>>());
        if !adopt.is_empty() {
            // What passed may have been kept in the TLB.
            self.unit.write(global0::TLBIALLNSNH, 0);
            self.unit.sync()?;
        }
        self.firmware = blocked;
        Ok(())
    }

    /// An address space with the direct regions 1:1 and nothing else, and its bank.
    fn regions_alone(&self, kept: &Kept) -> Result<SpaceTag, OpsError> {
        let regions: Vec<ReservedRegion> = kept
            .reserved
            .iter()
            .filter(|region| region.kind == ReservedKind::Direct)
            .copied()
            .collect();
        let too_wide = OpsError::Unsupported(Unsupported::AddressWidth);
        let formats = self.capabilities().formats;
        let support = *formats.iter().next().ok_or(OpsError::IncompatibleSpace)?;
        let coherent_walk = self.features.coherent;
        let space = self.create_space(&SpaceRequest { support, coherent_walk })?;
        let granule = space.granule().bytes();
        let mut prot = Prot::READ | Prot::WRITE;
        prot.set(Prot::CACHE, kept.coherent);
        let mut free_from = 0;
        let mut gather = IotlbGather::new();
        // Regions of one kind never conflict.
        for region in merge_regions(regions).map_err(|_| too_wide)? {
            let start = region.range.start().align_down(granule).raw().max(free_from);
            let end = (region.range.last().raw() | (granule - 1)).checked_add(1).ok_or(too_wide)?;
            if start < end {
                let (iova, phys) = (Iova::new(start), PhysAddr::new(start));
                let mapped = space.map(iova, phys, end - start, prot, &mut gather);
                mapped.map_err(|_| too_wide)?;
            }
            free_from = end;
        }
        self.bind_space(&space)
    }

    /// Has a stream go on through `space`, or through firmware's bank.
    fn take_over(&self, plan: &Plan, space: Result<SpaceTag, OpsError>) -> Result<Fate, OpsError> {
        if let Ran::Translated(bank) = plan.ran {
            let held = self.groups.adopt(plan.group, plan.stream, GoesOn::Bank(bank))?;
            self.groups.matches(&self.unit, held.group, plan.stream);
            return Ok(Fate::Kept);
        }
        let tag = space?;
        let bank = Destination::Bank(self.banks.open(tag)?.bank);
        let held = self.groups.adopt(plan.group, plan.stream, GoesOn::Space(tag))?;
        let written = self.redirect(plan, held, bank);
        written.map_err(crate::error::refused).map(|()| Fate::Narrowed)
    }

    fn redirect(&self, plan: &Plan, held: Held, bank: Destination) -> Result<(), u32> {
        if omitted::<P>(Safeguard::OnlyItsRegions) {
            return Ok(());
        }
        match plan.group {
            // Where it leads first: what firmware's group matches besides goes where the stream goes, until it does not match it any more.
            Some(group) => {
                self.groups.lead(&self.unit, group, bank)?;
                self.groups.matches(&self.unit, group, plan.stream);
            }
            // The unit is off: no stream is looked up yet.
            None => {
                self.groups.set_up(&self.unit, held.group, plan.stream)?;
                self.groups.lead(&self.unit, held.group, bank)?;
            }
        }
        Ok(())
    }

    /// Blocks a stream that was to go on and cannot.
    fn give_up(&self, plan: &Plan) {
        let held = self.groups.find(plan.stream);
        if let Some(group) = plan.group.or(held.map(|held| held.group)) {
            // Whoever uses the group next reads back what it writes.
            let _unconfirmed = self.groups.lead(&self.unit, group, Destination::Fault);
            self.groups.unmatch(&self.unit, group);
        }
        self.give_back(held.as_slice());
    }

    /// Ends what no stream goes on through any more. Where the unit does not confirm that, it stays in quarantine.
    pub(crate) fn let_go(&self, over: &[GoesOn]) {
        for by in over {
            match *by {
                GoesOn::Space(tag) => {
                    let _in_quarantine = self.unbind_space(tag);
                }
                GoesOn::Bank(bank) => {
                    let _stays_reserved = self.end_bank(bank);
                }
            }
        }
    }

    fn end_bank(&self, bank: u8) -> Result<(), OpsError> {
        let index = usize::from(bank);
        self.unit.write_bank(bank::TLBIALL, index, 0);
        self.unit.sync()?;
        self.unit.write_bank(bank::SCTLR, index, 0);
        self.unit.write_bank(bank::FSR, index, u32::MAX);
        self.banks.take_from_firmware(bank);
        Ok(())
    }
}
