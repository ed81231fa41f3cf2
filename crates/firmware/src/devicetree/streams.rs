//! `iommus`: the streams of a device that is not behind a bus with a map.

use super::iommus::{self, SMMUV2_LAST_ID};
use super::tree::{Node, Tree, cells};
use crate::machine::{IommuKind, IommuNode};
use crate::problem::Problem;
use crate::rules::rule;
use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;
use portcullis::{FwNode, FwStream};
use portcullis_addr::StreamId;

/// More ids than this in one `iommus` are refused. The largest count in the Linux kernel's devicetrees is below 100.
const MOST_STREAMS: usize = 4096;
/// More IOMMUs than this in one `iommus` are refused. The largest count in the Linux kernel's devicetrees is 2.
const MOST_IOMMUS: usize = 64;

/// What `iommus` says, as far as it could be read.
#[derive(Default)]
pub(super) struct Streams {
    /// In order, without duplicates.
    pub(super) streams: Vec<FwStream>,
    /// The distinct IOMMUs, in order of first mention.
    pub(super) iommus: Vec<FwNode>,
    /// The first stream that is named again, perhaps with other bits where its mask ignores them.
    pub(super) duplicate: Option<FwStream>,
    /// Why the device cannot be used; `streams` is what stands before the mistake.
    pub(super) problem: Option<Problem>,
}

pub(super) fn read(tree: &Tree<'_>, iommus: &[IommuNode], value: &[u8]) -> Streams {
    let mut streams = Streams::default();
    streams.problem = read_into(&mut streams, tree, iommus, value).err();
    streams
}

fn read_into(
    into: &mut Streams,
    tree: &Tree<'_>,
    iommus: &[IommuNode],
    value: &[u8],
) -> Result<(), Problem> {
    let cells = cells(value).filter(|cells| !cells.is_empty()).ok_or_else(|| {
        Problem::new(
            rule::IOMMUS_LENGTH,
            format!("`iommus` has {} bytes", value.len()),
            "give it at least one phandle, in whole cells, or remove it",
        )
    })?;
    // As written, and without the bits that a mask ignores.
    let (mut seen, mut sets) = (BTreeSet::new(), BTreeSet::new());
    let mut rest = cells.as_slice();
    let mut index = 0usize;
    while let Some((phandle, specifier)) = rest.split_first() {
        let property = format!("`iommus` entry {index}");
        let iommu = iommus::resolve(tree, iommus, *phandle, &property)?;
        let count = specifier_cells(iommu, &property)?;
        let (own, after) = specifier.split_at_checked(count).ok_or_else(|| {
            Problem::new(
                rule::SPECIFIER_TRUNCATED,
                format!("{property} ends after {} of {count} cells", specifier.len()),
                format!("give it what `#iommu-cells` of {} asks for", iommu.path),
            )
        })?;
        let node = tree.node(iommu.node);
        let stream = stream(iommu, node, own, &property)?;
        rest = after;
        index = index.saturating_add(1);
        if !sets.insert(FwStream { id: StreamId::new(stream.id.raw() & !stream.mask), ..stream }) {
            into.duplicate.get_or_insert(stream);
        }
        if !seen.insert(stream) {
            continue;
        }
        into.streams.push(stream);
        if !into.iommus.contains(&stream.iommu) {
            into.iommus.push(stream.iommu);
        }
        if into.streams.len() > MOST_STREAMS || into.iommus.len() > MOST_IOMMUS {
            return Err(Problem::new(
                rule::TOO_MANY_STREAMS,
                format!("`iommus` names more than {MOST_STREAMS} ids or {MOST_IOMMUS} IOMMUs"),
                "split the device",
            ));
        }
    }
    Ok(())
}

/// How many cells follow a phandle of `iommu`.
pub(super) fn specifier_cells(iommu: &IommuNode, property: &str) -> Result<usize, Problem> {
    match iommu.cells {
        Some(cells @ 0..=2) => Ok(cells as usize),
        Some(cells) => Err(Problem::new(
            rule::IOMMU_CELLS_UNSUPPORTED,
            format!("{property} names {}, whose `#iommu-cells` is {cells}", iommu.path),
            "0 to 2 cells are supported",
        )),
        None => Err(Problem::new(
            rule::IOMMU_CELLS_MISSING,
            format!("{property} names {}, which has no `#iommu-cells`", iommu.path),
            "give that node its `#iommu-cells`",
        )),
    }
}

/// Bits of a stream id that `iommu` ignores for all its clients.
pub(super) fn ignored_bits(iommu: &IommuNode, node: Option<Node<'_, '_>>) -> u32 {
    let mask = node.filter(|_| iommu.kind == IommuKind::SmmuV2);
    mask.and_then(|node| node.cell("stream-match-mask")).unwrap_or(0)
}

/// The stream that the cells `specifier` (at most two) stand for.
fn stream(
    iommu: &IommuNode,
    node: Option<Node<'_, '_>>,
    specifier: &[u32],
    property: &str,
) -> Result<FwStream, Problem> {
    let id = specifier.first().copied().unwrap_or(0);
    let mask = match (iommu.kind, specifier.get(1)) {
        (IommuKind::SmmuV2, Some(mask)) => *mask,
        // What a second cell means is for that IOMMU's driver to know, and there is none.
        (_, _) => ignored_bits(iommu, node),
    };
    check_id(iommu, id, mask, property)?;
    Ok(FwStream { iommu: iommu.node, id: StreamId::new(id), mask })
}

/// Refuses what this kind of IOMMU cannot receive. An SMMUv3's range is known only to its registers: its driver checks.
pub(super) fn check_id(
    iommu: &IommuNode,
    id: u32,
    mask: u32,
    property: &str,
) -> Result<(), Problem> {
    let too_wide = iommu.kind == IommuKind::SmmuV2 && (id | mask) > SMMUV2_LAST_ID;
    if !too_wide {
        return Ok(());
    }
    Err(Problem::new(
        rule::STREAM_ID_RANGE,
        format!("{property} has stream id {id:#x} with mask {mask:#x}"),
        format!("{} receives ids up to {SMMUV2_LAST_ID:#x}", iommu.path),
    ))
}
