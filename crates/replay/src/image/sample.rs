//! Images that we make ourselves, for tests: written from the description of the formats, not with the reader's code.

use super::kallsyms::Layout;

/// Where the sample's tables begin.
const START: usize = 0x400;
/// A link address as in 6.1: `KIMAGE_VADDR` with 48-bit addresses.
const LINK: u64 = 0xffff_8000_0800_0000;

/// An offset and a name with its type letter.
pub(crate) fn symbol(offset: u64, name: &str) -> (u64, String) {
    (offset, name.to_owned())
}

struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn words(&mut self, words: impl IntoIterator<Item = u32>) {
        self.0.extend(words.into_iter().flat_map(u32::to_le_bytes));
    }

    /// `num_syms`, `names`, `markers`, then `token_table` and `token_index` with 256 tokens: every byte, and one of two letters.
    fn names(&mut self, symbols: &[(u64, String)], align: usize) {
        self.align(align);
        self.words([u32::try_from(symbols.len()).expect("a sample is small")]);
        self.align(align);
        let (start, mut markers) = (self.0.len(), Vec::new());
        for (number, (_, name)) in symbols.iter().enumerate() {
            if number % 256 == 0 {
                markers.push(u32::try_from(self.0.len() - start).expect("a sample is small"));
            }
            let bytes = name.replace("gen", "\u{1}").into_bytes();
            match u8::try_from(bytes.len()) {
                Ok(len) if len < 0x80 => self.0.push(len),
                _ => self.0.extend([bytes.len() as u8 & 0x7f | 0x80, (bytes.len() >> 7) as u8]),
            }
            self.0.extend(bytes);
        }
        self.align(align);
        self.words(markers);
        self.tokens(align);
    }

    fn tokens(&mut self, align: usize) {
        self.align(align);
        let (start, mut index) = (self.0.len(), Vec::new());
        for token in 0..=255_u8 {
            index.push(u16::try_from(self.0.len() - start).expect("a sample is small"));
            match token {
                1 => self.0.extend(b"gen"),
                0 | 255 => {}
                byte => self.0.push(byte),
            }
            self.0.push(0);
        }
        self.align(align);
        self.0.extend(index.into_iter().flat_map(u16::to_le_bytes));
    }

    fn offsets(&mut self, symbols: &[(u64, String)], base: u64) {
        self.words(symbols.iter().map(|(offset, _)| u32::try_from(offset - base).expect("small")));
    }
}

/// An image whose only contents are the tables of `layout`.
pub(crate) fn kallsyms(layout: Layout, symbols: &[(u64, String)]) -> Vec<u8> {
    let mut out = Writer(vec![0; START]);
    match layout {
        Layout::OffsetsFirst => {
            out.offsets(symbols, 0);
            out.align(8);
            out.0.extend(LINK.to_le_bytes());
            out.names(symbols, 8);
        }
        Layout::OffsetsLast => {
            out.names(symbols, 8);
            out.align(8);
            out.offsets(symbols, 0);
            out.align(8);
            out.0.extend(LINK.to_le_bytes());
        }
        Layout::SelfRelative => {
            out.names(symbols, 4);
            for (offset, _) in symbols {
                let here = out.0.len() as u64;
                out.0.extend((offset.wrapping_sub(here) as u32).to_le_bytes());
            }
        }
    }
    out.0.resize(out.0.len() + 0x1000, 0);
    out.0
}

/// As `OffsetsFirst`, but with a base that only a relocation tells.
pub(crate) fn kallsyms_relocated(symbols: &[(u64, String)], base: u64) -> Vec<u8> {
    let mut out = Writer(vec![0; START]);
    out.offsets(symbols, base);
    out.align(8);
    let place = out.0.len() as u64;
    out.0.extend([0; 8]);
    out.names(symbols, 8);
    out.align(8);
    // A relocation of another word, then the one that counts.
    for (offset, addend) in [(place + 8, 0x30), (place, base)] {
        for word in [LINK + offset, 0x403, LINK + addend] {
            out.0.extend(word.to_le_bytes());
        }
    }
    out.0.resize(out.0.len().max(0x50000), 0);
    out.0
}

/// Type information under construction, written by the document.
pub(crate) struct Types {
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Default for Types {
    fn default() -> Self {
        Self { types: Vec::new(), strings: vec![0], count: 0 }
    }
}

impl Types {
    /// The offset of a new string.
    pub(crate) fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = self.strings.len();
        self.strings.extend(text.bytes().chain([0]));
        u32::try_from(at).expect("a sample is small")
    }

    /// Adds a type, and returns its number.
    pub(crate) fn record(&mut self, name: &str, info: u32, size: u32, more: &[u32]) -> u32 {
        let name = self.string(name);
        let words = [name, info, size].into_iter().chain(more.iter().copied());
        self.types.extend(words.flat_map(u32::to_le_bytes));
        self.count += 1;
        self.count
    }

    /// Adds a structure of members with name, type and byte.
    fn structure(&mut self, name: &str, members: &[(&str, u32, u32)]) -> u32 {
        let more: Vec<u32> = members
            .iter()
            .flat_map(|(name, kind, byte)| [self.string(name), *kind, byte * 8])
            .collect();
        let count = u32::try_from(members.len()).expect("a sample is small");
        self.record(name, 4 << 24 | count, 0x100, &more)
    }

    /// Some bytes, then the section.
    pub(crate) fn image(&self) -> Vec<u8> {
        let mut image = vec![0x55; 100];
        image.extend([0x9f, 0xeb, 1, 0]);
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a sample is small");
        let (types, strings) = (len(&self.types), len(&self.strings));
        image.extend([24, 0, types, types, strings].into_iter().flat_map(u32::to_le_bytes));
        image.extend(&self.types);
        image.extend(&self.strings);
        image
    }
}

/// The structures that steering needs, small.
pub(crate) fn kernel_btf() -> Vec<u8> {
    let mut types = Types::default();
    let int = types.record("int", 1 << 24, 4, &[32]);
    let thread_info = types.structure("thread_info", &[("preempt_count", int, 0)]);
    types.structure(
        "task_struct",
        &[("comm", int, 0), ("pid", int, 16), ("thread_info", thread_info, 20)],
    );
    let kobject = types.structure("kobject", &[("name", int, 0)]);
    types.structure(
        "device",
        &[
            ("kobj", kobject, 0),
            ("iommu_group", int, 8),
            ("iommu", int, 16),
            ("driver", int, 24),
            ("dma_ops", int, 32),
        ],
    );
    types.structure(
        "iommu_group",
        &[("default_domain", int, 0), ("domain", int, 8), ("owner_cnt", int, 16)],
    );
    types.structure("iommu_domain", &[("type", int, 0)]);
    types.structure("dev_iommu", &[("fwspec", int, 0)]);
    types.structure("pci_dev", &[("msix_base", int, 0), ("dev", int, 8)]);
    types.image()
}
