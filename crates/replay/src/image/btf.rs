//! Type information inside a kernel image: where a member of a structure is (Documentation/bpf/btf.rst, sections 2 and 3).

use super::{find_all, u32_at};
use crate::error::Error;
use std::collections::HashMap;

/// Where a member is inside its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The byte that holds its first bit.
    pub(crate) byte: u64,
    /// Its first bit in that byte.
    pub(crate) bit: u32,
}

/// The types of a kernel.
#[derive(Debug)]
pub struct Btf {
    types: Vec<Type>,
    strings: Vec<u8>,
    structs: HashMap<u32, usize>,
}

/// A type, as far as members need it.
#[derive(Debug)]
struct Type {
    kind: u32,
    /// `kind_flag`: members have their width in the upper byte of the offset.
    wide: bool,
    /// A size, or the type that is referred to.
    size_or_type: u32,
    /// Name, type and offset in bits of each member; name, value and nothing of each enumerator.
    members: Vec<(u32, u32, u32)>,
}

/// Numbers of kinds, btf.rst 2.2.
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const ENUM64: u32 = 19;

impl Btf {
    /// Finds the section by its magic number 0xeB9F, version 1; of several the largest.
    ///
    /// # Errors
    /// [`Error::Image`] if there is none, as in a kernel without `CONFIG_DEBUG_INFO_BTF`.
    pub fn find(image: &[u8]) -> Result<Self, Error> {
        let headers = find_all(image, &[0x9f, 0xeb, 1, 0]).filter_map(|at| Header::read(image, at));
        let header = headers
            .max_by_key(|header| header.types.len())
            .ok_or_else(|| Error::Image("it has no BTF (CONFIG_DEBUG_INFO_BTF)".into()))?;
        let mut btf =
            Self { types: Vec::new(), strings: header.strings.to_vec(), structs: HashMap::new() };
        btf.read_types(header.types).ok_or_else(|| Error::Image("its BTF is damaged".into()))?;
        Ok(btf)
    }

    fn read_types(&mut self, bytes: &[u8]) -> Option<()> {
        // Type 0 is void and not in the table.
        self.types.push(Type { kind: 0, wide: false, size_or_type: 0, members: Vec::new() });
        let mut at = 0;
        while at < bytes.len() {
            let (name, info) = (u32_at(bytes, at)?, u32_at(bytes, at + 4)?);
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let size_or_type = u32_at(bytes, at + 8)?;
            at += 12;
            let members = members(bytes, at, kind, count)?;
            at += extra(kind, count)?;
            if kind == STRUCT {
                self.structs.entry(name).or_insert(self.types.len());
            }
            self.types.push(Type { kind, wide: info >> 31 == 1, size_or_type, members });
        }
        Some(())
    }

    fn name(&self, offset: u32) -> &[u8] {
        let text = self.strings.get(offset as usize..).unwrap_or_default();
        text.split(|&byte| byte == 0).next().unwrap_or_default()
    }

    /// Where `path` is in `struct name`: members joined by dots; those of anonymous structures and unions count as the outer one's.
    pub(crate) fn member(&self, name: &str, path: &str) -> Option<Place> {
        let named = |(offset, _): &(&u32, &usize)| self.name(**offset) == name.as_bytes();
        let mut index = *self.structs.iter().find(named)?.1;
        let mut bits = 0;
        for part in path.split('.') {
            let (offset, next) = self.find_member(self.resolve(index)?, part.as_bytes(), 0)?;
            bits += u64::from(offset);
            index = next;
        }
        Some(Place { byte: bits / 8, bit: u32::try_from(bits % 8).ok()? })
    }

    /// Follows names and qualifiers to the type itself.
    fn resolve(&self, mut index: usize) -> Option<usize> {
        for _ in 0..32 {
            let found = self.types.get(index)?;
            if !matches!(found.kind, TYPEDEF | VOLATILE | CONST | RESTRICT) {
                return Some(index);
            }
            index = found.size_or_type as usize;
        }
        None
    }

    fn find_member(&self, index: usize, wanted: &[u8], depth: u32) -> Option<(u32, usize)> {
        let outer = self.types.get(index).filter(|outer| matches!(outer.kind, STRUCT | UNION))?;
        outer.members.iter().find_map(|&(name, kind, offset)| {
            let offset = if outer.wide { offset & 0x00ff_ffff } else { offset };
            let name = self.name(name);
            if name == wanted {
                return Some((offset, kind as usize));
            }
            if !name.is_empty() || depth > 16 {
                return None;
            }
            let inner = self.resolve(kind as usize)?;
            let (inside, kind) = self.find_member(inner, wanted, depth + 1)?;
            Some((offset + inside, kind))
        })
    }

    /// The bit fields of `struct name` that have a bit in the byte where the bit field `member` begins, itself among them, with their first bits in that byte, in order.
    /// `None` if `member` is no bit field, or is not there.
    pub(crate) fn byte_of(&self, name: &str, member: &str) -> Option<Vec<(String, u32)>> {
        let named = |(offset, _): &(&u32, &usize)| self.name(**offset) == name.as_bytes();
        let index = *self.structs.iter().find(named)?.1;
        let mut fields = Vec::new();
        self.bit_fields(index, 0, 0, &mut fields);
        let byte = fields.iter().find(|(name, ..)| name == member)?.1 / 8;
        let mut inside: Vec<(String, u32)> = fields
            .into_iter()
            .filter(|(_, first, width)| first / 8 <= byte && byte <= (first + width - 1) / 8)
            .map(|(name, first, _)| (name, first.saturating_sub(8 * byte)))
            .collect();
        inside.sort_by_key(|(_, bit)| *bit);
        Some(inside)
    }

    /// Adds name, first bit and width of each bit field of a structure, also of those inside anonymous members.
    fn bit_fields(&self, index: usize, base: u32, depth: u32, found: &mut Vec<(String, u32, u32)>) {
        let outer = self.types.get(index).filter(|outer| matches!(outer.kind, STRUCT | UNION));
        let Some(outer) = outer.filter(|_| depth <= 16) else { return };
        for &(name, kind, offset) in &outer.members {
            let (offset, width) =
                if outer.wide { (offset & 0x00ff_ffff, offset >> 24) } else { (offset, 0) };
            let name = self.name(name);
            if width > 0 {
                let name = String::from_utf8_lossy(name).into_owned();
                found.push((name, base + offset, width));
            } else if name.is_empty()
                && let Some(inner) = self.resolve(kind as usize)
            {
                self.bit_fields(inner, base + offset, depth + 1, found);
            }
        }
    }

    /// The value of an enumerator, of any enumeration.
    pub(crate) fn enumerator(&self, name: &str) -> Option<u32> {
        let enums = self.types.iter().filter(|found| matches!(found.kind, ENUM | ENUM64));
        let mut values = enums.flat_map(|found| &found.members);
        values
            .find(|(offset, ..)| self.name(*offset) == name.as_bytes())
            .map(|(_, value, _)| *value)
    }
}

/// Members or enumerators behind a type record, btf.rst 2.2.4 to 2.2.6 and 2.2.19.
fn members(bytes: &[u8], at: usize, kind: u32, count: usize) -> Option<Vec<(u32, u32, u32)>> {
    let (width, has_third) = match kind {
        STRUCT | UNION => (12, true),
        ENUM => (8, false),
        ENUM64 => (12, false),
        _ => return Some(Vec::new()),
    };
    (0..count)
        .map(|number| {
            let at = at + number * width;
            let third = if has_third { u32_at(bytes, at + 8)? } else { 0 };
            Some((u32_at(bytes, at)?, u32_at(bytes, at + 4)?, third))
        })
        .collect()
}

/// Bytes behind a type record, by kind (btf.rst 2.2).
fn extra(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Int, var and decl_tag have one word more.
        1 | 14 | 17 => 4,
        ARRAY => 12,
        STRUCT | UNION | 15 | ENUM64 => 12 * count,
        ENUM | 13 => 8 * count,
        // Pointer, forward, the four that only refer, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        _ => return None,
    })
}

struct Header<'a> {
    types: &'a [u8],
    strings: &'a [u8],
}

impl<'a> Header<'a> {
    /// `struct btf_header`: hdr_len, type_off, type_len, str_off, str_len from byte 4 on.
    fn read(image: &'a [u8], at: usize) -> Option<Self> {
        let word = |number: usize| u32_at(image, at + 4 + 4 * number).map(|word| word as usize);
        let len = word(0).filter(|len| (24..256).contains(len))?;
        let section = |offset: usize, size: usize| {
            let start = at.checked_add(len)?.checked_add(offset)?;
            image.get(start..start.checked_add(size)?)
        };
        let types = section(word(1)?, word(2)?)?;
        let strings = section(word(3)?, word(4)?)?;
        (strings.first() == Some(&0) && strings.last() == Some(&0))
            .then_some(Self { types, strings })
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::Types;
    use super::*;

    /// `struct device { int a; union { struct { u8 x:1; u8 dma_iommu:1; }; }; const struct inner in; }` and an enumeration.
    fn sample() -> Types {
        let mut s = Types::default();
        s.record("int", 1 << 24, 4, &[32]);
        let (x, flag) = (s.string("x"), s.string("dma_iommu"));
        let bit = |offset: u32| 1 << 24 | offset;
        s.record("", 1 << 31 | 4 << 24 | 2, 1, &[x, 1, bit(0), flag, 1, bit(1)]);
        s.record("", 5 << 24 | 1, 1, &[0, 2, 0]);
        let deep = s.string("deep");
        s.record("inner", 4 << 24 | 1, 8, &[deep, 1, 32]);
        s.record("", 10 << 24, 4, &[]);
        let (a, inner) = (s.string("a"), s.string("in"));
        s.record("device", 4 << 24 | 3, 16, &[a, 1, 0, 0, 3, 32, inner, 5, 64]);
        let value = s.string("DEV_FLAG_DMA_IOMMU");
        s.record("flags", 6 << 24 | 1, 4, &[value, 7]);
        s
    }

    #[test]
    fn members_bit_fields_and_enumerators() {
        let btf = Btf::find(&sample().image()).expect("the sample is complete");
        let place = |byte, bit| Some(Place { byte, bit });
        assert_eq!(btf.member("device", "a"), place(0, 0));
        assert_eq!(btf.member("device", "dma_iommu"), place(4, 1), "through two anonymous ones");
        assert_eq!(btf.member("device", "in.deep"), place(12, 0), "through a qualifier");
        assert_eq!(btf.member("device", "missing"), None);
        assert_eq!(btf.member("nothing", "a"), None);
        assert_eq!(btf.enumerator("DEV_FLAG_DMA_IOMMU"), Some(7));
        assert_eq!(btf.enumerator("DEV_FLAG_X"), None);
    }

    /// The bit field of the sample has a neighbour below it; one that begins in the byte before and ends in this one is in it too.
    #[test]
    fn what_shares_a_byte() {
        let named = |fields: Option<Vec<(String, u32)>>| {
            let fields = fields.unwrap_or_default();
            fields.iter().map(|(name, bit)| format!("{name} {bit}")).collect::<Vec<_>>()
        };
        let btf = Btf::find(&sample().image()).expect("the sample is complete");
        assert_eq!(named(btf.byte_of("device", "dma_iommu")), ["x 0", "dma_iommu 1"]);
        assert_eq!(btf.byte_of("device", "a"), None, "no bit field");
        assert_eq!(btf.byte_of("device", "missing"), None);
        let mut s = Types::default();
        s.record("int", 1 << 24, 4, &[32]);
        let field = |s: &mut Types, name: &str, first: u32, width: u32| {
            [s.string(name), 1, width << 24 | first]
        };
        let fields = [("a", 0, 1), ("b", 1, 12), ("c", 13, 3), ("d", 16, 1)];
        let more: Vec<u32> = fields
            .iter()
            .flat_map(|(name, first, width)| field(&mut s, name, *first, *width))
            .collect();
        s.record("device", 1 << 31 | 4 << 24 | 4, 4, &more);
        let btf = Btf::find(&s.image()).expect("the sample is complete");
        assert_eq!(named(btf.byte_of("device", "c")), ["b 0", "c 5"]);
        assert_eq!(named(btf.byte_of("device", "a")), ["a 0", "b 1"]);
        assert_eq!(named(btf.byte_of("device", "d")), ["d 0"]);
    }

    #[test]
    fn damage_is_an_error_and_no_panic() {
        let whole = sample().image();
        for end in 0..whole.len() {
            assert!(Btf::find(&whole[..end]).is_err(), "{end} bytes");
        }
        let mut broken = whole.clone();
        // An unknown kind: its length cannot be known.
        broken[100 + 24 + 7] = 31;
        assert!(Btf::find(&broken).is_err());
    }
}
