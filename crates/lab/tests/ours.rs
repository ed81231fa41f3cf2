//! The shipped core and driver in every interleaving.

use portcullis_lab::ours::World;
use portcullis_threads::{Budget, Explorer};
use std::time::Duration;

#[test]
fn worlds() {
    for world in World::exhaustive() {
        let budget = Budget { time: Duration::from_secs(60), ..Budget::default() };
        let report = Explorer::new(budget).run(|w| world.build(w));
        println!("{}\n{report}{:?}\n{:?}", world.name, report.reached, report.observed);
    }
}
