//! What stands in a rung, as words with roles; wrapping.

use super::text::Role;
use super::{Ladder, Rung};

/// A piece of text and what it is.
pub(crate) type Span = (Role, String);

/// What a rung says. The function is left out where the thread's last rung shown was in the same one.
pub(crate) fn spans(rung: &Rung, show_function: bool) -> Vec<Span> {
    let mut spans = Vec::new();
    if let Some(function) = rung.functions.last().filter(|_| show_function) {
        spans.push((Role::Function, format!("{function}:")));
    }
    spans.push((Role::Words, rung.words.clone()));
    for change in rung.more.iter().filter(|change| !change.is_bookkeeping()) {
        let told = rung.words.contains(&format!("{} = ", change.field));
        spans.push((
            Role::Change,
            match told {
                true => format!("[{}]", change.after),
                false => format!("[{} = {}]", change.field, change.after),
            },
        ));
    }
    spans.extend(rung.notes.iter().map(|note| (Role::Quiet, format!("({note})"))));
    spans
}

/// The lines of a rung, at most `width` characters each. Lines of the log, whole or cut to one, and what is wrong begin
/// a line of their own.
pub(crate) fn lines(rung: &Rung, show_function: bool, width: usize, whole: bool) -> Vec<Vec<Span>> {
    let mut lines = wrap(&spans(rung, show_function), width);
    for line in &rung.log {
        let mut wrapped = wrap(&[(Role::Log, format!("log: {line}"))], width);
        if !whole && wrapped.len() > 1 {
            wrapped.truncate(1);
            append(&mut wrapped, Role::Log, "\u{2026}");
        }
        lines.extend(wrapped);
    }
    for property in &rung.violated {
        lines.extend(wrap(&[(Role::Bad, format!("\u{2717} {property}"))], width));
    }
    lines
}

/// Breaks at spaces; a word that does not fit a line is cut.
pub(crate) fn wrap(spans: &[Span], width: usize) -> Vec<Vec<Span>> {
    let width = width.max(8);
    let mut lines: Vec<Vec<Span>> = vec![Vec::new()];
    let mut used = 0;
    let words = spans
        .iter()
        .flat_map(|(role, text)| text.split_ascii_whitespace().map(move |word| (*role, word)));
    for (role, mut word) in words {
        let indent = usize::from(lines.len() > 1);
        if used > indent && used + 1 + word.chars().count() > width {
            lines.push(vec![(Role::Words, " ".to_owned())]);
            used = 1;
        }
        while used + word.chars().count() > width {
            let cut = word.char_indices().nth(width - used).map_or(word.len(), |(at, _)| at);
            append(&mut lines, role, &word[..cut]);
            word = &word[cut..];
            lines.push(vec![(Role::Words, " ".to_owned())]);
            used = 1;
        }
        if used > usize::from(lines.len() > 1) {
            append(&mut lines, role, " ");
            used += 1;
        }
        append(&mut lines, role, word);
        used += word.chars().count();
    }
    lines
}

fn append(lines: &mut [Vec<Span>], role: Role, text: &str) {
    let Some(line) = lines.last_mut() else { return };
    match line.last_mut() {
        Some((last, words)) if *last == role => words.push_str(text),
        _ => line.push((role, text.to_owned())),
    }
}

/// For each rung shown, whether it must name its function: the thread's first, and after each change of it.
pub(crate) fn shows_function(ladder: &Ladder, shown: &[usize]) -> Vec<bool> {
    let mut last: Option<(usize, Option<&String>)> = None;
    shown
        .iter()
        .map(|&at| {
            let rung = &ladder.rungs[at];
            let now = Some((rung.thread, rung.functions.last()));
            let new = now != last;
            last = now;
            new
        })
        .collect()
}
