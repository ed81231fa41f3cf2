//! The table: every measurement in a process of its own, at most [`LIMIT`] long.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(150);
/// Short measurements are repeated and the fastest counts.
const REPEAT_BELOW: f64 = 5.0;
const REPEATS: u32 = 3;

#[derive(Debug, Clone)]
struct Result {
    seconds: f64,
    states: u64,
    generated: u64,
    peak_kib: u64,
    remark: String,
}

struct Row {
    tool: &'static str,
    clients: u32,
    iommus: u32,
    fixed: bool,
    result: Option<Result>,
}

/// Measures and prints.
pub fn print(quick: bool) {
    let mut rows = Vec::new();
    for (clients, iommus) in [(1, 1), (3, 2)] {
        for tool in [
            "packed-full",
            "packed-reduced",
            "protocol-full",
            "protocol-reduced",
            "stateright-bfs",
            "shuttle-random",
            "shuttle-pct",
            "loom",
        ] {
            rows.push(row(tool, clients, iommus, false));
        }
    }
    for (tool, most) in [
        ("packed-full", 6),
        ("packed-reduced", 7),
        ("protocol-full", 6),
        ("protocol-reduced", 7),
        ("stateright-bfs", 5),
        ("stateright-dfs", 6),
        ("spin-full", 5),
        ("spin-reduced", 6),
        ("shuttle-dfs", 2),
        ("loom", 2),
    ] {
        // The quick table has the sizes that the goals are about: five clients, and what we alone finish.
        let ours = tool.starts_with("p");
        let sizes = match quick {
            true => 5..=if ours && tool.ends_with("reduced") { most } else { most.min(5) },
            false => 1..=most,
        };
        for clients in sizes {
            let iommus = if clients == 1 { 1 } else { 2 };
            if !tool.starts_with("spin") || crate::spin::is_there() {
                rows.push(row(tool, clients, iommus, true));
            }
        }
    }
    println!("{}", render(&rows));
}

fn row(tool: &'static str, clients: u32, iommus: u32, fixed: bool) -> Row {
    let mut best: Option<Result> = None;
    for _ in 0..REPEATS {
        let Some(result) = measure(tool, clients, iommus, fixed) else { break };
        let long = result.seconds > REPEAT_BELOW;
        if best.as_ref().is_none_or(|b| result.seconds < b.seconds) {
            best = Some(result);
        }
        if long {
            break;
        }
    }
    eprintln!("{tool} n{clients} m{iommus} fixed={fixed}: {best:?}");
    Row { tool, clients, iommus, fixed, result: best }
}

/// One measurement in a child, or nothing after the time limit.
fn measure(tool: &str, clients: u32, iommus: u32, fixed: bool) -> Option<Result> {
    let variant = if fixed { "fixed" } else { "buggy" };
    let exe = std::env::current_exe().expect("this program");
    let mut child = Command::new(exe)
        .args(["one", tool, &clients.to_string(), &iommus.to_string(), variant])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("a child");
    let started = Instant::now();
    while child.try_wait().expect("a child's state").is_none() {
        if started.elapsed() > LIMIT + Duration::from_secs(5) {
            child.kill().expect("a running child");
            child.wait().expect("a killed child");
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("a child's output");
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Option<Result> {
    let mut words = text.lines().last()?.splitn(5, ' ');
    Some(Result {
        seconds: words.next()?.parse().ok()?,
        states: words.next()?.parse().ok()?,
        generated: words.next()?.parse().ok()?,
        peak_kib: words.next()?.parse().ok()?,
        remark: words.next().unwrap_or("").to_owned(),
    })
}

fn render(rows: &[Row]) -> String {
    let reference = |row: &Row| {
        let same = rows.iter().find(|r| {
            let peer = if row.fixed { "stateright-dfs" } else { "stateright-bfs" };
            r.tool == peer && r.clients == row.clients && r.fixed == row.fixed
        })?;
        same.result.as_ref().map(|r| r.seconds)
    };
    let mut text = String::from(
        "| model | tool | CPU seconds | ratio | states | generated | peak MiB | |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for row in rows {
        let variant = if row.fixed { "fixed" } else { "buggy" };
        let head = format!("| {variant} N{} M{} | {} |", row.clients, row.iommus, row.tool);
        let body = match &row.result {
            None => format!(" over {} (wall) | | | | | |", LIMIT.as_secs()),
            Some(r) => {
                let ratio = reference(row)
                    .map_or_else(String::new, |base| format!("{:.3}", r.seconds / base));
                format!(
                    " {:.5} | {ratio} | {} | {} | {:.1} | {} |",
                    r.seconds,
                    r.states,
                    r.generated,
                    r.peak_kib as f64 / 1024.0,
                    r.remark
                )
            }
        };
        text.push_str(&head);
        text.push_str(&body);
        text.push('\n');
    }
    text
}
