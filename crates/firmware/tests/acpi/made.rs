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
