//! `docs/lab.md` does not lie: every command on it is run, and the JSON on it is what is printed.

use serde_json::Value;
use std::process::{Command, Output};

const PAGE: &str = include_str!("../../../docs/lab.md");

/// The texts of the page's code blocks of a language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    let after = PAGE.split(fence.as_str()).skip(1);
    after.map(|rest| rest.split("\n```").next().unwrap_or(rest)).collect()
}

fn run(line: &str) -> Output {
    let scratch = std::env::temp_dir().join(format!("portcullis-docs-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).expect("a scratch directory");
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(line.split_whitespace())
        .current_dir(&scratch)
        .output()
        .expect("the program runs")
}

/// Every world of every driver in every order: two minutes, in which the tests of the lab (`ours.rs`) do the same and look closer.
const LONGEST: &str = "portcullis lab ours";

/// The commands of the page, each with the answer beside it.
fn commands() -> Vec<(&'static str, &'static str)> {
    let lines: Vec<&str> = blocks("sh").into_iter().flat_map(str::lines).collect();
    assert!(lines.len() > 20, "{} commands", lines.len());
    let split = |line: &'static str| {
        let (command, answer) =
            line.split_once('#').unwrap_or_else(|| panic!("no answer beside {line}"));
        (command.trim(), answer.trim())
    };
    lines.into_iter().map(split).collect()
}

fn answers(command: &str, answer: &str) {
    let out = run(command.strip_prefix("portcullis ").expect("a command of this program"));
    let expected = match answer {
        "clean" => 0,
        "violated" => 1,
        other => panic!("{other:?} is no answer"),
    };
    let said =
        String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(expected), "{command}\n{said}");
}

#[test]
fn every_command_gives_the_answer_that_stands_beside_it() {
    let commands = commands();
    let quick = commands.iter().filter(|(command, _)| *command != LONGEST);
    quick.for_each(|(command, answer)| answers(command, answer));
}

#[test]
fn the_json_is_what_is_printed() {
    let [shown] = blocks("json")[..] else { panic!("one block of JSON") };
    let mut shown: Value = serde_json::from_str(shown).expect("JSON");
    let out = run("lab check v6.6 --json");
    let mut printed: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert!(printed["explored"]["seconds"].take().is_f64());
    shown["explored"]["seconds"].take();
    assert_eq!(shown, printed);
}

#[test]
fn options_and_words_of_the_page_exist() {
    let help = |verb: &str| {
        let out = run(&format!("lab {verb} --help"));
        String::from_utf8(out.stdout).expect("UTF-8")
    };
    let known: String = ["check", "compare", "replay", "ours", "list"].map(help).concat();
    let named = PAGE.split("`--").skip(1).map(|rest| {
        rest.split(|letter: char| !letter.is_ascii_lowercase() && letter != '-')
            .next()
            .unwrap_or("")
    });
    for option in named.filter(|option| !option.is_empty()) {
        assert!(known.contains(&format!("--{option}")), "--{option} does not exist");
    }
}

/// Two minutes.
mod long {
    use super::*;

    #[test]
    #[ignore = "long: `PORTCULLIS_LONG=1 cargo xtask test`"]
    fn the_longest_command_gives_its_answer() {
        let commands = commands();
        let longest = commands.iter().find(|(command, _)| *command == LONGEST);
        let (command, answer) = longest.expect("it stands on the page");
        answers(command, answer);
    }
}
