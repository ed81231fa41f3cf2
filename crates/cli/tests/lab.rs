//! `portcullis lab`, as a user meets it.

use serde_json::Value;
use std::process::{Command, Output, Stdio};

const GOLDEN: &str = "linux2:v6.6/i2r1c1.own.platform.dt.v3.a1:0x5.1x11.0x21.1x7.0x2.1x5";
const MESSAGE: &str =
    "Failed to set up IOMMU for device aa00000.video-codec; retaining platform DMA ops";

fn lab(arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_portcullis");
    let mut command = Command::new(program);
    command.arg("lab").args(arguments).env("COLUMNS", "120");
    command.output().expect("the program runs")
}

/// The exit status and what was printed.
fn asked(arguments: &[&str]) -> (i32, String) {
    let out = lab(arguments);
    let text = String::from_utf8(out.stdout).expect("UTF-8");
    (out.status.code().expect("no signal"), text)
}

fn json(arguments: &[&str]) -> (i32, Value) {
    let (status, text) = asked(arguments);
    (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}")))
}

/// The message of a refusal.
fn refused(arguments: &[&str]) -> String {
    let out = lab(arguments);
    assert_eq!(out.status.code(), Some(2), "{arguments:?}");
    assert!(out.stdout.is_empty(), "{arguments:?} printed something");
    String::from_utf8(out.stderr).expect("UTF-8")
}

/// The lines that belong to a ladder: those with its bars.
fn ladder(text: &str) -> Vec<&str> {
    text.lines().filter(|line| line.contains('\u{2502}') || line.contains('\u{253c}')).collect()
}

#[test]
fn the_question_of_the_report_has_an_answer() {
    let (status, text) = asked(&["check", "v6.6"]);
    assert_eq!(status, 1);
    for words in [
        "violated: one property",
        "I1/B1 wrong-path",
        MESSAGE,
        GOLDEN,
        "closes it   apply rfc-20241213",
        "revert f188056352bc",
        "apply b46064a18810-6.6.y",
        "group->domain, no",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours where nobody watches");
    let (status, text) = asked(&["check", "6.6", "--revert", "f188056352bc"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("clean: ") && text.contains("every schedule"), "{text}");
}

#[test]
fn what_closes_it_is_true() {
    for change in [["--apply", "rfc-20241213"], ["--revert", "f188056352bc"]] {
        let (status, _) = asked(&["check", "v6.6", change[0], change[1]]);
        assert_eq!(status, 0, "{change:?}");
    }
    // And what only closes a part leaves another violation.
    let (status, text) = asked(&["check", "v6.6", "--apply", "b67483b3c44e", "--no-closers"]);
    assert_eq!(status, 1);
    assert!(!text.contains("wrong-path") && !text.contains("closes it"), "{text}");
}

#[test]
fn json_has_the_documented_fields() {
    let (status, report) = json(&["check", "v6.6", "--json"]);
    assert_eq!(status, 1);
    let fields = |value: &Value| -> Vec<String> {
        value.as_object().expect("an object").keys().cloned().collect()
    };
    let has = |value: &Value, wanted: &[&str]| {
        let found = fields(value);
        let missing: Vec<_> =
            wanted.iter().filter(|name| !found.contains(&name.to_string())).collect();
        assert!(missing.is_empty(), "{missing:?} not in {found:?}");
    };
    has(
        &report,
        &["protocol", "base", "applied", "reverted", "world", "explored", "verdict", "violations"],
    );
    has(
        &report["world"],
        &["iommus", "registering", "clients", "group", "bus", "firmware", "attempts", "events"],
    );
    has(&report["explored"], &["schedules", "states", "exhaustive", "seconds"]);
    has(&report["violations"][0], &["property", "bad_end", "message", "steps", "schedule"]);
    assert_eq!(report["protocol"], "v6.6");
    assert_eq!(report["verdict"], "violated");
    assert_eq!(report["explored"]["exhaustive"], true);
    let found = &report["violations"][0];
    assert_eq!((&found["property"], &found["bad_end"]), (&Value::from("I1"), &Value::from("B1")));
    assert_eq!(
        (&found["message"], &found["schedule"]),
        (&Value::from(MESSAGE), &Value::from(GOLDEN))
    );
    assert_eq!(found["steps"], 51);
}

#[test]
fn json_lists_every_violated_property_with_a_schedule_that_replays() {
    let (_, report) = json(&["check", "v6.1.0", "--json"]);
    let violations = report["violations"].as_array().expect("an array");
    assert!(violations.len() > 3, "{report}");
    for found in violations {
        let schedule = found["schedule"].as_str().expect("a string");
        let (status, run) = json(&["replay", "--json", schedule]);
        assert_eq!(status, 1, "{schedule}");
        assert_eq!(
            run["steps"].as_array().map(Vec::len),
            found["steps"].as_u64().map(|n| n as usize)
        );
        let name = found["name"].as_str().expect("a string");
        assert!(run["violated"].to_string().contains(name), "{run}");
    }
}

#[test]
fn an_old_schedule_draws_the_same_ladder() {
    let (_, found) = asked(&["check", "v6.6", "--no-closers"]);
    let (status, again) = asked(&["replay", GOLDEN]);
    assert_eq!(status, 1);
    assert!(ladder(&again).len() > 20);
    assert_eq!(ladder(&found), ladder(&again));
    // Up to the step before, nothing is wrong.
    let shorter = GOLDEN.replace(".1x5", ".1x4");
    let (status, text) = asked(&["replay", &shorter]);
    assert_eq!(status, 0);
    assert!(text.contains("nothing is wrong on this schedule"), "{text}");
    let (_, full) = asked(&["replay", "--full", GOLDEN]);
    assert!(ladder(&full).len() > ladder(&again).len());
    assert!(!full.contains("folded"), "{full}");
}

#[test]
fn all_draws_a_ladder_for_each() {
    let (_, one) = asked(&["check", "v6.12", "--no-closers"]);
    let (_, all) = asked(&["check", "v6.12", "--no-closers", "--all"]);
    let count = |text: &str| text.matches("    replay ").count();
    assert_eq!((count(&one), count(&all)), (1, 3), "{all}");
}

#[test]
fn what_is_unknown_is_refused_with_what_is_known() {
    let cases: [(&[&str], &[&str]); 12] = [
        (
            &["check", "v6.6", "--apply", "b46064a18810x"],
            &["did you mean `b46064a18810`?", "lab list"],
        ),
        (&["check", "v6.6", "--apply", "f1880563a"], &["did you mean `f188056352bc`?"]),
        (&["check", "v6.7"], &["`v6.7`", "v6.6", "v7.3-rc7"]),
        (&["check", "v6.6", "--apply", "1234567"], &["`1234567`", "f188056352bc", "rfc-20241213"]),
        (&["check", "v6.12", "--revert", "f188056352bc"], &["cannot be reverted", "v6.6"]),
        (&["check", "v6.6", "--group", "big"], &["`big`", "own, shared, mixed"]),
        (&["check", "v6.6", "--event", "storm"], &["`storm`", "unplug", "timeout"]),
        (&["check", "v6.6", "--group", "mixed"], &["--clients 2"]),
        (&["check", "v6.6", "--iommus", "9"], &["iommus is 9", "1 to 3"]),
        (&["ours", "z"], &["`z`", "lab ours --list"]),
        (&["replay", "p2/v6.6/x:0"], &["begins with its kind", "linux2:"]),
        (&["replay", "ours1:z:0"], &["`z`"]),
    ];
    for (arguments, words) in cases {
        let message = refused(arguments);
        for word in words {
            assert!(message.contains(word), "no {word:?} in {message:?}");
        }
    }
    let misfit = GOLDEN.replace("0x5.", "0x500.");
    assert!(
        refused(&["replay", &misfit]).contains("belongs to another"),
        "a step that is not possible"
    );
}

#[test]
fn bounded_and_random_searches_say_so_and_repeat() {
    let (status, report) = json(&["check", "v6.15-rc1", "--bound", "1", "--json"]);
    assert_eq!((status, &report["verdict"]), (0, &Value::from("bounded")));
    assert_eq!(report["explored"]["exhaustive"], false);
    let run = |kind: &[&str]| {
        let (_, mut report) = json(&[&["check", "v6.1.0", "--json", "--seed", "7"], kind].concat());
        report["explored"]["seconds"] = Value::Null;
        report
    };
    for kind in [&["--random", "500"][..], &["--pct", "3", "--random", "500"]] {
        let report = run(kind);
        assert_eq!(report["explored"]["schedules"], 500, "{report}");
        assert_eq!(report["verdict"], "violated", "{report}");
        assert_eq!(report, run(kind), "the same seed gives the same answer");
    }
    assert!(
        refused(&["check", "v6.6", "--bound", "1", "--random", "5"])
            .contains("cannot be used with")
    );
}

#[test]
fn the_list_has_every_version_and_commit() {
    let (status, list) = json(&["list", "--json"]);
    assert_eq!(status, 0);
    let (_, text) = asked(&["list"]);
    let names = |key: &str, name: &str| -> Vec<String> {
        let rows = list[key].as_array().expect("an array").iter();
        rows.map(|row| row[name].as_str().expect("a string").to_owned()).collect()
    };
    let (bases, commits) = (names("bases", "name"), names("commits", "id"));
    assert_eq!(bases.len(), 14);
    let asked_for = [
        "f188056352bc",
        "rfc-20241213",
        "b46064a18810",
        "b46064a18810-6.6.y",
        "b5c58b2fdc42",
        "b67483b3c44e",
        "229e6ee43d2a",
        "7d835134d4e1",
        "97cb1fa02726",
        "fcbd62156742",
        "46b3df8eb9bd",
        "bcb81ac6ae3c",
        "0c8e9c148e29",
        "da33e87bd2bf",
        "95deee37a123",
        "a2e7e59a9426",
        "64c3873cb255",
        "98ac73f99bc4",
        "a2225b6e834a",
        "152f33ee30ee",
        "29c6e1c2b923",
        "fd598f71b669",
        "73d2f10957f5",
        "72b6f7cd89ce",
        "38e8844005e6",
        "d9d3cede4167",
        "b54240ad4943",
        "3832862eb9c4",
        "280e5a301005",
        "3e3c2f53da2a",
        "23ca35ee8872",
    ];
    assert!(asked_for.iter().all(|id| commits.iter().any(|known| known == id)), "{commits:?}");
    for word in bases.iter().chain(&commits) {
        assert!(text.contains(word.trim_start_matches('v')), "no {word} in\n{text}");
    }
    for base in &bases {
        assert_eq!(json(&["check", base, "--json"]).1["base"], **base);
    }
}

#[test]
fn the_matrix_is_whole_and_has_a_legend() {
    let page = std::env::temp_dir().join(format!("portcullis-matrix-{}.html", std::process::id()));
    let path = page.to_str().expect("UTF-8");
    let (status, matrix) = json(&["compare", "--json", "--html", path]);
    assert_eq!(status, 0);
    let written = std::fs::read_to_string(&page).expect("the page is written");
    std::fs::remove_file(&page).expect("it is ours");
    let rows = matrix["rows"].as_array().expect("an array");
    let columns = matrix["columns"].as_array().expect("an array");
    assert_eq!(rows.len(), 8);
    let cells: Vec<&Value> =
        rows.iter().flat_map(|row| row["cells"].as_array().expect("cells")).collect();
    assert_eq!(cells.len(), rows.len() * columns.len());
    assert!(
        cells.iter().all(|cell| cell["explored"]["exhaustive"] == true),
        "small worlds are exhausted"
    );
    assert_eq!(written.matches("<td class=\"").count(), cells.len());
    let verdict = |row: usize| rows[row]["cells"][0]["verdict"].as_str().expect("a string");
    assert_eq!((rows[2]["protocol"].as_str(), verdict(2)), (Some("v6.6"), "violated"));
    assert_eq!((rows[7]["protocol"].as_str(), verdict(7)), (Some("v7.3-rc7"), "clean"));
}

#[test]
fn our_own_core_is_clean_where_it_is_exhausted() {
    let (status, text) = asked(&["ours", "a"]);
    assert_eq!(status, 0);
    assert!(text.contains("a: registration and a client") && text.contains("clean"), "{text}");
    let (status, found) = json(&["ours", "storm", "--random", "200", "--seed", "3", "--json"]);
    assert_eq!((status, &found[0]["verdict"]), (0, &Value::from("bounded")));
    assert_eq!(found[0]["explored"]["exhaustive"], false);
    let (status, text) = asked(&["replay", "ours1:a:1x2"]);
    assert_eq!(status, 0, "{text}");
    assert!(text.contains("nothing is wrong"), "{text}");
}

/// Waits until process `id` has used half a second of processor time, so that its search is under way however busy the machine is.
fn wait_for_work(id: u32) {
    // proc(5): field 14 of `stat` is the user time in ticks of 1/100 s; the name in field 2 may hold blanks.
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it is running");
        let fields = stat.rsplit_once(')').expect("a name in parentheses").1;
        fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse::<u64>().ok())
    };
    while ticks().expect("a number") < 50 {
        std::thread::yield_now();
    }
}

/// Ctrl-C is a question about what was covered so far, not an end without an answer.
#[test]
fn an_interrupted_search_reports_what_it_has_covered() {
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["lab", "check", "v7.3", "--iommus", "3", "--registering", "1", "--clients", "3"])
        .args(["--event", "rebind", "--attempts", "2", "--random", "1000000000", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program runs");
    wait_for_work(child.id());
    crate::interrupt(&child);
    let out = child.wait_with_output().expect("it ends");
    let report: Value = serde_json::from_slice(&out.stdout).expect("a whole report");
    assert_eq!(report["explored"]["exhaustive"], false);
    assert!(
        report["explored"]["schedules"]
            .as_u64()
            .is_some_and(|runs| (1..1_000_000_000).contains(&runs))
    );
    assert_ne!(report["verdict"], "clean");
    let violated = report["verdict"] == "violated";
    assert_eq!(out.status.code(), Some(i32::from(violated)));
}
