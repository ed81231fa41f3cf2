//! Pages of HTML that stand alone.

mod day;

use portcullis_lab::picture::html;
use std::path::Path;

/// Writes a page with the day, and the command line that made it, in its title and at its end.
///
/// # Errors
///
/// The file cannot be written.
pub fn write(path: &Path, page: &str) -> Result<(), String> {
    let arguments = std::env::args_os().skip(1);
    let arguments = arguments.map(|argument| argument.to_string_lossy().into_owned());
    let command: Vec<String> = std::iter::once("portcullis".to_owned()).chain(arguments).collect();
    let page = html::signed(page, &day::today(), &command.join(" "));
    std::fs::write(path, page)
        .map_err(|error| format!("the page cannot be written to {}: {error}", path.display()))
}
