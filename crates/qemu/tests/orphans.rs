//! No QEMU outlives the process that started it, however that process ends.

use portcullis_qemu::{SmmuStages, Virt, for_test};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// How often to look whether a process has gone before it counts as an orphan.
const LOOKS: u32 = 1_000_000;

/// What the parent in a process of its own does: starts a board from a thread that ends, says its pid, and waits to be killed.
#[test]
#[ignore = "the other half of the tests below, run by them in a process of its own"]
fn parent() {
    let start = || Virt::new(SmmuStages::Newest).start().expect("board");
    let machine = std::thread::spawn(start).join().expect("start");
    machine.qemu().check().expect("alive although the thread that started it has ended");
    println!("child {}", machine.qemu().pid());
    if std::env::var_os("ABORT").is_some() {
        std::process::abort();
    }
    // Its standard input is a pipe that nobody writes to: this ends only when the process is killed.
    let _ = std::io::stdin().read_line(&mut String::new());
}

fn start_parent(abort: bool) -> (Child, PathBuf) {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["--ignored", "--exact", "parent", "--nocapture"]).stdout(Stdio::piped());
    command.stdin(Stdio::piped()).stderr(Stdio::null());
    if abort {
        command.env("ABORT", "1");
    }
    let mut parent = command.spawn().expect("this test again");
    let lines = BufReader::new(parent.stdout.take().expect("piped")).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| Some(line.split_once("child ")?.1.trim().parse::<u32>().expect("a pid")));
    let child = PathBuf::from(format!("/proc/{}/fd", pid.expect("the parent says its child")));
    (parent, child)
}

fn assert_gone(child: &std::path::Path) {
    // A process that is dead but not yet reaped has no open files.
    let alive = || std::fs::read_dir(child).is_ok_and(|mut files| files.next().is_some());
    let gone = (0..LOOKS).any(|_| {
        std::thread::yield_now();
        !alive()
    });
    assert!(gone, "{} is still there", child.display());
}

#[test]
fn a_killed_parent_takes_its_machine_along() {
    if for_test("a_killed_parent_takes_its_machine_along").is_none() {
        return;
    }
    let (mut parent, child) = start_parent(false);
    assert!(child.exists(), "alive while its parent is");
    parent.kill().expect("SIGKILL");
    parent.wait().expect("status");
    assert_gone(&child);
}

#[test]
fn an_aborting_parent_takes_its_machine_along() {
    if for_test("an_aborting_parent_takes_its_machine_along").is_none() {
        return;
    }
    let (mut parent, child) = start_parent(true);
    parent.wait().expect("status");
    assert_gone(&child);
}

#[test]
fn a_dropped_machine_is_gone_at_once() {
    if for_test("a_dropped_machine_is_gone_at_once").is_none() {
        return;
    }
    let machine = Virt::new(SmmuStages::Newest).start().expect("board");
    let child = PathBuf::from(format!("/proc/{}", machine.qemu().pid()));
    assert!(child.exists());
    drop(machine);
    assert!(!child.exists());
}

#[test]
fn a_panic_keeps_what_qemu_said() {
    if for_test("a_panic_keeps_what_qemu_said").is_none() {
        return;
    }
    let failed = std::panic::catch_unwind(|| {
        let _machine = Virt::new(SmmuStages::Newest).start().expect("board");
        panic!("as a failing test does");
    });
    assert!(failed.is_err());
    let prefix = format!("portcullis-qemu-{}-", std::process::id());
    let entries = std::fs::read_dir(std::env::temp_dir()).expect("temporary directory");
    let kept: Vec<_> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .collect();
    assert_eq!(kept.len(), 1);
    std::fs::remove_file(kept[0].path()).expect("our own file");
}
