//! The comparison model: the hand-packed form and the protocol agree, reduced and not.

use crate::models::packed::Packed;
use crate::models::protocol::comparison;
use portcullis_explore::search::{Control, Outcome, Strategy, explore};

fn summary(o: &Outcome) -> (Vec<(String, usize)>, bool) {
    let violations =
        o.violations.iter().map(|v| (v.property.clone(), v.schedule.moves.len())).collect();
    (violations, o.exhaustive())
}

#[test]
fn both_forms_have_the_same_states_and_verdicts() {
    for (n, m) in [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2)] {
        for fixed in [false, true] {
            for reduce in [false, true] {
                let strategy = Strategy::Exhaustive { reduce };
                let mut control = Control::default();
                let by_hand =
                    explore(&Packed::new(n, m, fixed), "by-hand", strategy, &mut control).unwrap();
                let protocol =
                    comparison(n as usize, m as usize, fixed).explore(strategy, &mut control);
                let protocol = protocol.unwrap();
                println!(
                    "{n} {m} {fixed} {reduce}: {} {} {:?}",
                    by_hand.states, protocol.states, protocol.seconds
                );
                assert_eq!(by_hand.states, protocol.states, "n{n} m{m} {fixed} {reduce}");
                assert_eq!(by_hand.transitions, protocol.transitions);
                assert_eq!(by_hand.schedules, protocol.schedules);
                assert_eq!(summary(&by_hand), summary(&protocol));
            }
        }
    }
}

#[test]
fn the_bug_takes_twelve_steps() {
    for (n, m) in [(1, 1), (3, 2)] {
        let outcome = comparison(n, m, false)
            .explore(Strategy::Exhaustive { reduce: true }, &mut Control::default())
            .unwrap();
        let violation = outcome.violation("right DMA").unwrap();
        assert!(violation.shortest);
        assert_eq!(violation.schedule.moves.len(), 12);
    }
}
