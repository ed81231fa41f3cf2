//! Equal threads are searched as one without loss: for every small world of the comparison model with a registrar that walks a
//! set, and for random sets of stores left out of it, the search with equal clients exchanged and the full search,
//! which exchanges nothing, find the same violations by as many steps, and ends that are the same but for an exchange.

use std::collections::HashSet;

use crate::models::packed::State;
use crate::models::set_walk::{Equal, STORES, SetWalk};
use portcullis_explore::search::{Control, Strategy, explore_with_ends, replay};

/// What a search finds: the violated properties with the steps of their schedules, the ends, and how many states.
struct Found {
    violated: Vec<(String, usize)>,
    ends: HashSet<State>,
    states: u64,
}

/// `sorted` says how ends are put in order, whatever the model that is searched thinks of them.
fn search(model: &SetWalk, reduce: bool, sorted: &SetWalk) -> Result<Found, String> {
    let mut ends = HashSet::new();
    let outcome = explore_with_ends(
        model,
        "set",
        Strategy::Exhaustive { reduce },
        &mut Control::default(),
        &mut |end| {
            ends.insert(sorted.sorted(*end));
        },
    )
    .unwrap();
    assert!(outcome.exhaustive());
    for violation in &outcome.violations {
        // What was found in exchanged states has a schedule of the model itself.
        let trace = replay(model, &violation.schedule).map_err(|e| e.to_string())?;
        let property = &violation.property;
        let at_last = trace.steps.last().is_none_or(|step| step.violated.contains(property));
        if !at_last && !trace.violated_at_end.contains(property) {
            return Err(format!("{property} is not violated by {}", violation.schedule));
        }
    }
    let violated = outcome.violations.iter();
    let violated = violated.map(|v| (v.property.clone(), v.schedule.moves.len())).collect();
    Ok(Found { violated, ends, states: outcome.states })
}

/// Whether both searches of a world agree; with the states of both.
fn agrees(
    (clients, iommus, fixed): (u32, u32, bool),
    left_out: u64,
    equal: Equal,
) -> Result<(u64, u64), String> {
    let sound = SetWalk::new(clients, iommus, fixed, Equal::Exchanged).without(left_out);
    let model = SetWalk::new(clients, iommus, fixed, equal).without(left_out);
    let what = format!("n{clients} m{iommus} fixed {fixed} without {left_out:#x}");
    let full = search(&sound, false, &sound)?;
    // A wrong exchange may leave no schedule behind at all.
    let searched = std::panic::catch_unwind(|| search(&model, true, &sound));
    let reduced = searched.map_err(|_| format!("{what}: no schedule"))??;
    if full.violated != reduced.violated {
        return Err(format!("{what}: {:?}, exchanged {:?}", full.violated, reduced.violated));
    }
    if full.ends != reduced.ends {
        return Err(format!("{what}: {} ends, exchanged {}", full.ends.len(), reduced.ends.len()));
    }
    Ok((full.states, reduced.states))
}

/// The small worlds, and random ones with up to three stores left out.
fn worlds() -> impl Iterator<Item = ((u32, u32, bool), u64)> {
    let mut seed = 2026_u64;
    let mut random = move |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    let small = [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2)];
    let whole = small.iter().flat_map(|&(n, m)| [(n, m, false), (n, m, true)]).map(|w| (w, 0));
    let whole: Vec<_> = whole.chain([((4, 2, true), 0)]).collect();
    let changed = (0..120).map(move |_| {
        let (n, m) = small[random(5) as usize];
        let store = |n: u64| 1 << STORES[n as usize];
        let left_out = (0..=random(3)).fold(0, |set, _| set | store(random(11)));
        ((n, m, random(2) == 1), left_out)
    });
    whole.into_iter().chain(changed)
}

#[test]
fn exchanged_clients_change_no_verdict_and_no_end() {
    let (mut full, mut reduced) = (0, 0);
    for (world, left_out) in worlds() {
        let (all, fewer) = agrees(world, left_out, Equal::Exchanged).unwrap();
        full += all;
        reduced += fewer;
    }
    assert!(reduced * 10 < full, "{reduced} of {full}");
}

#[test]
fn unsound_exchanges_are_noticed() {
    for planted in [Equal::WithoutDeferral, Equal::WithoutDma, Equal::AcrossIommus] {
        let noticed = worlds().find_map(|(world, left_out)| agrees(world, left_out, planted).err());
        println!("{planted:?}: {}", noticed.as_deref().unwrap_or("not noticed"));
        assert!(noticed.is_some(), "{planted:?}");
    }
}

#[test]
fn eight_clients() {
    let model = SetWalk::new(8, 2, true, Equal::Exchanged);
    let outcome = search(&model, true, &model).unwrap();
    println!("{} states", outcome.states);
    assert!(outcome.violated.is_empty());
    assert!(outcome.states < 1_000_000, "{}", outcome.states);
}
