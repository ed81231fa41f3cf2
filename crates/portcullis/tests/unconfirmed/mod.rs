//! Hardware that does not confirm: who is told, what stays in quarantine, and what frees it.

use crate::support::*;
use crate::{Bound, bound, page};
use portcullis::*;
use std::sync::Arc;

const SAID: Unconfirmed = Unconfirmed { node: A, error: SILENT };

fn reach(sub: &Sub) -> Reach {
    sub.reports()[0].reach
}

/// One device that was unbound while its IOMMU was silent and a page was mapped.
fn left_in_doubt() -> Bound {
    let bound = bound();
    // Nobody gives it back: it is the core's to remove.
    let _left = bound.handle.map(page(), Both).expect("mapped");
    bound.books.fall_silent();
    assert_eq!(bound.sub.unbind(&bound.x), Err(BindError::Unconfirmed(SAID)));
    bound
}

#[test]
pub(crate) fn an_unbind_that_is_not_confirmed_leaves_its_page_in_quarantine_until_hardware_answers()
{
    let Bound { sub, books, .. } = left_in_doubt();
    assert_eq!(sub.counts().quarantined, 0x1000);
    assert_eq!(sub.counts().attached, 0, "the domain is not used again");
    assert_eq!(reach(&sub), Reach::Unknown);
    assert_eq!(sub.reconfirm(A), Err(ReconfirmError::Unconfirmed(SAID)));
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0x1000, Reach::Unknown));
    books.recover();
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0x1000, Reach::Unknown), "not yet asked");
    sub.reconfirm(A).expect("it answers again");
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0, Reach::Blocked));
}

/// The address space itself is the witness: the core frees it only when nothing may walk it any more.
#[test]
fn a_buffer_that_an_unconfirmed_unbind_kept_comes_back_once_hardware_confirms() {
    let Bound { sub, x, books, handle } = bound();
    let (early, late) = (handle.map(page(), Both).expect("mapped"), handle.map(page(), Both));
    books.fall_silent();
    sub.unbind(&x).expect_err("silent");
    let Err(UnmapFailure::Quarantined(held)) = handle.unmap(early) else {
        panic!("nobody has confirmed it")
    };
    books.recover();
    let held = handle.recover(held).expect_err("it would answer, and was not asked");
    sub.reconfirm(A).expect("it answers again");
    handle.recover(held).expect("confirmed");
    // Asked for the first time only now, it was never in doubt.
    handle.unmap(late.expect("mapped")).expect("confirmed");
}

#[test]
fn a_bind_that_succeeds_makes_the_reach_known_and_leaves_the_quarantine() {
    let Bound { sub, x, books, .. } = left_in_doubt();
    books.recover();
    let outcome = sub.bind(&x, Arc::new(Keeper::default()));
    assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    assert_eq!(reach(&sub), Reach::Translated);
    assert_eq!(sub.counts().quarantined, 0x1000, "nobody has confirmed the old space");
}

#[test]
fn a_new_bring_up_at_the_node_frees_what_the_old_one_left() {
    let Bound { sub, x, .. } = left_in_doubt();
    assert_eq!(sub.unregister(A), Err(UnregisterError::Unconfirmed(SAID)));
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0x1000, Reach::Unknown));
    let _fresh = register(&sub, A);
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0, Reach::Blocked));
    sub.run_deferred();
    assert_eq!(x.stage(), DeviceStage::Described);
}

#[test]
fn stopping_the_iommu_confirms_everything() {
    let Bound { sub, books, .. } = left_in_doubt();
    books.recover();
    assert_eq!(sub.unregister(A), Ok(()));
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0, Reach::Blocked));
}

#[test]
fn a_removed_device_leaves_its_streams_in_doubt_for_who_comes_next() {
    let Bound { sub, x, books, .. } = bound();
    books.fall_silent();
    assert_eq!(sub.remove_device(&x), Err(BindError::Unconfirmed(SAID)));
    let again = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    assert_eq!(reach(&sub), Reach::Unknown);
    assert_eq!(sub.claim_group(&again, 9), Err(OwnerError::Unconfirmed(SAID)));
    books.recover();
    sub.reconfirm(A).expect("it answers again");
    assert_eq!(reach(&sub), Reach::Blocked);
    assert_eq!(sub.claim_group(&again, 9), Ok(()));
}

#[test]
fn each_answer_that_can_stay_out_is_said_by_itself() {
    for call in [Call::Release, Call::UnbindSpace] {
        let Bound { sub, x, books, .. } = bound();
        sub.unbind(&x).expect("confirmed");
        books.fail(call, SILENT);
        assert_eq!(sub.claim_group(&x, 9), Err(OwnerError::Unconfirmed(SAID)), "{call:?}");
        books.recover();
    }
    for call in [Call::Submit, Call::Wait] {
        let Bound { sub, x, books, handle } = bound();
        let _left = handle.map(page(), Both).expect("mapped");
        books.fail(call, SILENT);
        // Giving the space up invalidates all of it at once, and that is confirmed.
        assert_eq!(sub.unbind(&x), Ok(()), "{call:?}");
        assert_eq!((sub.counts().quarantined, sub.counts().attached), (0, 0));
    }
    let Bound { sub, x, books, .. } = bound();
    sub.unbind(&x).expect("confirmed");
    books.fail(Call::Shutdown, SILENT);
    assert_eq!(sub.unregister(A), Err(UnregisterError::Unconfirmed(SAID)));
    assert_eq!(sub.node_state(A), NodeState::Absent, "it is out all the same");
}

#[test]
fn a_space_behind_two_iommus_is_free_when_both_have_confirmed() {
    let sub = Arc::new(subsystem());
    let x = sub.add_device(behind("/x", &[(A, 1), (B, 1)])).expect("added");
    let (a, b) = (register(&sub, A), register(&sub, B));
    let driver = Arc::new(Keeper::default());
    sub.bind(&x, driver.clone()).expect("bound");
    let handle = driver.handle.lock().expect("test").clone().expect("bound");
    let _left = handle.map(page(), Both).expect("mapped");
    a.fall_silent();
    b.fall_silent();
    sub.unbind(&x).expect_err("silent");
    assert_eq!(sub.counts().quarantined, 0x1000, "counted once");
    a.recover();
    sub.reconfirm(A).expect("it answers again");
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0x1000, Reach::Unknown));
    b.recover();
    sub.reconfirm(B).expect("it answers again");
    assert_eq!((sub.counts().quarantined, reach(&sub)), (0, Reach::Blocked));
}

#[test]
fn what_fails_during_the_set_up_is_undone_or_said_to_be_unknown() {
    for (call, known) in [(Call::Claim, true), (Call::Attach, false)] {
        let Bound { sub, x, books, .. } = bound();
        sub.unbind(&x).expect("confirmed");
        sub.unregister(A).expect("idle");
        let books = {
            drop(books);
            register(&sub, A)
        };
        books.fail(call, SILENT);
        books.fail(Call::Release, SILENT);
        let outcome = sub.bind(&x, Arc::new(Keeper::default())).expect("tried");
        let reason = BlockedReason::SetUp(SetUpError::Ops(A, SILENT));
        assert_eq!(outcome, BindOutcome::Blocked(reason));
        let expected = if known { Reach::Blocked } else { Reach::Unknown };
        assert_eq!(reach(&sub), expected, "{call:?}");
        books.recover();
        let outcome = sub.bind(&x, Arc::new(Keeper::default()));
        assert_eq!(outcome, Ok(BindOutcome::Bound(Reach::Translated)));
    }
}

#[test]
fn what_does_not_serve_blocks_only_where_that_is_known() {
    let sub = subsystem();
    let x = sub.add_device(behind("/x", &[(A, 1)])).expect("added");
    assert_eq!(reach(&sub), Reach::Unknown, "many IOMMUs let everything through out of reset");
    sub.fail_node(A, "no driver for example,iommu");
    assert_eq!(reach(&sub), Reach::Unknown);
    let blocking = Blocking::Confirmed;
    sub.fail_node(A, NodeFailure { words: "it has no stage 1".into(), blocking });
    assert_eq!(reach(&sub), Reach::Blocked);
    let _books = register(&sub, A);
    assert_eq!(reach(&sub), Reach::Blocked, "it was brought up: every stream is blocked");
    sub.unregister(A).expect("idle");
    assert_eq!(reach(&sub), Reach::Blocked, "it stopped, and confirmed that");
    assert_eq!(x.stage(), DeviceStage::Described);
}
