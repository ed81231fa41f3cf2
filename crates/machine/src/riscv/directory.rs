//! Finding and checking the device context of a transaction (2.1, 2.3.1).

use super::RiscvProfile;
use super::caches::Fill;
use super::faults::Refusal;
use super::translate::Transit;
use super::walk::PageTable;
use portcullis_spec::riscv::fault::cause;
use portcullis_spec::riscv::{dc, ddte, iommu_mode, mode};

pub(super) type Context = [u64; dc::WORDS];

/// Which stages take part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stages {
    pub(super) first: Option<PageTable>,
    pub(super) second: Option<PageTable>,
    /// Faults of translation are not reported.
    pub(super) quiet: bool,
}

impl Transit<'_> {
    /// The device's context, cached or fetched.
    pub(super) fn context(&mut self) -> Result<Context, Refusal> {
        let (device, leaf) = (self.subject.device, self.unit.profile.leaf_bits());
        let levels = (self.control.mode - iommu_mode::LEVELS_1 + 1) as u32;
        if levels < 3 && device >> (leaf + 9 * (levels - 1)) != 0 || device >> 24 != 0 {
            return Err(Refusal::new(cause::TYPE_DISALLOWED));
        }
        if let Some(context) = self.cached(|caches| caches.context(device)) {
            return Ok(context);
        }
        let mut table = self.control.root;
        for level in (1..levels).rev() {
            table = self.next_directory(table, level, leaf)?;
        }
        let bytes = self.unit.profile.context_bytes();
        let address = table + u64::from(device & ((1 << leaf) - 1)) * bytes;
        let unreadable = |_| Refusal::new(cause::DDT_ACCESS);
        let context = self.entry("DC", address, bytes as usize / 8).map_err(unreadable)?;
        if dc::V.read(&context) == 0 {
            return Err(Refusal::new(cause::DDT_INVALID));
        }
        if !is_well_configured(&context, &self.unit.profile) {
            return Err(Refusal::new(cause::DDT_MISCONFIGURED));
        }
        self.fills.push(Fill::Context { device, context });
        Ok(context)
    }

    /// The directory that the entry of one at `level` leads to.
    fn next_directory(&mut self, table: u64, level: u32, leaf: u32) -> Result<u64, Refusal> {
        let prefix = self.subject.device >> (leaf + 9 * (level - 1));
        if let Some(word) = self.cached(|caches| caches.directory(level, prefix)) {
            return Ok(ddte::PPN.get(word) << 12);
        }
        let address = table + u64::from(prefix & 0x1ff) * ddte::BYTES as u64;
        let word = self.word(address, "DDTE").map_err(|_| Refusal::new(cause::DDT_ACCESS))?;
        if !ddte::V.is_set(word) {
            return Err(Refusal::new(cause::DDT_INVALID));
        }
        if word & !(ddte::V.mask() | ddte::PPN.mask()) != 0 {
            return Err(Refusal::new(cause::DDT_MISCONFIGURED));
        }
        self.fills.push(Fill::Directory { level, prefix, word });
        Ok(ddte::PPN.get(word) << 12)
    }
}

/// Whether a valid context is one that this unit can have (2.1.4).
fn is_well_configured(context: &Context, profile: &RiscvProfile) -> bool {
    let words = if profile.extended { dc::WORDS } else { dc::BASE_BYTES / 8 };
    let known = |word: usize| {
        let fields = dc::LAYOUT.fields.iter().filter(|field| field.word() == word);
        fields.fold(0, |bits, field| bits | field.mask())
    };
    let reserved = (0..words).any(|word| context[word] & !known(word) != 0);
    // Features that the model's units do not have: ATS beyond its queue, process directories, flags set by hardware, both byte orders, Sv32, MSI page tables.
    let foreign = [
        dc::EN_ATS,
        dc::EN_PRI,
        dc::T2GPA,
        dc::PDTV,
        dc::PRPR,
        dc::GADE,
        dc::SADE,
        dc::DPE,
        dc::SBE,
        dc::SXL,
        dc::MSIPTP_MODE,
    ];
    let foreign = foreign.iter().any(|field| field.read(context) != 0);
    let supported = |code: u64, deepest: u8| match code {
        mode::BARE => true,
        mode::SV39..=mode::SV57 => code - mode::SV39 + 3 <= u64::from(deepest),
        _ => false,
    };
    let second = dc::IOHGATP_MODE.read(context);
    let aligned = second == mode::BARE || dc::IOHGATP_PPN.read(context) & 3 == 0;
    let modes = supported(dc::FSC_MODE.read(context), profile.first_stage)
        && supported(second, profile.second_stage);
    !reserved && !foreign && modes && aligned
}

/// The stages of a context that was checked.
pub(super) fn stages(context: &Context) -> Stages {
    let levels = |code: u64| (code != mode::BARE).then(|| (code - mode::SV39 + 3) as u32);
    let second = levels(dc::IOHGATP_MODE.read(context)).map(|levels| PageTable {
        root: dc::IOHGATP_PPN.read(context) << 12,
        levels,
        second: true,
        tag: dc::GSCID.read(context) as u32,
    });
    let first = levels(dc::FSC_MODE.read(context)).map(|levels| PageTable {
        root: dc::FSC_PPN.read(context) << 12,
        levels,
        second: false,
        tag: dc::PSCID.read(context) as u32,
    });
    Stages { first, second, quiet: dc::DTF.read(context) == 1 }
}
