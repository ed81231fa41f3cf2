//! The register file: which registers exist, what they take, and what a write sets off.

use super::FirmwareGroup;
use super::fault::{ContextFault, GlobalFault};
use super::profile::SmmuV2Profile;
use crate::vmsa::{Regime, Scope, Span};
use portcullis_spec::smmuv2::bank::{self, sctlr, tcr2};
use portcullis_spec::smmuv2::global0::{self, s2cr, scr0, sgfsr, smr, tlbivmid};
use portcullis_spec::smmuv2::global1::{self, cba2r, cbar};
use portcullis_spec::smmuv2::{BlockShape, cbar_type, s2cr_type};
use portcullis_spec::{Field, Register};

/// Who issued TLB maintenance, or waits for it: one bank or the global space.
pub(super) type Issuer = Option<u8>;

/// What a write sets off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// Maintenance of that scope is owed.
    Forget(Issuer, Scope),
    /// Its issuer begins to wait for it.
    Sync(Issuer),
}

/// A stream mapping group.
#[derive(Clone, Copy, Debug)]
pub(super) struct Group {
    smr: u32,
    pub(super) s2cr: u32,
}

/// A translation context bank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bank {
    pub(super) cbar: u32,
    pub(super) cba2r: u32,
    pub(super) sctlr: u32,
    pub(super) tcr: u32,
    pub(super) tcr2: u32,
    pub(super) ttbr: [u64; 2],
    stored: [u32; 4],
    pub(super) fault: ContextFault,
    /// High halves of the maintenance registers of 64 bits, until the low half comes.
    high: u32,
}

impl Bank {
    pub(super) fn has(&self, field: Field) -> bool {
        field.is_set(self.sctlr.into())
    }

    pub(super) fn is_aarch64(&self) -> bool {
        cba2r::VA64.is_set(self.cba2r.into())
    }

    pub(super) fn is_stage2(&self) -> bool {
        cbar::TYPE.get(self.cbar.into()) == cbar_type::STAGE2
    }

    /// An ASID as this bank's tags carry it.
    pub(super) fn asid(&self, asid: u64) -> u16 {
        if tcr2::AS.is_set(self.tcr2.into()) { asid as u16 } else { asid as u8 as u16 }
    }
}

#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    profile: SmmuV2Profile,
    shape: BlockShape,
    scr0: u32,
    sacr: u32,
    pub(super) fault: GlobalFault,
    pub(super) groups: Vec<Group>,
    pub(super) banks: Vec<Bank>,
}

/// Where an offset of the block leads.
enum Place {
    Global0(usize),
    Global1(usize),
    Bank(usize, usize),
    Nowhere,
}

/// Fields of `sACR` of an MMU-500 that are modelled (Arm DDI 0517, auxiliary configuration).
const UNMATCHED_TLBEN: u32 = 1 << 8;
const BYPASS_TLBEN: u32 = 1 << 10;

/// The bits of `SCTLR` that can be set: no stalls.
const SCTLR_BITS: u32 = 0x0fff_ffff & !(sctlr::CFCFG.mask() as u32);
const SCR0_BITS: u32 = !(scr0::GSE.mask() as u32) & 0x8fff_ffff;

fn low(word: u64, value: u32) -> u64 {
    word & !0xffff_ffff | u64::from(value)
}

fn high(word: u64, value: u32) -> u64 {
    word & 0xffff_ffff | u64::from(value) << 32
}

/// Number `n` of registers `STRIDE` bytes apart, if `offset` is one of `count` of them.
fn nth(register: Register, offset: usize, count: usize) -> Option<usize> {
    let n = offset.checked_sub(register.offset)? / global0::GROUP_STRIDE;
    (n < count).then_some(n)
}

impl RegisterFile {
    /// As after reset: clients pass, groups match nothing but lead to bypass, banks do nothing. (Most of this is UNKNOWN after reset; these are the values that hurt most.)
    pub(super) fn reset(profile: &SmmuV2Profile) -> Self {
        let bypass = s2cr::TYPE.of(s2cr_type::BYPASS) as u32;
        Self {
            shape: profile.shape(),
            scr0: scr0::CLIENTPD.of(1) as u32,
            sacr: 0,
            fault: GlobalFault::default(),
            groups: vec![Group { smr: 0, s2cr: bypass }; profile.groups.into()],
            banks: vec![Bank::default(); profile.banks.into()],
            profile: profile.clone(),
        }
    }

    /// See [`SmmuV2::leave_running`](super::SmmuV2::leave_running).
    pub(super) fn leave_running(&mut self, groups: &[FirmwareGroup]) {
        self.scr0 = 0;
        for (index, left) in groups.iter().enumerate() {
            let (id, mask) = (u64::from(left.id.raw()), u64::from(left.mask));
            let s2cr = match left.bank {
                None => s2cr::TYPE.of(s2cr_type::BYPASS),
                Some(bank) => {
                    s2cr::TYPE.of(s2cr_type::TRANSLATION) | s2cr::CBNDX.of(u64::from(bank))
                }
            };
            let smr = (smr::VALID.of(1) | smr::ID.of(id) | smr::MASK.of(mask)) as u32;
            let at = if self.profile.stream_matching { index } else { left.id.raw() as usize };
            let smr = self.implemented(smr);
            self.groups[at] = Group { smr, s2cr: s2cr as u32 };
        }
    }

    fn place(&self, offset: usize) -> Place {
        let (page, within) = (offset / self.shape.page(), offset % self.shape.page());
        let first = self.shape.bank(0) / self.shape.page();
        let seen = self.banks.len() - usize::from(self.profile.kept_banks);
        match page {
            0 => Place::Global0(within),
            1 => Place::Global1(within),
            page if page >= first && page - first < seen => Place::Bank(page - first, within),
            _ => Place::Nowhere,
        }
    }

    /// The register's name, for hooks.
    pub(super) fn name(&self, offset: usize) -> &'static str {
        let (registers, within) = match self.place(offset) {
            Place::Global0(within) if nth(global0::SMR, within, 128).is_some() => return "SMR",
            Place::Global0(within) if nth(global0::S2CR, within, 128).is_some() => return "S2CR",
            Place::Global0(within) => (global0::REGISTERS, within),
            Place::Global1(within) => (global1::REGISTERS, within & 0xc00),
            Place::Bank(_, within) => (bank::REGISTERS, within),
            Place::Nowhere => return "reserved",
        };
        let covers = |register: &&Register| {
            (register.offset..register.offset + usize::from(register.bits) / 8).contains(&within)
        };
        registers.iter().find(covers).map_or("reserved", |register| register.name)
    }

    pub(super) fn global(&self, field: Field) -> bool {
        field.is_set(self.scr0.into())
    }

    /// Whether streams that pass may be kept as such: those that match nothing, and those that a group lets pass.
    pub(super) fn keeps_passing(&self) -> (bool, bool) {
        let on = |bit| self.profile.caches_bypass && self.sacr & bit != 0;
        (on(UNMATCHED_TLBEN), on(BYPASS_TLBEN))
    }

    /// The groups that a stream belongs to.
    pub(super) fn matching(&self, id: u32) -> impl Iterator<Item = &Group> {
        let extended = self.global(scr0::EXIDENABLE);
        let indexed = !self.profile.stream_matching;
        self.groups.iter().enumerate().filter_map(move |(index, group)| {
            let belongs = match (indexed, extended) {
                (true, _) => index == id as usize,
                (false, true) => {
                    let (own, mask) = (group.smr & 0xffff, group.smr >> 16);
                    s2cr::EXIDVALID.is_set(group.s2cr.into()) && (id ^ own) & !mask == 0
                }
                (false, false) => {
                    let smr = u64::from(group.smr);
                    let (own, mask) = (smr::ID.get(smr) as u32, smr::MASK.get(smr) as u32);
                    smr::VALID.is_set(smr) && (id ^ own) & !mask == 0
                }
            };
            belongs.then_some(group)
        })
    }

    pub(super) fn vmid(&self, bank: &Bank) -> u16 {
        if self.global(scr0::VMID16EN) {
            cba2r::VMID16.get(bank.cba2r.into()) as u16
        } else {
            cbar::VMID.get(bank.cbar.into()) as u16
        }
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        match self.place(offset) {
            Place::Global0(within) => self.read_global0(within),
            Place::Global1(within) => self.read_global1(within),
            Place::Bank(bank, within) => self.banks[bank].read(within),
            Place::Nowhere => 0,
        }
    }

    fn read_global0(&self, offset: usize) -> u32 {
        if let Some(n) = nth(global0::SMR, offset, self.groups.len()) {
            return if self.profile.stream_matching { self.groups[n].smr } else { 0 };
        }
        if let Some(n) = nth(global0::S2CR, offset, self.groups.len()) {
            return self.groups[n].s2cr;
        }
        match offset {
            at if at == global0::SCR0.offset => self.scr0,
            at if at == global0::SACR.offset => self.sacr,
            at if at == global0::IDR0.offset => self.profile.idr0(),
            at if at == global0::IDR1.offset => self.profile.idr1(),
            at if at == global0::IDR2.offset => self.profile.idr2(),
            at if at == global0::IDR7.offset => self.profile.idr7(),
            // sCR1, STLBIALL and the aliases of Secure software read as zero, as all that is reserved.
            _ => self.fault.read(offset).unwrap_or(0),
        }
    }

    fn read_global1(&self, offset: usize) -> u32 {
        let count = self.banks.len() - usize::from(self.profile.kept_banks);
        let bank = |register| Some(&self.banks[nth(register, offset, count)?]);
        bank(global1::CBAR)
            .map(|bank| bank.cbar)
            .or_else(|| bank(global1::CBA2R).map(|bank| bank.cba2r))
            .or_else(|| bank(global1::CBFRSYNRA).map(|bank| bank.fault.stream))
            .unwrap_or(0)
    }

    pub(super) fn write(&mut self, offset: usize, value: u32) -> Effect {
        match self.place(offset) {
            Place::Global0(within) => self.write_global0(within, value),
            Place::Global1(within) => {
                self.write_global1(within, value);
                Effect::None
            }
            Place::Bank(index, within) => self.write_bank(index, within, value),
            Place::Nowhere => Effect::None,
        }
    }

    fn write_global0(&mut self, offset: usize, value: u32) -> Effect {
        if let Some(n) = nth(global0::SMR, offset, self.groups.len()) {
            self.groups[n].smr = self.implemented(value);
            return Effect::None;
        }
        if let Some(n) = nth(global0::S2CR, offset, self.groups.len()) {
            self.write_s2cr(n, value);
            return Effect::None;
        }
        match offset {
            at if at == global0::SCR0.offset => {
                let absent = if self.profile.extended_ids { 0 } else { scr0::EXIDENABLE.mask() };
                let narrow = if self.profile.vmid16 { 0 } else { scr0::VMID16EN.mask() };
                self.scr0 = value & SCR0_BITS & !((absent | narrow) as u32);
            }
            at if at == global0::SACR.offset => self.sacr = value,
            at if at == global0::SGFSR.offset => self.fault.status &= !value,
            at if at == global0::SGFSRRESTORE.offset => {
                let all = global0::sgfsr::FIELDS.iter().fold(0, |bits, field| bits | field.mask());
                self.fault.status |= value & all as u32;
            }
            at if at == global0::TLBIALLNSNH.offset => {
                return Effect::Forget(None, Scope::everything());
            }
            at if at == global0::TLBIVMID.offset => {
                let vmid = tlbivmid::VMID.get(value.into()) as u16;
                return Effect::Forget(None, Scope::everything().vmid(vmid));
            }
            at if at == global0::STLBGSYNC.offset => return Effect::Sync(None),
            _ => {}
        }
        Effect::None
    }

    /// The bits of an `SMR` that exist.
    fn implemented(&self, value: u32) -> u32 {
        if !self.profile.stream_matching {
            return 0;
        }
        if self.global(scr0::EXIDENABLE) {
            return value;
        }
        let ids = (1u32 << self.profile.id_bits.min(15)) - 1;
        let masks = u32::from(self.profile.mask_bits) & ids;
        value & (smr::VALID.mask() as u32 | masks << 16 | ids)
    }

    fn write_s2cr(&mut self, n: usize, value: u32) {
        let kind = s2cr::TYPE.get(value.into());
        let value = match kind {
            s2cr_type::FAULT if self.profile.fakes_s2cr => return,
            s2cr_type::BYPASS if self.profile.fakes_s2cr => {
                s2cr::TYPE.with(value.into(), s2cr_type::FAULT) as u32
            }
            _ => value,
        };
        // NSCFG is Secure software's.
        self.groups[n].s2cr = value & !(s2cr::NSCFG.mask() as u32) & 0x3fff_ffff;
    }

    fn write_global1(&mut self, offset: usize, value: u32) {
        let count = self.banks.len() - usize::from(self.profile.kept_banks);
        if let Some(n) = nth(global1::CBAR, offset, count) {
            // An MMU-500 has each bank's interrupt wired.
            let wired = cbar::IRPTNDX.of(n as u64) as u32;
            self.banks[n].cbar = value & !(cbar::IRPTNDX.mask() as u32) | wired;
        } else if let Some(n) = nth(global1::CBA2R, offset, count) {
            let aarch64 = self.profile.granule_4k | self.profile.granule_64k;
            let narrow = if aarch64 { 0 } else { cba2r::VA64.mask() as u32 };
            self.banks[n].cba2r = value & !narrow & !(cba2r::MONC.mask() as u32);
        } else if let Some(n) = nth(global1::CBFRSYNRA, offset, count) {
            self.banks[n].fault.stream = value & 0xffff;
        }
    }

    fn write_bank(&mut self, index: usize, offset: usize, value: u32) -> Effect {
        let vmid = self.vmid(&self.banks[index]);
        let bank = &mut self.banks[index];
        let issuer = Some(index as u8);
        if offset == bank::TLBSYNC.offset {
            return Effect::Sync(issuer);
        }
        match bank.maintenance(offset, value, vmid) {
            Some(scope) => Effect::Forget(issuer, scope),
            None => {
                bank.write(offset, value);
                Effect::None
            }
        }
    }
}

impl Bank {
    fn read(&self, offset: usize) -> u32 {
        match offset {
            at if at == bank::SCTLR.offset => self.sctlr,
            at if at == bank::TCR2.offset => self.tcr2,
            at if at == bank::TCR.offset => self.tcr,
            at if at == bank::TTBR0.offset => self.ttbr[0] as u32,
            at if at == bank::TTBR0.offset + 4 => (self.ttbr[0] >> 32) as u32,
            at if at == bank::TTBR1.offset => self.ttbr[1] as u32,
            at if at == bank::TTBR1.offset + 4 => (self.ttbr[1] >> 32) as u32,
            at => match stored(at) {
                Some(n) => self.stored[n],
                None => self.fault.read(at).unwrap_or(0),
            },
        }
    }

    fn write(&mut self, offset: usize, value: u32) {
        match offset {
            at if at == bank::SCTLR.offset => self.sctlr = value & SCTLR_BITS,
            at if at == bank::TCR2.offset => self.tcr2 = value,
            at if at == bank::TCR.offset => self.tcr = value,
            at if at == bank::TTBR0.offset => self.ttbr[0] = low(self.ttbr[0], value),
            at if at == bank::TTBR0.offset + 4 => self.ttbr[0] = high(self.ttbr[0], value),
            at if at == bank::TTBR1.offset => self.ttbr[1] = low(self.ttbr[1], value),
            at if at == bank::TTBR1.offset + 4 => self.ttbr[1] = high(self.ttbr[1], value),
            at if at == bank::FSR.offset => self.fault.clear(value),
            at => match stored(at) {
                Some(n) => self.stored[n] = value,
                None => self.fault.write(at, value),
            },
        }
    }

    /// What a write to a maintenance register covers. The high half of one of 64 bits waits for the low half.
    fn maintenance(&mut self, offset: usize, value: u32, vmid: u16) -> Option<Scope> {
        let upper = |register: Register| offset == register.offset + 4;
        if WIDE.into_iter().any(upper) {
            self.high = value;
            return None;
        }
        let operand = u64::from(std::mem::take(&mut self.high)) << 32 | u64::from(value);
        if self.is_stage2() {
            let leaf = offset == bank::TLBIIPAS2L.offset;
            if !leaf && offset != bank::TLBIIPAS2.offset {
                return (offset == bank::TLBIALL.offset).then(|| Scope::everything().vmid(vmid));
            }
            let span = span(bank::tlbiipas2::ADDRESS.get(operand) << 12, leaf);
            return Some(Scope::of(Regime::Stage2).vmid(vmid).span(span));
        }
        let (address, asid) = if self.is_aarch64() {
            (bank::tlbiva::ADDRESS.get(operand) << 12, bank::tlbiva::ASID.get(operand))
        } else {
            // The formats of 32 bits have the address in place, and the ASID below it.
            (operand & 0xffff_f000, operand & 0xff)
        };
        let (asid, stage1) = (self.asid(asid), Scope::of(Regime::Stage1).vmid(vmid));
        match offset {
            at if at == bank::TLBIALL.offset => Some(Scope::everything().vmid(vmid)),
            at if at == bank::TLBIASID.offset => Some(stage1.asid(self.asid(value.into()))),
            at if at == bank::TLBIVA.offset => {
                Some(stage1.asid_or_global(asid).span(span(address, false)))
            }
            at if at == bank::TLBIVAL.offset => {
                Some(stage1.asid_or_global(asid).span(span(address, true)))
            }
            at if at == bank::TLBIVAA.offset => Some(stage1.span(span(address, false))),
            at if at == bank::TLBIVAAL.offset => Some(stage1.span(span(address, true))),
            _ => None,
        }
    }
}

/// Maintenance registers of 64 bits.
const WIDE: [Register; 6] =
    [bank::TLBIVA, bank::TLBIVAA, bank::TLBIVAL, bank::TLBIVAAL, bank::TLBIIPAS2, bank::TLBIIPAS2L];

fn span(address: u64, leaf: bool) -> Span {
    Span { start: address, last: address | 0xfff, granule: None, level: None, leaf }
}

/// Registers that only keep what was written.
fn stored(offset: usize) -> Option<usize> {
    [bank::ACTLR, bank::CONTEXTIDR, bank::MAIR0, bank::MAIR1]
        .iter()
        .position(|register| register.offset == offset)
}

/// The status bits of a global fault, for whoever records one.
pub(super) const UNIDENTIFIED: Field = sgfsr::USF;
pub(super) const CONFLICT: Field = sgfsr::SMCF;
pub(super) const INVALID_CONTEXT: Field = sgfsr::ICF;
pub(super) const NO_SUCH_BANK: Field = sgfsr::UCBF;
