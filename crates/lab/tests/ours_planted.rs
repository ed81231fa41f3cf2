//! Safeguards of the core left out one by one: each is missed within the worlds that are exhausted.

use portcullis::Safeguard;
use portcullis_amdvi as amdvi;
use portcullis_lab::ours::{Omitted, World, omit, omit_named};
use portcullis_riscv as riscv;
use portcullis_smmuv2 as smmuv2;
use portcullis_threads::{Budget, Explorer, Report};
use portcullis_vtd as vtd;

fn explore(world: &World) -> Report {
    let budget =
        Budget { stop_at_first: true, shorten: 0, executions: 1_000_000, ..Budget::default() };
    Explorer::new(budget).run(|w| world.build(w))
}

/// Leaves `safeguard` out and explores the world with that key, which must show a violation of `property`, and replay it.
fn found(safeguard: Safeguard, key: &str, property: &str) {
    missed(safeguard.name(), omit(safeguard), key, property);
}

/// The same for a safeguard of the SMMUv2 driver.
fn found_in_v2(safeguard: smmuv2::Safeguard, key: &str, property: &str) {
    missed(safeguard.name(), omit_named(safeguard.name()), key, property);
}

/// The same for a safeguard of the RISC-V driver.
fn found_in_riscv(safeguard: riscv::Safeguard, key: &str, property: &str) {
    missed(safeguard.name(), omit_named(safeguard.name()), key, property);
}

/// The same for a safeguard of the AMD-Vi driver.
fn found_in_amdvi(safeguard: amdvi::Safeguard, key: &str, property: &str) {
    missed(safeguard.name(), omit_named(safeguard.name()), key, property);
}

/// The same for a safeguard of the VT-d driver.
fn found_in_vtd(safeguard: vtd::Safeguard, key: &str, property: &str) {
    missed(safeguard.name(), omit_named(safeguard.name()), key, property);
}

fn missed(safeguard: &str, _omitted: Omitted, key: &str, property: &str) {
    let world = World::named(key).expect("a world");
    let report = explore(&world);
    let violation = report.violation(property);
    let violation = violation.unwrap_or_else(|| panic!("{safeguard} is not found: {report}"));
    println!("{safeguard}: {} after {} runs", violation.message, report.executions);
    let build = |w: &mut portcullis_threads::World| world.build(w);
    let replay = Explorer::new(Budget::default()).replay(&violation.schedule, build);
    let again = replay.expect("its own world").violations;
    assert!(again.contains(&(property.to_owned(), violation.message.clone())), "{again:?}");
}

#[test]
fn nothing_is_found_while_nothing_is_planted() {
    for world in World::exhaustive().iter().filter(|world| !world.name.starts_with(['c', 'd', 'h']))
    {
        assert!(explore(world).is_clean(), "{}", world.name);
    }
}

#[test]
fn the_early_return_of_the_seed() {
    found(Safeguard::WaitForSetUp, "a", "P1");
}

#[test]
fn a_group_published_before_its_domain() {
    found(Safeguard::AttachBeforeShowing, "a", "P1");
}

#[test]
fn a_deferral_without_a_kick() {
    found(Safeguard::LookAndWaitTogether, "a", "P6");
}

#[test]
fn a_domain_made_outside_the_group_lock() {
    found(Safeguard::SetUpUnderGroupLock, "c", "P1");
}

#[test]
fn two_probes_of_one_device() {
    found(Safeguard::LockOverProbe, "i", "P1");
}

#[test]
fn a_handle_made_before_the_attach() {
    found(Safeguard::AttachBeforeProbe, "a", "P1");
}

#[test]
fn stale_state_after_a_failed_registration() {
    found(Safeguard::WaitOnFailure, "g", "P6");
}

#[test]
fn the_wrong_instance_looked_up() {
    found(Safeguard::EachInstance, "h", "P1");
}

#[test]
fn an_entry_left_on_a_list() {
    found(Safeguard::WokenLeave, "a", "P7");
}

#[test]
fn ops_changed_while_bound() {
    found(Safeguard::RefuseWhileBound, "f", "P1");
}

#[test]
fn unbinding_without_waiting_for_who_is_inside_a_handle() {
    // The debug assertion of the window of addresses: the range was given back twice.
    found(Safeguard::DrainHandles, "handle", "panic");
}

#[test]
fn one_address_given_to_two_threads() {
    // One of them gives it back to the slab, the other to what its CPU keeps; the unbind at the end collects that, and the window's debug assertion says that nobody has it.
    found(Safeguard::TakeInOneStep, "two-users", "P7");
}

#[test]
fn two_threads_of_one_cpu_use_what_it_keeps() {
    // As above; or the table refuses what is mapped there already.
    found(Safeguard::OwnSlot, "two-users-cached", "P7");
}

#[test]
fn a_lazy_frame_reused_early() {
    found(Safeguard::WaitForFlush, "lazy", "P4");
}

#[test]
fn success_without_confirmation() {
    found(Safeguard::SayUnconfirmed, "unanswered", "P2");
}

#[test]
fn a_refusal_that_leaves_idle_groups_detached() {
    found(Safeguard::RestoreAfterRefusal, "idle-group", "P7");
}

#[test]
fn standing_in_a_list_of_waiters_twice() {
    found(Safeguard::WaitOnce, "flaps", "P6");
}

#[test]
fn a_release_from_outside_that_wakes_nobody() {
    found(Safeguard::WakeOnRelease, "owner", "P6");
}

#[test]
fn smmuv2_a_match_before_its_destination() {
    found_in_v2(smmuv2::Safeguard::DestinationBeforeMatch, "v2-rogue", "P2");
}

#[test]
fn smmuv2_maintenance_that_is_not_waited_for() {
    found_in_v2(smmuv2::Safeguard::TlbSync, "v2-handle", "P4");
}

#[test]
fn smmuv2_a_bank_used_again_before_its_tag_is_clean() {
    found_in_v2(smmuv2::Safeguard::CleanBeforeReuse, "v2-reuse", "P1");
}

#[test]
fn smmuv2_a_dropped_mask() {
    found_in_v2(smmuv2::Safeguard::KeepMask, "v2-masked", "P1");
}

#[test]
fn vtd_an_entry_that_is_not_forgotten() {
    found_in_vtd(vtd::Safeguard::ForgetContext, "vtd-e", "machine");
}

#[test]
fn riscv_a_context_that_is_not_forgotten() {
    found_in_riscv(riscv::Safeguard::ForgetContext, "riscv-e", "machine");
}

#[test]
fn amdvi_an_entry_that_is_not_forgotten() {
    found_in_amdvi(amdvi::Safeguard::ForgetEntry, "amdvi-e", "machine");
}

/// The twelfth is in what surrounds the core: its types do not let an instance be registered that is not brought up, a wrapper does.
#[test]
fn an_instance_visible_before_it_serves() {
    let world = World { registered_too_early: true, ..World::exhaustive()[0].clone() };
    let report = explore(&world);
    let violation =
        report.violation("P7").expect("the client is blocked behind an IOMMU that serves");
    assert!(violation.message.contains("before it was brought up"), "{violation}");
}

/// The second of two threads finds the first one's device in its hands, and goes on although hardware still walks from the old root.
#[test]
fn amdvi_a_table_that_two_threads_have_grown_at_once() {
    found_in_amdvi(amdvi::Safeguard::GrowOneByOne, "amdvi-grow", "P1");
}

/// A quarter of a minute.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn an_unlock_between_group_and_domain() {
        found(Safeguard::LookAgain, "c", "P1");
    }
}
