//! What many boards came to, as tables.

use super::survey::Board;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

/// How many of the richest boards are named.
const NAMED: usize = 5;

fn sum<K: Ord + Clone>(
    boards: &[Board],
    of: impl Fn(&Board) -> &BTreeMap<K, usize>,
) -> Vec<(K, usize, usize)> {
    let mut sums: BTreeMap<K, (usize, usize)> = BTreeMap::new();
    for board in boards {
        for (key, count) in of(board) {
            let (all, on) = sums.entry(key.clone()).or_default();
            *all += count;
            *on += 1;
        }
    }
    let mut sums: Vec<_> = sums.into_iter().map(|(key, (all, on))| (key, all, on)).collect();
    sums.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    sums
}

/// Rows of equal columns, the last two to the right.
fn table(heads: [&str; 3], rows: &[(String, usize, usize)]) -> String {
    let width = rows.iter().map(|row| row.0.len()).chain([heads[0].len()]).max().unwrap_or(0);
    let mut out = format!("{:width$}  {:>8}  {:>8}\n", heads[0], heads[1], heads[2]);
    for (name, all, on) in rows {
        let _ = writeln!(out, "{name:width$}  {all:>8}  {on:>8}");
    }
    out
}

/// The boards with most translated clients, by name; of boards that agree in all counts the first stands for all.
fn richest(boards: &[Board]) -> Vec<&Board> {
    let mut sorted: Vec<_> = boards.iter().collect();
    let key = |board: &Board| (board.translated(), board.streams, board.driven);
    sorted.sort_by(|a, b| key(b).cmp(&key(a)).then_with(|| a.name.cmp(&b.name)));
    sorted.truncate(NAMED);
    sorted
}

/// The whole summary.
pub(super) fn render(boards: &[Board], repeat: u64, elapsed: Duration) -> String {
    let mut out = String::new();
    let driven: Vec<&Board> = boards.iter().filter(|board| board.driven > 0).collect();
    let _ = writeln!(
        out,
        "{} boards, {} with an enabled IOMMU, {} with one that has a driver here\n",
        boards.len(),
        boards.iter().filter(|board| !board.iommus.is_empty()).count(),
        driven.len()
    );
    out += &table(["enabled IOMMUs by kind", "units", "boards"], &sum(boards, |it| &it.iommus));
    out.push('\n');
    out += &table(["enabled clients", "clients", "boards"], &sum(boards, |it| &it.clients));
    out.push('\n');
    let findings = sum(boards, |it| &it.findings).into_iter();
    let findings: Vec<_> =
        findings.map(|((grade, rule), all, on)| (format!("{grade}: {rule}"), all, on)).collect();
    out += &table(["findings by rule", "findings", "boards"], &findings);
    let _ =
        writeln!(out, "\nthe {NAMED} richest: translated clients, their streams, driven IOMMUs");
    for board in richest(boards) {
        let counts = (board.translated(), board.streams, board.driven);
        let _ =
            writeln!(out, "  {:40} {:>4} {:>5} {:>3}", board.name, counts.0, counts.1, counts.2);
    }
    out += &times(boards, &driven, repeat, elapsed);
    out += &failures(boards);
    out
}

fn times(boards: &[Board], driven: &[&Board], repeat: u64, elapsed: Duration) -> String {
    let mut out = String::new();
    let mut once: Vec<_> = boards.iter().map(|board| (board.once, &board.name)).collect();
    once.sort_unstable();
    if let (Some(median), Some(slowest)) = (once.get(once.len() / 2), once.last()) {
        let _ = writeln!(
            out,
            "\nshow and boot of a board: median {:.1} ms, slowest {:.1} ms ({})",
            milliseconds(median.0),
            milliseconds(slowest.0),
            slowest.1
        );
    }
    if let Some(slowest) = driven.iter().max_by_key(|board| board.repeated).filter(|_| repeat > 0) {
        let sum: Duration = driven.iter().map(|board| board.repeated).sum();
        let _ = writeln!(
            out,
            "{repeat} more boots of each of the {} boards in random orders: {:.1} s of work, slowest {:.2} s ({})",
            driven.len(),
            sum.as_secs_f64(),
            slowest.repeated.as_secs_f64(),
            slowest.name
        );
    }
    let _ = writeln!(out, "total {:.1} s", elapsed.as_secs_f64());
    out
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn failures(boards: &[Board]) -> String {
    let mut out = String::new();
    let mut count = 0;
    for board in boards {
        for failure in &board.failures {
            count += 1;
            let _ = writeln!(out, "FAILED {}: {failure}", board.name);
        }
    }
    let _ = writeln!(out, "{count} violations, panics and clients blocked without a reason");
    out
}
