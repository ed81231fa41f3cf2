//! `--pci`: what really stands on a board's PCI buses, as `lspci -xxxx` shows it.

use portcullis_firmware::MachineDescription;
use portcullis_pci::{Isolation, Numbering, Recorded, enumerate};

/// Puts the functions in `text` behind the host bridges of `machine`, by PCI segment.
///
/// # Errors
///
/// Why the text cannot be used, or that the machine has no host bridge, or several of one number, for what is in it.
pub(super) fn enumerated(machine: &mut MachineDescription, text: &str) -> Result<(), String> {
    let segments: Vec<u16> =
        machine.devices.iter().filter_map(|it| Some(it.bus.as_ref()?.segment())).collect();
    let mut found = false;
    for device in &mut machine.devices {
        let Some(segment) = device.bus.as_ref().map(|bus| bus.segment()) else { continue };
        let recorded = Recorded::parse(text, segment).map_err(|error| error.to_string())?;
        if recorded.functions().next().is_none() {
            continue;
        }
        if segments.iter().filter(|other| **other == segment).count() > 1 {
            return Err(format!(
                "the board has several host bridges of segment {segment:04x}: which is meant cannot be told"
            ));
        }
        found = true;
        let roots = recorded.roots();
        let functions = enumerate(&recorded, &roots, 0..=u8::MAX, Numbering::Keep);
        let functions = functions.map_err(|error| error.to_string())?;
        let host = device.description.path.clone();
        device.enumerated(&functions, Isolation::default(), |function| {
            (!function.is_bridge()).then(|| format!("{host}/{}", function.address))
        });
    }
    match found {
        true => Ok(()),
        false => Err("no function of a host bridge that the board has (make the text with `lspci -D -xxxx`, as root)".to_owned()),
    }
}
