//! Direct calls and stores of a byte in arm64 code (Arm ARM DDI 0487, C6.2 "BL", "B" and "STRB (immediate)").

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

/// Where the code, which stands at `base`, stores a byte at this offset from a register: `strb wN, [xM, #offset]` with unsigned offset.
pub(crate) fn stores_of_byte(code: &[u8], base: u64, offset: u64) -> impl Iterator<Item = u64> {
    code.chunks_exact(4).enumerate().filter_map(move |(number, bytes)| {
        let word = u32::from_le_bytes(bytes.try_into().ok()?);
        let stores = word >> 22 == 0xe4 && u64::from(word >> 10 & 0xfff) == offset;
        stores.then_some(base.wrapping_add(number as u64 * 4))
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

    /// Words as GNU as assembles them: `strb w1, [x0, #876]`, `ldrb w1, [x0, #876]`, `strb w1, [x0, #877]`, `strh w1, [x0, #876]`, `strb w2, [x19, #876]`.
    #[test]
    fn stores_of_one_byte() {
        let words: [u32; 5] = [0x390d_b001, 0x394d_b001, 0x390d_b401, 0x7906_d801, 0x390d_b262];
        let code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let found: Vec<u64> = stores_of_byte(&code, 0x1000, 876).collect();
        assert_eq!(found, [0x1000, 0x1010]);
    }

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
