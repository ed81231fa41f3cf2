//! The devicetree reader on trees made for the purpose, on our own boards, and on those of a distribution's kernel package.

mod boards;
mod fires;
mod hostile;
mod kernel_package;
mod kinds;
mod lowering;
mod made;
mod malformed;
mod overlay;
mod qemu;
mod reports;
mod second;

/// Prints past the test harness, which hides what a passing test prints.
fn say(line: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{line}");
}
