//! SMMUv2s that do not stand alone.

use super::SmmuV2;
use crate::model::{Aborted, Access, IommuModel, Land};
use portcullis_addr::StreamId;
use std::sync::Arc;

/// Several units between which a client's accesses are interleaved by address, as NVIDIA's Tegra194 and Tegra234 have it (Linux, `arm-smmu-nvidia.c`): page by page here. Each has registers and a
/// TLB of its own, so what was not programmed alike in all of them shows at one page or the next.
#[derive(Debug)]
pub struct Interleaved(Vec<Arc<SmmuV2>>);

impl Interleaved {
    /// `units`, one or more.
    ///
    /// # Panics
    ///
    /// Without any.
    pub fn new(units: &[Arc<SmmuV2>]) -> Arc<Self> {
        assert!(!units.is_empty(), "a client needs a unit");
        Arc::new(Self(units.to_vec()))
    }
}

impl IommuModel for Interleaved {
    fn index(&self) -> u32 {
        self.0[0].index()
    }

    fn translate(&self, id: StreamId, access: &Access, land: Land<'_>) -> Result<(), Aborted> {
        let page = (access.address >> 12) as usize;
        self.0[page % self.0.len()].translate(id, access, land)
    }

    fn progress(&self) {
        self.0.iter().for_each(|unit| unit.progress());
    }

    fn reset(&self) {
        self.0.iter().for_each(|unit| unit.reset());
    }
}

/// Has each of `units` find in its TLB what the others fetched, tags and all, as the SMMUs of Cavium's CN88xx do (erratum 27704): a tag that two of them use leads to the other's pages.
pub fn share_translations(units: &[Arc<SmmuV2>]) {
    for unit in units {
        let others = units.iter().filter(|other| !Arc::ptr_eq(unit, other));
        unit.share_with(others.map(Arc::downgrade).collect());
    }
}
