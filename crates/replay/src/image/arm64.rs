//! Direct calls in arm64 code (Arm ARM DDI 0487, C6.2 "BL" and "B").

/// A direct call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    /// Where the instruction stands.
    pub(crate) at: u64,
    /// Where it leads.
    pub(crate) target: u64,
}

/// The `bl` instructions of `code`, which stands at `base`, in the order of addresses.
pub(crate) fn calls(code: &[u8], base: u64) -> impl Iterator<Item = Call> {
    code.chunks_exact(4).enumerate().filter_map(move |(number, bytes)| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        let at = base.wrapping_add(number as u64 * 4);
        (word >> 26 == 0b10_0101).then(|| Call { at, target: at.wrapping_add(offset(word)) })
    })
}

/// `imm26` in units of four bytes, with its sign.
fn offset(word: u32) -> u64 {
    let imm26 = i64::from(word & 0x03ff_ffff);
    let signed = if imm26 >> 25 == 0 { imm26 } else { imm26 - (1 << 26) };
    (signed * 4).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words as GNU as assembles them: `bl .+8`, `nop`, `b .+4` (no call), `bl .-12`.
    #[test]
    fn forward_and_backward_calls() {
        let words: [u32; 4] = [0x9400_0002, 0xd503_201f, 0x1400_0001, 0x97ff_fffd];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let found: Vec<Call> = calls(&code, 0x1000).collect();
        assert_eq!(
            found,
            [Call { at: 0x1000, target: 0x1008 }, Call { at: 0x100c, target: 0x1000 }]
        );
    }
}
