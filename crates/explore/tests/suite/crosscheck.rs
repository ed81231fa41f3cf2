//! Two protocols against stateright, an independent explorer, with models written separately for it.

use std::collections::BTreeSet;

use portcullis_explore::search::{Control, Outcome, Strategy};
use stateright::{Checker, Model};

use crate::models::protocol::comparison;
use crate::models::seed66::seed66;
use crate::models::seed66_stateright::Seed66;
use crate::models::stateright::Comparison;

const FULL: Strategy = Strategy::Exhaustive { reduce: false };
const REDUCED: Strategy = Strategy::Exhaustive { reduce: true };

fn violated(outcome: &Outcome) -> BTreeSet<&str> {
    assert!(outcome.exhaustive());
    outcome.violations.iter().map(|v| v.property.as_str()).collect()
}

#[test]
fn the_comparison_model_has_the_same_states_and_transitions() {
    for (clients, iommus) in [(1, 1), (2, 1), (2, 2), (3, 2), (4, 2)] {
        let ours = comparison(clients, iommus, true).explore(FULL, &mut Control::default());
        let ours = ours.unwrap();
        let (clients, iommus) = (clients as u8, iommus as u8);
        let model = Comparison { clients, iommus, fixed: true, search_on: false };
        let theirs = model.checker().spawn_bfs().join();
        assert_eq!(theirs.discoveries().len(), 0);
        assert!(ours.violations.is_empty());
        assert_eq!(ours.states, theirs.unique_state_count() as u64, "n{clients} m{iommus}");
        // Stateright counts the initial state as generated.
        assert_eq!(ours.transitions + 1, theirs.state_count() as u64);
    }
}

#[test]
fn the_bug_has_the_same_shortest_length() {
    for (clients, iommus) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
        let ours = comparison(clients, iommus, false).explore(REDUCED, &mut Control::default());
        let ours = ours.unwrap();
        let (clients, iommus) = (clients as u8, iommus as u8);
        let model = Comparison { clients, iommus, fixed: false, search_on: false };
        let theirs = model.checker().spawn_bfs().join();
        let path = theirs.discovery("right DMA").unwrap().into_actions().len();
        assert_eq!(ours.violation("right DMA").unwrap().schedule.moves.len(), path);
    }
}

#[test]
fn the_66_core_has_the_same_states_and_bad_ends() {
    for gate in [false, true] {
        let theirs = Seed66 { gate }.checker().spawn_bfs().join();
        let bad: BTreeSet<&str> = theirs.discoveries().into_keys().collect();
        for strategy in [FULL, REDUCED] {
            let ours = seed66(gate).explore(strategy, &mut Control::default()).unwrap();
            assert_eq!(violated(&ours), bad, "gate {gate} {strategy:?}");
            assert!(ours.reached[0].schedule.is_some());
            if strategy == FULL {
                assert_eq!(ours.states, theirs.unique_state_count() as u64, "gate {gate}");
            }
        }
        // One attempt is enough for B1 without the check, and with it (the domain may appear in between).
        assert!(bad.contains("no B1: bound with direct DMA behind a domain"));
    }
}
