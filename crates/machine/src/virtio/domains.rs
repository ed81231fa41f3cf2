//! Domains and endpoints: what requests change and transactions look at (5.13.6).

use super::profile::VirtioProfile;
use crate::access::AccessKind;
use portcullis_spec::virtio::iommu::{fault, feature, map, property, request, status};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
struct Mapping {
    last: u64,
    phys: u64,
    flags: u32,
}

#[derive(Clone, Debug, Default)]
struct Domain {
    bypass: bool,
    endpoints: Vec<u32>,
    mappings: BTreeMap<u64, Mapping>,
}

/// All domains. One without an endpoint is gone, with its mappings.
#[derive(Debug, Default)]
pub(super) struct Domains {
    domains: BTreeMap<u32, Domain>,
    endpoints: BTreeMap<u32, u32>,
}

/// A little-endian number in a request; 0 beyond its end.
fn number<const N: usize>(bytes: &[u8], at: usize) -> u64 {
    let field = bytes.get(at..at + N).unwrap_or(&[]);
    field.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Where an access of an endpoint goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Attached to nothing.
    Unattached,
    /// To the same address.
    Bypass,
    /// To this address, by this domain.
    Mapped(u64, u32),
    /// Nowhere, for this reason.
    Refused(u8),
}

impl Domains {
    /// Where `len` bytes at `address`, which do not cross a page, go.
    pub(super) fn way(&self, endpoint: u32, address: u64, len: u32, kind: AccessKind) -> Way {
        let Some(id) = self.endpoints.get(&endpoint) else { return Way::Unattached };
        let Some(domain) = self.domains.get(id) else { return Way::Unattached };
        if domain.bypass {
            return Way::Bypass;
        }
        let last = address.saturating_add(u64::from(len) - 1);
        let found = domain.mappings.range(..=address).next_back();
        let needed = if kind == AccessKind::Read { map::READ } else { map::WRITE };
        match found.filter(|(_, it)| it.last >= last && it.flags & needed != 0) {
            Some((first, it)) => Way::Mapped(it.phys + (address - first), *id),
            None => Way::Refused(fault::MAPPING),
        }
    }

    /// Attaches an endpoint as if firmware had.
    pub(super) fn leave_attached(&mut self, endpoint: u32, domain: u32) {
        let firmware = self.domains.entry(domain).or_default();
        firmware.bypass = true;
        firmware.endpoints.push(endpoint);
        self.endpoints.insert(endpoint, domain);
    }

    /// How many endpoints are attached, and how many mappings there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.endpoints.len(), self.domains.values().map(|it| it.mappings.len()).sum())
    }

    /// Carries a request out; its status, and for a PROBE the properties.
    pub(super) fn execute(
        &mut self,
        profile: &VirtioProfile,
        accepted: u64,
        bytes: &[u8],
    ) -> (u8, Option<Vec<u8>>) {
        let code = match (bytes.first(), bytes.len()) {
            (Some(&request::ATTACH), request::ATTACH_BYTES) => {
                self.attach(profile, accepted, bytes)
            }
            (Some(&request::DETACH), request::DETACH_BYTES) => self.detach(profile, bytes),
            (Some(&request::MAP), request::MAP_BYTES) => self.map(profile, accepted, bytes),
            (Some(&request::UNMAP), request::UNMAP_BYTES) => self.unmap(bytes),
            (Some(&request::PROBE), request::PROBE_BYTES) if accepted & feature::PROBE != 0 => {
                return probe(profile, number::<4>(bytes, 4) as u32);
            }
            _ => status::UNSUPP,
        };
        (code, None)
    }

    fn attach(&mut self, profile: &VirtioProfile, accepted: u64, bytes: &[u8]) -> u8 {
        let (id, endpoint) = (number::<4>(bytes, 4) as u32, number::<4>(bytes, 8) as u32);
        let flags = number::<4>(bytes, 12) as u32;
        let bypass = flags & request::ATTACH_BYPASS != 0;
        let may_bypass = accepted & feature::BYPASS_CONFIG != 0;
        if profile.absent.contains(&endpoint) {
            return status::NOENT;
        }
        let in_range = (profile.domains.0..=profile.domains.1).contains(&id);
        let clash = self.domains.get(&id).is_some_and(|domain| domain.bypass != bypass);
        let known = flags & !request::ATTACH_BYPASS == 0 && number::<4>(bytes, 16) == 0;
        if !in_range || clash || !known || bypass && !may_bypass {
            return status::INVAL;
        }
        if self.endpoints.get(&endpoint) == Some(&id) {
            return status::OK;
        }
        self.leave(endpoint);
        let domain = self.domains.entry(id).or_default();
        domain.bypass = bypass;
        domain.endpoints.push(endpoint);
        self.endpoints.insert(endpoint, id);
        status::OK
    }

    fn leave(&mut self, endpoint: u32) {
        let Some(id) = self.endpoints.remove(&endpoint) else { return };
        if let Some(domain) = self.domains.get_mut(&id) {
            domain.endpoints.retain(|it| *it != endpoint);
            if domain.endpoints.is_empty() {
                self.domains.remove(&id);
            }
        }
    }

    fn detach(&mut self, profile: &VirtioProfile, bytes: &[u8]) -> u8 {
        let (id, endpoint) = (number::<4>(bytes, 4) as u32, number::<4>(bytes, 8) as u32);
        if profile.absent.contains(&endpoint) {
            return status::NOENT;
        }
        if number::<8>(bytes, 12) != 0 || self.endpoints.get(&endpoint) != Some(&id) {
            return status::INVAL;
        }
        self.leave(endpoint);
        status::OK
    }

    fn map(&mut self, profile: &VirtioProfile, accepted: u64, bytes: &[u8]) -> u8 {
        let (first, last) = (number::<8>(bytes, 8), number::<8>(bytes, 16));
        let (phys, flags) = (number::<8>(bytes, 24), number::<4>(bytes, 32) as u32);
        let Some(domain) = self.domains.get_mut(&(number::<4>(bytes, 4) as u32)) else {
            return status::NOENT;
        };
        let mmio = if accepted & feature::MMIO != 0 { map::MMIO } else { 0 };
        if domain.bypass || flags & !(map::READ | map::WRITE | mmio) != 0 {
            return status::INVAL;
        }
        let granule = (1u64 << profile.page_sizes.trailing_zeros()) - 1;
        let aligned = (first | last.wrapping_add(1) | phys) & granule == 0;
        let inside = first >= profile.input.0 && last <= profile.input.1 && first < last;
        if !aligned || !inside {
            return status::RANGE;
        }
        let before = domain.mappings.range(..=last).next_back();
        let mut kept = profile.reserved.iter();
        if before.is_some_and(|(_, it)| it.last >= first)
            || kept.any(|(_, from, to)| *from <= last && first <= *to)
        {
            return status::INVAL;
        }
        if domain.mappings.len() >= profile.most_mappings {
            return status::NOMEM;
        }
        domain.mappings.insert(first, Mapping { last, phys, flags });
        status::OK
    }

    fn unmap(&mut self, bytes: &[u8]) -> u8 {
        let (first, last) = (number::<8>(bytes, 8), number::<8>(bytes, 16));
        let Some(domain) = self.domains.get_mut(&(number::<4>(bytes, 4) as u32)) else {
            return status::NOENT;
        };
        if domain.bypass || first > last {
            return status::INVAL;
        }
        let cut = |(start, it): (&u64, &Mapping)| {
            it.last >= first && *start <= last && (*start < first || it.last > last)
        };
        if domain.mappings.iter().any(cut) {
            // Nothing of it is removed then.
            return status::RANGE;
        }
        domain.mappings.retain(|start, _| !(first..=last).contains(start));
        status::OK
    }
}

fn probe(profile: &VirtioProfile, endpoint: u32) -> (u8, Option<Vec<u8>>) {
    if profile.absent.contains(&endpoint) {
        return (status::NOENT, None);
    }
    let mut bytes = Vec::new();
    for (subtype, first, last) in &profile.reserved {
        bytes.extend(property::RESERVED_MEMORY.to_le_bytes());
        bytes.extend(property::RESERVED_MEMORY_BYTES.to_le_bytes());
        bytes.extend([*subtype, 0, 0, 0]);
        bytes.extend(first.to_le_bytes());
        bytes.extend(last.to_le_bytes());
    }
    bytes.resize(profile.probe_bytes as usize, 0);
    (status::OK, Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(kind: u8, numbers: &[(u64, usize)], len: usize) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        for (value, size) in numbers {
            bytes.extend(&value.to_le_bytes()[..*size]);
        }
        bytes.resize(len, 0);
        bytes
    }

    fn attach(domain: u64, endpoint: u64) -> Vec<u8> {
        request(1, &[(domain, 4), (endpoint, 4)], 20)
    }

    fn map(domain: u64, first: u64, last: u64) -> Vec<u8> {
        request(3, &[(domain, 4), (first, 8), (last, 8), (0x8000_0000, 8), (3, 4)], 36)
    }

    fn unmap(domain: u64, first: u64, last: u64) -> Vec<u8> {
        request(4, &[(domain, 4), (first, 8), (last, 8)], 28)
    }

    /// The examples of 5.13.6.6, in its order: what is unmapped, and what is left.
    #[test]
    fn unmapping_is_as_the_documents_examples_say() {
        let page = |n: u64| n * 0x1000;
        let range = |first: u64, last: u64| (page(first), page(last + 1) - 1);
        // What is mapped before, what is unmapped, the status, mappings left.
        type Example<'a> = (&'a [(u64, u64)], (u64, u64), u8, usize);
        let examples: &[Example<'_>] = &[
            (&[], (0, 4), status::OK, 0),
            (&[(0, 9)], (0, 9), status::OK, 0),
            (&[(0, 4), (5, 9)], (0, 9), status::OK, 0),
            (&[(0, 9)], (0, 4), status::RANGE, 1),
            (&[(0, 4), (5, 9)], (0, 4), status::OK, 1),
            (&[(0, 4)], (0, 9), status::OK, 0),
            (&[(0, 4), (10, 14)], (0, 14), status::OK, 0),
        ];
        for (number, (mapped, (first, last), answer, left)) in examples.iter().enumerate() {
            let (mut domains, profile) = (Domains::default(), VirtioProfile::qemu10());
            let mut run = |bytes: Vec<u8>| domains.execute(&profile, profile.features, &bytes).0;
            assert_eq!(run(attach(1, 2)), status::OK);
            for (first, last) in *mapped {
                let (first, last) = range(*first, *last);
                assert_eq!(run(map(1, first, last)), status::OK);
            }
            let (first, last) = range(*first, *last);
            assert_eq!(run(unmap(1, first, last)), *answer, "example {}", number + 1);
            assert_eq!(domains.counts().1, *left, "example {}", number + 1);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let profile = VirtioProfile {
            absent: vec![9],
            most_mappings: 1,
            reserved: vec![(1, 0xfee0_0000, 0xfeef_ffff)],
            ..VirtioProfile::small()
        };
        let mut domains = Domains::default();
        let mut run = |bytes: Vec<u8>| domains.execute(&profile, profile.features, &bytes).0;
        assert_eq!(run(map(1, 0, 0xfff)), status::NOENT, "no endpoint, so no domain");
        assert_eq!(run(attach(1, 9)), status::NOENT);
        assert_eq!(run(attach(5, 2)), status::INVAL, "beyond the domains");
        assert_eq!(run(attach(1, 2)), status::OK);
        assert_eq!(run(map(1, 0x800, 0x17ff)), status::RANGE, "no pages");
        assert_eq!(run(map(1, 1 << 48, (1 << 48) + 0xfff)), status::RANGE, "beyond the input");
        assert_eq!(run(map(1, 0xfee0_0000, 0xfee0_0fff)), status::INVAL, "reserved");
        assert_eq!(run(map(1, 0x1000, 0x2fff)), status::OK);
        assert_eq!(run(map(1, 0x2000, 0x3fff)), status::INVAL, "overlaps");
        assert_eq!(run(map(1, 0x8000, 0x8fff)), status::NOMEM);
        assert_eq!(run(request(2, &[(3, 4), (2, 4)], 20)), status::INVAL, "another domain");
        assert_eq!(run(request(7, &[], 20)), status::UNSUPP);
        assert_eq!(run(attach(1, 2)[..19].to_vec()), status::UNSUPP, "cut off");
        assert_eq!(domains.counts(), (1, 1));
        assert_eq!(domains.way(2, 0x1000, 8, AccessKind::Write), Way::Mapped(0x8000_0000, 1));
        assert_eq!(domains.way(2, 0x3000, 8, AccessKind::Read), Way::Refused(fault::MAPPING));
        assert_eq!(domains.way(4, 0x1000, 8, AccessKind::Read), Way::Unattached);
    }
}
