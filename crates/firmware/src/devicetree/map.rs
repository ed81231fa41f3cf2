//! `iommu-map` and `iommu-map-mask`: requester ids to streams.

use super::iommus;
use super::streams::{check_id, ignored_bits, specifier_cells};
use super::tree::{Node, Tree, cells};
use crate::machine::{IommuKind, IommuNode};
use crate::pci::{IommuMap, PciBus};
use crate::problem::Problem;
use crate::rules::rule;
use alloc::format;
use alloc::vec::Vec;

/// What `iommu-map` says.
pub(super) struct Map {
    pub(super) bus: PciBus,
    /// Index of the first range that has length 0.
    pub(super) zero_length: Option<usize>,
    /// Ranges that were left out, so that their requester ids stay blocked.
    pub(super) refused: Vec<Problem>,
    /// There is nothing but one range of zeros, which boot firmware is to fill in.
    pub(super) placeholder: bool,
    /// The tuples have one cell although the IOMMU asks for two, in the one form that Linux knows too.
    pub(super) one_cell: bool,
}

/// One tuple as it stands there.
struct Tuple<'i> {
    rid_base: u32,
    iommu: &'i IommuNode,
    /// As many as `#iommu-cells` says.
    id: &'i [u32],
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
    let (mut zero_length, mut zeros) = (None, false);
    let (mut maps, mut refused) = (Vec::new(), Vec::new());
    let mut rest = cells.as_slice();
    let mut index = 0usize;
    while !rest.is_empty() {
        let property = format!("`iommu-map` range {index}");
        let tuple = tuple(tree, iommus, &mut rest, one_cell, &property)?;
        if tuple.length == 0 {
            zero_length.get_or_insert(index);
            zeros = tuple.rid_base == 0 && tuple.id.iter().all(|cell| *cell == 0);
        } else if tuple.length > 1 && tuple.id.len() > 1 {
            refused.push(no_linear_range(&tuple, &property));
        } else {
            maps.push(check(&tuple, mask, &property)?);
        }
        index = index.saturating_add(1);
    }
    let placeholder = index == 1 && zeros;
    let bus = PciBus::new(mask, maps).map_err(|(low, high)| overlap(&low, &high))?;
    Ok(Map { bus, zero_length, refused, placeholder, one_cell })
}

/// Linux ccb2fd725d41 (7.2), `of_map_id`: with one output cell a linear relation to the input is assumed; with more, nobody knows which cell counts up.
fn no_linear_range(tuple: &Tuple<'_>, property: &str) -> Problem {
    Problem::new(
        rule::IOMMU_MAP_RANGE,
        format!(
            "{property} leads {:#x} requester ids from {:#x} to {}, which takes {} id cells",
            tuple.length,
            tuple.rid_base,
            tuple.iommu.path,
            tuple.id.len()
        ),
        "write one range of length 1 for each requester id; these ids stay blocked",
    )
}

fn overlap(low: &IommuMap, high: &IommuMap) -> Problem {
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
    rest: &mut &'i [u32],
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
    let Some((&[rid_base, phandle], after)) = rest.split_first_chunk::<2>() else {
        return Err(truncated());
    };
    let iommu = iommus::resolve(tree, iommus, phandle, property)?;
    let count = if one_cell { 1 } else { specifier_cells(iommu, property)? };
    let wrong_cells = || {
        let remedy = "write each tuple with as many id cells as the IOMMU's `#iommu-cells`";
        let what =
            format!("{property} does not have the {count} id cells that {} asks for", iommu.path);
        Problem::new(rule::IOMMU_MAP_CELLS, what, remedy)
    };
    let cut_off = || if count == 1 { truncated() } else { wrong_cells() };
    let (id, tail) = after.split_at_checked(count).ok_or_else(cut_off)?;
    let (length, tail) = tail.split_first().ok_or_else(cut_off)?;
    *rest = tail;
    let own_mask = id.get(1).copied().filter(|_| iommu.kind == IommuKind::SmmuV2);
    let mask = own_mask.unwrap_or_else(|| ignored_bits(iommu, tree.node(iommu.node)));
    Ok(Tuple { rid_base, iommu, id, mask, length: *length })
}

/// The range that a tuple with a length stands for.
fn check(tuple: &Tuple<'_>, rid_mask: u32, property: &str) -> Result<IommuMap, Problem> {
    let Tuple { rid_base, iommu, id, mask, length } = *tuple;
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
    let (id_base, constant) = id.first().map_or((0, true), |id| (*id, false));
    if !constant {
        check_id(iommu, last(id_base, "stream id")?, mask, property)?;
    }
    let iommu_enabled = iommu.enabled;
    Ok(IommuMap { rid_base, iommu: iommu.node, id_base, length, constant, mask, iommu_enabled })
}
