//! `iommu-map` and `iommu-map-mask`: requester ids to streams.

use super::iommus;
use super::problem::Problem;
use super::streams::{check_id, ignored_bits, specifier_cells};
use super::tree::{Node, Tree, cells};
use crate::finding::rule;
use crate::machine::{IommuKind, IommuNode};
use crate::pci::{IommuMap, PciBus};
use alloc::format;
use alloc::vec::Vec;

/// What `iommu-map` says.
pub(super) struct Map {
    pub(super) bus: PciBus,
    /// Index of the first range that has length 0.
    pub(super) zero_length: Option<usize>,
    /// The tuples have one cell although the IOMMU asks for two, in the one form that Linux knows too.
    pub(super) one_cell: bool,
}

/// One tuple as it stands there.
struct Tuple<'i> {
    rid_base: u32,
    iommu: &'i IommuNode,
    id_base: u32,
    mask: u32,
    length: u32,
}

pub(super) fn read(
    tree: &Tree<'_>,
    iommus: &[IommuNode],
    node: Node<'_, '_>,
    value: &[u8],
) -> Result<Map, Problem> {
    let cells = cells(value).filter(|cells| !cells.is_empty()).ok_or_else(|| bad_length(value))?;
    let mask = rid_mask(node)?;
    let one_cell = is_one_cell_map(tree, iommus, &cells);
    let mut zero_length = None;
    let mut maps = Vec::new();
    let mut rest = cells.as_slice();
    let mut index = 0usize;
    while !rest.is_empty() {
        let property = format!("`iommu-map` range {index}");
        let tuple = tuple(tree, iommus, &mut rest, one_cell, &property)?;
        if tuple.length == 0 {
            zero_length.get_or_insert(index);
        } else {
            maps.push(check(&tuple, mask, &property)?);
        }
        index = index.saturating_add(1);
    }
    let bus = PciBus::new(mask, maps).map_err(|(low, high)| {
        Problem::new(
            rule::IOMMU_MAP_OVERLAP,
            format!(
                "`iommu-map` ranges {:#x}..={:#x} and {:#x}..={:#x} overlap",
                low.rid_base,
                low.rid_last(),
                high.rid_base,
                high.rid_last()
            ),
            "let one range cover each requester id",
        )
    })?;
    Ok(Map { bus, zero_length, one_cell })
}

fn bad_length(value: &[u8]) -> Problem {
    Problem::new(
        rule::IOMMU_MAP_LENGTH,
        format!("`iommu-map` has {} bytes", value.len()),
        "give it whole tuples of requester id base, IOMMU, stream id base and length",
    )
}

fn rid_mask(node: Node<'_, '_>) -> Result<u32, Problem> {
    match (node.property("iommu-map-mask"), node.cell("iommu-map-mask")) {
        (None, _) => Ok(u32::MAX),
        (Some(_), Some(mask)) => Ok(mask),
        (Some(value), None) => Err(Problem::new(
            rule::IOMMU_MAP_MASK,
            format!("`iommu-map-mask` has {} bytes", value.len()),
            "give it exactly one cell",
        )),
    }
}

/// Whether tuples of four cells are meant although the IOMMU asks for two cells per id: each of length 1, all for one IOMMU.
///
/// Qualcomm's devicetrees are written so, and Linux reads them so since it began to respect `#iommu-cells` in maps. Any other such
/// map could be read in two ways and is refused.
fn is_one_cell_map(tree: &Tree<'_>, iommus: &[IommuNode], cells: &[u32]) -> bool {
    let (tuples, rest) = cells.as_chunks::<4>();
    let Some([_, first, _, _]) = tuples.first() else { return false };
    let two_cells = iommus::resolve(tree, iommus, *first, "").is_ok_and(|it| it.cells == Some(2));
    let alike = tuples.iter().all(|[_, phandle, _, length]| phandle == first && *length == 1);
    two_cells && rest.is_empty() && alike
}

/// Takes one tuple off `rest`.
fn tuple<'i>(
    tree: &Tree<'_>,
    iommus: &'i [IommuNode],
    rest: &mut &[u32],
    one_cell: bool,
    property: &str,
) -> Result<Tuple<'i>, Problem> {
    let truncated = || {
        Problem::new(
            rule::IOMMU_MAP_LENGTH,
            format!("{property} ends before its last cell"),
            "give `iommu-map` whole tuples of requester id base, IOMMU, stream id base and length",
        )
    };
    let (rid_base, phandle) = match **rest {
        [rid_base, phandle, ..] => (rid_base, phandle),
        _ => return Err(truncated()),
    };
    let iommu = iommus::resolve(tree, iommus, phandle, property)?;
    let count = if one_cell { 1 } else { specifier_cells(iommu, property)? };
    let after = rest.get(2..).and_then(|rest| rest.split_at_checked(count));
    let wrong_cells = || {
        Problem::new(
            rule::IOMMU_MAP_CELLS,
            format!("{property} does not have the {count} id cells that {} asks for", iommu.path),
            "write each tuple with as many id cells as the IOMMU's `#iommu-cells` (1 or 2)",
        )
    };
    let (id, tail) = after.ok_or_else(|| if count == 2 { wrong_cells() } else { truncated() })?;
    let id_base = *id.first().ok_or_else(wrong_cells)?;
    let own_mask = id.get(1).copied().filter(|_| iommu.kind == IommuKind::SmmuV2);
    let (length, tail) =
        tail.split_first().ok_or_else(|| if count == 2 { wrong_cells() } else { truncated() })?;
    *rest = tail;
    let mask = own_mask.unwrap_or_else(|| ignored_bits(iommu, tree.node(iommu.node)));
    Ok(Tuple { rid_base, iommu, id_base, mask, length: *length })
}

/// The range that a tuple with a length stands for.
fn check(tuple: &Tuple<'_>, rid_mask: u32, property: &str) -> Result<IommuMap, Problem> {
    let Tuple { rid_base, iommu, id_base, mask, length } = *tuple;
    if rid_base & !rid_mask != 0 {
        return Err(Problem::new(
            rule::IOMMU_MAP_MASK,
            format!(
                "{property} begins at {rid_base:#x}, which `iommu-map-mask` {rid_mask:#x} cuts"
            ),
            "begin the range at an id that the mask leaves as it is",
        ));
    }
    let beyond = length.saturating_sub(1);
    let last = |base: u32, what: &str| {
        base.checked_add(beyond).ok_or_else(|| {
            Problem::new(
                rule::IOMMU_MAP_WRAPS,
                format!("{property} of {length:#x} {what}s from {base:#x} ends beyond 32 bits"),
                "shorten the range",
            )
        })
    };
    last(rid_base, "requester id")?;
    check_id(iommu, last(id_base, "stream id")?, mask, property)?;
    let iommu_enabled = iommu.enabled;
    Ok(IommuMap { rid_base, iommu: iommu.node, id_base, length, mask, iommu_enabled })
}
