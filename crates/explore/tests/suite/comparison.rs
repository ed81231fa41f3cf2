//! The comparison model: the hand-packed form and the protocol agree, reduced and not.

use crate::models::packed::{Packed, State};
use crate::models::protocol::comparison;
use portcullis_explore::search::{
    Arrival, Control, Label, Model, Outcome, Property, PropertySet, Steps, Strategy, ThreadStatus,
    explore,
};

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
                // The model by hand remembers no block, so no thread sleeps in it.
                let fewer = reduce && protocol.transitions < by_hand.transitions;
                assert!(fewer || by_hand.transitions == protocol.transitions);
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

/// Planted bug: every two blocks are called independent.
struct AllIndependent(Packed);

impl Model for AllIndependent {
    type State = State;

    fn initial(&self) -> State {
        self.0.initial()
    }

    fn thread_count(&self) -> usize {
        self.0.thread_count()
    }

    fn step(&self, state: &State, thread: usize, out: &mut Steps<State>) {
        self.0.step(state, thread, out);
    }

    fn status(&self, state: &State, thread: usize) -> ThreadStatus {
        self.0.status(state, thread)
    }

    fn label(&self, state: &State, thread: usize) -> Label {
        self.0.label(state, thread)
    }

    fn thread_name(&self, thread: usize) -> String {
        self.0.thread_name(thread)
    }

    fn properties(&self) -> Vec<Property> {
        self.0.properties()
    }

    fn hits(&self, state: &State) -> PropertySet {
        self.0.hits(state)
    }

    fn unmet(&self, state: &State) -> PropertySet {
        self.0.unmet(state)
    }

    fn remember(&self, _: &State, _: usize, _: bool, block: Option<&[Arrival<State>]>) -> bool {
        block.is_some()
    }

    fn independent(&self, _: &State, _: usize, others: u64) -> u64 {
        others
    }
}

#[test]
fn threads_that_sleep_too_deep_are_noticed() {
    for (n, m) in [(1, 1), (2, 2)] {
        let (strategy, mut control) = (Strategy::Exhaustive { reduce: true }, Control::default());
        let planted = AllIndependent(Packed::new(n, m, false));
        let planted = explore(&planted, "by-hand", strategy, &mut control).unwrap();
        let protocol = comparison(n as usize, m as usize, false).explore(strategy, &mut control);
        assert!(planted.states < protocol.unwrap().states, "n{n} m{m}: {}", planted.states);
    }
}
