//! A second reading of the same bytes: another parser crate, and the bindings applied once more in the most direct way.
//!
//! It is for well-formed devicetrees only and panics on others.

use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::{Node, Property};
use portcullis::DmaPath;
use portcullis_firmware::MachineDescription;
use std::collections::BTreeMap;

/// A node as this reading sees it.
struct Seen {
    enabled: bool,
    properties: BTreeMap<String, Vec<u8>>,
}

impl Seen {
    fn cells(&self, name: &str) -> Option<Vec<u32>> {
        let value = self.properties.get(name)?;
        let chunk = |chunk: &[u8]| u32::from_be_bytes(chunk.try_into().expect("4 bytes"));
        Some(value.chunks(4).map(chunk).collect())
    }

    fn cell(&self, name: &str) -> Option<u32> {
        self.cells(name).map(|cells| cells[0])
    }
}

/// All nodes by path.
struct Reading {
    nodes: BTreeMap<String, Seen>,
    phandles: BTreeMap<u32, String>,
}

/// A device's streams (IOMMU, id, mask) and its map (requester id base, IOMMU, id base, length).
#[derive(Debug, Default, PartialEq, Eq)]
struct Client {
    enabled: bool,
    streams: Vec<(String, u32, u32)>,
    maps: Vec<(u32, String, u32, u32)>,
}

/// How much was compared.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) boards: usize,
    /// Boards that the other parser's own validation lets through (it refuses names of more than 31 characters).
    pub(crate) validated: usize,
    pub(crate) nodes: usize,
    pub(crate) iommus: usize,
    pub(crate) clients: usize,
    pub(crate) streams: usize,
    pub(crate) ranges: usize,
}

fn collect(node: FdtNode<'_>, path: &str, enabled: bool, reading: &mut Reading) {
    let properties: BTreeMap<_, _> =
        node.properties().map(|it| (it.name().to_owned(), it.value().to_vec())).collect();
    let status = properties.get("status").map(Vec::as_slice);
    let enabled = enabled && matches!(status, None | Some(b"okay\0" | b"ok\0"));
    let seen = Seen { enabled, properties };
    if let Some(phandle) = seen.cell("phandle") {
        reading.phandles.insert(phandle, path.to_owned());
    }
    for child in node.children() {
        let above = if path == "/" { "" } else { path };
        collect(child, &format!("{above}/{}", child.name()), enabled, reading);
    }
    reading.nodes.insert(path.to_owned(), seen);
}

impl Reading {
    fn new(blob: &[u8]) -> Self {
        let mut reading = Self { nodes: BTreeMap::new(), phandles: BTreeMap::new() };
        collect(Fdt::new_unchecked(blob).root(), "/", true, &mut reading);
        reading
    }

    fn target(&self, phandle: u32) -> Option<(&str, u32)> {
        let path = self.phandles.get(&phandle)?;
        Some((path, self.nodes[path].cell("#iommu-cells")?))
    }

    fn streams(&self, cells: &[u32]) -> Vec<(String, u32, u32)> {
        let mut streams = Vec::new();
        let mut at = 0;
        while at < cells.len() {
            let (path, count) = self.target(cells[at]).expect("an IOMMU");
            let own = &cells[at + 1..at + 1 + count as usize];
            let id = own.first().copied().unwrap_or(0);
            // An SMMUv2 may ignore the same bits for all its clients.
            let common = self.nodes[path].cell("stream-match-mask").unwrap_or(0);
            let stream = (path.to_owned(), id, own.get(1).copied().unwrap_or(common));
            if !streams.contains(&stream) {
                streams.push(stream);
            }
            at += 1 + count as usize;
        }
        streams
    }

    /// Tuples of four cells where that gives an IOMMU in each, of five (with a mask) otherwise.
    fn maps(&self, cells: &[u32]) -> Vec<(u32, String, u32, u32)> {
        let fits = |len: usize| {
            let known = |tuple: &[u32]| self.target(tuple[1]).is_some();
            cells.len().is_multiple_of(len) && cells.chunks(len).all(known)
        };
        let len = if fits(4) { 4 } else { 5 };
        let tuples = cells.chunks(len).map(|tuple| {
            let (path, _) = self.target(tuple[1]).expect("an IOMMU");
            (tuple[0], path.to_owned(), tuple[2], tuple[len - 1])
        });
        tuples.filter(|(.., length)| *length > 0).collect()
    }

    fn clients(&self) -> BTreeMap<String, Client> {
        let mut clients = BTreeMap::new();
        for (path, seen) in &self.nodes {
            let streams = seen.cells("iommus");
            let maps = seen.cells("iommu-map");
            if streams.is_none() && maps.is_none() {
                continue;
            }
            let client = Client {
                enabled: seen.enabled,
                streams: self.streams(&streams.unwrap_or_default()),
                maps: self.maps(&maps.unwrap_or_default()),
            };
            clients.insert(path.clone(), client);
        }
        clients
    }
}

/// What the reader under test says, in the same shape; without the clients that name no IOMMU.
fn clients_of(machine: &MachineDescription, reading: &Reading) -> BTreeMap<String, Client> {
    let devices = machine.devices.iter().filter(|device| {
        let seen = &reading.nodes[&device.description.path].properties;
        seen.contains_key("iommus") || seen.contains_key("iommu-map")
    });
    let clients = devices.map(|device| {
        let path_of = |node| machine.iommu_path(node).to_owned();
        let streams = device.streams.iter().map(|it| (path_of(it.iommu), it.id.raw(), it.mask));
        let maps = device.bus.iter().flat_map(|bus| bus.maps());
        let maps = maps.map(|it| (it.rid_base, path_of(it.iommu), it.id_base, it.length));
        let client =
            Client { enabled: device.enabled, streams: streams.collect(), maps: maps.collect() };
        (device.description.path.clone(), client)
    });
    clients.collect()
}

/// What is enabled on a board, by the second reading alone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Enabled {
    /// Devices with `iommus`.
    pub(crate) devices: usize,
    /// Their streams.
    pub(crate) streams: usize,
    /// Buses with `iommu-map`.
    pub(crate) buses: usize,
    /// SMMUs.
    pub(crate) smmus: usize,
}

impl Reading {
    fn enabled(&self) -> Enabled {
        let clients = self.clients();
        let clients: Vec<_> = clients.values().filter(|client| client.enabled).collect();
        let devices = clients.iter().filter(|client| !client.streams.is_empty());
        let is_smmu = |seen: &&Seen| {
            let compatible = seen.properties.get("compatible").map(Vec::as_slice);
            let names = compatible.unwrap_or_default().split(|byte| *byte == 0);
            let smmu = |name: &[u8]| name.starts_with(b"arm,smmu") || name.starts_with(b"arm,mmu-");
            seen.enabled && names.into_iter().any(|name| smmu(name) || name == b"qcom,smmu-v2")
        };
        Enabled {
            devices: devices.clone().count(),
            streams: devices.map(|client| client.streams.len()).sum(),
            buses: clients.iter().filter(|client| !client.maps.is_empty()).count(),
            smmus: self.nodes.values().filter(is_smmu).count(),
        }
    }
}

/// Reads `blob` once more and compares: every IOMMU, every client, every stream, every range. Gives what the second reading found enabled.
pub(crate) fn compare(
    board: &str,
    blob: &[u8],
    machine: &MachineDescription,
    counts: &mut Counts,
) -> Enabled {
    let reading = Reading::new(blob);
    let iommus: Vec<_> = machine
        .iommus
        .iter()
        .filter_map(|iommu| Some((iommu.path.clone(), (iommu.enabled, iommu.cells?))))
        .collect();
    let seen = reading.nodes.iter().filter_map(|(path, seen)| {
        Some((path.clone(), (seen.enabled, seen.cell("#iommu-cells")?)))
    });
    assert_eq!(iommus.iter().cloned().collect::<BTreeMap<_, _>>(), seen.collect(), "{board}");

    let clients = clients_of(machine, &reading);
    assert_eq!(clients, reading.clients(), "{board}");
    for device in machine.devices.iter().filter(|device| device.enabled) {
        // Never direct, unless each IOMMU that is named is disabled.
        let maps = device.bus.iter().flat_map(|bus| bus.maps());
        let mut named = device.streams.iter().map(|it| it.iommu).chain(maps.map(|it| it.iommu));
        let off = |node| machine.iommu(node).is_some_and(|iommu| !iommu.enabled);
        let direct = device.description.dma == DmaPath::Direct;
        assert!(!direct || named.all(off), "{board}: {}", device.description.path);
    }
    counts.boards += 1;
    counts.validated += usize::from(Fdt::new(blob).is_ok());
    counts.nodes += reading.nodes.len();
    counts.iommus += iommus.len();
    counts.clients += clients.len();
    counts.streams += clients.values().map(|client| client.streams.len()).sum::<usize>();
    counts.ranges += clients.values().map(|client| client.maps.len()).sum::<usize>();
    reading.enabled()
}
