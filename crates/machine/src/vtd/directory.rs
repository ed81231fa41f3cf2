//! From a source id to what its requests may do: root, context and PASID entries (3.4, chapter 9).

use super::VtdProfile;
use super::caches::{Entry, Fill};
use super::faults::Refusal;
use super::translate::Transit;
use super::walk::PageTable;
use portcullis_spec::vtd::fault::reason;
use portcullis_spec::vtd::tables::{
    context, pasid, pasid_directory, pgtt, root, scalable_context, tt,
};
use portcullis_spec::{Field, Layout};

/// What the entries of a device say.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way {
    /// `None` for pass-through.
    pub(super) table: Option<PageTable>,
    pub(super) domain: u16,
    /// Of scalable mode.
    pub(super) pasid: Option<u32>,
    /// Whether page walks snoop.
    pub(super) snoops: bool,
    /// `FPD`: faults from here on are not recorded.
    pub(super) quiet: bool,
}

impl Transit<'_> {
    /// Legacy mode: root entry, context entry.
    pub(super) fn legacy_way(&mut self) -> Result<Way, Refusal> {
        let source = self.source()?;
        let root = self.root(source, root::P, reason::ROOT_ACCESS)?;
        if root::P.read(&root) == 0 {
            return Err(Refusal::new(reason::ROOT_NOT_PRESENT));
        }
        if root[1] != 0 || reserved(&root::LAYOUT, &root) {
            return Err(Refusal::new(reason::ROOT_RESERVED));
        }
        let at = (root::CTP.read(&root) << 12) + u64::from(source & 0xff) * context::BYTES as u64;
        let entry = self.context(source, at, context::WORDS, reason::CONTEXT_ACCESS, |entry| {
            context::DID.read(entry) as u16
        })?;
        if context::P.read(&entry) == 0 {
            let quiet = context::FPD.read(&entry) == 1;
            return Err(Refusal { quiet, ..Refusal::new(reason::CONTEXT_NOT_PRESENT) });
        }
        let quiet = context::FPD.read(&entry) == 1;
        self.legacy_context(&entry, quiet).map_err(|refusal| Refusal { quiet, ..refusal })
    }

    fn legacy_context(&self, entry: &[u64; 8], quiet: bool) -> Result<Way, Refusal> {
        let profile = &self.unit.profile;
        // Bits 70:67 are ignored.
        if reserved(&context::LAYOUT, &[entry[0], entry[1] & !0x78]) {
            return Err(Refusal::new(reason::CONTEXT_RESERVED));
        }
        let aw = context::AW.read(entry);
        let levels = depth(profile, aw).ok_or(Refusal::new(reason::CONTEXT_INVALID))?;
        let domain = context::DID.read(entry) as u16;
        let root = context::SSPTPTR.read(entry) << 12;
        let table = PageTable { root, levels, first: false };
        let table = match context::TT.read(entry) {
            tt::UNTRANSLATED => Some(table),
            tt::PASS_THROUGH if profile.pass_through => None,
            _ => return Err(Refusal::new(reason::CONTEXT_INVALID)),
        };
        let foreign = u32::from(domain) >> profile.domain_bits != 0;
        if foreign || profile.caching_mode && domain == 0 {
            return Err(Refusal::new(reason::CONTEXT_INVALID));
        }
        Ok(Way { table, domain, pasid: None, snoops: profile.coherent, quiet })
    }

    /// Scalable mode: root entry, context entry, PASID directory entry, PASID table entry.
    pub(super) fn scalable_way(&mut self) -> Result<Way, Refusal> {
        let source = self.source()?;
        let upper = source & 0x80 != 0;
        let (present, pointer) = if upper { (root::UP, root::UCTP) } else { (root::P, root::CTP) };
        let root = self.root(source, present, reason::SM_ROOT_ACCESS)?;
        if present.read(&root) == 0 {
            return Err(Refusal::new(reason::SM_ROOT_NOT_PRESENT));
        }
        if reserved(&root::LAYOUT, &root) {
            return Err(Refusal::new(reason::SM_ROOT_RESERVED));
        }
        let at =
            (pointer.read(&root) << 12) + u64::from(source & 0x7f) * scalable_context::BYTES as u64;
        let words = scalable_context::WORDS;
        let entry = self.context(source, at, words, reason::SM_CONTEXT_ACCESS, |_| 0)?;
        let quiet = scalable_context::FPD.read(&entry) == 1;
        let hushed = |refusal: Refusal| Refusal { quiet: quiet || refusal.quiet, ..refusal };
        if scalable_context::P.read(&entry) == 0 {
            return Err(hushed(Refusal::new(reason::SM_CONTEXT_NOT_PRESENT)));
        }
        self.behind_context(source, &entry)
            .map_err(hushed)
            .map(|way| Way { quiet: quiet || way.quiet, ..way })
    }

    fn behind_context(&mut self, source: u16, entry: &[u64; 8]) -> Result<Way, Refusal> {
        let foreign = [
            scalable_context::DTE,
            scalable_context::PRE,
            scalable_context::PASIDE,
            scalable_context::RID_PRIV,
        ];
        if reserved(&scalable_context::LAYOUT, &entry[..scalable_context::WORDS]) {
            return Err(Refusal::new(reason::SM_CONTEXT_RESERVED));
        }
        if foreign.iter().any(|field| field.read(entry) != 0) {
            return Err(Refusal::new(reason::SM_CONTEXT_INVALID));
        }
        if self.subject.pasid.is_some() {
            return Err(Refusal::new(reason::PASIDE_CLEAR));
        }
        let pasid = scalable_context::RID_PASID.read(entry) as u32;
        if pasid >> (13 + scalable_context::PDTS.read(entry)) != 0 {
            return Err(Refusal::new(reason::RID_PASID_INVALID));
        }
        let directory = scalable_context::PASIDDIRPTR.read(entry) << 12;
        let word = self.directory(source, directory, pasid)?;
        let table = pasid_directory::SMPTBLPTR.get(word) << 12;
        let quiet = pasid_directory::FPD.is_set(word);
        let hushed = |refusal: Refusal| Refusal { quiet: quiet || refusal.quiet, ..refusal };
        let found = self.pasid(source, table, pasid).map_err(hushed)?;
        Ok(Way { quiet: quiet || found.quiet, ..found })
    }

    fn directory(&mut self, source: u16, table: u64, pasid: u32) -> Result<u64, Refusal> {
        let index = pasid >> 6;
        let word = match self.cached(|caches| caches.directory(source, index)) {
            Some(word) => word,
            None => {
                let failed = |_| Refusal::new(reason::DIRECTORY_ACCESS);
                let word =
                    self.word(table + 8 * u64::from(index), "PASID directory").map_err(failed)?;
                if pasid_directory::P.is_set(word) || self.unit.profile.caching_mode {
                    self.fills.push(Fill::Directory { source, index, word });
                }
                word
            }
        };
        if !pasid_directory::P.is_set(word) {
            let quiet = pasid_directory::FPD.is_set(word);
            return Err(Refusal { quiet, ..Refusal::new(reason::DIRECTORY_NOT_PRESENT) });
        }
        if reserved(&pasid_directory::LAYOUT, &[word]) {
            return Err(Refusal::new(reason::DIRECTORY_RESERVED));
        }
        Ok(word)
    }

    fn pasid(&mut self, source: u16, table: u64, number: u32) -> Result<Way, Refusal> {
        let entry = match self.cached(|caches| caches.pasid(source, number)) {
            Some(entry) => entry,
            None => {
                let at = table + u64::from(number & 0x3f) * pasid::BYTES as u64;
                let failed = |_| Refusal::new(reason::PASID_ACCESS);
                let entry = self.entry("PASID entry", at, pasid::WORDS).map_err(failed)?;
                let present = pasid::P.read(&entry) == 1;
                if present || self.unit.profile.caching_mode {
                    let domain = if present { pasid::DID.read(&entry) as u16 } else { 0 };
                    let entry = Entry { words: entry, domain };
                    self.fills.push(Fill::Pasid { source, pasid: number, entry });
                }
                entry
            }
        };
        let quiet = pasid::FPD.read(&entry) == 1;
        let refused = |reason| Refusal { quiet, ..Refusal::new(reason) };
        if pasid::P.read(&entry) == 0 {
            return Err(refused(reason::PASID_NOT_PRESENT));
        }
        if reserved(&pasid::LAYOUT, &entry) {
            return Err(refused(reason::PASID_RESERVED));
        }
        self.behind_pasid(&entry, number).ok_or(refused(reason::PASID_INVALID))
    }

    /// What a PASID entry leads to; `None` for one that this unit cannot have.
    fn behind_pasid(&self, entry: &[u64; 8], number: u32) -> Option<Way> {
        let profile = &self.unit.profile;
        let foreign = [pasid::SSADE, pasid::SRE, pasid::WPE, pasid::EAFE];
        let walk = pasid::PWSNP.read(entry) == 1;
        let snoop = pasid::PGSNP.read(entry) == 1;
        if foreign.iter().any(|field| field.read(entry) != 0)
            || walk && !profile.scalable_coherent
            || snoop && !profile.snoop_control
        {
            return None;
        }
        let table = match pasid::PGTT.read(entry) {
            pgtt::FIRST => {
                let levels = 4 + pasid::FSPM.read(entry) as u32;
                let deepest = if profile.first_stage? { 5 } else { 4 };
                let root = pasid::FSPTPTR.read(entry) << 12;
                (levels <= deepest).then_some(Some(PageTable { root, levels, first: true }))?
            }
            pgtt::SECOND if profile.second_stage => {
                let levels = depth(profile, pasid::AW.read(entry))?;
                let root = pasid::SSPTPTR.read(entry) << 12;
                Some(PageTable { root, levels, first: false })
            }
            pgtt::PASS_THROUGH if profile.pass_through => None,
            _ => return None,
        };
        let domain = pasid::DID.read(entry) as u16;
        let known = u32::from(domain) >> profile.domain_bits == 0;
        let quiet = pasid::FPD.read(entry) == 1;
        let named = known && !(profile.caching_mode && domain == 0);
        named.then_some(Way { table, domain, pasid: Some(number), snoops: walk, quiet })
    }

    /// The 16 bits of a source id.
    fn source(&self) -> Result<u16, Refusal> {
        u16::try_from(self.subject.source).map_err(|_| Refusal::QUIET)
    }

    /// The root entry of the source's bus, cached or fetched; `present` is the bit of the half that counts.
    fn root(&mut self, source: u16, present: Field, failure: u64) -> Result<[u64; 2], Refusal> {
        let key = ((source >> 8) as u8, present.word() == 1);
        if let Some(words) = self.cached(|caches| caches.root(key)) {
            return Ok(words);
        }
        let at = self.control.root + u64::from(key.0) * root::BYTES as u64;
        let entry = self.entry("root entry", at, root::WORDS).map_err(|_| Refusal::new(failure))?;
        let words = [entry[0], entry[1]];
        if present.read(&words) == 1 || self.unit.profile.caching_mode {
            self.fills.push(Fill::Root { key, words });
        }
        Ok(words)
    }

    /// The context entry at `at`, cached or fetched; `domain` says with which domain a present one is tagged.
    fn context(
        &mut self,
        source: u16,
        at: u64,
        words: usize,
        failure: u64,
        domain: impl Fn(&[u64; 8]) -> u16,
    ) -> Result<[u64; 8], Refusal> {
        if let Some(words) = self.cached(|caches| caches.context(source)) {
            return Ok(words);
        }
        let entry = self.entry("context entry", at, words).map_err(|_| Refusal::new(failure))?;
        let present = entry[0] & 1 == 1;
        if present || self.unit.profile.caching_mode {
            let domain = if present { domain(&entry) } else { 0 };
            self.fills.push(Fill::Context { source, entry: Entry { words: entry, domain } });
        }
        Ok(entry)
    }
}

/// Levels of the second stage that `aw` stands for, if the unit has it.
fn depth(profile: &VtdProfile, aw: u64) -> Option<u32> {
    let there = |index: usize| profile.widths.get(index).copied().unwrap_or(false);
    let index = usize::try_from(aw).ok()?.checked_sub(1)?;
    there(index).then_some(index as u32 + 3)
}

/// Whether a bit is set that no field of the structure has.
fn reserved(layout: &Layout, words: &[u64]) -> bool {
    let known = |word: usize| {
        let fields = layout.fields.iter().filter(|field: &&Field| field.word() == word);
        fields.fold(0, |bits, field| bits | field.mask())
    };
    (0..layout.words.min(words.len())).any(|word| words[word] & !known(word) != 0)
}
