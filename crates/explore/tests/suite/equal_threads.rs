//! Threads of a protocol that are told to be equal are searched as one without loss: on random programs the search that exchanges
//! them and the full search, which exchanges nothing, find the same violations by as many steps, and ends that are the same
//! but for an exchange.

use crate::models::lines::{Lines, Twins, sorted};
use crate::reduction::explored;
use portcullis_explore::proto::{Builder, Field, Protocol, Role};
use portcullis_explore::search::{Control, Fault, Strategy};

/// Random programs that are compared; 1500 have been, once.
const PROGRAMS: u64 = 100;

/// Whether both searches of a program agree; with the states of the reduced search without the exchange and with it.
fn agrees(seed: u64, twins: Twins) -> Result<(u64, u64), String> {
    let lines = Lines::twins(seed, twins);
    let what = format!("program {seed}: {:?}", lines.threads);
    let mut untold = Lines::twins(seed, Twins::Untold);
    untold.threads.clone_from(&lines.threads);
    let (mut full, _, shortest) = explored(&untold, false);
    let (_, without, _) = explored(&untold, true);
    // A wrong exchange may be no model, or leave no schedule behind at all.
    let searched = std::panic::catch_unwind(|| explored(&lines, true));
    let (mut reduced, with, lengths) = searched.map_err(|_| format!("{what}: no answer"))?;
    for findings in [&mut full, &mut reduced] {
        findings.ends = std::mem::take(&mut findings.ends).into_iter().map(sorted).collect();
    }
    if full != reduced || shortest != lengths {
        return Err(format!("{what}: {shortest:?}, exchanged {lengths:?}"));
    }
    Ok((without, with))
}

#[test]
fn exchanged_threads_change_no_verdict_and_no_end() {
    let (mut without, mut with) = (0, 0);
    for seed in 1..=PROGRAMS {
        let (all, fewer) = agrees(seed, Twins::Equal).unwrap();
        without += all;
        with += fewer;
    }
    assert!(with * 5 < without * 4, "{with} of {without}");
}

#[test]
fn unsound_exchanges_are_noticed() {
    for planted in [Twins::WithoutField, Twins::WithoutLock, Twins::OneIsLookedAt] {
        let noticed = (1..=PROGRAMS).find_map(|seed| agrees(seed, planted).err());
        println!("{planted:?}: {}", noticed.as_deref().unwrap_or("not noticed"));
        assert!(noticed.is_some(), "{planted:?}");
    }
}

/// Two threads that enter themselves in a shared field, which names one of them.
fn named(values: [u64; 2]) -> Protocol {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    let (owner, passed) = (b.field("owner", 2), [0, 1].map(|i| b.field(format!("passed {i}"), 1)));
    let run = |b: &mut Builder, own: Field, value: u64| {
        b.thread("thread", move |t| {
            t.lock(lock, "")?;
            t.write(owner, value, "mine")?;
            t.unlock(lock)?;
            t.write(own, 1_u64, "passed")
        })
    };
    let threads = [run(&mut b, passed[0], 1), run(&mut b, passed[1], 2)];
    let role = |i: usize| Role {
        thread: threads[i],
        fields: vec![passed[i]],
        mutexes: Vec::new(),
        names: vec![(owner, values[i])],
    };
    b.interchangeable(vec![role(0), role(1)]);
    b.always("owner", move |v| v.get(owner) != 3);
    b.build("named")
}

#[test]
fn a_shared_field_that_names_a_thread_is_exchanged_with_it() {
    let explore = |protocol: &Protocol, reduce| {
        let mut ends = Vec::new();
        let mut note = |end: &portcullis_explore::proto::EndState| ends.push(end.fields.clone());
        let strategy = Strategy::Exhaustive { reduce };
        protocol.explore_with_ends(strategy, &mut Control::default(), &mut note).map(|_| ends)
    };
    let full = explore(&named([1, 2]), false).unwrap();
    assert_eq!(full.len(), 2, "{full:?}");
    let exchanged = explore(&named([1, 2]), true).unwrap();
    assert_eq!(exchanged.len(), 1, "{exchanged:?}");
    // With a wrong value the threads are seen to differ.
    let wrong = explore(&named([1, 3]), true).unwrap_err();
    let Fault::Model(words) = wrong.fault else { panic!("{wrong}") };
    assert!(words.contains("not interchangeable"), "{words}");
}
