//! Page (leaf) sizes as powers of two, and sets of them.

use core::fmt;

/// One leaf size in bytes, a power of two of at least 4 KiB.
///
/// # Invariants
///
/// The exponent is in 12..=63.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u8);

impl PageSize {
    /// 4 KiB.
    pub const SIZE_4K: Self = Self(12);
    /// 16 KiB.
    pub const SIZE_16K: Self = Self(14);
    /// 64 KiB.
    pub const SIZE_64K: Self = Self(16);
    /// 2 MiB.
    pub const SIZE_2M: Self = Self(21);
    /// 32 MiB.
    pub const SIZE_32M: Self = Self(25);
    /// 512 MiB.
    pub const SIZE_512M: Self = Self(29);
    /// 1 GiB.
    pub const SIZE_1G: Self = Self(30);

    /// The size `2^log2` bytes, or `None` outside 12..=63.
    pub const fn from_log2(log2: u8) -> Option<Self> {
        // INVARIANT: the range is checked here.
        if log2 >= 12 && log2 <= 63 { Some(Self(log2)) } else { None }
    }

    /// Bytes.
    pub const fn bytes(self) -> u64 {
        1 << self.0
    }

    /// The exponent, 12..=63.
    pub const fn log2(self) -> u8 {
        self.0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            12..20 => write!(f, "{}K", 1u64 << (self.0 - 10)),
            20..30 => write!(f, "{}M", 1u64 << (self.0 - 20)),
            _ => write!(f, "{}G", 1u64 << (self.0 - 30)),
        }
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSize({self})")
    }
}

/// A set of leaf sizes; bit n stands for 2^n bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[doc(alias = "pgsize_bitmap")]
pub struct PageSizes(u64);

impl PageSizes {
    /// No size.
    pub const NONE: Self = Self(0);

    /// Every size.
    pub const ALL: Self = Self(!0xfff);

    /// The set with the bits of `bitmap`; bits below 4 KiB are dropped.
    pub const fn from_bitmap(bitmap: u64) -> Self {
        Self(bitmap & !0xfff)
    }

    /// The set of `sizes`.
    pub fn of(sizes: &[PageSize]) -> Self {
        Self(sizes.iter().fold(0, |bits, size| bits | size.bytes()))
    }

    /// One bit a size.
    pub const fn bitmap(self) -> u64 {
        self.0
    }

    /// Whether no size is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether `size` is in the set.
    pub const fn contains(self, size: PageSize) -> bool {
        self.0 & size.bytes() != 0
    }

    /// Sizes that are in both sets.
    #[must_use]
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The smallest size, if there is one.
    pub fn smallest(self) -> Option<PageSize> {
        u8::try_from(self.0.trailing_zeros()).ok().and_then(PageSize::from_log2)
    }

    /// The largest size that divides both addresses in `aligned` (the bitwise OR of IOVA and physical address) and is not above `len` bytes.
    #[doc(alias = "iommu_pgsize")]
    pub fn best_fit(self, aligned: u64, len: u64) -> Option<PageSize> {
        let by_alignment = if aligned == 0 {
            u64::MAX
        } else {
            (2u64 << aligned.trailing_zeros()).wrapping_sub(1)
        };
        let by_length = if len == 0 { 0 } else { (2u64 << len.ilog2()).wrapping_sub(1) };
        let usable = self.0 & by_alignment & by_length;
        let log2 = usable.checked_ilog2()?;
        u8::try_from(log2).ok().and_then(PageSize::from_log2)
    }
}

impl fmt::Display for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for log2 in 12..=63 {
            if let Some(size) = PageSize::from_log2(log2).filter(|size| self.contains(*size)) {
                write!(f, "{separator}{size}")?;
                separator = "/";
            }
        }
        Ok(())
    }
}

impl fmt::Debug for PageSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PageSizes({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tries every size of the set, largest first.
    fn best_fit_by_trial(sizes: PageSizes, aligned: u64, len: u64) -> Option<PageSize> {
        (12..=63).rev().filter_map(PageSize::from_log2).find(|size| {
            sizes.contains(*size) && aligned.is_multiple_of(size.bytes()) && size.bytes() <= len
        })
    }

    #[test]
    fn best_fit_equals_trial() {
        let sets = [
            0,
            0x1000,
            0x4020_1000,
            0x2000_0000 | 0x1_0000,
            0x204_0000_0000_u64 | 0x4000,
            u64::MAX,
        ];
        for bitmap in sets {
            let sizes = PageSizes::from_bitmap(bitmap);
            for aligned in [0, 1, 0xfff, 0x1000, 0x3000, 0x20_0000, 0x4000_0000, 1 << 63, u64::MAX]
            {
                for len in [0, 1, 0xfff, 0x1000, 0x1001, 0x20_0000, 0x3fff_ffff, 1 << 63, u64::MAX]
                {
                    let expected = best_fit_by_trial(sizes, aligned, len);
                    assert_eq!(
                        sizes.best_fit(aligned, len),
                        expected,
                        "{bitmap:#x} {aligned:#x} {len:#x}"
                    );
                }
            }
        }
    }

    #[test]
    fn shown_as_people_write_them() {
        extern crate alloc;
        let sizes = PageSizes::of(&[PageSize::SIZE_4K, PageSize::SIZE_2M, PageSize::SIZE_1G]);
        assert_eq!(alloc::format!("{sizes}"), "4K/2M/1G");
        assert_eq!(sizes.smallest(), Some(PageSize::SIZE_4K));
        assert_eq!(PageSizes::NONE.smallest(), None);
    }
}
