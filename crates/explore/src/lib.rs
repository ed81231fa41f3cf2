//! Explores the interleavings of small concurrent systems, and gives the shortest schedule for what goes wrong.
//!
//! Three layers:
//!
//! - [`proto`]: a thread of a protocol is an ordinary function whose shared accesses are steps. This is how
//!   one writes down what a kernel does, line by line.
//! - [`search`]: the explorer. It needs a [`Model`](search::Model), which a protocol is, and which can be
//!   written by hand. [`search::Strategy`] says how to look: every schedule, every schedule with few
//!   preemptions, or random ones.
//! - [`schedule`]: a schedule as a short string that replays for ever.
//!
//! ```
//! use portcullis_explore::proto::Builder;
//! use portcullis_explore::search::{Control, Strategy, Verdict};
//!
//! let mut b = Builder::new();
//! let counter = b.field("counter", 2);
//! for name in ["A", "B"] {
//!     b.thread(name, move |t| {
//!         t.func("increment", |t| {
//!             let old = t.read(counter, "load")?;
//!             t.write(counter, old + 1, "store")
//!         })
//!     });
//! }
//! b.eventually("counts both", move |v| v.get(counter) == 2);
//! let protocol = b.build("two-increments");
//!
//! let outcome = protocol.explore(Strategy::Exhaustive { reduce: true }, &mut Control::default())?;
//! assert_eq!(outcome.verdict(), Verdict::Violated);
//! let lost = outcome.violation("counts both").expect("an update can be lost");
//! assert_eq!(lost.schedule.to_string(), "p1:two-increments:0.1.0.1");
//! let trace = protocol.replay(&lost.schedule)?;
//! assert_eq!(trace.steps[3].label.to_string(), "B: increment: counter = 1 (store)");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What a search promises
//!
//! `Strategy::Exhaustive` covers every interleaving of steps, sequentially consistent. Without reduction each
//! violated property comes with a schedule of fewest steps. With reduction (see [`reduction`]) it finds the
//! same violations and the same end states in fewer states; its counterexamples are then made shortest by a second
//! search among blocks, in the order of steps and only up to the length that is known, within
//! [`search::Control::shortest_within`] states, and [`search::Violation::shortest`] says whether that worked. States
//! are remembered as 64-bit fingerprints: two states with the same one would hide what only the second leads to. The chance of that is
//! [`search::Outcome::collision_probability`], about 1e-6 at six million states.
//!
//! # Costs
//!
//! A state costs 10 to 12.5 bytes of fingerprint, 10 bits of path (a level-order tree instead of parent
//! pointers) and, while it waits to be expanded, its own size (24 bytes for the comparison model with five
//! clients). A step of a protocol is a table look-up; its function runs once for each different local history.
//! `docs/performance.md` has the numbers beside those of other tools.
//!
//! # Not supported
//!
//! - Weak memory: every step is sequentially consistent.
//! - Liveness on cycles: a system that goes round for ever without reaching its goal is not reported;
//!   `eventually` is judged in states in which nothing can move.
//! - Symmetry that is found without being told: a protocol names its equal threads
//!   ([`proto::Builder::interchangeable`]), a model written by hand says which states are equal
//!   ([`search::Model::canonical`]).
//! - More than one processor for one search. A protocol is not `Sync`; explore several worlds side by side.
//! - More than 16 threads, 48 mutexes, 63 properties or 2048 bits of state in a protocol; recursive and
//!   reader-writer locks.
//!
//! # Dependencies
//!
//! None. `stateright` in tests, as the independent explorer that this one is checked against.

pub mod proto;
#[doc = include_str!("reduction.md")]
pub mod reduction {}
pub mod schedule;
pub mod search;
