//! What can be said of a machine only when all its devices are known, whatever the description was read from.

mod overlap;
mod regions;

use crate::groups;
use crate::machine::{DescribedDevice, IommuKind, IommuNode};
use crate::problem::{Findings, Problem};
use crate::rules::rule;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use portcullis::{DmaPath, FwNode, FwStream};

/// The most stream match registers that an SMMUv2 can have (Arm IHI 0062, SMMU_SMR0 to SMMU_SMR127).
const MOST_MATCH_REGISTERS: usize = 128;

/// Checks all devices together; refuses those whose match entries cannot be programmed, and those whose group cannot have an address space.
pub(crate) fn check(
    devices: &mut [DescribedDevice],
    iommus: &[IommuNode],
    findings: &mut Findings,
) {
    overlap::settle(devices, iommus, findings);
    regions::settle(devices, findings);
    groups::note_sharing(devices, iommus, |path, rule, message| {
        findings.note(path, rule, message);
    });
    let clients = clients(devices);
    for iommu in iommus.iter().filter(|iommu| iommu.enabled && iommu.unusable.is_none()) {
        if let Some(clients) = clients.get(&iommu.node) {
            note_coherency(iommu, clients, findings);
            warn_full(iommu, clients, findings);
        }
    }
}

/// An enabled client of an IOMMU: whether it snoops, its set of devices that share streams, and its stream.
struct Client {
    coherent: bool,
    set: usize,
    stream: FwStream,
}

/// The enabled, translated clients of each IOMMU.
fn clients(devices: &[DescribedDevice]) -> BTreeMap<FwNode, alloc::vec::Vec<Client>> {
    let mut clients = BTreeMap::<_, alloc::vec::Vec<Client>>::new();
    let sets = groups::sets(devices);
    let mut next_set = devices.len();
    for (device, set) in devices.iter().zip(sets).filter(|(device, _)| device.enabled) {
        let functions = device.functions.iter().map(|function| {
            next_set = next_set.saturating_add(1);
            (&function.description, next_set)
        });
        let own = (!device.streams.is_empty()).then_some((&device.description, set));
        for (description, set) in own.into_iter().chain(functions) {
            let DmaPath::Translated(spec) = &description.dma else { continue };
            for stream in &spec.streams {
                let client = Client { coherent: description.coherent, set, stream: *stream };
                clients.entry(stream.iommu).or_default().push(client);
            }
        }
    }
    clients
}

fn note_coherency(iommu: &IommuNode, clients: &[Client], findings: &mut Findings) {
    let apart = clients.iter().filter(|client| !client.coherent).count();
    // A virtio-iommu has no tables that it could walk.
    let walks = iommu.kind != IommuKind::VirtioIommu;
    if walks && iommu.coherent && apart > 0 {
        let which = match (apart, clients.len()) {
            (1, 1) => "its one client stream does not: the client's driver".into(),
            (_, all) if apart == all => {
                format!("none of its {all} client streams does: their drivers")
            }
            (1, all) => format!("1 of its {all} client streams does not: its driver"),
            (_, all) => format!("{apart} of its {all} client streams do not: their drivers"),
        };
        let message =
            format!("its table walks snoop the CPU's caches, {which} must maintain caches");
        findings.note(&iommu.path, rule::COHERENCY, message);
    }
}

fn warn_full(iommu: &IommuNode, clients: &[Client], findings: &mut Findings) {
    if iommu.kind != IommuKind::SmmuV2 {
        return;
    }
    let entries = match_entries(clients);
    let groups: BTreeSet<_> = clients.iter().map(|client| client.set).collect();
    let what = match iommu.context_banks {
        Some(banks) if groups.len() > banks => {
            format!("{} groups of clients need a context bank each, it has {banks}", groups.len())
        }
        _ if entries > MOST_MATCH_REGISTERS => {
            format!(
                "its clients need {entries} match registers, an SMMUv2 has at most {MOST_MATCH_REGISTERS}"
            )
        }
        _ => return,
    };
    let remedy = "the last ones to come will stay blocked; let devices share streams or masks";
    findings.warn(&iommu.path, &Problem::new(rule::STREAM_TABLE_FULL, what, remedy));
}

/// How many match registers the streams of `clients` need, where neighbouring exact ids of one set of devices share one as far as a mask allows.
fn match_entries(clients: &[Client]) -> usize {
    let streams: BTreeSet<_> = clients.iter().map(|client| (client.set, client.stream)).collect();
    let mut by_set: BTreeMap<usize, BTreeSet<FwStream>> = BTreeMap::new();
    for (set, stream) in streams {
        by_set.entry(set).or_default().insert(stream);
    }
    by_set.values().map(blocks).fold(0, usize::saturating_add)
}

/// How many aligned blocks of 2^n exact ids, and entries with masks of their own, cover `streams`.
fn blocks(streams: &BTreeSet<FwStream>) -> usize {
    let masked = streams.iter().filter(|stream| stream.mask != 0);
    let masked: BTreeSet<_> =
        masked.map(|stream| (stream.mask, stream.id.raw() & !stream.mask)).collect();
    let exact = streams.iter().filter(|stream| stream.mask == 0).map(|stream| stream.id.raw());
    let mut ids: BTreeSet<u32> = exact.collect();
    let mut count = masked.len();
    let mut size = 1u32;
    // Two halves of a block become one id of the next larger size.
    while !ids.is_empty() && size != 0 {
        let whole: BTreeSet<u32> =
            ids.iter().copied().filter(|id| id & size == 0 && ids.contains(&(id | size))).collect();
        let single = ids.len().saturating_sub(whole.len().saturating_mul(2));
        count = count.saturating_add(single);
        ids = whole;
        size <<= 1;
    }
    count.saturating_add(ids.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_addr::StreamId;

    #[test]
    fn neighbouring_ids_share_a_match_register() {
        let set = |ids: &[u32], mask: u32| -> BTreeSet<FwStream> {
            ids.iter()
                .map(|id| FwStream { iommu: FwNode(0), id: StreamId::new(*id), mask })
                .collect()
        };
        assert_eq!(blocks(&set(&[], 0)), 0);
        assert_eq!(blocks(&set(&[4, 5, 6, 7], 0)), 1);
        // 1, 2-3, 4-7, 8: not aligned at either end.
        assert_eq!(blocks(&set(&[1, 2, 3, 4, 5, 6, 7, 8], 0)), 4);
        assert_eq!(blocks(&set(&[0x10, 0x20], 0x0f)), 2);
    }
}
