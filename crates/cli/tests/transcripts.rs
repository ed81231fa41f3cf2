//! What README.md and `docs/` show of the program's output is what it prints.
//!
//! A block of text that begins with `$ portcullis ...` is the whole output of that command, 140 columns wide. One that follows a line "From `portcullis ...`, N columns wide:" is a part
//! of it. A line `[... N more ... ...]` stands for N lines. Spaces, times, counts that depend on the OS and QEMU's version are not compared.

use std::process::Command;

const PAGES: [(&str, &str); 4] = [
    ("README.md", include_str!("../../../README.md")),
    ("docs/acpi.md", include_str!("../../../docs/acpi.md")),
    ("docs/virtio-iommu.md", include_str!("../../../docs/virtio-iommu.md")),
    ("docs/lab.md", include_str!("../../../docs/lab.md")),
];

/// How wide the blocks of the pages are drawn, if they do not say.
const WIDTH: usize = 140;

/// A block of text on a page, and what it shows.
struct Transcript {
    page: &'static str,
    command: String,
    width: usize,
    shown: Vec<&'static str>,
    /// A part of the output rather than all of it.
    part: bool,
}

/// The command and width in "From `portcullis lab check v6.6`, 100 columns wide:".
fn part_of(line: &str) -> Option<(String, usize)> {
    let (command, width) = line.strip_prefix("From `")?.split_once("`, ")?;
    Some((command.to_owned(), width.strip_suffix(" columns wide:")?.parse().ok()?))
}

fn transcripts(page: &'static str, text: &'static str) -> Vec<Transcript> {
    let pieces: Vec<&str> = text.split("```").collect();
    let blocks = pieces.windows(2).step_by(2);
    let found = blocks.filter_map(|piece| {
        let (before, block) = (piece[0], piece[1].strip_prefix("text\n")?);
        let mut shown: Vec<&str> = block.trim_end().lines().collect();
        if let Some(command) = shown[0].strip_prefix("$ ") {
            let command = command.to_owned();
            shown.remove(0);
            return Some(Transcript { page, command, width: WIDTH, shown, part: false });
        }
        let (command, width) = part_of(before.trim_end().lines().last()?)?;
        Some(Transcript { page, command, width, shown, part: true })
    });
    found.collect()
}

/// What is printed; `None` where it takes a QEMU that is not here.
fn output(transcript: &Transcript) -> Option<String> {
    let command = match transcript.command.as_str() {
        "cargo run --release" => "",
        command => command.strip_prefix("portcullis").expect("a command of this program"),
    };
    if command.contains("--on qemu") {
        portcullis_qemu::for_test("transcripts")?;
    }
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    program.args(command.split_whitespace()).env("COLUMNS", transcript.width.to_string());
    let out = program.output().expect("the program runs");
    Some(String::from_utf8(out.stdout).expect("UTF-8"))
}

/// The line without what differs from run to run: times ("0.3 ms", "1.2 s"), which QEMU it is ("10.0.2"), and what a boot on OS threads counts (tries of a device, looks at a promise).
fn lasting(line: &str) -> String {
    // A machine at work takes 0.1 s where another takes 90 ms.
    let line = line.replace(" ms", " s");
    let words: Vec<&str> = line.split(' ').collect();
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    let is_device = line.contains("bound, DMA ok") || line.contains(" blocked: ");
    let counted = match line.starts_with('P') || is_device {
        true => words.iter().rposition(|word| word.parse::<u64>().is_ok()),
        false => None,
    };
    let lasting = words.iter().enumerate().map(|(index, word)| {
        let unit = words.get(index + 1).map(|next| next.trim_end_matches([')', ',', ';']));
        let version = index > 0 && words[index - 1].ends_with("QEMU");
        let changing = is_number(word) && (unit == Some("s") || version);
        let changing = changing || counted == Some(index);
        if changing { "_" } else { word }
    });
    // A longer count takes a place of the space behind it.
    let lasting: Vec<&str> = lasting.collect();
    lasting.join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// How many lines "[... 23 more devices, all bound, DMA ok ...]" stands for.
fn left_out(line: &str) -> Option<usize> {
    line.strip_prefix("[... ")?.split(' ').next()?.parse().ok()
}

/// Whether `shown` is what `printed` begins with, and is all of it where it is not a part. Lines that are left out may be spread over the lines before the mark.
fn agrees(shown: &[&str], printed: &[String], part: bool) -> bool {
    let marked: Option<usize> = shown.iter().find_map(|line| left_out(line));
    let mut spare = marked.unwrap_or(0);
    let mut at = 0;
    for line in shown.iter().filter(|line| left_out(line).is_none()) {
        let line = lasting(line);
        while printed.get(at).is_some_and(|printed| *printed != line) && spare > 0 {
            (at, spare) = (at + 1, spare - 1);
        }
        if printed.get(at) != Some(&line) {
            return false;
        }
        at += 1;
    }
    spare == 0 && (part || at == printed.len())
}

fn check(transcript: &Transcript) {
    let Some(out) = output(transcript) else { return };
    let printed: Vec<String> = out.trim_end().lines().map(lasting).collect();
    let starts = if transcript.part { printed.len() } else { 1 };
    let found = (0..starts).any(|at| agrees(&transcript.shown, &printed[at..], transcript.part));
    let Transcript { page, command, width, .. } = transcript;
    assert!(found, "{page} does not show what `{command}` prints ({width} columns):\n{out}");
}

#[test]
fn pages_show_what_is_printed() {
    let all: Vec<Transcript> =
        PAGES.into_iter().flat_map(|(page, text)| transcripts(page, text)).collect();
    for (page, _) in PAGES {
        assert!(all.iter().any(|transcript| transcript.page == page), "{page} shows nothing");
    }
    all.iter().for_each(check);
}

#[test]
fn a_page_that_is_out_of_date_is_noticed() {
    let printed = ["a 1.5 ms", "b", "c", "d", "end"].map(lasting);
    assert!(agrees(&["a 0.3 ms", "b", "c", "d", "end"], &printed, false));
    assert!(agrees(&["a 0.3 ms", "c", "[... 2 more letters ...]", "end"], &printed, false));
    assert!(agrees(&["c", "d"], &printed[2..], true));
    for wrong in [
        &["a 0.3 ms", "b", "x", "d", "end"][..],
        &["a 0.3 ms", "b", "c", "d"],
        &["a 0.3 ms", "c", "[... 3 more letters ...]", "end"],
        &["a 0.3 ms", "c", "[... 1 more letters ...]", "end"],
    ] {
        assert!(!agrees(wrong, &printed, false), "{wrong:?}");
    }
}
