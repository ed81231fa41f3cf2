//! Going without a fix: one register altered at one instruction. Such a run is no longer one of the stock kernel, and is labelled so.

use crate::error::Error;
use crate::image::{KernelImage, u32_at};
use crate::steer::{Ablation, symbol};

/// A fix that can be gone without.
struct Fix {
    commit: &'static str,
    /// The function that it adds a test to. The test is `cbz` of a pointer that leads to `-EPROBE_DEFER`.
    function: &'static str,
}

const FIXES: &[Fix] =
    &[Fix { commit: "b46064a18810", function: "iommu_device_use_default_domain" }];

/// `mov w0, #-517` in both registers that compilers use for a result that is still to come: `movn wN, #516` (DDI 0487, C6.2 "MOVN"), without N.
const MOVN_516: u32 = 0x1280_4080;
/// The largest function that is looked through.
const MOST_BYTES: u64 = 4096;

/// Where and how to alter a register so that `commit` has no effect.
pub(crate) fn find(commit: &str, image: &KernelImage) -> Result<Ablation, Error> {
    let fix = FIXES.iter().find(|fix| fix.commit == commit).ok_or_else(|| {
        let known: Vec<&str> = FIXES.iter().map(|fix| fix.commit).collect();
        Error::Schedule(format!(
            "going without {commit} is not supported; known are {}",
            known.join(", ")
        ))
    })?;
    let start = symbol(image, fix.function, "going without a fix")?;
    let end = image.symbols.end(start).unwrap_or(start).min(start + MOST_BYTES);
    let word = |at: u64| usize::try_from(at).ok().and_then(|at| u32_at(&image.bytes, at));
    let refusals: Vec<u64> = (start..end)
        .step_by(4)
        .filter(|at| word(*at).is_some_and(|word| word & !0x1f == MOVN_516))
        .collect();
    let test = (start..end).step_by(4).find_map(|at| {
        let (register, target) = cbz(word(at)?, at)?;
        // Straight to the refusal, or with the result prepared before the test.
        let leads = refusals
            .iter()
            .any(|refusal| *refusal == target || (*refusal < at && at - *refusal <= 16));
        leads.then_some((at, register))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As GNU as assembles `cbz x1, .+16` and `cbz x20, .-8`; `cbz w1` is another instruction.
    #[test]
    fn compare_and_branch() {
        assert_eq!(cbz(0xb400_0081, 0x100), Some((1, 0x110)));
        assert_eq!(cbz(0xb4ff_ffd4, 0x100), Some((20, 0xf8)));
        assert_eq!(cbz(0x3400_0081, 0x100), None);
    }
}
