//! `cargo bench -p portcullis-bench [-- map|iova|dma|queue]`: what `portcullis bench` prints of the data path, with its defaults, without the command. All four where none is named.

use portcullis_bench::report::{self, Effort};
use std::fmt;
use std::process::ExitCode;

/// A table by its name.
type Table = (&'static str, fn(Effort, &mut dyn fmt::Write) -> fmt::Result);

const TABLES: [Table; 4] =
    [("map", report::map), ("iova", report::iova), ("dma", report::dma), ("queue", report::queue)];

fn main() -> ExitCode {
    let (options, names): (Vec<String>, Vec<String>) =
        std::env::args().skip(1).partition(|argument| argument.starts_with('-'));
    // Whoever only builds and starts all targets, as tests, does not want to wait for measurements.
    if !options.iter().any(|option| option == "--bench") {
        return ExitCode::SUCCESS;
    }
    let known = |name: &String| TABLES.iter().any(|(table, _)| table == name);
    if let Some(unknown) = names.iter().find(|name| !known(name)) {
        eprintln!("no benchmark {unknown}: map, iova, dma or queue");
        return ExitCode::from(2);
    }
    let effort = Effort { rounds: 7, most_calls: 1 << 20 };
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    let tables = TABLES.iter().filter(|(name, _)| wanted(name));
    for (_, table) in tables {
        let mut text = String::new();
        // A string takes everything.
        let _ = table(effort, &mut text);
        println!("{text}");
    }
    ExitCode::SUCCESS
}
