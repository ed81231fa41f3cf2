//! Going without a fix: one register altered at one instruction. Such a run is no longer one of the stock kernel, and is labelled so.

use crate::error::Error;
use crate::image::{KernelImage, u32_at};
use crate::steer::{Ablation, symbol};

/// A fix that can be gone without.
#[derive(Debug)]
pub struct Fix {
    /// The commit's id.
    pub(crate) commit: &'static str,
    /// The function that it adds a test to, which leads to `-EPROBE_DEFER`.
    function: &'static str,
    test: Test,
}

/// What a fix looks at.
#[derive(Clone, Copy, Debug)]
enum Test {
    /// `cbz` of a pointer.
    Pointer,
    /// `tbz` of bit 0 of a byte that was loaded just before: this member of this structure.
    Flag(&'static str, &'static str),
}

const FIXES: &[Fix] = &[
    Fix {
        commit: "b46064a18810",
        function: "iommu_device_use_default_domain",
        test: Test::Pointer,
    },
    // `if (!dev->iommu && !READ_ONCE(iommu->ready))`: the second half.
    Fix {
        commit: "da33e87bd2bf",
        function: "iommu_fwspec_init",
        test: Test::Flag("iommu_device", "ready"),
    },
];

/// `mov w0, #-517` in both registers that compilers use for a result that is still to come: `movn wN, #516` (DDI 0487, C6.2 "MOVN"), without N.
const MOVN_516: u32 = 0x1280_4080;
/// The largest function that is looked through.
const MOST_BYTES: u64 = 4096;

impl Fix {
    /// The fix of this commit, by its id of twelve digits.
    ///
    /// # Errors
    /// [`Error::Schedule`] if a replay cannot go without it; the message lists those that it can go without.
    pub fn find(commit: &str) -> Result<&'static Self, Error> {
        FIXES.iter().find(|fix| fix.commit == commit).ok_or_else(|| {
            let known: Vec<&str> = FIXES.iter().map(|fix| fix.commit).collect();
            let known = known.join(", ");
            Error::Schedule(format!("no replay can go without {commit}; known are {known}"))
        })
    }
}

/// Where and how to alter a register so that `fix` has no effect.
pub(crate) fn find(fix: &Fix, image: &KernelImage) -> Result<Ablation, Error> {
    let commit = fix.commit;
    let start = symbol(image, fix.function, "going without a fix")?;
    let end = image.symbols.end(start).unwrap_or(start).min(start + MOST_BYTES);
    let word = |at: u64| usize::try_from(at).ok().and_then(|at| u32_at(&image.bytes, at));
    let refusals: Vec<u64> = (start..end)
        .step_by(4)
        .filter(|at| word(*at).is_some_and(|word| word & !0x1f == MOVN_516))
        .collect();
    let flag = match fix.test {
        Test::Pointer => None,
        Test::Flag(structure, member) => image.btf.member(structure, member),
    };
    let test = (start..end).step_by(4).find_map(|at| match (fix.test, flag) {
        (Test::Pointer, _) => {
            let (register, target) = cbz(word(at)?, at)?;
            // Straight to the refusal, or with the result prepared before the test.
            let leads = refusals
                .iter()
                .any(|refusal| *refusal == target || (*refusal < at && at - *refusal <= 16));
            leads.then_some((at, register))
        }
        (Test::Flag(..), Some(place)) => {
            let (register, target) = tbz(word(at)?, at)?;
            // A register may be restored before the result is set.
            let leads = refusals.iter().any(|at| *at == target || *at == target + 4);
            let loaded = load_of_byte(word(at.checked_sub(4)?)?) == Some((register, place.byte));
            (leads && loaded).then_some((at, register))
        }
        (Test::Flag(..), None) => None,
    });
    let (offset, register) = test.ok_or_else(|| Error::Stop {
        stop: fix.function.to_owned(),
        why: format!("the test of {commit} was not found in its code"),
    })?;
    Ok(Ablation { offset, register, from: 0, to: 1 })
}

/// `cbz xN, target` (DDI 0487, C6.2 "CBZ", 64-bit): the register and the target.
fn cbz(word: u32, at: u64) -> Option<(usize, u64)> {
    if word >> 24 != 0xb4 {
        return None;
    }
    let imm19 = i64::from(word >> 5 & 0x7_ffff);
    let offset = if imm19 >> 18 == 0 { imm19 } else { imm19 - (1 << 19) };
    Some(((word & 0x1f) as usize, at.wrapping_add((offset * 4).cast_unsigned())))
}

/// `tbz wN, #0, target` (DDI 0487, C6.2 "TBZ"): the register and the target.
fn tbz(word: u32, at: u64) -> Option<(usize, u64)> {
    if word & 0xfff8_0000 != 0x3600_0000 {
        return None;
    }
    let imm14 = i64::from(word >> 5 & 0x3fff);
    let offset = if imm14 >> 13 == 0 { imm14 } else { imm14 - (1 << 14) };
    Some(((word & 0x1f) as usize, at.wrapping_add((offset * 4).cast_unsigned())))
}

/// `ldrb wN, [xM, #offset]` (DDI 0487, C6.2 "LDRB (immediate)", unsigned offset): register and offset.
fn load_of_byte(word: u32) -> Option<(usize, u64)> {
    (word >> 22 == 0xe5).then_some(((word & 0x1f) as usize, u64::from(word >> 10 & 0xfff)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Words of iommu_fwspec_init in Debian's 6.16.3 and 7.3.4, as LLVM disassembles them: `ldrb w0, [x19, #52]`, `tbz w0, #0, .+60`; and what is neither, as it
    /// assembles `tbz w0, #1, .+60`, `tbnz w0, #0, .+60`, `ldrh w0, [x19, #52]`.
    #[test]
    fn test_of_a_flag() {
        assert_eq!(load_of_byte(0x3940_d260), Some((0, 52)));
        assert_eq!(tbz(0x3600_01e0, 0x100), Some((0, 0x13c)));
        assert_eq!(tbz(0x3608_01e0, 0x100), None);
        assert_eq!(tbz(0x3700_01e0, 0x100), None);
        assert_eq!(load_of_byte(0x7940_6a60), None);
    }

    #[test]
    fn an_unknown_commit_is_refused_with_the_list_of_known_ones() {
        let known_to_the_lab =
            |fix: &Fix| portcullis_lab::linux::Commit::find(fix.commit).is_some();
        assert!(FIXES.iter().all(known_to_the_lab));
        assert_eq!(
            Fix::find("da33e87bd2bf").map(|fix| fix.function).ok(),
            Some("iommu_fwspec_init")
        );
        for unknown in ["f188056352bc", "da33e87bd2bfff", "da33", ""] {
            let error = Fix::find(unknown).expect_err(unknown).to_string();
            assert!(FIXES.iter().all(|fix| error.contains(fix.commit)), "{unknown}: {error}");
        }
    }

    /// As GNU as assembles `cbz x1, .+16` and `cbz x20, .-8`; `cbz w1` is another instruction.
    #[test]
    fn compare_and_branch() {
        assert_eq!(cbz(0xb400_0081, 0x100), Some((1, 0x110)));
        assert_eq!(cbz(0xb4ff_ffd4, 0x100), Some((20, 0xf8)));
        assert_eq!(cbz(0x3400_0081, 0x100), None);
    }
}
