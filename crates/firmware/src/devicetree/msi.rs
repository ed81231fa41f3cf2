//! Where message-signalled interrupts are written to: `msi-map` and `msi-parent`.

use super::address::Addresses;
use super::iommus::bad_phandle;
use super::tree::{Node, Tree, cells};
use crate::machine::MsiMap;
use crate::problem::Problem;
use crate::rules::rule;
use alloc::format;
use alloc::vec::Vec;
use portcullis_addr::PhysAddr;

/// The register that a device writes to, as an offset in the controller's first register window: `GITS_TRANSLATER` (Arm IHI 0069, GITS translation frame), `MSI_SETSPI_NS` of a GICv2m frame
/// (Arm Server Base System Architecture, appendix on GICv2m), `seteipnum_le` of the first hart's interrupt file (The RISC-V Advanced Interrupt Architecture 1.0, 3.5; the binding
/// `interrupt-controller/riscv,imsics.yaml` says how the other harts' files follow).
const DOORBELLS: [(&str, u64); 3] =
    [("arm,gic-v3-its", 0x1_0040), ("arm,gic-v2m-frame", 0x40), ("riscv,imsics", 0)];

/// More entries than this in one property are refused. The largest count in the Linux kernel's devicetrees is below 100.
const MOST_MAPS: usize = 4096;

/// What `msi-map`, or `msi-parent` where there is no map, says of `node`.
pub(super) fn read<'t, 'a>(
    tree: &'t Tree<'a>,
    addresses: &Addresses<'t, 'a>,
    node: Node<'t, 'a>,
) -> Result<Vec<MsiMap>, Problem> {
    match (node.property("msi-map"), node.property("msi-parent")) {
        (Some(value), _) => read_map(tree, addresses, value),
        (None, Some(value)) => read_parent(tree, addresses, value),
        (None, None) => Ok(Vec::new()),
    }
}

fn bad_length(property: &str) -> Problem {
    Problem::new(
        rule::MSI_MAP,
        format!("{property} is not a whole number of entries"),
        "give each entry as many id cells as the controller's `#msi-cells`",
    )
}

fn controller<'t, 'a>(
    tree: &'t Tree<'a>,
    phandle: u32,
    property: &str,
) -> Result<Node<'t, 'a>, Problem> {
    tree.by_phandle(phandle).map_err(|error| {
        let problem = bad_phandle(error, phandle, property);
        Problem::new(rule::MSI_MAP, problem.what, "name an existing interrupt controller")
    })
}

/// `#msi-cells`; a controller without it takes none in `msi-parent` and, as Linux had it for years, one in `msi-map`.
fn id_cells(controller: Node<'_, '_>, default: usize) -> usize {
    controller.cell("#msi-cells").map_or(default, |cells| cells.min(4) as usize)
}

fn read_map<'t, 'a>(
    tree: &'t Tree<'a>,
    addresses: &Addresses<'t, 'a>,
    value: &[u8],
) -> Result<Vec<MsiMap>, Problem> {
    let property = "`msi-map`";
    let cells = cells(value).ok_or_else(|| bad_length(property))?;
    let mut rest = cells.as_slice();
    let mut maps = Vec::new();
    while let Some((&[rid_base, phandle], after)) = rest.split_first_chunk::<2>() {
        let controller = controller(tree, phandle, property)?;
        let count = id_cells(controller, 1);
        let (id, after) = after.split_at_checked(count).ok_or_else(|| bad_length(property))?;
        let (length, after) = after.split_first().ok_or_else(|| bad_length(property))?;
        rest = after;
        if *length > 0 {
            let range = Some((rid_base, id.first().copied().unwrap_or(0), *length));
            maps.push(msi(addresses, controller, range));
        }
        check_count(&maps)?;
    }
    if rest.is_empty() { Ok(maps) } else { Err(bad_length(property)) }
}

fn read_parent<'t, 'a>(
    tree: &'t Tree<'a>,
    addresses: &Addresses<'t, 'a>,
    value: &[u8],
) -> Result<Vec<MsiMap>, Problem> {
    let property = "`msi-parent`";
    let cells = cells(value).ok_or_else(|| bad_length(property))?;
    let mut rest = cells.as_slice();
    let mut maps = Vec::new();
    while let Some((phandle, after)) = rest.split_first() {
        let controller = controller(tree, *phandle, property)?;
        rest = after.get(id_cells(controller, 0)..).ok_or_else(|| bad_length(property))?;
        maps.push(msi(addresses, controller, None));
        check_count(&maps)?;
    }
    Ok(maps)
}

fn check_count(maps: &[MsiMap]) -> Result<(), Problem> {
    let few = maps.len() <= MOST_MAPS;
    few.then_some(()).ok_or_else(|| {
        let what = format!("more than {MOST_MAPS} interrupt controllers or ranges are named");
        Problem::new(rule::MSI_MAP, what, "name fewer")
    })
}

fn msi<'t, 'a>(
    addresses: &Addresses<'t, 'a>,
    controller: Node<'t, 'a>,
    range: Option<(u32, u32, u32)>,
) -> MsiMap {
    let offset = controller
        .strings("compatible")
        .find_map(|name| DOORBELLS.iter().find(|(known, _)| *known == name).map(|(_, at)| *at));
    let window = offset.and_then(|_| addresses.register_windows(controller).into_iter().next());
    let doorbell = window.zip(offset).and_then(|(window, at)| window.start().raw().checked_add(at));
    MsiMap { controller: controller.path(), doorbell: doorbell.map(PhysAddr::new), range }
}
