//! A directory as `/proc/device-tree` is: a directory for each node, a file for each property.

use portcullis_firmware::devicetree::{OwnedNode, TreeLimits};
use std::fs;
use std::path::Path;

/// A property file of more bytes than this is no property.
const MOST_VALUE: u64 = 16 << 20;

/// Reads the tree below `root`.
///
/// # Errors
///
/// A file cannot be read, there are too many, or none of what every root node has.
pub(super) fn read(root: &Path) -> Result<OwnedNode, String> {
    // Looked at first: what lies deeper in a directory of another kind is nobody's property.
    if !["#address-cells", "compatible", "model"].iter().any(|name| root.join(name).is_file()) {
        return Err(format!(
            "it is a directory, but neither a devicetree as /proc/device-tree is (no `compatible`, `model` or `#address-cells`) nor ACPI tables as in /sys/firmware/acpi/tables; {}",
            instead(root)
        ));
    }
    let mut left = TreeLimits::NODES;
    node(root, String::new(), 0, &mut left)
}

/// What to name instead of a directory that is no board.
fn instead(folder: &Path) -> String {
    let names = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let is_board = |name: &String| name.ends_with(".dtb") || name.ends_with(".dtb.gz");
    match names.filter_map(|name| name.into_string().ok()).filter(is_board).min() {
        Some(board) => format!("name a file in it, such as {}", folder.join(board).display()),
        None => "name a .dtb file or one of these directories".to_owned(),
    }
}

fn node(folder: &Path, name: String, depth: usize, left: &mut usize) -> Result<OwnedNode, String> {
    *left = left.checked_sub(1).ok_or("more nodes than a devicetree has")?;
    if depth >= TreeLimits::DEPTH {
        return Err(format!("more than {} levels of nodes", TreeLimits::DEPTH));
    }
    let error = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut node = OwnedNode { name, ..OwnedNode::default() };
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder).map_err(error)? {
        entries.push(entry.map_err(error)?);
    }
    // The kernel lists them in its own order; a description's order is that of addresses nearly always.
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let (kind, name) = (entry.file_type().map_err(error)?, entry.file_name());
        let name = name.into_string().map_err(|name| format!("{} is no text", name.display()))?;
        if kind.is_dir() {
            node.children.push(self::node(&entry.path(), name, depth + 1, left)?);
        } else if kind.is_file() && name != "name" {
            let size = entry.metadata().map_err(error)?.len();
            if size > MOST_VALUE {
                return Err(format!("{}: {size} bytes are no property", entry.path().display()));
            }
            node.properties.push((name, fs::read(entry.path()).map_err(error)?));
        }
    }
    Ok(node)
}
