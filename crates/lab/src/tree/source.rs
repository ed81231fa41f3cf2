//! C sources, as far as marks need them: functions by name, without comments, white space made even.

use std::path::Path;

/// A file of the tree, its comments blanked.
#[derive(Clone, Debug)]
pub(super) struct Source {
    text: String,
}

/// A function's definition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Body {
    /// The line on which its name stands, from 1.
    pub(super) line: usize,
    /// Its words, each with its line.
    words: Vec<(usize, String)>,
}

impl Source {
    /// Reads a file; none if there is no such file. Bytes that are no UTF-8 are replaced.
    pub(super) fn read(root: &Path, path: &str) -> Option<Self> {
        let bytes = std::fs::read(root.join(path)).ok()?;
        Some(Self::of(&String::from_utf8_lossy(&bytes)))
    }

    /// A file with this text.
    pub(super) fn of(text: &str) -> Self {
        Self { text: without_comments(text) }
    }

    /// The definition of a function: its name at the beginning of a line or after a type there, parameters, a body.
    pub(super) fn function(&self, name: &str) -> Option<Body> {
        let mut from = 0;
        while let Some(at) = self.text[from..].find(name).map(|at| at + from) {
            from = at + name.len();
            if let Some(body) = self.defined_at(at, name) {
                return Some(body);
            }
        }
        None
    }

    /// The whole file as a body.
    pub(super) fn whole(&self) -> Body {
        Body { line: 1, words: words(&self.text, 1) }
    }

    fn defined_at(&self, at: usize, name: &str) -> Option<Body> {
        let line_start = self.text[..at].rfind('\n').map_or(0, |newline| newline + 1);
        let before = &self.text[line_start..at];
        let after = &self.text[at + name.len()..];
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        // A call is indented; a definition is not, and neither is another name that ends or begins like this one.
        if before.starts_with(char::is_whitespace)
            || before.ends_with(is_name)
            || !after.starts_with('(')
        {
            return None;
        }
        let close = balanced(after, '(', ')')?;
        let rest = after[close..].trim_start();
        if !rest.starts_with('{') {
            return None;
        }
        let open = after.len() - rest.len();
        let end = open + balanced(&after[open..], '{', '}')?;
        let line = 1 + self.text[..at].matches('\n').count();
        let body_line = line + after[..open].matches('\n').count();
        Some(Body { line, words: words(&after[open..end], body_line) })
    }
}

impl Body {
    /// Where `mark` stands: the words of it in a row, whatever the white space. `//` separates alternatives; an empty
    /// mark stands nowhere.
    pub(super) fn find(&self, mark: &str) -> Option<usize> {
        mark.split("//").map(|mark| words(mark, 0)).filter(|wanted| !wanted.is_empty()).find_map(
            |wanted| {
                let fits = |window: &[(usize, String)]| {
                    window.iter().zip(&wanted).all(|((_, there), (_, wanted))| there == wanted)
                };
                let found = self.words.windows(wanted.len()).find(|window| fits(window))?;
                Some(found[0].0)
            },
        )
    }

    /// A number that two bodies share only if they have the same words in the same order (64-bit FNV-1a).
    pub(super) fn print(&self) -> u64 {
        let bytes = self.words.iter().flat_map(|(_, word)| word.bytes().chain([0]));
        bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
    }
}

/// The words of a piece of C: names and numbers whole, every other character by itself.
fn words(text: &str, first_line: usize) -> Vec<(usize, String)> {
    let mut words: Vec<(usize, String)> = Vec::new();
    let mut line = first_line;
    let mut open = false;
    for c in text.chars() {
        let is_name = c.is_alphanumeric() || c == '_';
        match words.last_mut() {
            Some((_, word)) if is_name && open => word.push(c),
            _ if !c.is_whitespace() => words.push((line, c.to_string())),
            _ => {}
        }
        open = is_name;
        line += usize::from(c == '\n');
    }
    words
}

/// The end of the bracketed piece that begins `text`.
fn balanced(text: &str, open: char, close: char) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(end) if c == end => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' => quote = Some(c),
            None if c == open => depth += 1,
            None if c == close => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + c.len_utf8());
                }
            }
            None => {}
        }
    }
    None
}

/// The text with comments as blanks, so that lines keep their numbers.
fn without_comments(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['/', '"']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let end = match rest.as_bytes() {
            [b'/', b'*', ..] => rest[2..].find("*/").map_or(rest.len(), |end| end + 4),
            [b'/', b'/', ..] => rest.find('\n').unwrap_or(rest.len()),
            [b'"', ..] => {
                let end = 1 + string_end(&rest[1..]);
                out.push_str(&rest[..end]);
                rest = &rest[end..];
                continue;
            }
            _ => {
                out.push('/');
                rest = &rest[1..];
                continue;
            }
        };
        out.extend(rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }));
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// The length of a string literal's rest, its closing quote included. It ends with its line at the latest.
fn string_end(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            '\n' => return at,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "/* look(dev) { */\nstatic int look(struct device *dev);\n\nint relook(int a)\n{\n\treturn look(a);\n}\n\nstatic struct thing *\nlook(struct device *dev,\n     int b) // why\n{\n\tif (!dev->iommu ||\n\t    dev->group)\n\t\treturn \"}\";\n\treturn 0;\n}\n";

    #[test]
    fn a_definition_is_found_among_comments_declarations_and_calls() {
        let source = Source::of(TEXT);
        let body = source.function("look").expect("defined");
        assert_eq!(body.line, 10);
        assert_eq!(body.find("!dev->iommu || dev->group"), Some(13));
        assert_eq!(body.find("nothing//return 0"), Some(16));
        assert_eq!(body.find("dev->gro"), None, "words are whole");
        assert_eq!(body.find(""), None);
        assert!(source.function("ook").is_none() && source.function("absent").is_none());
    }

    #[test]
    fn white_space_and_comments_do_not_change_the_print() {
        let one = Source::of("int f(void)\n{\n\treturn a + b; /* sum */\n}\n");
        let other = Source::of("int f(void) {\n  return a+b;\n}\n");
        let third = Source::of("int f(void) { return a-b; }");
        let print = |source: &Source| source.function("f").expect("defined").print();
        assert_eq!(print(&one), print(&other));
        assert_ne!(print(&one), print(&third));
    }

    #[test]
    fn broken_text_ends_nowhere_and_harms_nobody() {
        for text in
            ["int f(", "int f(void) {", "int f(void) { \"", "/* int f(void) {}", "\"", "/", "f"]
        {
            assert!(Source::of(text).function("f").is_none(), "{text}");
        }
    }
}
