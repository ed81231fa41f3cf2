//! How a walk goes on in this unit: descriptors of stage 1 lie behind stage 2, faults become records (§7.3).

use super::caches::Fill;
use super::events::{Fault, Refusal};
use super::stream::Stages;
use super::translate::Transit;
use crate::vmsa::{Page, Stage, Table, TableEntry, Tag, WalkFault, Walker};
use portcullis_spec::smmuv3::event::{class, number};

/// A fault of the stage that `table` belongs to.
pub(super) fn refuse(table: &Table, number: u64, class: u64, other: u64) -> Refusal {
    if table.record || number == number::F_WALK_EABT {
        let stage2 = table.stage == Stage::Two;
        Refusal::Translation(Fault { number, stage2, class, other })
    } else {
        Refusal::Silent
    }
}

/// One walk of a transaction.
struct Steps<'w, 't> {
    transit: &'w mut Transit<'t>,
    stages: &'w Stages,
    table: &'w Table,
    tag: Tag,
    input: u64,
    /// What the input address is of.
    class: u64,
}

impl Walker for Steps<'_, '_> {
    type Refusal = Refusal;

    fn descriptor(&mut self, address: u64, _: u32) -> Result<u64, Refusal> {
        let (physical, class) = match self.table.stage {
            Stage::One => (self.transit.physical_of(self.stages, address, class::TT)?, class::TT),
            Stage::Two => (address, self.class),
        };
        self.transit.descriptors += 1;
        let word = self.transit.word(physical, "descriptor");
        word.map_err(|_| refuse(self.table, number::F_WALK_EABT, class, physical))
    }

    fn passed(&mut self, size: u32, entry: TableEntry) {
        let (tag, address) = (self.tag, self.input);
        self.transit.fills.push(Fill::Table { tag, size, address, entry });
    }

    fn fault(&self, fault: WalkFault, _: u32) -> Refusal {
        let number = match fault {
            WalkFault::Translation => number::F_TRANSLATION,
            WalkFault::AddressSize => number::F_ADDR_SIZE,
            WalkFault::AccessFlag => number::F_ACCESS,
        };
        refuse(self.table, number, self.class, self.input)
    }
}

impl Transit<'_> {
    /// Walks `table` for `input`, from the deepest table that is cached. `class` says what the input address is of.
    pub(super) fn walk(
        &mut self,
        stages: &Stages,
        table: &Table,
        tag: Tag,
        input: u64,
        class: u64,
    ) -> Result<Page, Refusal> {
        let cached = self.cached(|caches| caches.translations.table(tag, input));
        table.walk(input, cached, &mut Steps { transit: self, stages, table, tag, input, class })
    }
}
