//! What firmware or an earlier kernel left: a unit that is on, with a device table of its own.

use crate::entry::{BLOCKED, Entry};
use crate::identify::Features;
use alloc::vec::Vec;
use core::fmt;
use portcullis_addr::{PhysAddr, StreamId};
use portcullis_platform::Registers;
use portcullis_spec::Register;
use portcullis_spec::amdvi::{self as spec, control, dev_tab_base, dte};

/// What becomes of devices that firmware left translated: of the display that shows the boot picture, or of those that an earlier kernel left running, in a crash kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FirmwareTable {
    /// They are blocked, as all others.
    #[default]
    Block,
    /// Those with these entries go on, through firmware's page tables, until their driver attaches them. Whoever asks for this has read the entries from the table that [`FoundTable`] names, and keeps the memory of their page tables, and all
    /// that these lead to, from other use. All others are blocked; so are entries that let a device pass untranslated.
    Keep(Vec<(StreamId, Entry)>),
}

/// A device of [`FirmwareTable::Keep`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirmwareStream {
    /// Its id.
    pub stream: StreamId,
    /// What became of it.
    pub fate: Fate,
}

/// What became of a device that firmware left translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It goes on through firmware's tables, which the driver does not look into, until it is attached.
    Kept,
    /// It is blocked.
    Blocked(WhyBlocked),
}

/// Why a device did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyBlocked {
    /// Its entry lets everything pass untranslated: V = 0, or Mode = 0.
    Untranslated,
    /// Its entry permits nothing, or TV = 0.
    NothingPermitted,
    /// Its entry asks for what this driver cannot judge: guest tables, or levels that the unit does not have.
    Unclear,
    /// Its domain is 0 or 1, which this driver uses itself.
    Domain,
    /// Its id is beyond the device table.
    OutOfRange,
}

impl fmt::Display for WhyBlocked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untranslated => "firmware let it pass untranslated",
            Self::NothingPermitted => "firmware permitted it nothing",
            Self::Unclear => "firmware translated it in a way that is not followed",
            Self::Domain => "firmware gave it a domain that is needed otherwise",
            Self::OutOfRange => "its id is beyond the device table",
        })
    }
}

impl fmt::Display for FirmwareStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "device {} was left running: ", self.stream)?;
        match self.fate {
            Fate::Kept => f.write_str("it goes on through firmware's tables until it is attached"),
            Fate::Blocked(why) => write!(f, "blocked, because {why}"),
        }
    }
}

/// Where the device table of a unit is that was found on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundTable {
    /// Of each segment: where it is, and its bytes.
    segments: Vec<(PhysAddr, u64)>,
}

impl FoundTable {
    /// Looks at a unit that nobody drives yet; reads only. `None` where it is off, so that nobody can have been left translated, or gone.
    pub fn of<R: Registers>(registers: &R) -> Option<Self> {
        let found = registers.read64(spec::CONTROL.offset);
        if found == u64::MAX || !control::IOMMU_EN.is_set(found) {
            return None;
        }
        let log2 = control::DEV_TBL_SEG_EN.get(found).min(3);
        let read = |index: usize| {
            let register: Register = match index {
                0 => spec::DEV_TAB_BASE,
                more => Register {
                    offset: spec::DEV_TAB_SEGMENT_1.offset + (more - 1) * spec::SEGMENT_STRIDE,
                    ..spec::DEV_TAB_SEGMENT_1
                },
            };
            let value = registers.read64(register.offset);
            let base = PhysAddr::new(dev_tab_base::BASE.in_place(value));
            (base, (dev_tab_base::SIZE.get(value) + 1) << 12)
        };
        Some(Self { segments: (0..1 << log2).map(read).collect() })
    }

    /// Where the entry of a device is, 32 bytes; `None` where the table has none for it.
    pub fn entry(&self, stream: StreamId) -> Option<PhysAddr> {
        let below = 16 - self.segments.len().ilog2();
        let id = stream.raw();
        let (base, len) = *self.segments.get((id >> below) as usize)?;
        let offset = u64::from(id & ((1 << below) - 1)) * dte::BYTES as u64;
        (offset < len).then(|| PhysAddr::new(base.raw() + offset))
    }
}

/// What of firmware's entry is taken over: its page table, domain and permissions, and its interrupts.
pub(crate) fn judge(found: &Entry, features: &Features) -> Result<Entry, WhyBlocked> {
    let set = |field: portcullis_spec::Field| field.read(found) != 0;
    let mode = dte::MODE.read(found);
    if !set(dte::V) || mode == 0 && set(dte::TV) && (set(dte::IR) || set(dte::IW)) {
        return Err(WhyBlocked::Untranslated);
    }
    if !set(dte::TV) || !set(dte::IR) && !set(dte::IW) {
        return Err(WhyBlocked::NothingPermitted);
    }
    if set(dte::GV) || mode > u64::from(features.levels) {
        return Err(WhyBlocked::Unclear);
    }
    let mut entry = BLOCKED;
    for field in [dte::MODE, dte::ROOT, dte::IR, dte::IW, dte::DOMAIN] {
        field.write(&mut entry, field.read(found));
    }
    entry[2..].copy_from_slice(&found[2..]);
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bits typed from §2.2.2.1: V 0, TV 1, Mode `[11:9]`, GV 55, IR 61, IW 62.
    #[test]
    fn only_entries_that_translate_go_on() {
        let features =
            Features { levels: 4, invalidate_all: true, segments_log2: 0, guest_tables: false };
        let judged = |first: u64| judge(&[first, 7, 0, 0], &features);
        let good = 3 | 3 << 9 | 0x1234_5000 | 3 << 61;
        assert_eq!(judged(good), Ok([good, 7, 0, 0]));
        assert_eq!(judge(&[good | 1 << 52, 7 | 1 << 32, 5, 6], &features), Ok([good, 7, 5, 6]));
        assert_eq!(judged(0), Err(WhyBlocked::Untranslated));
        assert_eq!(judged(good & !1), Err(WhyBlocked::Untranslated));
        assert_eq!(judged(3 | 3 << 61), Err(WhyBlocked::Untranslated), "Mode 0");
        assert_eq!(judged(good & !2), Err(WhyBlocked::NothingPermitted));
        assert_eq!(judged(3 | 3 << 9), Err(WhyBlocked::NothingPermitted));
        assert_eq!(judged(good | 1 << 55), Err(WhyBlocked::Unclear));
        assert_eq!(judged(good | 7 << 9), Err(WhyBlocked::Unclear));
    }
}
