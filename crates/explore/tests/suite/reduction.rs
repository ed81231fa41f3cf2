//! The reduction loses nothing: for every small world of the comparison model, buggy and fixed, and for every
//! change of a single line of it, the reduced search, the full search and a naive enumeration that shares no
//! code with them find the same violations and the same end states; and the schedules that the reduced search ends with
//! have as few steps as those of the full search.

use crate::models::lines::{Findings, Lines, Mutation, common, enumerate, protocol};
use portcullis_explore::proto::Builder;
use portcullis_explore::search::{Control, Strategy, Violation};

/// The violated properties with the steps of their schedules.
pub(crate) type Lengths = Vec<(String, usize)>;

pub(crate) fn explored(lines: &Lines, reduce: bool) -> (Findings, u64, Lengths) {
    let mut findings = Findings::default();
    let (protocol, mut control) = (protocol(lines), Control::default());
    let outcome = protocol
        .explore_with_ends(Strategy::Exhaustive { reduce }, &mut control, &mut |end| {
            findings.ends.insert(common(end));
        })
        .unwrap();
    assert!(outcome.exhaustive());
    findings.violated = outcome.violations.iter().map(|v| v.property.clone()).collect();
    findings.reached = outcome.reached[0].schedule.is_some();
    let length = |v: &Violation| {
        assert!(v.shortest, "{}", v.property);
        let trace = protocol.replay(&v.schedule).unwrap();
        // Without a step, the state at the start violates it.
        let at_last = trace.steps.last().is_none_or(|step| step.violated.contains(&v.property));
        assert!(at_last || trace.violated_at_end.contains(&v.property), "{}", v.schedule);
        (v.property.clone(), v.schedule.moves.len())
    };
    let lengths = outcome.violations.iter().map(length).collect();
    (findings, outcome.states, lengths)
}

struct Tally {
    compared: u32,
    violated: u32,
    states: u64,
    reduced: u64,
}

fn compare(lines: &Lines, what: &str, tally: &mut Tally) {
    let naive = enumerate(lines);
    let (full, ..) = explored(lines, false);
    assert_eq!(full, naive, "full search of {what}");
    compare_reduced(lines, what, tally);
}

/// The full search is the reference: worlds too large for the naive one.
fn compare_reduced(lines: &Lines, what: &str, tally: &mut Tally) {
    let (naive, states, shortest) = explored(lines, false);
    let (reduced, fewer, lengths) = explored(lines, true);
    assert_eq!(reduced, naive, "reduced search of {what}");
    assert_eq!(lengths, shortest, "the shortest schedules of {what}");
    tally.compared += 1;
    tally.violated += u32::from(!naive.violated.is_empty());
    tally.states += states;
    tally.reduced += fewer;
}

fn compare_all(
    worlds: &[(usize, usize)],
    compare: fn(lines: &Lines, what: &str, tally: &mut Tally),
) -> Tally {
    let mut tally = Tally { compared: 0, violated: 0, states: 0, reduced: 0 };
    for &(clients, iommus) in worlds {
        for fixed in [false, true] {
            let lines = Lines::new(clients, iommus, fixed);
            compare(&lines, &format!("n{clients} m{iommus} {fixed}"), &mut tally);
            for at in 0..lines.count() {
                for mutation in [
                    Mutation::Drop(at),
                    Mutation::Swap(at),
                    Mutation::Invert(at),
                    Mutation::OtherLock(at),
                ] {
                    if let Some(mutant) = lines.mutated(mutation) {
                        let what = format!("n{clients} m{iommus} fixed {fixed} {mutation:?}");
                        compare(&mutant, &what, &mut tally);
                    }
                }
            }
        }
    }
    tally
}

#[test]
fn every_single_line_mutation_of_the_small_worlds() {
    let tally = compare_all(&[(1, 1), (1, 2), (2, 1), (2, 2)], compare);
    assert!(tally.compared > 300, "{}", tally.compared);
    assert!(tally.violated > 100, "{}", tally.violated);
    assert!(tally.reduced * 3 < tally.states, "{} of {}", tally.reduced, tally.states);
}

#[test]
fn the_model_itself_up_to_four_clients() {
    let mut tally = Tally { compared: 0, violated: 0, states: 0, reduced: 0 };
    for (clients, iommus) in [(3, 1), (3, 2), (4, 1), (4, 2)] {
        for fixed in [false, true] {
            let lines = Lines::new(clients, iommus, fixed);
            compare(&lines, &format!("n{clients} m{iommus} {fixed}"), &mut tally);
        }
    }
    assert_eq!(tally.violated, 4);
}

/// A state inside a block of the first thread, which shows something only beside what the second one has written: the
/// first must not sleep through it, although the two blocks commute.
#[test]
fn a_thread_does_not_sleep_through_what_a_property_sees_inside_its_block() {
    let mut b = Builder::new();
    let (outer, inner) = (b.mutex("outer"), b.mutex("inner"));
    let (mine, yours) = (b.field("mine", 1), b.field("yours", 1));
    b.thread("first", move |t| {
        t.lock(outer, "")?;
        t.lock(inner, "")?;
        t.write(mine, 1_u64, "")?;
        t.unlock(inner)?;
        t.unlock(outer)
    });
    b.thread("second", move |t| t.write(yours, 1_u64, ""));
    b.always("not both while the outer lock is held", move |v| {
        let held = v.while_free(outer, |_| ()).is_none();
        let both = v.is_set(yours) && v.while_free(inner, |v| v.is_set(mine)) == Some(true);
        !(held && both)
    });
    let protocol = b.build("inside");
    for reduce in [false, true] {
        let outcome =
            protocol.explore(Strategy::Exhaustive { reduce }, &mut Control::default()).unwrap();
        assert_eq!(outcome.violations.len(), 1, "reduced: {reduce}");
        assert_eq!(outcome.violations[0].schedule.moves.len(), 5, "reduced: {reduce}");
    }
}

#[test]
fn random_programs() {
    let mut tally = Tally { compared: 0, violated: 0, states: 0, reduced: 0 };
    for seed in 1..=2_500 {
        let lines = Lines::random(seed);
        compare(&lines, &format!("random program {seed}: {:?}", lines.threads), &mut tally);
    }
    assert!(tally.violated > 800, "{}", tally.violated);
    assert!(tally.reduced < tally.states, "{} of {}", tally.reduced, tally.states);
}

/// Minutes; `cargo test --release -p portcullis-explore --test suite reduction:: -- --ignored`.
#[test]
#[ignore = "takes minutes"]
fn every_single_line_mutation_up_to_four_clients() {
    let tally = compare_all(&[(3, 1), (3, 2), (4, 1), (4, 2)], compare_reduced);
    println!(
        "{} worlds, {} with violations; {} states, {} reduced",
        tally.compared, tally.violated, tally.states, tally.reduced
    );
}
