//! Where boards come from: the file, directory or stream that the command line names, in whatever form people have it.

mod acpi;
mod directory;
mod pci;

pub use acpi::save_tables;

use crate::progress::Background;
use portcullis_firmware::devicetree::{FlatTree, MemoryReservation, OwnedNode, lower};
use portcullis_firmware::{MachineDescription, ReadError, read_devicetree};
use portcullis_testbed::IommuDriver;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The board that is built in (`boards/portcullis-default.dts`).
const BUILT_IN: &[u8] = include_bytes!("../../boards/portcullis-default.dtb");

/// More bytes than this are not read or unpacked: 4 times the largest devicetree that a boot loader accepts.
const MOST_BYTES: u64 = 64 << 20;

/// How files of other packers begin: the Zstandard, xz and bzip2 formats, and LZ4's frames.
const PACKERS: [(&[u8], &str); 4] = [
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
    (&[0xfd, b'7', b'z', b'X', b'Z', 0], "xz"),
    (b"BZh", "bzip2"),
    (&[0x04, 0x22, 0x4d, 0x18], "lz4"),
];

/// What a file turned out to be.
enum Form {
    /// A flattened devicetree.
    Flattened(Vec<u8>),
    /// A tree that was read node by node.
    Nodes(OwnedNode),
    /// ACPI tables.
    Tables(Vec<Vec<u8>>),
}

/// Reads a board, with `overlays` applied on top in order; the built-in board where `path` is `None`. `pci` is the text of `lspci -xxxx` of that machine, whose functions then stand in place of those
/// that its description lists.
///
/// `path` is a flattened devicetree (also packed by gzip), an ACPI table or a text of `acpidump`, `-` for any of these on standard input, or a directory as
/// `/proc/device-tree` or `/sys/firmware/acpi/tables` is.
///
/// # Errors
///
/// Which file cannot be used, and why.
pub fn read(
    path: Option<&Path>,
    overlays: &[PathBuf],
    pci: Option<&Path>,
) -> Result<MachineDescription, String> {
    let (form, name) = match path {
        None => (Form::Flattened(BUILT_IN.to_vec()), "portcullis-default".to_owned()),
        Some(path) => (open(path)?, name_of(path)),
    };
    let at = |error: String| match path {
        Some(path) => format!("{}: {error}", path.display()),
        None => error,
    };

    let mut machine = lower_form(form, &name, overlays).map_err(at)?;
    if let Some(file) = pci {
        let of_file = |error: String| format!("{}: {error}", file.display());
        let text = bytes_of(file).map_err(of_file)?;
        pci::enumerated(&mut machine, &String::from_utf8_lossy(&text)).map_err(of_file)?;
    }
    machine.note_unserved(|iommu| IommuDriver::of(iommu).is_some());
    Ok(machine)
}

fn name_of(path: &Path) -> String {
    if path == Path::new("-") {
        return "stdin".to_owned();
    }
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    let stem = Path::new(name).file_stem();
    stem.map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn open(path: &Path) -> Result<Form, String> {
    let at = |error: String| format!("{}: {error}", path.display());
    if path.is_dir() {
        if let Some(tables) = acpi::directory(path, MOST_BYTES).map_err(at)? {
            return Ok(Form::Tables(tables));
        }
        return directory::read(path).map(Form::Nodes).map_err(at);
    }
    let bytes = bytes_of(path).map_err(at)?;
    // The text of a dump begins like the table that it shows.
    if let Some(tables) = acpi::dump(&bytes) {
        return Ok(Form::Tables(tables));
    }
    Ok(match acpi::is_table(&bytes) {
        true => Form::Tables(acpi::split(&bytes)),
        false => Form::Flattened(bytes),
    })
}

/// The bytes of a file or of standard input, unpacked; never none.
fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = match path == Path::new("-") {
        true => {
            let _ticker = Background::waiting("waiting for a board on standard input".to_owned());
            limited(std::io::stdin().lock())
        }
        false => {
            // Opening a pipe waits for whoever writes to it.
            let file = std::fs::metadata(path).map_err(|error| error.to_string())?;
            let what = || format!("waiting for what writes to {}", path.display());
            let _ticker = (!file.is_file()).then(|| Background::waiting(what()));
            std::fs::File::open(path).map_err(|error| error.to_string()).and_then(limited)
        }
    }?;
    let bytes = match bytes.first_chunk::<2>() {
        Some([0x1f, 0x8b]) => limited(flate2::read::MultiGzDecoder::new(bytes.as_slice()))
            .map_err(|error| format!("it is packed by gzip and damaged or cut off: {error}"))?,
        _ => bytes,
    };
    if let Some((_, packer)) = PACKERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
        return Err(format!("it is packed by {packer}; unpack it first (only gzip is read)"));
    }
    if bytes.is_empty() {
        return Err("it is empty; a board is a .dtb file or ACPI tables".to_owned());
    }
    Ok(bytes)
}

fn limited(from: impl Read) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("more than {} MiB; that is no board", MOST_BYTES >> 20));
    }
    Ok(bytes)
}

fn lower_form(form: Form, name: &str, overlays: &[PathBuf]) -> Result<MachineDescription, String> {
    let (mut nodes, reservations) = match form {
        Form::Flattened(bytes) if overlays.is_empty() => {
            return read_devicetree(&bytes, name).map_err(|error| refuse(&error, &bytes));
        }
        Form::Flattened(bytes) => {
            let (nodes, reservations) = unflatten(&bytes)?;
            if nodes.tree().is_ok_and(|tree| tree.is_overlay()) {
                return Err(ReadError::Overlay.to_string());
            }
            (nodes, reservations)
        }
        Form::Nodes(nodes) => (nodes, Vec::new()),
        Form::Tables(tables) if overlays.is_empty() => return acpi::lower(&tables, name),
        Form::Tables(_) => {
            return Err("overlays are for devicetrees; these are ACPI tables".to_owned());
        }
    };
    for overlay in overlays {
        let applied = bytes_of(overlay).and_then(|bytes| apply(&mut nodes, &bytes));
        applied.map_err(|error| format!("{}: {error}", overlay.display()))?;
    }
    let tree = nodes.tree().map_err(|error| error.to_string())?;
    Ok(lower(&tree, &reservations, name))
}

fn unflatten(bytes: &[u8]) -> Result<(OwnedNode, Vec<MemoryReservation>), String> {
    let read = FlatTree::new(bytes)
        .and_then(|flat| Ok((OwnedNode::of(&flat.tree()?), flat.reservations()?)));
    read.map_err(|error| refuse(&error, bytes))
}

fn apply(nodes: &mut OwnedNode, bytes: &[u8]) -> Result<(), String> {
    let flat = FlatTree::new(bytes).and_then(|flat| flat.tree());
    let overlay = flat.map_err(|error| refuse(&error, bytes))?;
    nodes.apply(&overlay).map_err(|error| error.to_string())
}

/// A devicetree source is a frequent mistake: say how it becomes what is read.
fn refuse(error: &ReadError, bytes: &[u8]) -> String {
    let start = bytes.get(..bytes.len().min(4096)).unwrap_or_default();
    let source = [&b"/dts-v1/"[..], b"/plugin/", b"#include"];
    if source.iter().any(|mark| start.windows(mark.len()).any(|at| at == *mark)) {
        return "it is a devicetree source; compile it first: dtc -@ -I dts -O dtb -o board.dtb board.dts (run it through cpp before where it has #include)".to_owned();
    }
    match error {
        ReadError::BadMagic { .. } => {
            format!("{error}, and it is no ACPI table: a board is a .dtb file or ACPI tables")
        }
        _ => error.to_string(),
    }
}
