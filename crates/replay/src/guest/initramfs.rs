//! The first and only file system of the guest.

use super::cpio::Archive;
use crate::error::Error;
use crate::package::{Module, Modules};

/// The script that the guest runs as its first process.
const INIT: &str = include_str!("init.sh");

/// What a guest is made of.
#[derive(Debug)]
pub(crate) struct Guest<'a> {
    /// A statically linked busybox for the guest's architecture.
    pub(crate) busybox: &'a [u8],
    /// The kernel's modules.
    pub(crate) modules: &'a Modules,
    /// The module whose loading lets the gated SMMU probe.
    pub(crate) gate: &'a str,
    /// The module of the client's driver.
    pub(crate) client: &'a str,
    /// Modules that must be there before, such as the client's bus.
    pub(crate) before: &'a [&'a str],
}

/// Builds the archive.
pub(crate) fn build(guest: &Guest<'_>) -> Result<Vec<u8>, Error> {
    let mut archive = Archive::default();
    for folder in ["bin", "dev", "mod", "proc", "sys"] {
        archive.folder(folder);
    }
    archive.device("dev/console", 5, 1);
    archive.file("bin/busybox", 0o755, guest.busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    let mut placed: Vec<String> = Vec::new();
    let mut place = |archive: &mut Archive, module: &Module| {
        if !placed.contains(&module.name) {
            archive.file(&format!("mod/{}.ko", module.name), 0o644, &module.bytes);
            placed.push(module.name.clone());
        }
    };
    let mut early: Vec<String> = Vec::new();
    for name in [guest.gate, guest.client].iter().chain(guest.before) {
        let mut needed = guest.modules.with_dependencies(name)?;
        needed.iter().for_each(|module| place(&mut archive, module));
        let held_back = *name == guest.gate || *name == guest.client;
        if held_back && needed.pop().is_none() {
            return Err(Error::Board(format!(
                "the kernel has no module `{name}`, which the board needs as a module"
            )));
        }
        early.extend(needed.into_iter().map(|module| module.name));
    }
    archive.file("mod/early", 0o644, lines(&early).as_bytes());
    archive.file("mod/gate", 0o644, guest.gate.as_bytes());
    archive.file("mod/client", 0o644, guest.client.as_bytes());
    Ok(archive.finish())
}

/// One name a line, each once, in order.
fn lines(names: &[String]) -> String {
    let mut text = String::new();
    for (at, name) in names.iter().enumerate() {
        if !names[..at].contains(name) {
            text += name;
            text.push('\n');
        }
    }
    text
}
