//! The symbol table inside a kernel image, as scripts/kallsyms.c writes it.
//!
//! Three layouts have been in use since 6.1 (read from the generator's output in Debian's images, and from scripts/kallsyms.c of 6.1, 6.12 and 7.3):
//!
//! | | order of the tables | addresses |
//! | --- | --- | --- |
//! | to 6.4 | offsets, relative_base, num_syms, names, markers, token_table, token_index | `relative_base + offset` |
//! | 6.5 to 6.19 | num_syms, names, markers, token_table, token_index, offsets, relative_base | `relative_base + offset` |
//! | 7.0 on | the same order without relative_base, aligned to 4 only | place of the entry + entry |
//!
//! Nothing in the image points at the tables, so they are found by what they must look like: `token_table` holds the ten digits in a row, `token_index`
//! must give its strings' offsets, and `markers` must give the offset of every 256th name.

use super::{find_all, u32_at, u64_at};
use crate::error::Error;
use std::collections::HashMap;

/// The order of the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// The offsets stand before the names (to 6.4).
    OffsetsFirst,
    /// The offsets stand after the token index (6.5 to 6.19).
    OffsetsLast,
    /// As `OffsetsLast`, each offset counted from its own place (7.0 on).
    SelfRelative,
}

/// Kernel symbols with their offsets from the start of the image (`_text`).
#[derive(Debug)]
pub struct Symbols {
    layout: Layout,
    sorted: Vec<(u64, u32)>,
    names: Vec<String>,
    by_name: HashMap<String, Vec<u64>>,
}

/// Symbols that no image has more of; a bound on the search.
const MOST_SYMBOLS: u32 = 1 << 22;
/// How far before `token_table` the names may begin.
const MOST_BYTES: usize = 64 << 20;

impl Symbols {
    /// Finds the tables in a raw image.
    ///
    /// # Errors
    /// [`Error::Image`] with the table that is missing.
    pub fn find(image: &[u8]) -> Result<Self, Error> {
        let missing = |what: &str| Error::Image(format!("kallsyms: {what}"));
        let tokens = Tokens::find(image).ok_or_else(|| missing("no token table"))?;
        let names = Names::find(image, &tokens).ok_or_else(|| missing("no table of names"))?;
        let (layout, offsets) =
            addresses(image, &tokens, &names).ok_or_else(|| missing("no table of addresses"))?;
        Ok(Self::new(layout, offsets, names.decode(image, &tokens)))
    }

    fn new(layout: Layout, offsets: Vec<u64>, names: Vec<String>) -> Self {
        let mut by_name: HashMap<String, Vec<u64>> = HashMap::with_capacity(names.len());
        for (name, offset) in names.iter().zip(&offsets) {
            by_name.entry(name.clone()).or_default().push(*offset);
        }
        for offsets in by_name.values_mut() {
            offsets.sort_unstable();
        }
        let numbered = (0..).zip(offsets).map(|(number, offset)| (offset, number));
        let mut sorted: Vec<(u64, u32)> = numbered.collect();
        sorted.sort_unstable();
        Self { layout, sorted, names, by_name }
    }

    /// How the tables stand in the image.
    #[must_use]
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How many symbols there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// There is no symbol.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The offset of a symbol. `name#2` is the second of that name by address; a plain name that several have is refused.
    /// A function that only exists as GCC's `name.isra.0` or `name.constprop.0` is found by its plain name.
    #[must_use]
    pub fn offset(&self, name: &str) -> Option<u64> {
        if let Some((plain, number)) = name.split_once('#') {
            let number: usize = number.parse().ok()?;
            return self.by_name.get(plain)?.get(number.checked_sub(1)?).copied();
        }
        match self.by_name.get(name).map(Vec::as_slice) {
            Some([only]) => Some(*only),
            Some(_) => None,
            None => self.clone_of(name),
        }
    }

    /// How many symbols have this name.
    #[must_use]
    pub fn count(&self, name: &str) -> usize {
        self.by_name.get(name).map_or(0, Vec::len)
    }

    fn clone_of(&self, name: &str) -> Option<u64> {
        let suffix = |symbol: &str| {
            let rest = symbol.strip_prefix(name)?;
            (rest.starts_with(".isra.") || rest.starts_with(".constprop.")).then_some(())
        };
        let mut clones = self.by_name.iter().filter(|(symbol, _)| suffix(symbol).is_some());
        match (clones.next(), clones.next()) {
            (Some((_, offsets)), None) if offsets.len() == 1 => Some(offsets[0]),
            _ => None,
        }
    }

    /// The symbol at or before `offset`, and how far behind it `offset` is.
    #[must_use]
    pub fn nearest(&self, offset: u64) -> Option<(&str, u64)> {
        let behind = self.sorted.partition_point(|&(start, _)| start <= offset);
        let (start, _) = *self.sorted.get(behind.checked_sub(1)?)?;
        let first = self.sorted.partition_point(|&(other, _)| other < start);
        let (_, number) = self.sorted[first];
        Some((&self.names[number as usize], offset - start))
    }

    /// The first byte behind the symbol that begins at `offset`: where the next one begins.
    #[must_use]
    pub fn end(&self, offset: u64) -> Option<u64> {
        let next = self.sorted.partition_point(|&(start, _)| start <= offset);
        self.sorted.get(next).map(|&(start, _)| start)
    }
}

/// `token_table` and `token_index`.
struct Tokens {
    table: usize,
    index_end: usize,
    strings: Vec<Vec<u8>>,
}

impl Tokens {
    fn find(image: &[u8]) -> Option<Self> {
        let digits = b"0\x001\x002\x003\x004\x005\x006\x007\x008\x009\0";
        find_all(image, digits).find_map(|at| Self::around(image, at))
    }

    /// The table around the string "0", which is token 48.
    fn around(image: &[u8], zero: usize) -> Option<Self> {
        let mut end = zero;
        for _ in usize::from(b'0')..256 {
            end += image.get(end..end + 256)?.iter().position(|&byte| byte == 0)? + 1;
        }
        [8_usize, 4, 2].iter().find_map(|align| {
            let index = end.next_multiple_of(*align);
            let offsets = Self::offsets(image, index)?;
            let table = zero.checked_sub(offsets[usize::from(b'0')])?;
            let string = |&start: &usize| {
                let bytes = image.get(table + start..)?;
                let len = bytes.iter().take(256).position(|&byte| byte == 0)?;
                Some(bytes[..len].to_vec())
            };
            let strings: Vec<Vec<u8>> = offsets.iter().map(string).collect::<Option<_>>()?;
            let consistent = offsets
                .windows(2)
                .zip(&strings)
                .all(|(pair, string)| pair[0] + string.len() + 1 == pair[1]);
            consistent.then_some(Self { table, index_end: index + 512, strings })
        })
    }

    fn offsets(image: &[u8], index: usize) -> Option<Vec<usize>> {
        let words = image.get(index..index + 512)?.chunks_exact(2);
        let offsets: Vec<usize> =
            words.map(|word| usize::from(u16::from_le_bytes([word[0], word[1]]))).collect();
        (offsets[0] == 0 && offsets.is_sorted()).then_some(offsets)
    }
}

/// `num_syms` and `names`.
struct Names {
    num_syms: usize,
    count: usize,
    first: usize,
}

impl Names {
    /// Looks backwards from the token table for a number that many names follow, and right behind them the markers.
    fn find(image: &[u8], tokens: &Tokens) -> Option<Self> {
        let lowest = tokens.table.saturating_sub(MOST_BYTES);
        let places = (lowest..tokens.table).rev().filter(|at| at.is_multiple_of(4));
        places.into_iter().find_map(|num_syms| {
            let count =
                u32_at(image, num_syms).filter(|count| (1..MOST_SYMBOLS).contains(count))?;
            let padded = num_syms.is_multiple_of(8) && u32_at(image, num_syms + 4) == Some(0);
            let gaps: &[usize] = if padded { &[8, 4] } else { &[4] };
            gaps.iter().find_map(|gap| {
                let names = Self { num_syms, count: count as usize, first: num_syms + gap };
                names.is_followed_by_markers(image, tokens).then_some(names)
            })
        })
    }

    fn is_followed_by_markers(&self, image: &[u8], tokens: &Tokens) -> bool {
        let mut at = self.first;
        let mut markers = Vec::new();
        for number in 0..self.count {
            if number % 256 == 0 {
                markers.push(at - self.first);
            }
            match entry(image, at) {
                Some((start, len)) if len > 0 && start + len <= tokens.table => at = start + len,
                _ => return false,
            }
        }
        [8_usize, 4].iter().any(|align| {
            let table = at.next_multiple_of(*align);
            let said = |number: usize| u32_at(image, table + 4 * number).map(|word| word as usize);
            let holds = markers.iter().enumerate().all(|(number, at)| said(number) == Some(*at));
            holds && table + 4 * markers.len() <= tokens.table
        })
    }

    /// The names, without the letter of the type in front.
    fn decode(&self, image: &[u8], tokens: &Tokens) -> Vec<String> {
        let mut at = self.first;
        let mut names = Vec::with_capacity(self.count);
        for _ in 0..self.count {
            let Some((start, len)) = entry(image, at) else { break };
            let bytes: Vec<u8> = image[start..start + len]
                .iter()
                .flat_map(|&token| tokens.strings[usize::from(token)].iter().copied())
                .skip(1)
                .collect();
            names.push(String::from_utf8_lossy(&bytes).into_owned());
            at = start + len;
        }
        names
    }
}

/// Where the tokens of the name at `at` begin, and how many there are: one length byte, or two if the first has its high bit set (73bbb94466fd).
fn entry(image: &[u8], at: usize) -> Option<(usize, usize)> {
    let low = usize::from(*image.get(at)?);
    if low < 0x80 {
        return Some((at + 1, low));
    }
    let high = usize::from(*image.get(at + 1)?);
    Some((at + 2, low & 0x7f | high << 7))
}

/// The symbols' offsets from the image's start, in the order of the names.
fn addresses(image: &[u8], tokens: &Tokens, names: &Names) -> Option<(Layout, Vec<u64>)> {
    let count = names.count;
    let words = |at: usize| {
        let bytes = image.get(at..at.checked_add(4 * count)?)?;
        let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        Some(words.collect::<Vec<u32>>())
    };
    let relative = |at: usize, base_at: usize| {
        let offsets =
            words(at).filter(|offsets| offsets.is_sorted() && offsets.last() > offsets.first())?;
        let base = base_offset(image, base_at, names, tokens, &offsets)?;
        Some(offsets.iter().map(|&offset| base + u64::from(offset)).collect::<Vec<u64>>())
    };
    let last = tokens.index_end.next_multiple_of(8);
    let behind = |at: usize| (at + 4 * count).next_multiple_of(8);
    if let Some(offsets) = relative(last, behind(last)) {
        return Some((Layout::OffsetsLast, offsets));
    }
    // Every kernel with this layout has `_text` in its table: the start of the image.
    let text = position_of(image, names, tokens, "_text");
    let own = words(tokens.index_end).and_then(|words| self_relative(&words, tokens.index_end));
    if let Some(offsets) = own.filter(|offsets| text.is_some_and(|text| offsets[text] == 0)) {
        return Some((Layout::SelfRelative, offsets));
    }
    let base_at = names.num_syms.checked_sub(8)?;
    let first = base_at.checked_sub((4 * count).next_multiple_of(8))?;
    relative(first, base_at).map(|offsets| (Layout::OffsetsFirst, offsets))
}

fn self_relative(words: &[u32], table: usize) -> Option<Vec<u64>> {
    let place = |(number, word): (usize, &u32)| {
        let here = i64::try_from(table + 4 * number).ok()?;
        u64::try_from(here + i64::from(word.cast_signed())).ok()
    };
    let offsets: Vec<u64> = words.iter().enumerate().map(place).collect::<Option<_>>()?;
    offsets.is_sorted().then_some(offsets)
}

/// The image offset of `relative_base`. Where `_text` is in the table, it is the start of the image; where it is not (to 6.4) the address in `relative_base`
/// counts, which a relocatable image keeps in its relocation.
fn base_offset(
    image: &[u8],
    base_at: usize,
    names: &Names,
    tokens: &Tokens,
    offsets: &[u32],
) -> Option<u64> {
    if let Some(text) = position_of(image, names, tokens, "_text") {
        return (offsets[text] == 0).then_some(0);
    }
    relocation_of(image, base_at)
}

/// The number of the symbol with this name.
fn position_of(image: &[u8], names: &Names, tokens: &Tokens, wanted: &str) -> Option<usize> {
    // Sorted by address, `_text` is among the first; reading all names twice would be waste.
    let head = Names { count: names.count.min(64), ..*names };
    head.decode(image, tokens).iter().position(|name| name == wanted)
}

/// `R_AARCH64_RELATIVE` of ELF for the Arm 64-bit architecture (AAELF64, "Dynamic relocations").
const R_AARCH64_RELATIVE: u64 = 1027;
/// The link address of an image is a multiple of this: 2 MiB, as booting.rst asks.
const LINK_ALIGN: u64 = 2 << 20;

/// The value that the relocation of the word at image offset `place` stores there, as an image offset.
fn relocation_of(image: &[u8], place: usize) -> Option<u64> {
    let place = place as u64;
    let mut found = None;
    for at in (0..image.len().saturating_sub(23)).step_by(8) {
        if u64_at(image, at + 8) != Some(R_AARCH64_RELATIVE) {
            continue;
        }
        let (offset, addend) = (u64_at(image, at)?, u64_at(image, at + 16)?);
        let link = offset.wrapping_sub(place);
        let value = addend.wrapping_sub(link);
        if link >> 48 == 0xffff && link.is_multiple_of(LINK_ALIGN) && value < image.len() as u64 {
            if found.is_some_and(|known| known != value) {
                return None;
            }
            found = Some(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::super::sample::{self, symbol};
    use super::*;

    fn symbols() -> Vec<(u64, String)> {
        let mut all: Vec<(u64, String)> = vec![
            symbol(0, "T_text"),
            symbol(0, "t__pi__text"),
            symbol(0x10000, "T_stext"),
            symbol(0x10100, "tarm_smmu_probe_device"),
            symbol(0x10200, "tarm_smmu_probe_device"),
            symbol(0x10300, "tonly_clone.isra.0"),
            symbol(0x10400, "tpart.part.0"),
        ];
        // More than 256, so that there is a second marker, and a name of more than 127 tokens.
        all.extend((0..600).map(|n| symbol(0x20000 + n * 16, &format!("tgenerated_{n}"))));
        all.push(symbol(0x40000, &format!("T{}", "q".repeat(200))));
        all
    }

    #[test]
    fn every_layout_reads_back() {
        for layout in [Layout::OffsetsFirst, Layout::OffsetsLast, Layout::SelfRelative] {
            let image = sample::kallsyms(layout, &symbols());
            let found = Symbols::find(&image).unwrap_or_else(|error| panic!("{layout:?}: {error}"));
            assert_eq!(found.layout(), layout);
            assert_eq!(found.len(), symbols().len());
            assert_eq!(found.offset("_stext"), Some(0x10000));
            assert_eq!(found.offset("generated_599"), Some(0x20000 + 599 * 16));
            assert_eq!(found.offset(&"q".repeat(200)), Some(0x40000));
        }
    }

    /// 6.1 has no `_text` in its table and keeps the base in a relocation only.
    #[test]
    fn a_base_in_a_relocation() {
        let mut symbols = symbols();
        symbols.drain(..2);
        let image = sample::kallsyms_relocated(&symbols, 0x10000);
        let found = Symbols::find(&image).expect("the sample is complete");
        assert_eq!(found.layout(), Layout::OffsetsFirst);
        assert_eq!(found.offset("_stext"), Some(0x10000));
        assert_eq!(found.offset("generated_1"), Some(0x20010));
    }

    #[test]
    fn duplicates_have_numbers_and_clones_their_plain_name() {
        let image = sample::kallsyms(Layout::OffsetsLast, &symbols());
        let found = Symbols::find(&image).expect("the sample is complete");
        assert_eq!(found.offset("arm_smmu_probe_device"), None, "there are two");
        assert_eq!(found.count("arm_smmu_probe_device"), 2);
        assert_eq!(found.offset("arm_smmu_probe_device#2"), Some(0x10200));
        assert_eq!(found.offset("arm_smmu_probe_device#3"), None);
        assert_eq!(found.offset("only_clone"), Some(0x10300));
        assert_eq!(found.offset("part"), None, "a part is not the function's entry");
        assert_eq!(found.nearest(0x10204), Some(("arm_smmu_probe_device", 4)));
        assert_eq!(found.end(0x10200), Some(0x10300));
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = sample::kallsyms(Layout::OffsetsLast, &symbols());
        for end in (0..whole.len()).step_by(97) {
            let _ = Symbols::find(&whole[..end]);
        }
        let mut broken = whole.clone();
        let tokens = Tokens::find(&whole).expect("the sample is complete");
        let marker = whole[..tokens.table].iter().rposition(|&byte| byte != 0);
        broken[marker.expect("the second marker is not zero")] ^= 1;
        assert!(Symbols::find(&broken).is_err(), "a marker that lies");
    }
}
