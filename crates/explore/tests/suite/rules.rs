//! What protocols can say, and what they must not do.

use std::cell::Cell;
use std::collections::BTreeSet;

use portcullis_explore::proto::{Builder, Obj, Protocol, Value};
use portcullis_explore::schedule::{Move, Schedule};
use portcullis_explore::search::{
    Broken, Control, Fault, Note, Object, Outcome, Strategy, Verdict,
};

const FULL: Strategy = Strategy::Exhaustive { reduce: false };
const REDUCED: Strategy = Strategy::Exhaustive { reduce: true };

fn explore(protocol: &Protocol, strategy: Strategy) -> Outcome {
    protocol.explore(strategy, &mut Control::default()).unwrap()
}

/// The values that the fields can end with; the same with and without reduction.
fn ends(protocol: &Protocol) -> BTreeSet<Vec<u64>> {
    let [full, reduced] = [FULL, REDUCED].map(|strategy| {
        let mut ends = BTreeSet::new();
        let mut collect = |end: &portcullis_explore::proto::EndState| {
            ends.insert(end.fields.clone());
        };
        protocol.explore_with_ends(strategy, &mut Control::default(), &mut collect).unwrap();
        ends
    });
    assert_eq!(full, reduced);
    full
}

fn broken(protocol: &Protocol) -> String {
    match protocol.explore(REDUCED, &mut Control::default()) {
        Err(Broken { fault: Fault::Model(words), .. }) => words,
        other => panic!("{other:?}"),
    }
}

#[test]
fn bits_of_one_byte_lose_each_others_updates() {
    let flags = |atomic: bool| {
        let mut b = Builder::new();
        let byte = b.field("flags", 8);
        let bits = [b.bit(byte, 0, "dma_iommu"), b.bit(byte, 1, "dma_coherent")];
        for bit in bits {
            b.thread("setter", move |t| {
                if atomic {
                    t.update("set_bit", move |s| s.set_bit(bit, true))
                } else {
                    t.write_bit(bit, true, "plain store")
                }
            });
        }
        ends(&b.build("bits")).into_iter().map(|fields| fields[0]).collect::<Vec<_>>()
    };
    assert_eq!(flags(false), [1, 2, 3]);
    assert_eq!(flags(true), [3]);
}

#[test]
fn every_choice_is_taken() {
    let mut b = Builder::new();
    let (first, second) = (b.field("first", 4), b.field("second", 4));
    b.thread("environment", move |t| {
        let a = t.choose(3, "an outcome")?;
        t.write(first, a, "")?;
        let b = t.choose(2, "another")?;
        t.write(second, b, "")
    });
    let protocol = b.build("choices");
    assert_eq!(ends(&protocol).len(), 6);
    let outcome = explore(&protocol, REDUCED);
    assert_eq!(outcome.schedules, 6);
}

#[test]
fn more_local_states_than_sixteen_bits_can_number() {
    let mut b = Builder::new();
    let sum = b.field("sum", 20);
    b.thread("many", move |t| {
        let high = t.choose(300, "")?;
        let low = t.choose(300, "")?;
        t.write(sum, high * 300 + low, "")
    });
    let protocol = b.build("many");
    let outcome = explore(&protocol, FULL);
    assert_eq!(outcome.schedules, 90_000);
    assert!(protocol.local_states()[0] > 1 << 16);
}

#[test]
fn a_dormant_thread_runs_only_when_started_and_once() {
    let spawner = |times: u32| {
        let mut b = Builder::new();
        let ran = b.field("ran", 2);
        let child = b.dormant_thread("child", move |t| t.write(ran, 1_u8, ""));
        b.thread("parent", move |t| {
            for _ in 0..times {
                t.start(child, "hot add")?;
            }
            Ok(())
        });
        b.build("spawn")
    };
    assert_eq!(ends(&spawner(0)), BTreeSet::from([vec![0]]));
    assert_eq!(explore(&spawner(0), FULL).verdict(), Verdict::Clean);
    assert_eq!(ends(&spawner(1)), BTreeSet::from([vec![1]]));
    assert_eq!(broken(&spawner(2)), "thread child is started twice");
}

#[test]
fn a_thread_that_dies_keeps_its_locks() {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    let pointer = b.field("dev->iommu", 1);
    let oops = b.checked("B3");
    b.thread("reader", move |t| {
        t.lock(lock, "")?;
        if !t.is_set(pointer, "")? {
            return t.die(oops, "NULL dereference");
        }
        t.unlock(lock)
    });
    b.thread("other", move |t| {
        t.write(pointer, true, "")?;
        t.lock(lock, "")?;
        t.unlock(lock)
    });
    let protocol = b.build("oops");
    for strategy in [FULL, REDUCED] {
        let outcome = explore(&protocol, strategy);
        let names: Vec<&str> = outcome.violations.iter().map(|v| v.property.as_str()).collect();
        assert_eq!(names, ["B3", "deadlock"]);
        let trace = protocol.replay(&outcome.violations[0].schedule).unwrap();
        assert_eq!(
            trace.steps.last().unwrap().report.notes,
            [Note::Remark("NULL dereference".into())]
        );
    }
}

#[test]
fn giving_back_what_one_does_not_hold_is_misuse() {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    b.thread("holder", move |t| t.locked(lock, "", |_| Ok(())));
    b.thread("thief", move |t| t.unlock(lock));
    let outcome = explore(&b.build("misuse"), REDUCED);
    assert_eq!(outcome.violations[0].property, "lock-misuse");
}

#[test]
fn try_lock_sees_both_outcomes() {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    let got = b.field("got", 2);
    b.thread("holder", move |t| {
        t.lock(lock, "")?;
        t.unlock(lock)
    });
    b.thread("trier", move |t| {
        if t.try_lock(lock, "")? {
            t.write(got, 1_u8, "")?;
            t.unlock(lock)
        } else {
            t.write(got, 2_u8, "")
        }
    });
    assert_eq!(ends(&b.build("try")), BTreeSet::from([vec![1], vec![2]]));
}

/// P1 frees the group that P2 looks at; under a lock or not, and P2 may find none.
fn groups(locked: bool, allocate_first: bool) -> Protocol {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    let mut pool = b.pool("group", 2);
    let domain = b.pool_field(&mut pool, "domain", 2);
    let pointer = b.field("dev->iommu_group", Obj::BITS);
    let p = pool.clone();
    b.thread("P1", move |t| {
        let group = t.alloc(&p, "iommu_group_alloc")?;
        t.write_at(&p, group, domain, 1_u8, "")?;
        t.write(pointer, group, "published")?;
        t.lock(lock, "")?;
        t.write(pointer, Obj::NULL, "")?;
        t.free(&p, group, "iommu_group_release")?;
        t.unlock(lock)
    });
    b.thread("P2", move |t| {
        if locked {
            t.lock(lock, "")?;
        }
        let group = Obj::from_bits(t.read(pointer, "")?);
        if !group.is_null() || allocate_first {
            t.read_at(&pool, group, domain, "")?;
        }
        if locked { t.unlock(lock) } else { Ok(()) }
    });
    b.build("groups")
}

#[test]
fn use_after_free_and_null_pointers_are_found() {
    let violated = |protocol: &Protocol, strategy| {
        let outcome = explore(protocol, strategy);
        outcome.violations.iter().map(|v| v.property.clone()).collect::<Vec<_>>()
    };
    for strategy in [FULL, REDUCED] {
        assert_eq!(violated(&groups(true, false), strategy), [""; 0]);
        assert_eq!(violated(&groups(false, false), strategy), ["use-after-free"]);
        let names = violated(&groups(false, true), strategy);
        assert_eq!(names, ["use-after-free", "null-pointer"]);
    }
}

#[test]
fn a_new_object_in_an_old_place_is_another_one() {
    let mut b = Builder::new();
    let mut pool = b.pool("object", 1);
    let field = b.pool_field(&mut pool, "field", 1);
    b.thread("only", move |t| {
        let first = t.alloc(&pool, "")?;
        t.free(&pool, first, "")?;
        let second = t.alloc(&pool, "")?;
        t.read_at(&pool, second, field, "fine")?;
        t.read_at(&pool, first, field, "stale")?;
        t.free(&pool, first, "again").map(|_| ())
    });
    let protocol = b.build("reuse");
    let outcome = explore(&protocol, FULL);
    assert_eq!(outcome.violations.len(), 1);
    assert_eq!(outcome.violations[0].schedule.moves.len(), 5, "not at the fourth step");
}

// ---- Rules ----

#[test]
fn a_protected_field_needs_its_lock() {
    let mut b = Builder::new();
    let lock = b.mutex("group->mutex");
    let field = b.field("group->domain", 1);
    b.protected_by(field, lock);
    b.thread("careless", move |t| t.write(field, true, ""));
    let words = broken(&b.build("careless"));
    assert_eq!(words, "group->domain is used without group->mutex, which protects it");
}

#[test]
fn a_swallowed_pause_is_noticed() {
    let mut b = Builder::new();
    let field = b.field("field", 1);
    b.thread("careless", move |t| {
        let _ = t.read(field, "ignored");
        Ok(())
    });
    assert!(broken(&b.build("careless")).contains("swallowed before the step `ignored`"));
}

#[test]
fn a_function_with_a_memory_of_its_own_is_noticed() {
    let mut b = Builder::new();
    let field = b.field("field", 1);
    let runs = Cell::new(0);
    b.thread("moody", move |t| {
        runs.set(runs.get() + 1);
        if runs.get() % 2 == 0 {
            return t.func("other way", |t| t.write(field, true, ""));
        }
        t.read(field, "")?;
        t.write(field, false, "")
    });
    assert!(broken(&b.build("moody")).contains("not deterministic"));
}

#[test]
fn a_value_that_does_not_fit_is_noticed() {
    let mut b = Builder::new();
    let field = b.field("small", 2);
    b.thread("large", move |t| t.write(field, 4_u8, ""));
    assert!(broken(&b.build("large")).contains("4 does not fit into small"));
    let mut b = Builder::new();
    let field = b.field("small", 2);
    b.thread("large", move |t| t.update("", move |s| s.set(field, 4)));
    assert!(broken(&b.build("large")).contains("4 does not fit into small"));
}

#[test]
fn values_survive_their_bits() {
    fn same<V: Value + PartialEq + std::fmt::Debug>(value: V) {
        assert_eq!(V::from_bits(value.to_bits()), value);
    }
    same(-517_i32);
    same(i64::MIN);
    same(Some(7_u8));
    same(None::<u8>);
    same((3_u8, true));
    same(Ok::<u16, u8>(9));
    same(Err::<u16, u8>(9));
    same(true);
}

/// The same function twice, for two owners, with a step in between that only one of them takes.
#[test]
fn a_site_is_the_same_for_every_owner_and_whatever_else_the_function_does() {
    let mut b = Builder::new();
    let lock = b.mutex("lock");
    for owner in ["left", "right"] {
        let field = b.field(Object::of(owner, "flag"), 1);
        let other = b.field(Object::of(owner, "other"), 1);
        b.thread(owner, move |t| {
            t.func("outer", |t| {
                t.lock(lock, "")?;
                if owner == "left" {
                    t.scope(|t| t.read(other, "only here"))?;
                }
                t.read(field, "first")?;
                t.func("inner", |t| t.write(field, 1_u64, "set"))?;
                t.read(field, "second")?;
                t.unlock(lock)
            })
        });
    }
    let protocol = b.build("sites");
    let moves = |thread, steps| vec![Move { thread, choice: 0 }; steps];
    let sites = |moves| -> Vec<String> {
        let trace = protocol.replay(&Schedule::new("sites", moves)).unwrap();
        trace.steps.iter().map(|step| step.label.site.to_string()).collect()
    };
    let right = sites(moves(1, 5));
    let expected = [
        "outer:lock(lock)",
        "outer:read(flag)",
        "inner:write(flag)",
        "outer:read(flag)#1",
        "outer:unlock(lock)",
    ];
    assert_eq!(right, expected);
    let mut left = sites(moves(0, 6));
    assert_eq!(left.remove(1), "outer:read(other)");
    assert_eq!(left, expected);
}
