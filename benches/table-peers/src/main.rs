//! The page tables and address allocators of other crates beside ours, on the workloads of `portcullis-bench`: in one process, in turn, best of several rounds.
//!
//! `cargo run --release` prints nanoseconds a call and ratios (parts: `tables`, `iova`; `tables DH`: these rows only); `cargo run --release -- count WORKLOAD CONTESTANT PASSES` runs one of them
//! bare, for an instruction counter: see `count.sh`.

#[cfg(test)]
mod oracle;
mod spaces;
mod tables;

use portcullis_bench::clock::Load;
use portcullis_bench::pool;
use portcullis_bench::spaces::{Locked, Slabs, Space, Tree, fragmented, mixed};
use portcullis_bench::tables::{
    Best, Inlined, LETTERS, Ours, Table, ThroughDyn, Workload, hot_pairs, map_all, unmap_all,
    workload,
};
use tables::{Aarch64Paging, Multiarch, X86};

const ROUNDS: usize = 7;

/// The rows of the tables.
const ALL: &str = "ABCDEFH";

/// One contestant's name and best times.
type Row = (&'static str, Best);

fn note<T: Table>(make: fn() -> T, workload: &Workload, rows: &mut Vec<Row>, turn: usize) {
    let table = make();
    if rows.len() <= turn {
        rows.push((table.name(), Best::NONE));
    }
    rows[turn].1.note_round(table, workload);
}

/// The rows of `letters`.
fn compare_tables(letters: &str) {
    println!("page tables, ns a call (ratio to portcullis)");
    for letter in LETTERS.into_iter().filter(|letter| letters.contains(*letter)) {
        let workload = workload(letter, usize::MAX);
        let mut rows = Vec::new();
        for _ in 0..ROUNDS {
            note(Ours::new, &workload, &mut rows, 0);
            note(Aarch64Paging::new, &workload, &mut rows, 1);
            note(Multiarch::new, &workload, &mut rows, 2);
            note(X86::new, &workload, &mut rows, 3);
            note(Ours::word_by_word, &workload, &mut rows, 4);
            note(ThroughDyn::new, &workload, &mut rows, 5);
            note(Inlined::new, &workload, &mut rows, 6);
        }
        for (index, what) in ["map", "unmap", "phys"].iter().enumerate() {
            print!("{:<32} {what:<6}", workload.name);
            for (name, Best(times)) in &rows {
                let ours = rows[0].1.0[index];
                print!("  {name} {:.1} ({:.2})", times[index], times[index] / ours);
            }
            println!();
        }
    }
    if letters.contains('H') {
        compare_hot_pairs();
    }
}

fn compare_hot_pairs() {
    let mut best = [f64::MAX; 5];
    for _ in 0..ROUNDS {
        best[0] = best[0].min(hot_pairs(&mut Ours::new()));
        best[1] = best[1].min(hot_pairs(&mut Aarch64Paging::new()));
        best[2] = best[2].min(hot_pairs(&mut Multiarch::new()));
        best[3] = best[3].min(hot_pairs(&mut X86::new()));
        best[4] = best[4].min(hot_pairs(&mut ThroughDyn::new()));
    }
    let [ours, arm, multiarch, x86, floor] = best;
    println!(
        "H hot pair (map + unmap)  portcullis {ours:.1}  aarch64-paging {arm:.1}  page_table_multiarch {multiarch:.1}  x86_64 {x86:.1}  floor {floor:.1}"
    );
}

fn iova_row<S: Space>(name: &str, make: fn() -> S) {
    let best = |work: &dyn Fn(S) -> f64| (0..ROUNDS).map(|_| work(make())).fold(f64::MAX, f64::min);
    print!("{name:<26}");
    for number in 1..=5 {
        print!("{:>9.1}", best(&|space| mixed(number, space, 100_000)));
    }
    let (mean, worst) = fragmented(make, ROUNDS);
    println!("{mean:>11.0} / {worst:.0}");
}

fn compare_spaces() {
    println!(
        "\nIOVA, ns an allocation and free; I6: mean / worst of a 2-page allocation (clock included, about 20 ns)"
    );
    println!("{:<26}{:>9}{:>9}{:>9}{:>9}{:>9}{:>14}", "", "I1", "I2", "I3", "I4", "I5", "I6");
    iova_row("portcullis, slabs", Slabs::new);
    iova_row("portcullis, tree", Tree::new);
    iova_row("  in a lock", || Locked::new(Tree::new()));
    iova_row("buddy_system_allocator", spaces::Buddy::new);
    iova_row("  in a lock", || Locked::new(spaces::Buddy::new()));
    iova_row("offset-allocator", spaces::Offset::new);
    iova_row("  in a lock", || Locked::new(spaces::Offset::new()));
    iova_row("range-alloc", spaces::Ranges::new);
}

/// Runs one workload `passes` times on one contestant.
fn count<T: Table>(mut table: T, workload: &Workload, passes: usize) {
    for _ in 0..passes {
        map_all(&mut table, workload);
        unmap_all(&mut table, workload);
    }
}

fn count_one(arguments: &[String]) {
    pool::small(16 << 20);
    let letter = arguments[1].chars().next().expect("a letter");
    let mut workload = workload(letter, usize::MAX);
    let keep = 4 * (2 << 20) / workload.len.min(2 << 20);
    workload.places.truncate(keep as usize);
    let passes: usize = arguments[3].parse().expect("a number of passes");
    println!("{} calls a pass", workload.places.len());
    match arguments[2].as_str() {
        "portcullis" => count(Ours::new(), &workload, passes),
        "words" => count(Ours::word_by_word(), &workload, passes),
        "aarch64-paging" => count(Aarch64Paging::new(), &workload, passes),
        "multiarch" => count(Multiarch::new(), &workload, passes),
        "x86_64" => count(X86::new(), &workload, passes),
        other => panic!("no contestant {other}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let load = Load::begin();
    match arguments.first().map(String::as_str) {
        Some("count") => return count_one(&arguments),
        Some("tables") => compare_tables(arguments.get(1).map_or(ALL, String::as_str)),
        Some("iova") => compare_spaces(),
        Some(other) => panic!("no part {other}: tables, iova or count"),
        None => {
            compare_tables(ALL);
            compare_spaces();
        }
    }
    println!("\n{load}");
}
