//! Measures our explorer and its peers on the comparison model, each in a process of its own, one after the
//! other, and prints one table.
//!
//! `cargo run --release` (about fifteen minutes; `-- quick`, two, measures the sizes that the goals are about).
//! `-- one TOOL CLIENTS IOMMUS fixed|buggy` is one measurement.

#[path = "../../../crates/explore/tests/suite/models/packed.rs"]
mod packed;
#[path = "../../../crates/explore/tests/suite/models/protocol.rs"]
mod protocol;
#[path = "../../../crates/explore/tests/suite/models/stateright.rs"]
mod stateright_model;

mod cpu;
mod one;
mod shuttle_model {
    crate::threads_model::threads_model!(shuttle);
}
mod loom_model {
    crate::threads_model::threads_model!(loom);
}
mod spin;
mod table;
mod threads_model;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["one", tool, clients, iommus, variant] => {
            let world = one::World {
                clients: clients.parse().expect("a number of clients"),
                iommus: iommus.parse().expect("a number of IOMMUs"),
                fixed: variant == "fixed",
            };
            one::measure(tool, world);
        }
        [] => table::print(false),
        ["quick"] => table::print(true),
        _ => {
            eprintln!("usage: explorer-peers [quick | one TOOL CLIENTS IOMMUS fixed|buggy]");
            std::process::exit(2);
        }
    }
}
