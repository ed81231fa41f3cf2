//! Manual pages: one for the command and one for each verb.

use clap::Command;
use clap_mangen::Man;
use std::path::Path;

/// The page of the verb `words` leads to (none: of the command itself), as troff.
///
/// # Errors
///
/// There is no such verb; the message names those that there are.
pub(crate) fn page(root: Command, words: &[String]) -> Result<Vec<u8>, String> {
    let mut command = &built(root);
    for word in words {
        let found = command.get_subcommands().find(|verb| verb.get_name() == word);
        command = found.ok_or_else(|| unknown(command, word))?;
    }
    render(command).map_err(|error| error.to_string())
}

/// Writes every page into `folder`, which is made if it is not there, and returns how many there are.
///
/// # Errors
///
/// A file could not be written.
pub(crate) fn write_all(root: Command, folder: &Path) -> Result<usize, String> {
    let failed = |error: std::io::Error| format!("{}: {error}", folder.display());
    std::fs::create_dir_all(folder).map_err(failed)?;
    let mut waiting = vec![built(root)];
    let mut written = 0;
    while let Some(command) = waiting.pop() {
        let file = folder.join(format!("{}.1", title(&command)));
        std::fs::write(file, render(&command).map_err(failed)?).map_err(failed)?;
        written += 1;
        waiting.extend(command.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned());
    }
    Ok(written)
}

/// `help` has no page of its own.
fn built(root: Command) -> Command {
    let mut root = root.disable_help_subcommand(true);
    root.build();
    root
}

fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn unknown(command: &Command, word: &str) -> String {
    let verbs: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    match verbs.as_slice() {
        [] => format!("`{}` has no verbs, so there is no page of `{word}`", title(command)),
        verbs => format!("no page of `{word}`; there are {}", verbs.join(", ")),
    }
}

fn render(command: &Command) -> std::io::Result<Vec<u8>> {
    let page = Man::new(command.clone())
        .source(concat!("portcullis ", env!("CARGO_PKG_VERSION")))
        .manual("Portcullis");
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if command.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    if let Some(help) = command.get_after_help() {
        text.extend(closing_sections(&help.to_string()).into_bytes());
    }
    Ok(text)
}

/// What stands below the options: examples, each a line that is not filled, and the exit status.
fn closing_sections(help: &str) -> String {
    let mut text = String::new();
    for line in help.lines() {
        match line.strip_prefix("Exit status: ") {
            Some(status) => text += &format!(".fi\n.SH \"EXIT STATUS\"\n{}\n", escaped(status)),
            None if line == "Examples:" => text += ".SH EXAMPLES\n.nf\n",
            None => text += &format!("{}\n", escaped(line.trim_start())),
        }
    }
    text
}

/// A line of text as troff takes it: nothing in it is a request.
fn escaped(line: &str) -> String {
    format!("\\&{}", line.replace('\\', "\\e").replace('-', "\\-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Args;
    use clap::CommandFactory;

    fn text(words: &[&str]) -> Result<String, String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        page(Args::command(), &words).map(|page| String::from_utf8(page).expect("ASCII"))
    }

    #[test]
    fn examples_stay_lines() {
        let page = text(&[]).expect("the command's own");
        assert!(page.contains(".SH EXAMPLES\n.nf\n\\&portcullis "), "{page}");
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n"), "{page}");
    }

    #[test]
    fn every_verb_has_a_page_named_after_it() {
        let page = text(&["lab", "check"]).expect("a verb of a verb");
        assert!(page.contains(".TH portcullis-lab-check 1 "), "{page}");
        assert!(page.contains("revert"), "{page}");
    }

    #[test]
    fn a_page_that_is_not_there_names_those_that_are() {
        let message = text(&["lab", "chekc"]).expect_err("no such verb");
        assert!(message.contains("no page of `chekc`") && message.contains("check"), "{message}");
        assert!(text(&["show", "x"]).expect_err("show has no verbs").contains("no verbs"));
    }

    #[test]
    fn all_pages_are_written_to_a_folder() {
        let folder = std::env::temp_dir().join(format!("portcullis-man-{}", std::process::id()));
        let written = write_all(Args::command(), &folder).expect("a folder that can be written");
        let found = std::fs::read_dir(&folder).expect("it was made").count();
        assert_eq!(written, found);
        assert!(folder.join("portcullis-bench-dma.1").exists());
        std::fs::remove_dir_all(folder).expect("ours");
    }
}
