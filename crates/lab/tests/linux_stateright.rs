//! The world of the report again, written down a second time as a state machine for stateright: an
//! independent explorer and an independent model must reach the same bad ends.
//!
//! One client behind a bound IOMMU, a second IOMMU registers; `attempts - 1` other drivers bind. The machine
//! below is written from the description of the kernels, with program counters, and shares no code with
//! the protocols.

use std::collections::BTreeSet;

use portcullis_lab::linux::{Budget, Protocol, World, check};
use stateright::{Checker, Model, Property};

/// A tree of the two families.
#[derive(Clone, Copy, Debug, Default)]
struct Tree {
    /// f188056352bc is in: the group's domain is set up inside the probe, or left to the walk.
    attach_in_probe: bool,
    /// After the probe, a group without a default domain gets one (before f188056352bc, and the RFC).
    completes: bool,
    /// After the probe, a group without a default domain defers (the backport's first check).
    defers_after_probe: bool,
    /// The claim defers without a default domain (b46064a18810).
    claim_defers: bool,
    /// The path is set beside the domain (6.10 on), else from arch_setup_dma_ops.
    path_with_domain: bool,
    /// dma_iommu, dma_coherent, can_match and dma_skip_sync share a byte (6.12 to 7.1).
    shares_byte: bool,
    /// The flag is stored before the IOVA space is ready (6.12 on).
    flag_first: bool,
    /// Other drivers that bind.
    other_binds: u8,
}

/// Who holds a lock.
type Lock = Option<Thread>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Thread {
    Walk,
    First,
    Worker,
    Other,
}

/// One attempt to bind the client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Attempt {
    at: u8,
    snapshot: u8,
    byte: u8,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct State {
    device: Lock,
    probe: Lock,
    group_mutex: Lock,
    fwspec: bool,
    group: bool,
    default_domain: bool,
    attached: bool,
    domain: bool,
    listed: bool,
    /// Bit 0: iommu-dma; bit 1: coherent.
    byte: u8,
    /// The domain has its IOVA space.
    iova: bool,
    owners: u8,
    /// The path of the first mapping.
    mapped: Option<bool>,
    bound: bool,
    pending: bool,
    active: bool,
    triggers: u8,
    others: u8,
    walk: u8,
    walk_byte: u8,
    first: Attempt,
    worker: Attempt,
}

const DONE: u8 = 99;
const DEFER: u8 = 50;
const UNLOCK: u8 = 98;

fn trigger(s: &mut State) {
    s.triggers += 1;
    s.active |= s.pending;
    s.pending = false;
}

/// Sets up the default domain in one go; the caller has seen the group's mutex free.
fn complete(tree: &Tree, s: &mut State) {
    if !s.default_domain {
        (s.default_domain, s.attached, s.domain) = (true, true, true);
        if tree.path_with_domain {
            (s.byte, s.iova) = (s.byte | 1, true);
        }
    }
}

/// The next step of an attempt by `me`, or `None` if it must wait.
fn attempt(tree: &Tree, s: &mut State, a: &mut Attempt, me: Thread) -> Option<()> {
    a.at = match a.at {
        0..=7 | 20..=22 => find_iommu(tree, s, a, me),
        8..=13 | 23 => claim_and_map(tree, s, a),
        _ => leave(tree, s, a),
    }?;
    Some(())
}

/// Firmware and the probe of the IOMMU: where an attempt goes next.
fn find_iommu(tree: &Tree, s: &mut State, a: &mut Attempt, me: Thread) -> Option<u8> {
    Some(match a.at {
        0 if s.device.is_none() => {
            s.device = Some(me);
            if s.bound { UNLOCK } else { 1 }
        }
        1 => {
            a.snapshot = s.triggers;
            if tree.shares_byte { 21 } else { 2 }
        }
        // can_match: the byte is loaded and stored as it was.
        21 => {
            a.byte = s.byte;
            22
        }
        22 => {
            s.byte = a.byte;
            2
        }
        2 | 5 if s.probe.is_none() => {
            s.probe = Some(me);
            a.at + 1
        }
        3 => {
            // A fwspec that is there ends the function at once.
            let known = s.fwspec;
            s.fwspec = true;
            if known { 20 } else { 4 }
        }
        4 => {
            s.probe = None;
            5
        }
        20 => {
            s.probe = None;
            10
        }
        6 if s.group => 7,
        6 if s.group_mutex.is_none() => {
            s.group = true;
            if tree.attach_in_probe {
                complete(tree, s);
            }
            7
        }
        7 => {
            s.probe = None;
            8
        }
        _ => return None,
    })
}

/// What follows the probe, the DMA path, the claim, the first mapping.
fn claim_and_map(tree: &Tree, s: &mut State, a: &mut Attempt) -> Option<u8> {
    let free = s.group_mutex.is_none();
    Some(match a.at {
        8 if tree.completes && free => {
            complete(tree, s);
            10
        }
        8 if tree.defers_after_probe && free => {
            if s.default_domain {
                10
            } else {
                DEFER
            }
        }
        8 if !tree.completes && !tree.defers_after_probe => 10,
        10 if tree.shares_byte => {
            a.byte = s.byte;
            11
        }
        10 if tree.path_with_domain => 12,
        10 => {
            s.byte |= u8::from(s.domain);
            12
        }
        11 => {
            s.byte = a.byte | 2;
            12
        }
        12 if free && tree.claim_defers && !s.default_domain => DEFER,
        12 if free => {
            s.owners += 1;
            if tree.shares_byte { 23 } else { 13 }
        }
        // dma_skip_sync: likewise.
        23 if a.byte & 0x80 == 0 => {
            a.byte = s.byte | 0x80;
            23
        }
        23 => {
            s.byte = a.byte & 0x7f;
            13
        }
        // Dies there: the property sees it before.
        13 if s.byte & 1 != 0 && tree.flag_first && !s.iova => return None,
        13 => {
            s.mapped = Some(s.byte & 1 != 0);
            14
        }
        _ => return None,
    })
}

/// The end of an attempt: bound, deferred, or found bound already.
fn leave(tree: &Tree, s: &mut State, a: &Attempt) -> Option<u8> {
    Some(match a.at {
        14 => {
            s.bound = true;
            trigger(s);
            UNLOCK
        }
        DEFER => {
            if !tree.path_with_domain {
                s.byte = 0;
            }
            DEFER + 1
        }
        51 => {
            s.pending = true;
            52
        }
        52 => {
            if s.triggers != a.snapshot {
                trigger(s);
            }
            UNLOCK
        }
        UNLOCK => {
            s.device = None;
            DONE
        }
        _ => return None,
    })
}

/// The next step of the registration of the second IOMMU.
fn walk(tree: &Tree, s: &mut State) -> Option<()> {
    s.walk = if s.walk < 5 { visit(tree, s) } else { finish(tree, s) }?;
    Some(())
}

/// The walk meets the client.
fn visit(tree: &Tree, s: &mut State) -> Option<u8> {
    Some(match s.walk {
        0 if s.probe.is_none() => {
            s.probe = Some(Thread::Walk);
            1
        }
        1 if s.group || !s.fwspec => 4,
        1 => 2,
        2 => {
            s.group = true;
            3
        }
        3 if s.group_mutex.is_none() => {
            if s.domain && tree.attach_in_probe {
                s.attached = true;
            } else if !s.default_domain {
                s.listed = true;
            }
            4
        }
        4 => {
            s.probe = None;
            5
        }
        _ => return None,
    })
}

/// The domain that the walk has put off, then the bind of the IOMMU.
fn finish(tree: &Tree, s: &mut State) -> Option<u8> {
    Some(match s.walk {
        5 if !s.listed => 12,
        5 if s.group_mutex.is_none() => {
            s.group_mutex = Some(Thread::Walk);
            s.listed = false;
            if s.default_domain { 9 } else { 6 }
        }
        6 => {
            s.default_domain = true;
            7
        }
        7 => {
            s.attached = true;
            8
        }
        8 => {
            s.domain = true;
            9
        }
        9 if tree.path_with_domain && !tree.flag_first => {
            s.iova = true;
            10
        }
        9 if tree.path_with_domain => {
            s.walk_byte = s.byte;
            10
        }
        9 => 11,
        10 => {
            s.byte = if tree.shares_byte { s.walk_byte } else { s.byte } | 1;
            20
        }
        20 => {
            s.iova = true;
            11
        }
        11 => {
            s.group_mutex = None;
            12
        }
        12 => {
            trigger(s);
            DONE
        }
        _ => return None,
    })
}

impl Model for Tree {
    type State = State;
    type Action = Thread;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Thread>) {
        let all = [Thread::Walk, Thread::First, Thread::Worker, Thread::Other];
        actions.extend(all.into_iter().filter(|thread| self.next_state(state, *thread).is_some()));
    }

    fn next_state(&self, last: &State, thread: Thread) -> Option<State> {
        let mut s = last.clone();
        match thread {
            Thread::Walk => walk(self, &mut s)?,
            Thread::First => {
                let mut a = s.first.clone();
                attempt(self, &mut s, &mut a, thread)?;
                s.first = a;
            }
            Thread::Worker => {
                let mut a = s.worker.clone();
                if matches!(a.at, 0 | DONE) && s.device != Some(Thread::Worker) && a.snapshot == 0 {
                    // Takes the client off the active list, then attempts; `snapshot` marks it busy.
                    if !s.active {
                        return None;
                    }
                    s.active = false;
                    a = Attempt { at: 0, snapshot: 1, byte: 0 };
                } else {
                    attempt(self, &mut s, &mut a, thread)?;
                    if a.at == DONE {
                        a = Attempt::default();
                    }
                }
                s.worker = a;
            }
            Thread::Other => {
                if s.others == self.other_binds {
                    return None;
                }
                s.others += 1;
                trigger(&mut s);
            }
        }
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("wrong-path", |_: &Self, s: &State| {
                let settled = s.group_mutex.is_none() && !s.listed;
                !(settled && s.mapped == Some(false) && s.byte & 1 == 0 && s.attached)
            }),
            Property::always("path-switched", |_: &Self, s: &State| {
                !(s.group_mutex.is_none() && s.mapped == Some(false) && s.byte & 1 != 0)
            }),
            Property::always("null-iova", |tree: &Self, s: &State| {
                let maps = |a: &Attempt| a.at == 13 && s.byte & 1 != 0 && !s.iova;
                !(tree.flag_first && (maps(&s.first) || maps(&s.worker)))
            }),
            Property::sometimes("healthy-bound", |_: &Self, s: &State| {
                s.bound && s.mapped == Some(true)
            }),
        ]
    }
}

/// The bad ends of the machine.
fn by_stateright(tree: Tree) -> BTreeSet<String> {
    let checker = tree.checker().spawn_bfs().join();
    assert!(checker.discovery("healthy-bound").is_some(), "{tree:?}");
    ["wrong-path", "path-switched", "null-iova"]
        .into_iter()
        .filter(|name| checker.discovery(name).is_some())
        .map(str::to_owned)
        .collect()
}

/// The bad ends of the protocol.
fn by_the_lab(base: &str, apply: &[&str], revert: &[&str], attempts: usize) -> BTreeSet<String> {
    let protocol = Protocol::parse(base, apply, revert).unwrap();
    let world = World { attempts, ..World::default() };
    let report = check(&protocol, &world, Budget::for_world(&world), &mut |_| {}).unwrap();
    assert!(report.explored.exhaustive);
    // The machine does not tell how a wrong path came about.
    let names = report.violations.iter().map(|violation| match violation.name {
        "lost-bit" => "wrong-path",
        "no-group-at-claim" | "siblings-domain" => "path-switched",
        name => name,
    });
    names.map(str::to_owned).collect()
}

#[test]
fn the_6_6_family_reaches_the_same_bad_ends() {
    let v6_6 = Tree { attach_in_probe: true, ..Tree::default() };
    let trees = [
        (v6_6, &[][..], &[][..]),
        (Tree { completes: true, ..Tree::default() }, &[], &["f188056352bc"]),
        (Tree { completes: true, ..v6_6 }, &["rfc-20241213"], &[]),
        (Tree { claim_defers: true, ..v6_6 }, &["b46064a18810"], &[]),
        (
            Tree { claim_defers: true, defers_after_probe: true, ..v6_6 },
            &["b46064a18810-6.6.y"],
            &[],
        ),
        (
            Tree { claim_defers: true, path_with_domain: true, ..v6_6 },
            &["b67483b3c44e", "b46064a18810"],
            &[],
        ),
    ];
    let mut verdicts = BTreeSet::new();
    for (tree, apply, revert) in trees {
        for attempts in [1, 2, 3] {
            let other_binds = attempts as u8 - 1;
            let expected = by_stateright(Tree { other_binds, ..tree });
            let ours = by_the_lab("v6.6", apply, revert, attempts);
            assert_eq!(ours, expected, "{apply:?} {revert:?}, {attempts} attempts");
            verdicts.insert(ours);
        }
    }
    assert_eq!(verdicts.len(), 2, "some are clean, some are not: {verdicts:?}");
}

#[test]
fn the_6_12_family_reaches_the_same_bad_ends() {
    let v6_12 = Tree {
        attach_in_probe: true,
        path_with_domain: true,
        shares_byte: true,
        flag_first: true,
        ..Tree::default()
    };
    let trees = [
        (v6_12, &[][..]),
        (Tree { claim_defers: true, ..v6_12 }, &["b46064a18810"]),
        (Tree { shares_byte: false, ..v6_12 }, &["a2225b6e834a", "f8670e8e43b8"]),
        (
            Tree { claim_defers: true, shares_byte: false, ..v6_12 },
            &["b46064a18810", "a2225b6e834a", "f8670e8e43b8"],
        ),
    ];
    let mut verdicts = BTreeSet::new();
    for (tree, apply) in trees {
        for attempts in [1, 2, 3] {
            let other_binds = attempts as u8 - 1;
            let expected = by_stateright(Tree { other_binds, ..tree });
            let ours = by_the_lab("v6.12", apply, &[], attempts);
            assert_eq!(ours, expected, "{apply:?}, {attempts} attempts");
            verdicts.insert(ours);
        }
    }
    assert_eq!(verdicts.len(), 4, "all four combinations occur: {verdicts:?}");
}
