//! Tables made for a test, byte by byte as their documents have them.

use portcullis::DmaPath;
use portcullis_firmware::{AcpiError, DescribedDevice, MachineDescription, read_acpi};

/// Bytes in the order of their fields.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bytes(pub(crate) Vec<u8>);

impl Bytes {
    pub(crate) fn u8(mut self, value: u8) -> Self {
        self.0.push(value);
        self
    }

    pub(crate) fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn zeros(mut self, count: usize) -> Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

pub(crate) fn bytes() -> Bytes {
    Bytes::default()
}

/// A table with a header (ACPI 6.5, section 5.2.6) and a checksum that fits.
pub(crate) fn table(signature: &[u8; 4], revision: u8, body: Bytes) -> Vec<u8> {
    let length = u32::try_from(36 + body.0.len()).expect("short");
    let header = bytes().bytes(signature).u32(length).u8(revision).u8(0);
    let header = header.bytes(b"PORTCLTESTS   ").u32(1).bytes(b"TEST").u32(1);
    let mut table = [header.0, body.0].concat();
    let sum = table.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
    table[9] = 0u8.wrapping_sub(sum);
    table
}

pub(crate) fn read(table: &[u8]) -> MachineDescription {
    read_acpi([table], "test").expect("well-formed")
}

pub(crate) fn error(table: &[u8]) -> AcpiError {
    read_acpi([table], "test").expect_err("malformed")
}

pub(crate) fn device<'m>(machine: &'m MachineDescription, path: &str) -> &'m DescribedDevice {
    let found = machine.devices.iter().find(|device| device.description.path == path);
    found.unwrap_or_else(|| panic!("no {path} in {machine:#?}"))
}

/// Every client with its units and ids; no ids where it is not translated.
pub(crate) fn clients(machine: &MachineDescription) -> Vec<(String, Vec<(String, u32)>)> {
    let ids = |dma: &DmaPath| match dma {
        DmaPath::Translated(spec) => {
            let streams = spec.streams.iter();
            streams.map(|it| (machine.iommu_path(it.iommu).to_owned(), it.id.raw())).collect()
        }
        DmaPath::Direct | DmaPath::Unusable(_) => Vec::new(),
    };
    machine.clients().map(|client| (client.path.clone(), ids(&client.dma))).collect()
}

pub(crate) fn rules(machine: &MachineDescription) -> Vec<&'static str> {
    machine.findings.iter().map(|finding| finding.rule).collect()
}

/// (input, number of ids less one, output, index of the target node, flags).
pub(crate) type Mapping = (u32, u32, u32, usize, u32);

/// Nodes with their data and mappings, laid out one behind the other.
pub(crate) fn iort(nodes: &[(u8, u8, Bytes, Vec<Mapping>)]) -> Vec<u8> {
    let lengths = nodes
        .iter()
        .map(|(_, _, data, maps)| 16 + data.0.len().next_multiple_of(4) + 20 * maps.len());
    let starts: Vec<usize> = lengths
        .clone()
        .scan(48, |at, len| {
            *at += len;
            Some(*at - len)
        })
        .collect();
    let count = u32::try_from(nodes.len()).expect("short");
    let mut body = bytes().u32(count).u32(48).u32(0);
    for ((kind, revision, data, maps), len) in nodes.iter().zip(lengths) {
        let number = |value: usize| u32::try_from(value).expect("short");
        let data_len = data.0.len().next_multiple_of(4);
        body = body.u8(*kind).u16(u16::try_from(len).expect("short")).u8(*revision).u32(0);
        body = body.u32(number(maps.len())).u32(number(16 + data_len)).bytes(&data.0);
        body = body.zeros(data_len - data.0.len());
        for (input, beyond, output, target, flags) in maps {
            let target = starts.get(*target).map_or(0, |start| number(*start));
            body = body.u32(*input).u32(*beyond).u32(*output).u32(target).u32(*flags);
        }
    }
    table(b"IORT", 6, body)
}

pub(crate) fn smmuv3(base: u64, model: u32) -> (u8, u8, Bytes, Vec<Mapping>) {
    let data = bytes().u64(base).u32(1).u32(0).u64(0).u32(model).zeros(16);
    (4, 4, data, vec![])
}

pub(crate) fn root_complex(segment: u32, maps: Vec<Mapping>) -> (u8, u8, Bytes, Vec<Mapping>) {
    let data = bytes().u32(1).u32(0).u32(1).u32(segment).u8(40).zeros(3);
    (2, 3, data, maps)
}

pub(crate) fn component(name: &[u8], maps: Vec<Mapping>) -> (u8, u8, Bytes, Vec<Mapping>) {
    (1, 4, bytes().u32(0).u32(0).u32(0).u8(36).bytes(name).u8(0), maps)
}

pub(crate) fn reserved(start: u64, len: u64, maps: Vec<Mapping>) -> (u8, u8, Bytes, Vec<Mapping>) {
    // The descriptor stands right behind the fixed part.
    (6, 3, bytes().u32(0).u32(1).u32(28).u64(start).u64(len).u32(0), maps)
}

pub(crate) fn record(kind: u16, body: Bytes) -> Bytes {
    let length = u16::try_from(4 + body.0.len()).expect("short");
    bytes().u16(kind).u16(length).bytes(&body.0)
}

/// A device scope: type, enumeration id, start bus, path.
pub(crate) fn scope(kind: u8, id: u8, bus: u8, path: &[(u8, u8)]) -> Bytes {
    let length = u8::try_from(6 + 2 * path.len()).expect("short");
    let scope = bytes().u8(kind).u8(length).u16(0).u8(id).u8(bus);
    path.iter().fold(scope, |scope, (device, function)| scope.u8(*device).u8(*function))
}

pub(crate) fn drhd(all: bool, base: u64, scopes: &[Bytes]) -> Bytes {
    let body = bytes().u8(u8::from(all)).u8(0).u16(0).u64(base);
    record(0, scopes.iter().fold(body, |body, scope| body.bytes(&scope.0)))
}

pub(crate) fn rmrr(first: u64, last: u64, scopes: &[Bytes]) -> Bytes {
    let body = bytes().u16(0).u16(0).u64(first).u64(last);
    record(1, scopes.iter().fold(body, |body, scope| body.bytes(&scope.0)))
}

pub(crate) fn dmar(records: &[Bytes]) -> Vec<u8> {
    let body = bytes().u8(38).u8(1).zeros(10);
    table(b"DMAR", 1, records.iter().fold(body, |body, record| body.bytes(&record.0)))
}

pub(crate) fn ivmd(kind: u8, flags: u8, first: u16, last: u16, start: u64, len: u64) -> Bytes {
    bytes().u8(kind).u8(flags).u16(32).u16(first).u16(last).u64(0).u64(start).u64(len)
}

pub(crate) fn ivrs(records: &[Bytes]) -> Vec<u8> {
    let body = bytes().u32(0x0020_3040).zeros(8);
    table(b"IVRS", 2, records.iter().fold(body, |body, record| body.bytes(&record.0)))
}
