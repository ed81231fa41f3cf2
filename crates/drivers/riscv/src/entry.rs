//! Device contexts as this driver writes them.
//!
//! Hardware reads a context in single 64-bit words, in any order and at any time (§2.1.2, §2.9), and ignores the rest of one that is not valid; so it changes as `portcullis_driver_parts::entry` says. Hardware keeps no
//! invalid context (§2.8), so nothing need be forgotten after the valid bit.

use portcullis_spec::riscv::dc;

/// A device context; of the base format the first four words count.
pub(crate) type Entry = [u64; dc::WORDS];

/// What is ignored.
pub(crate) const INVALID: Entry = [0; dc::WORDS];

// The valid bit is where the common plan looks for it.
const _: () = assert!(dc::V.word() == 0 && dc::V.mask() == 1);

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_driver_parts::entry::{Shortcuts, is_torn, is_valid, plan};
    use std::vec::Vec;

    /// Contexts of every shape that the driver writes, and what firmware may have left in an invalid one.
    fn shapes() -> Vec<(&'static str, Entry)> {
        let translated = |root: u64, tag: u64| {
            let mut entry = INVALID;
            dc::V.write(&mut entry, 1);
            dc::PSCID.write(&mut entry, tag);
            dc::FSC_PPN.write(&mut entry, root);
            dc::FSC_MODE.write(&mut entry, 9);
            entry
        };
        let second = |root: u64, tag: u64| {
            let mut entry = INVALID;
            dc::V.write(&mut entry, 1);
            dc::IOHGATP_PPN.write(&mut entry, root);
            dc::GSCID.write(&mut entry, tag);
            dc::IOHGATP_MODE.write(&mut entry, 8);
            entry
        };
        let mut identity = INVALID;
        dc::V.write(&mut identity, 1);
        let mut remains = translated(0x777, 99);
        dc::V.write(&mut remains, 0);
        std::vec![
            ("blocked", INVALID),
            ("remains", remains),
            ("identity", identity),
            ("first stage", translated(0x1234, 5)),
            ("another first stage", translated(0x4321, 6)),
            ("the same tag", translated(0x4321, 5)),
            ("second stage", second(0x1000, 7)),
            ("another second stage", second(0x2000, 8)),
        ]
    }

    #[test]
    fn no_ordered_pair_of_contexts_is_ever_read_mixed() {
        let shapes = shapes();
        for (from_name, from) in &shapes {
            for (to_name, to) in &shapes {
                assert!(!is_torn(from, to, Shortcuts::default(), 1), "{from_name} to {to_name}");
            }
        }
    }

    /// The check bites: without either safeguard some pair is read mixed.
    #[test]
    fn without_a_safeguard_some_pair_is_read_mixed() {
        let shapes = shapes();
        let torn = |in_place, valid_with_rest| {
            let shortcuts = Shortcuts { in_place, valid_with_rest };
            let pairs =
                shapes.iter().flat_map(|(_, from)| shapes.iter().map(move |(_, to)| (from, to)));
            pairs.filter(|(from, to)| is_torn(from, to, shortcuts, 1)).count()
        };
        assert_eq!(torn(false, false), 0);
        assert!(torn(true, false) > 0, "in place");
        assert!(torn(false, true) > 0, "valid together with the rest");
    }

    #[test]
    fn blocking_is_one_store_and_what_is_blocked_stays_untouched() {
        for (name, from) in shapes() {
            let stores: usize = plan(&from, &INVALID, Shortcuts::default())
                .iter()
                .map(|it| it.stores().count())
                .sum();
            assert_eq!(stores, usize::from(is_valid(&from)), "{name}");
        }
    }
}
