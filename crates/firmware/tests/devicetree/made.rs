//! Devicetrees made for a test, written by `vm-fdt`: a writer that shares nothing with the reader under test.

use portcullis::DmaPath;
use portcullis_firmware::{DescribedDevice, MachineDescription, read_devicetree};
use vm_fdt::FdtWriter;

/// A node to be written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dt {
    name: String,
    properties: Vec<(String, Vec<u8>)>,
    children: Vec<Dt>,
}

pub(crate) fn dt(name: &str) -> Dt {
    Dt { name: name.into(), ..Dt::default() }
}

impl Dt {
    pub(crate) fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        self.properties.retain(|(known, _)| known != name);
        self.properties.push((name.into(), value.to_vec()));
        self
    }

    pub(crate) fn cells(self, name: &str, cells: &[u32]) -> Self {
        let value: Vec<u8> = cells.iter().flat_map(|cell| cell.to_be_bytes()).collect();
        self.bytes(name, &value)
    }

    pub(crate) fn text(self, name: &str, text: &str) -> Self {
        let value = [text.as_bytes(), b"\0"].concat();
        self.bytes(name, &value)
    }

    pub(crate) fn flag(self, name: &str) -> Self {
        self.bytes(name, &[])
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.properties.retain(|(known, _)| known != name);
        self
    }

    pub(crate) fn without_child(mut self, name: &str) -> Self {
        self.children.retain(|child| child.name != name);
        self
    }

    pub(crate) fn with(mut self, child: Dt) -> Self {
        self.children.push(child);
        self
    }

    fn write(&self, fdt: &mut FdtWriter) {
        let node = fdt.begin_node(&self.name).expect("name");
        for (name, value) in &self.properties {
            fdt.property(name, value).expect("property");
        }
        for child in &self.children {
            child.write(fdt);
        }
        fdt.end_node(node).expect("end");
    }

    pub(crate) fn blob(&self) -> Vec<u8> {
        let mut fdt = FdtWriter::new().expect("writer");
        self.write(&mut fdt);
        fdt.finish().expect("blob")
    }

    /// The same with any names: `vm-fdt` refuses those that are longer or made of more characters than the specification has.
    pub(crate) fn lax_blob(&self) -> Vec<u8> {
        fn word(out: &mut Vec<u8>, word: usize) {
            out.extend(u32::try_from(word).expect("short").to_be_bytes());
        }
        fn write(node: &Dt, structure: &mut Vec<u8>, strings: &mut Vec<u8>) {
            let pad = |bytes: &mut Vec<u8>| bytes.resize(bytes.len().next_multiple_of(4), 0);
            word(structure, 1);
            structure.extend(node.name.bytes().chain([0]));
            pad(structure);
            for (name, value) in &node.properties {
                word(structure, 3);
                word(structure, value.len());
                word(structure, strings.len());
                strings.extend(name.bytes().chain([0]));
                structure.extend(value);
                pad(structure);
            }
            node.children.iter().for_each(|child| write(child, structure, strings));
            word(structure, 2);
        }
        let (mut structure, mut strings) = (vec![], vec![]);
        write(self, &mut structure, &mut strings);
        word(&mut structure, 9);
        let (at, end) = (56, 56 + structure.len());
        let mut blob = vec![];
        let total = end + strings.len();
        for field in [0xd00d_feed, total, at, end, 40, 17, 16, 0, strings.len(), structure.len()] {
            word(&mut blob, field);
        }
        blob.resize(at, 0);
        blob.extend(structure.into_iter().chain(strings));
        blob
    }

    pub(crate) fn read(&self) -> MachineDescription {
        read_devicetree(&self.blob(), "test").expect("well-formed blob")
    }
}

/// The root of a machine with one address and one size cell.
pub(crate) fn root() -> Dt {
    dt("").text("model", "test").cells("#address-cells", &[1]).cells("#size-cells", &[1]).with(
        dt("memory@80000000")
            .text("device_type", "memory")
            .cells("reg", &[0x8000_0000, 0x1000_0000]),
    )
}

/// An SMMUv3 with the given phandle.
pub(crate) fn smmu(phandle: u32) -> Dt {
    let start = phandle << 20;
    dt(&format!("iommu@{start:x}"))
        .text("compatible", "arm,smmu-v3")
        .cells("reg", &[start, 0x2_0000])
        .cells("#iommu-cells", &[1])
        .cells("phandle", &[phandle])
}

/// An SMMUv2 with the given phandle and `#iommu-cells`.
pub(crate) fn mmu500(phandle: u32, cells: u32) -> Dt {
    smmu(phandle).text("compatible", "arm,mmu-500").cells("#iommu-cells", &[cells])
}

pub(crate) fn client(name: &str, iommus: &[u32]) -> Dt {
    dt(name).text("compatible", "example,client").cells("iommus", iommus)
}

pub(crate) fn bridge(map: &[u32]) -> Dt {
    dt("pcie@40000000")
        .text("device_type", "pci")
        .cells("#address-cells", &[3])
        .cells("#size-cells", &[2])
        .cells("iommu-map", map)
}

pub(crate) fn device<'m>(machine: &'m MachineDescription, path: &str) -> &'m DescribedDevice {
    let found = machine.devices.iter().find(|device| device.description.path == path);
    found.unwrap_or_else(|| panic!("no {path} in {machine:#?}"))
}

pub(crate) fn has_finding(machine: &MachineDescription, path: &str, rule: &str) -> bool {
    machine.findings.iter().any(|finding| finding.path == path && finding.rule == rule)
}

/// The ids behind which a device is translated; `None` where it is not.
pub(crate) fn translated(device: &DescribedDevice) -> Option<Vec<u32>> {
    match &device.description.dma {
        DmaPath::Translated(spec) => Some(spec.streams.iter().map(|it| it.id.raw()).collect()),
        DmaPath::Direct | DmaPath::Unusable(_) => None,
    }
}
