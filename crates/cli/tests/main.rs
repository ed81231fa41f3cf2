//! The `portcullis` command, run as a program. One program, so that it is linked once.

mod boot;
mod command;
mod confirm;
mod lab;
mod lab_docs;
mod schema;
mod transcripts;

/// Ctrl-C, to a program that still runs. By the shell's own `kill`: the program of that name is not on every machine.
fn interrupt(child: &std::process::Child) {
    let kill = format!("kill -INT {}", child.id());
    let killed = std::process::Command::new("sh").args(["-c", &kill]).status();
    assert!(killed.is_ok_and(|status| status.success()), "the program was still running");
}
