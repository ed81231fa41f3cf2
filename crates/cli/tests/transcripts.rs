//! What README.md and `docs/` show of the program's output is what it prints.
//!
//! Every block of text is of one of these kinds; one of another kind fails the test.
//!
//! - It begins with `$ portcullis ...`: the whole output of that command, 140 columns wide.
//! - It follows a line "From `portcullis ...`, N columns wide:": a part of that output.
//! - It follows a line "Record of DAY MONTH YEAR, ...": what was seen then. It is not run again; the line says so to the reader.
//! - It is commands to be typed. Their verbs and options must exist.
//! - [`ELSEWHERE`] says what holds it.
//!
//! A line `[... N more ... ...]` stands for N lines. Spaces, times, counts that depend on the OS and QEMU's version are not compared.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// How wide the blocks of the pages are drawn, if they do not say.
const WIDTH: usize = 140;

/// Blocks that are no output of this program: page, how the block begins, what holds it.
const ELSEWHERE: [(&str, &str, &str); 5] = [
    (
        "README.md",
        "portcullis on bare metal",
        "`cargo xtask image` compares it with what the kernel prints",
    ),
    ("docs/lab.md", "git log ", "Git's own command"),
    ("docs/lab.md", "linux2:", "`the_schedule_that_is_explained_is_one`"),
    ("docs/schedules.md", "schedule = ", "the grammar; `crates/explore/tests` read and write it"),
    (
        "docs/schedules.md",
        "function:action(object)",
        "the form of a site; `crates/lab/tests` hold it",
    ),
];

/// README.md and every page of `docs`, by name.
fn pages() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let docs = std::fs::read_dir(root.join("docs")).expect("docs").flatten();
    let docs = docs.map(|entry| format!("docs/{}", entry.file_name().display()));
    let mut names: Vec<String> = docs.filter(|name| name.ends_with(".md")).collect();
    names.push("README.md".to_owned());
    names.sort();
    let read = |name: String| {
        let text = std::fs::read_to_string(root.join(&name)).expect("a page");
        (name, text)
    };
    names.into_iter().map(read).collect()
}

/// What a block of text is.
enum Kind {
    Transcript(Transcript),
    Record,
    Commands(Vec<String>),
    Elsewhere,
}

/// A block of text on a page that is output.
struct Transcript {
    page: String,
    command: String,
    width: usize,
    shown: Vec<String>,
    /// A part of the output rather than all of it.
    part: bool,
}

/// The command and width in "From `portcullis lab check v6.6`, 100 columns wide:".
fn part_of(line: &str) -> Option<(String, usize)> {
    let (command, width) = line.strip_prefix("From `")?.split_once("`, ")?;
    Some((command.to_owned(), width.strip_suffix(" columns wide:")?.parse().ok()?))
}

/// Whether `line` says that what follows is a record, and of which day.
fn is_record(line: &str) -> bool {
    let Some((day, _)) = line.strip_prefix("Record of ").and_then(|it| it.split_once(", ")) else {
        return false;
    };
    let words: Vec<&str> = day.split(' ').collect();
    matches!(words[..], [day, _, year] if day.parse::<u8>().is_ok() && year.len() == 4)
}

/// The commands of a block of nothing else; what stands beside one, behind two spaces, is left out.
fn commands(block: &str) -> Option<Vec<String>> {
    let lines = block.lines().filter(|line| !line.starts_with(' ') && !line.is_empty());
    let mut lines = lines.filter(|line| !line.starts_with('#'));
    let command = |line: &str| {
        let command = line.split("  ").next().unwrap_or(line).split(" #").next()?;
        let command = command.split(" | ").next()?;
        command.starts_with("portcullis").then(|| command.trim().to_owned())
    };
    lines.by_ref().map(command).collect()
}

/// What the block is that stands behind `before`; `None` if it is nothing that is known.
fn kind(page: &str, before: &str, block: &str) -> Option<Kind> {
    let mut shown: Vec<String> = block.trim_end().lines().map(str::to_owned).collect();
    let lead = before.trim_end().lines().last().unwrap_or("");
    if let Some(command) = shown.first()?.strip_prefix("$ ") {
        let command = command.to_owned();
        shown.remove(0);
        let page = page.to_owned();
        return Some(Kind::Transcript(Transcript {
            page,
            command,
            width: WIDTH,
            shown,
            part: false,
        }));
    }
    if let Some((command, width)) = part_of(lead) {
        let page = page.to_owned();
        return Some(Kind::Transcript(Transcript { page, command, width, shown, part: true }));
    }
    if is_record(lead) {
        return Some(Kind::Record);
    }
    if let Some(commands) = commands(block) {
        return Some(Kind::Commands(commands));
    }
    let elsewhere =
        ELSEWHERE.iter().any(|(at, begins, _)| *at == page && block.starts_with(begins));
    elsewhere.then_some(Kind::Elsewhere)
}

/// Every block of text or of shell on a page, with what stands before it.
fn blocks(text: &str) -> Vec<(&str, &str)> {
    let pieces: Vec<&str> = text.split("```").collect();
    let pairs = pieces.windows(2).step_by(2);
    let text_of = |piece: &'_ &str| {
        ["text\n", "console\n", "\n"]
            .iter()
            .find_map(|it| piece.strip_prefix(it).map(str::len))
            .map(|len| piece.len() - len)
    };
    pairs.filter_map(|pair| Some((pair[0], &pair[1][text_of(&pair[1])?..]))).collect()
}

fn of_page(page: &str, text: &str) -> Vec<Kind> {
    let of_block = |(before, block): (&str, &str)| {
        kind(page, before, block).unwrap_or_else(|| {
            panic!("{page}: nothing checks this block, and nothing says what it is:\n{block}")
        })
    };
    blocks(text).into_iter().map(of_block).collect()
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
fn agrees<T: AsRef<str>>(shown: &[T], printed: &[String], part: bool) -> bool {
    let marked: Option<usize> = shown.iter().find_map(|line| left_out(line.as_ref()));
    let mut spare = marked.unwrap_or(0);
    let mut at = 0;
    for line in shown.iter().filter(|line| left_out(line.as_ref()).is_none()) {
        let line = lasting(line.as_ref());
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
    let pages = pages();
    let kinds = pages.iter().flat_map(|(page, text)| of_page(page, text));
    let all: Vec<Transcript> = kinds
        .filter_map(|kind| match kind {
            Kind::Transcript(transcript) => Some(transcript),
            Kind::Record | Kind::Commands(_) | Kind::Elsewhere => None,
        })
        .collect();
    for page in [
        "README.md",
        "docs/acpi.md",
        "docs/amdvi.md",
        "docs/lab.md",
        "docs/riscv.md",
        "docs/virtio-iommu.md",
        "docs/vtd.md",
    ] {
        assert!(all.iter().any(|transcript| transcript.page == page), "{page} shows nothing");
    }
    all.iter().for_each(check);
}

/// The verbs at the beginning of a command, and its options.
fn verbs_and_options(command: &str) -> (Vec<&str>, Vec<&str>) {
    const VERBS: [&str; 18] = [
        "boot",
        "show",
        "lab",
        "list",
        "check",
        "tree",
        "compare",
        "replay",
        "ours",
        "bench",
        "map",
        "iova",
        "dma",
        "queue",
        "probe",
        "schema",
        "completions",
        "man",
    ];
    let words: Vec<&str> = command.split_whitespace().skip(1).collect();
    let verbs = words.iter().copied().take_while(|word| VERBS.contains(word)).collect();
    let options = words.into_iter().filter(|word| word.starts_with("--") && word.len() > 2);
    (verbs, options.collect())
}

#[test]
fn commands_of_the_pages_exist() {
    let mut helps: BTreeMap<Vec<String>, String> = BTreeMap::new();
    let mut seen = 0;
    for (page, text) in pages() {
        let shell =
            text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap_or(rest));
        let lines = shell.flat_map(str::lines).filter(|line| line.starts_with("portcullis"));
        let lines = lines.map(|line| line.split(" #").next().unwrap_or(line).to_owned());
        let typed = of_page(&page, &text).into_iter().flat_map(|kind| match kind {
            Kind::Commands(commands) => commands,
            Kind::Transcript(_) | Kind::Record | Kind::Elsewhere => Vec::new(),
        });
        for command in lines.chain(typed) {
            let (verbs, options) = verbs_and_options(&command);
            let key: Vec<String> = verbs.iter().map(|verb| (*verb).to_owned()).collect();
            let help = helps.entry(key).or_insert_with(|| {
                let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
                let out = program.args(&verbs).arg("--help").output().expect("starts");
                String::from_utf8(out.stdout).expect("UTF-8")
            });
            for option in options {
                let option = option.split(['=', '`']).next().unwrap_or(option);
                assert!(help.contains(option), "{page}: `{command}`: no {option}");
                seen += 1;
            }
        }
    }
    assert!(seen > 30, "{seen} options");
}

#[test]
fn a_block_that_nothing_holds_is_noticed() {
    let block = "world verdict\na clean\n";
    assert!(kind("docs/vtd.md", "Some words:", block).is_none());
    assert!(kind("docs/vtd.md", "Record of yesterday, `portcullis lab ours`:", block).is_none());
    let record = kind("docs/vtd.md", "Record of 27 November 2026, `portcullis lab ours`:", block);
    assert!(matches!(record, Some(Kind::Record)));
    assert!(kind("docs/lab.md", "", "schedule = x\n").is_none(), "of another page");
    assert!(matches!(kind("docs/x.md", "", "portcullis show a  words\n"), Some(Kind::Commands(_))));
    assert!(kind("docs/x.md", "", "portcullis show a\nits output\n").is_none());
}

#[test]
fn the_schedule_that_is_explained_is_one() {
    let (_, text) = pages().into_iter().find(|(page, _)| page == "docs/lab.md").expect("the page");
    let schedule = blocks(&text).into_iter().find(|(_, block)| block.starts_with("linux2:"));
    let (_, schedule) = schedule.expect("it stands there");
    let mut program = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let out = program.args(["lab", "replay", schedule.trim()]).output().expect("starts");
    assert_ne!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
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
