//! The entries that say what a device may do: a context entry in legacy mode (§9.3), the entry of PASID 0 in scalable mode (§9.6).
//!
//! Hardware reads them in pieces of 16 bytes, which for a context entry is all of it, and ignores the rest of one that is not present. This driver counts on pieces of 8 bytes only, because that is what a CPU stores in one piece: entries change as
//! `portcullis_driver_parts::entry` says.

use crate::identify::{Features, Mode};
use portcullis_driver_parts::Name;
use portcullis_spec::vtd::tables::{context, pasid, pgtt, tt};

/// An entry of either kind; of a context entry the first two words count.
pub(crate) type Entry = [u64; pasid::WORDS];

/// What is ignored.
pub(crate) const ABSENT: Entry = [0; pasid::WORDS];

/// The words of an entry that count.
pub(crate) fn words(mode: Mode) -> usize {
    match mode {
        Mode::Legacy => context::WORDS,
        Mode::Scalable => pasid::WORDS,
    }
}

/// An entry that leads to a table of so many levels.
pub(crate) fn translated(features: &Features, name: Name, root: u64, levels: u8) -> Entry {
    let mut entry = ABSENT;
    if features.mode == Mode::Legacy {
        context::P.write(&mut entry, 1);
        context::TT.write(&mut entry, tt::UNTRANSLATED);
        context::SSPTPTR.write(&mut entry, root >> 12);
        context::AW.write(&mut entry, u64::from(levels) - 2);
        context::DID.write(&mut entry, name.id.into());
        return entry;
    }
    pasid::P.write(&mut entry, 1);
    pasid::DID.write(&mut entry, name.id.into());
    pasid::PWSNP.write(&mut entry, features.coherent_walk.into());
    if name.second {
        pasid::PGTT.write(&mut entry, pgtt::SECOND);
        pasid::AW.write(&mut entry, u64::from(levels) - 2);
        pasid::SSPTPTR.write(&mut entry, root >> 12);
    } else {
        pasid::PGTT.write(&mut entry, pgtt::FIRST);
        pasid::FSPM.write(&mut entry, u64::from(levels) - 4);
        pasid::FSPTPTR.write(&mut entry, root >> 12);
        // The leaves of a first stage cannot say so.
        pasid::PGSNP.write(&mut entry, features.snoop_control.into());
        // QEMU 10 takes the width of addresses from here for a first stage too; other units ignore it.
        pasid::AW.write(&mut entry, 2);
    }
    entry
}

/// An entry that passes addresses unchanged, tagged with `domain`; `None` where the unit has none.
pub(crate) fn identity(features: &Features, domain: u16) -> Option<Entry> {
    if !features.pass_through {
        return None;
    }
    let mut entry = ABSENT;
    // The deepest second stage is named also where nothing is walked (§9.3).
    let aw = features.deepest().map_or(2, |levels| u64::from(levels) - 2);
    match features.mode {
        Mode::Legacy => {
            context::P.write(&mut entry, 1);
            context::TT.write(&mut entry, tt::PASS_THROUGH);
            context::AW.write(&mut entry, aw);
            context::DID.write(&mut entry, domain.into());
        }
        Mode::Scalable => {
            pasid::P.write(&mut entry, 1);
            pasid::PGTT.write(&mut entry, pgtt::PASS_THROUGH);
            pasid::AW.write(&mut entry, aw);
            pasid::DID.write(&mut entry, domain.into());
        }
    }
    Some(entry)
}

/// Under which name hardware may have cached what a present entry led to: what must be forgotten when it changes (§6.5.3.3).
pub(crate) fn leads_to(mode: Mode, entry: &Entry) -> Option<Name> {
    if context::P.read(entry) == 0 {
        return None;
    }
    let (id, second) = match mode {
        Mode::Legacy => (context::DID.read(entry), true),
        Mode::Scalable => (pasid::DID.read(entry), pasid::PGTT.read(entry) != pgtt::FIRST),
    };
    Some(Name { id: id as u16, second })
}

// The present bit is where the common plan looks for it.
const _: () = assert!(
    context::P.word() == 0
        && context::P.mask() == 1
        && pasid::P.word() == 0
        && pasid::P.mask() == 1
);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use portcullis_driver_parts::entry::{Shortcuts, is_torn, is_valid, plan};
    use std::vec::Vec;

    pub(crate) fn features(mode: Mode) -> Features {
        Features {
            mode,
            second_stage: [39, 48, 57],
            first_stage: if mode == Mode::Scalable { 5 } else { 0 },
            large: [true; 2],
            first_stage_1g: true,
            most_pages: Some(18),
            domain_bits: 16,
            caching_mode: false,
            write_buffer: false,
            coherent: true,
            coherent_walk: true,
            pass_through: true,
            snoop_control: true,
            abort_mode: false,
            protected_memory: false,
            fault_registers: (0x400, 8),
        }
    }

    /// Entries of every shape that the driver writes, and what firmware or an earlier change may have left in one that is not present.
    fn shapes(mode: Mode) -> Vec<(&'static str, Entry)> {
        let features = features(mode);
        let to =
            |id, second, root, levels| translated(&features, Name { id, second }, root, levels);
        let mut remains = to(99, true, 0x77_7000, 4);
        remains[0] &= !1;
        let mut shapes = std::vec![
            ("blocked", ABSENT),
            ("remains", remains),
            ("identity", identity(&features, 1).expect("pass-through")),
            ("second stage", to(5, true, 0x1234_5000, 4)),
            ("another second stage", to(6, true, 0x5432_1000, 4)),
            ("the same domain", to(5, true, 0x5432_1000, 4)),
            ("three levels", to(7, true, 0x1234_5000, 3)),
            ("five levels", to(8, true, 0x9_9000, 5)),
        ];
        if mode == Mode::Scalable {
            shapes.push(("first stage", to(9, false, 0x1000, 4)));
            shapes.push(("another first stage", to(10, false, 0x2000, 5)));
        }
        shapes
    }

    /// Every ordered pair, watched at every store by hardware that reads pieces of 8 and of 16 bytes.
    #[test]
    fn no_ordered_pair_of_entries_is_ever_read_mixed() {
        for mode in [Mode::Legacy, Mode::Scalable] {
            let shapes = shapes(mode);
            for (from_name, from) in &shapes {
                for (to_name, to) in &shapes {
                    for chunk in [1, 2] {
                        let torn = is_torn(from, to, Shortcuts::default(), chunk);
                        assert!(!torn, "{mode:?}: {from_name} to {to_name}, {chunk}");
                    }
                }
            }
        }
    }

    /// The check bites. In legacy mode 16 bytes are a whole entry, and 8 bytes are needed to see the second shortcut.
    #[test]
    fn without_a_safeguard_some_pair_is_read_mixed() {
        let torn = |mode, in_place, valid_with_rest, chunk| {
            let shapes = shapes(mode);
            let shortcuts = Shortcuts { in_place, valid_with_rest };
            let pairs =
                shapes.iter().flat_map(|(_, from)| shapes.iter().map(move |(_, to)| (from, to)));
            pairs.filter(|(from, to)| is_torn(from, to, shortcuts, chunk)).count()
        };
        for chunk in [1, 2] {
            assert!(torn(Mode::Legacy, true, false, chunk) > 0, "in place, {chunk}");
            assert!(torn(Mode::Scalable, true, false, chunk) > 0, "in place, {chunk}");
            assert!(torn(Mode::Scalable, false, true, chunk) > 0, "with the rest, {chunk}");
        }
        assert!(torn(Mode::Legacy, false, true, 1) > 0, "with the rest");
    }

    #[test]
    fn blocking_is_one_store_and_what_is_blocked_stays_untouched() {
        for (name, from) in [Mode::Legacy, Mode::Scalable].into_iter().flat_map(shapes) {
            let phases = plan(&from, &ABSENT, Shortcuts::default());
            let stores: usize = phases.iter().map(|phase| phase.stores().count()).sum();
            assert_eq!(stores, usize::from(is_valid(&from)), "{name}");
        }
    }

    /// Positions typed from OpenBSD's `dmarreg.h` (legacy) and Linux's `pasid.h` (scalable).
    #[test]
    fn entries_are_what_hardware_wants() {
        let name = |second| Name { id: 5, second };
        let legacy = features(Mode::Legacy);
        let words = translated(&legacy, name(true), 0x1234_5000, 4);
        assert_eq!(words[..2], [0x1234_5001, 2 | 5 << 8]);
        assert_eq!(identity(&legacy, 1).expect("pass-through")[..2], [1 | 2 << 2, 3 | 1 << 8]);
        let scalable = features(Mode::Scalable);
        let words = translated(&scalable, name(true), 0x1234_5000, 3);
        assert_eq!(words[..3], [0x1234_5001 | 1 << 2 | 2 << 6, 5 | 1 << 23, 0]);
        let words = translated(&scalable, name(false), 0x1234_5000, 5);
        let snoop = 1 << 23 | 1 << 24;
        assert_eq!(words[..3], [1 | 2 << 2 | 1 << 6, 5 | snoop, 0x1234_5000 | 1 << 2]);
    }
}
