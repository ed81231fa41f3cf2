//! The IOMMUs themselves.

use super::address::Addresses;
use super::tree::{Node, PhandleError, Tree, cells};
use crate::machine::{Interrupt, IommuKind, IommuNode, Quirk};
use crate::problem::{Findings, Problem};
use crate::rules::rule;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use portcullis::FwNode;

/// Both register pages of an SMMUv3 (IHI 0070, section 6.1).
const SMMUV3_REGISTERS: u64 = 0x2_0000;

/// Compatibles of the SMMUv1/v2 family (bindings `iommu/arm,smmu.yaml` and `iommu/qcom,iommu.yaml`; the latter's is another kind).
const SMMUV2: &[&str] = &[
    "arm,smmu-v1",
    "arm,smmu-v2",
    "arm,mmu-400",
    "arm,mmu-401",
    "arm,mmu-500",
    "cavium,smmu-v2",
    "marvell,ap806-smmu-500",
    "nvidia,smmu-500",
    "qcom,adreno-smmu",
    "qcom,smmu-500",
    "qcom,smmu-v2",
];

/// Compatibles of the RISC-V IOMMU (binding `iommu/riscv,iommu.yaml`): a platform device, and a PCI function, whose registers are in its BAR 0 and not in the tree.
const RISCV: &[&str] = &["riscv,iommu", "riscv,pci-iommu"];

/// Compatibles of a virtio-iommu: on the memory bus (with `#iommu-cells`; the same name has every virtio device there), and as a PCI function (binding `virtio/pci-iommu.yaml`), whose registers are not in the tree.
const VIRTIO: &[&str] = &["virtio,mmio", "virtio,pci-iommu", "pci1af4,1057"];
/// Kinds whose accesses snoop where the tree does not say.
const COHERENT: [IommuKind; 2] = [IommuKind::RiscV, IommuKind::VirtioIommu];
/// Those of [`RISCV`] and [`VIRTIO`] that are PCI functions.
const FUNCTIONS: &[&str] = &["riscv,pci-iommu", "virtio,pci-iommu", "pci1af4,1057"];

/// The widest stream id of an SMMUv2 (IHI 0062, SMMU_IDR1 and extended stream matching): 16 bits.
pub(super) const SMMUV2_LAST_ID: u32 = 0xffff;

/// Which IOMMU a node is, by its `compatible`.
pub(super) fn kind_of(node: Node<'_, '_>) -> IommuKind {
    let mut kind = IommuKind::Other;
    for compatible in node.strings("compatible") {
        if compatible == "arm,smmu-v3" {
            return IommuKind::SmmuV3;
        }
        // Every virtio device on the memory bus has the name; only an IOMMU has the cells.
        if VIRTIO.contains(&compatible) && node.has("#iommu-cells") {
            kind = IommuKind::VirtioIommu;
        }
        if RISCV.contains(&compatible) {
            return IommuKind::RiscV;
        }
        if SMMUV2.contains(&compatible) {
            kind = IommuKind::SmmuV2;
        }
    }
    kind
}

/// All IOMMUs of the tree: what has `#iommu-cells`, and what is known to be one without it.
pub(super) fn read(
    tree: &Tree<'_>,
    addresses: &Addresses<'_, '_>,
    findings: &mut Findings,
) -> Vec<IommuNode> {
    tree.nodes()
        .filter_map(|node| {
            let kind = kind_of(node);
            let is_one = node.has("#iommu-cells") || kind != IommuKind::Other;
            is_one.then(|| read_one(tree, node, kind, addresses, findings))
        })
        .collect()
}

fn read_one(
    tree: &Tree<'_>,
    node: Node<'_, '_>,
    kind: IommuKind,
    addresses: &Addresses<'_, '_>,
    findings: &mut Findings,
) -> IommuNode {
    let interrupts = interrupts(tree, node);
    let mut windows = addresses.register_windows(node).into_iter();
    let registers = windows.next();
    let mirrored = node.is_compatible("nvidia,smmu-500");
    let mut iommu = IommuNode {
        node: node.id(),
        path: node.path(),
        compatible: node.owned_strings("compatible"),
        kind,
        enabled: node.enabled(),
        cells: node.cell("#iommu-cells"),
        registers,
        mirrors: windows.filter(|_| mirrored).collect(),
        context_banks: context_banks(node, kind, interrupts.len()),
        interrupts,
        quirks: quirks(node, kind),
        // On RISC-V what says nothing snoops (Linux: `dma_default_coherent`), elsewhere it does not.
        coherent: addresses.coherency(node).unwrap_or(COHERENT.contains(&kind)),
        late: node.has("portcullis,late"),
        unusable: None,
    };
    if let Some(problem) =
        check_cells(&iommu).or_else(|| check_registers(&iommu)).or_else(|| check_quirks(&iommu))
    {
        findings.refuse(iommu.enabled, &iommu.path, &problem);
        iommu.unusable = Some(problem.what);
    }
    remark(&iommu, node, findings);
    iommu
}

fn check_cells(iommu: &IommuNode) -> Option<Problem> {
    let (allowed, remedy) = match iommu.kind {
        IommuKind::SmmuV3 => (1..=1, "an SMMUv3 takes one cell, the stream id"),
        IommuKind::SmmuV2 => (1..=2, "this IOMMU takes one cell (id) or two (id, mask)"),
        IommuKind::RiscV => (1..=1, "a RISC-V IOMMU takes one cell, the device id"),
        IommuKind::VirtioIommu => (1..=1, "a virtio-iommu takes one cell, the endpoint id"),
        _ => (0..=2, "0 to 2 cells are supported"),
    };
    match iommu.cells {
        Some(cells) if allowed.contains(&cells) => None,
        Some(cells) => Some(Problem::new(
            rule::IOMMU_CELLS_UNSUPPORTED,
            format!("`#iommu-cells` is {cells}"),
            remedy,
        )),
        None => Some(Problem::new(
            rule::IOMMU_CELLS_MISSING,
            "`#iommu-cells` is missing or not one cell",
            remedy,
        )),
    }
}

/// Only where the binding says that the kind has registers.
fn check_registers(iommu: &IommuNode) -> Option<Problem> {
    let function = iommu.compatible.iter().any(|name| FUNCTIONS.contains(&name.as_str()));
    let needed = match iommu.kind {
        IommuKind::SmmuV2 | IommuKind::SmmuV3 => true,
        IommuKind::RiscV | IommuKind::VirtioIommu => !function,
        _ => false,
    };
    (needed && iommu.registers.is_none()).then(|| {
        Problem::new(
            rule::IOMMU_REG,
            "`reg` gives no register window that the CPU can reach",
            "give it a `reg`, and each bus above it a `ranges` that covers it",
        )
    })
}

fn check_quirks(iommu: &IommuNode) -> Option<Problem> {
    let (quirk, why) = iommu.quirks.iter().find_map(|it| Some((it, it.unsupported()?)))?;
    let what = format!("`{}`: {why}", quirk.name());
    Some(Problem::new(rule::IOMMU_QUIRK, what, "that is not supported; its clients stay blocked"))
}

/// The quirks that a property names.
fn quirks(node: Node<'_, '_>, kind: IommuKind) -> Vec<Quirk> {
    let known: &[Quirk] = match kind {
        IommuKind::SmmuV3 => &[Quirk::BrokenPrefetch, Quirk::Page0RegistersOnly],
        IommuKind::SmmuV2 => &[Quirk::SecureConfigAccess],
        _ => &[],
    };
    known.iter().copied().filter(|quirk| node.has(quirk.name())).collect()
}

/// Binding `iommu/arm,smmu.yaml`: `#global-interrupts` of them, then one for each context bank. Not where the number does not come out as described, and not of an SMMUv1 (MMU-400
/// and 401 are), whose banks share interrupts.
fn context_banks(node: Node<'_, '_>, kind: IommuKind, interrupts: usize) -> Option<usize> {
    let first_version = ["arm,smmu-v1", "arm,mmu-400", "arm,mmu-401"];
    if node.strings("compatible").any(|name| first_version.contains(&name)) {
        return None;
    }
    let global = node.cell("#global-interrupts").filter(|_| kind == IommuKind::SmmuV2)? as usize;
    interrupts.checked_sub(global).filter(|banks| *banks > 0)
}

fn remark(iommu: &IommuNode, node: Node<'_, '_>, findings: &mut Findings) {
    let quirk = iommu.quirks.contains(&Quirk::Page0RegistersOnly);
    let small = iommu.registers.filter(|window| window.len() < SMMUV3_REGISTERS && !quirk);
    if let (IommuKind::SmmuV3, Some(window)) = (iommu.kind, small) {
        let what = format!("`reg` has {:#x} bytes", window.len());
        let remedy = format!("an SMMUv3 has {SMMUV3_REGISTERS:#x}");
        findings.warn(&iommu.path, &Problem::new(rule::IOMMU_REG_SMALL, what, remedy));
    }
    if let Some(what) = missing_interrupts(iommu, node) {
        let remedy = "give the number of its global interrupts, and one more interrupt for each context bank";
        findings.warn(&iommu.path, &Problem::new(rule::GLOBAL_INTERRUPTS, what, remedy));
    }
    if iommu.enabled && node.has("mmu-masters") {
        let what = "`mmu-masters` is the binding before `iommus` and is not read";
        let remedy = "name this IOMMU in the `iommus` of each of its clients";
        findings.warn(&iommu.path, &Problem::new(rule::MMU_MASTERS, what, remedy));
    }
}

/// Binding `iommu/arm,smmu.yaml`: `#global-interrupts` is required, and context interrupts follow. Silent where the interrupts are not described by a plain `interrupts`.
fn missing_interrupts(iommu: &IommuNode, node: Node<'_, '_>) -> Option<String> {
    let matters = iommu.kind == IommuKind::SmmuV2 && iommu.enabled && iommu.unusable.is_none();
    let count = Some(iommu.interrupts.len()).filter(|count| matters && *count > 0)?;
    match node.cell("#global-interrupts") {
        None => Some("it has no `#global-interrupts`".into()),
        Some(global) if count <= global as usize => {
            Some(format!("it has {count} interrupts and `#global-interrupts` of {global}"))
        }
        Some(_) => None,
    }
}

fn interrupts(tree: &Tree<'_>, node: Node<'_, '_>) -> Vec<Interrupt> {
    let specifiers = interrupt_specifiers(tree, node).unwrap_or_default();
    let mut names = node.strings("interrupt-names").map(String::from);
    specifiers.into_iter().map(|cells| Interrupt { name: names.next(), cells }).collect()
}

fn interrupt_specifiers(tree: &Tree<'_>, node: Node<'_, '_>) -> Option<Vec<Vec<u32>>> {
    let value = cells(node.property("interrupts")?)?;
    let parent = node.up().find_map(|above| above.cell("interrupt-parent"))?;
    let count = tree.by_phandle(parent).ok()?.cell("#interrupt-cells")? as usize;
    let whole = (1..=4).contains(&count) && value.len().is_multiple_of(count);
    whole.then(|| value.chunks_exact(count).map(<[u32]>::to_vec).collect())
}

/// The nodes that `mmu-masters` of enabled IOMMUs name, in ascending order, each with its IOMMU. That old binding is not read, so these devices must not count as direct.
pub(super) fn legacy_clients(tree: &Tree<'_>, iommus: &[IommuNode]) -> Vec<(FwNode, FwNode)> {
    let mut clients = vec![];
    for iommu in iommus.iter().filter(|iommu| iommu.enabled) {
        let value = tree.node(iommu.node).and_then(|node| node.property("mmu-masters"));
        let Some(cells) = value.and_then(cells) else { continue };
        let mut rest = cells.as_slice();
        while let Some((phandle, ids)) = rest.split_first() {
            let Ok(client) = tree.by_phandle(*phandle) else { break };
            clients.push((client.id(), iommu.node));
            rest = ids.get(client.cell("#stream-id-cells").unwrap_or(1) as usize..).unwrap_or(&[]);
        }
    }
    clients.sort_unstable();
    clients.dedup_by_key(|(node, _)| *node);
    clients
}

/// Finds one IOMMU by node; `iommus` ascends by node.
pub(super) fn find(iommus: &[IommuNode], node: FwNode) -> Option<&IommuNode> {
    let at = iommus.binary_search_by_key(&node, |iommu| iommu.node).ok()?;
    iommus.get(at)
}

/// The IOMMU that `phandle`, in `property`, names.
pub(super) fn resolve<'i>(
    tree: &Tree<'_>,
    iommus: &'i [IommuNode],
    phandle: u32,
    property: &str,
) -> Result<&'i IommuNode, Problem> {
    let node = tree.by_phandle(phandle).map_err(|error| bad_phandle(error, phandle, property))?;
    find(iommus, node.id()).ok_or_else(|| {
        Problem::new(
            rule::IOMMU_CELLS_MISSING,
            format!("{property} names {}, which has no `#iommu-cells`", node.path()),
            "name an IOMMU there, or give that node its `#iommu-cells`",
        )
    })
}

pub(super) fn bad_phandle(error: PhandleError, phandle: u32, property: &str) -> Problem {
    match error {
        PhandleError::Dangling => Problem::new(
            rule::DANGLING_PHANDLE,
            format!("{property} has phandle {phandle:#x}, which no node has"),
            "name an existing node",
        ),
        PhandleError::Ambiguous => Problem::new(
            rule::DUPLICATE_PHANDLE,
            format!("{property} has phandle {phandle:#x}, which several nodes have"),
            "give each node a phandle of its own",
        ),
    }
}

/// Refuses each IOMMU that is behind itself or behind one that cannot be used.
///
/// `above[i]` lists the indices of the IOMMUs that IOMMU `i` names in its own `iommus`. Linear in their number: an IOMMU is settled
/// once all above it are; those that never settle are on a cycle or behind one.
pub(super) fn refuse_cycles(
    iommus: &mut [IommuNode],
    above: &[Vec<usize>],
    findings: &mut Findings,
) {
    let mut below = vec![Vec::new(); above.len()];
    let mut unsettled: Vec<usize> = above.iter().map(Vec::len).collect();
    for (at, targets) in above.iter().enumerate() {
        for target in targets {
            below.get_mut(*target).into_iter().for_each(|list: &mut Vec<usize>| list.push(at));
        }
    }
    let mut settled: Vec<usize> =
        unsettled.iter().enumerate().filter(|(_, count)| **count == 0).map(|(at, _)| at).collect();
    while let Some(at) = settled.pop() {
        for dependent in below.get(at).into_iter().flatten() {
            refuse_below(iommus, at, *dependent, findings);
            let Some(count) = unsettled.get_mut(*dependent) else { continue };
            *count = count.saturating_sub(1);
            if *count == 0 {
                settled.push(*dependent);
            }
        }
    }
    for at in 0..iommus.len() {
        if unsettled.get(at).is_some_and(|count| *count > 0) {
            let what =
                format!("`iommus` puts it behind itself: {}", round(iommus, above, &unsettled, at));
            refuse(iommus, at, &Problem::new(rule::IOMMU_CYCLE, what, "break the cycle"), findings);
        }
    }
}

fn refuse_below(iommus: &mut [IommuNode], at: usize, dependent: usize, findings: &mut Findings) {
    let Some(upper) = iommus.get(at).filter(|iommu| iommu.enabled) else { return };
    if upper.unusable.is_some() {
        let what = format!("`iommus` names {}, which cannot be used", upper.path);
        let problem = Problem::new(rule::IOMMU_UNUSABLE, what, "mend that IOMMU first");
        refuse(iommus, dependent, &problem, findings);
    }
}

fn refuse(iommus: &mut [IommuNode], at: usize, problem: &Problem, findings: &mut Findings) {
    if let Some(iommu) = iommus.get_mut(at).filter(|iommu| iommu.unusable.is_none()) {
        findings.refuse(iommu.enabled, &iommu.path, problem);
        iommu.unusable = Some(problem.what.clone());
    }
}

/// The way from `start` round its cycle, in words; no longer than a line or two.
fn round(iommus: &[IommuNode], above: &[Vec<usize>], unsettled: &[usize], start: usize) -> String {
    let mut way = String::new();
    let mut at = start;
    while let Some(iommu) = iommus.get(at) {
        let first = way.is_empty();
        way.push_str(if first { "" } else { " -> " });
        if way.len() > 200 {
            way.push_str("...");
            break;
        }
        way.push_str(&iommu.path);
        if !first && at == start {
            break;
        }
        let mut targets = above.get(at).into_iter().flatten();
        let next = targets.find(|target| unsettled.get(**target).is_some_and(|count| *count > 0));
        let Some(next) = next else { break };
        at = *next;
    }
    way
}
