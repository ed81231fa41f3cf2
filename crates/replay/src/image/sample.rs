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
