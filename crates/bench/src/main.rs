//! `portcullis-count CASE ROUNDS`: one workload without a clock, for an instruction counter. The difference between two numbers of rounds is what the rounds cost.

use portcullis_bench::count;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (Some(case), Some(Ok(rounds))) =
        (arguments.first(), arguments.get(1).map(|rounds| rounds.parse()))
    else {
        eprintln!("usage: portcullis-count CASE ROUNDS; the cases:");
        count::CASES.iter().for_each(|case| eprintln!("  {case}"));
        return ExitCode::from(2);
    };
    match count::run(case, rounds) {
        Some(calls) => {
            println!("{calls}");
            ExitCode::SUCCESS
        }
        None => {
            eprintln!("portcullis-count: no case {case}");
            ExitCode::from(2)
        }
    }
}
