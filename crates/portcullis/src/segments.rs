//! What a device can bear in one segment.

/// What a device can bear in one segment, as its driver knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SegmentLimits {
    /// The most bytes of a segment, at most 2^48.
    #[doc(alias = "dma_set_max_seg_size")]
    pub most_bytes: u64,
    /// A power of two: no segment crosses a multiple of that many bytes. 2^63 at most.
    #[doc(alias = "dma_set_seg_boundary")]
    pub boundary: u64,
}

impl SegmentLimits {
    /// Segments of any length, anywhere.
    pub const NONE: Self = Self { most_bytes: 1 << 48, boundary: 1 << 63 };

    /// As one word, 0 for none.
    pub(crate) fn pack(self) -> Option<u64> {
        if !(1..=1 << 48).contains(&self.most_bytes) || !self.boundary.is_power_of_two() {
            return None;
        }
        let most = if self.most_bytes == 1 << 48 { 0 } else { self.most_bytes };
        let boundary = if self.boundary == 1 << 63 { 0 } else { 64 - self.boundary.ilog2() };
        Some(most | u64::from(boundary) << 48)
    }

    pub(crate) fn unpack(word: u64) -> Self {
        let most = word & ((1 << 48) - 1);
        let boundary = word >> 48;
        Self {
            most_bytes: if most == 0 { 1 << 48 } else { most },
            boundary: if boundary == 0 { 1 << 63 } else { 1 << (64 - boundary) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_survive_their_word() {
        for most_bytes in [1, 512, 0x1_0000, (1 << 48) - 1, 1 << 48] {
            for boundary in [1, 2, 0x1000, 1 << 32, 1 << 62, 1 << 63] {
                let limits = SegmentLimits { most_bytes, boundary };
                assert_eq!(limits.pack().map(SegmentLimits::unpack), Some(limits));
            }
        }
        assert_eq!(SegmentLimits::NONE.pack(), Some(0));
        for (most_bytes, boundary) in [(0, 1), ((1 << 48) + 1, 1), (1, 0), (1, 3)] {
            assert_eq!(SegmentLimits { most_bytes, boundary }.pack(), None);
        }
    }
}
