//! The frame of a page, and what its script knows.

use serde_json::{Value, json};

use super::escape::{escaped, in_script};
use super::svg;
use crate::picture::Ladder;
use crate::picture::locks::Locks;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What makes the pages.
const PRODUCT: &str = concat!("Portcullis ", env!("CARGO_PKG_VERSION"));

/// A page with the day on which it was made, and by which command, in its title and at its end.
#[must_use]
pub fn signed(page: &str, day: &str, command: &str) -> String {
    let (day, command) = (escaped(day), escaped(command));
    let page = page.replacen("</title>", &format!(", {day}: {command}</title>"), 1);
    // Whatever stands in the body is escaped, so the footer is the page's own.
    page.replacen("</footer>", &format!(", {day}. Made by <code>{command}</code></footer>"), 1)
}

/// A page under construction.
pub(crate) struct Page {
    title: String,
    body: String,
    ladders: Vec<Value>,
}

impl Page {
    pub(crate) fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: String::new(), ladders: Vec::new() }
    }

    /// Adds markup.
    pub(crate) fn add(&mut self, markup: &str) {
        self.body += markup;
    }

    /// Adds a ladder and its state panel.
    pub(crate) fn ladder(&mut self, ladder: &Ladder) {
        let number = self.ladders.len();
        self.body += &legend(ladder);
        let width = match (svg::is_wide(ladder), svg::is_slim(ladder)) {
            (true, _) => " many",
            (_, true) => " slim",
            (false, false) => "",
        };
        // Above the ladder: below it, it would be read when it is too late.
        self.body += &format!(
            "<p class=\"hint\">Point at a step to see the state after it; j and k walk, and \u{2193} and \u{2191} from a chosen step.</p>\n\
             <div class=\"run{width}\">\n<div class=\"track\">\n"
        );
        self.body += &svg::ladder(ladder, number);
        self.body += &format!(
            "</div>\n<aside class=\"state\" data-ladder=\"{number}\" aria-live=\"polite\"></aside>\n</div>\n"
        );
        self.body += &ending(ladder);
        self.ladders.push(as_json(ladder));
    }

    /// The page's text.
    pub(crate) fn finish(self) -> String {
        let data = in_script(&Value::Array(self.ladders).to_string());
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:\">\n\
             <link rel=\"icon\" href=\"data:,\">\n<title>{}; {PRODUCT}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}<footer>{PRODUCT}</footer></main>\n\
             <script type=\"application/json\" id=\"data\">{data}</script>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
            escaped(&self.title),
            self.body
        )
    }
}

fn legend(ladder: &Ladder) -> String {
    let locks = Locks::of(ladder);
    let item = |(at, (_, lock)): (usize, &(char, String))| {
        format!(
            "<li><span class=\"swatch lock{}\"></span>{}</li>",
            at % svg::LOCK_COLORS,
            escaped(lock)
        )
    };
    let items: String = locks.letters.iter().enumerate().map(item).collect();
    match items.is_empty() {
        true => String::new(),
        false => format!(
            "<ul class=\"locks\" aria-label=\"locks\"><li class=\"quiet\">locks held:</li>{items}</ul>\n"
        ),
    }
}

fn ending(ladder: &Ladder) -> String {
    let stuck = ladder.stuck.iter().map(|(thread, what)| {
        format!(
            "<p class=\"wrong\">stuck: {} at: {}</p>\n",
            escaped(&ladder.threads[*thread]),
            escaped(what)
        )
    });
    let mut out: String = stuck.collect();
    let fields = ladder.changed().into_iter().map(|(field, value)| {
        format!("<tr><td>{}</td><td>{}</td></tr>\n", escaped(field), escaped(value))
    });
    let fields: String = fields.collect();
    if !fields.is_empty() {
        out += &format!(
            "<details class=\"ending\" open><summary>In the end</summary>\n<table>{fields}</table></details>\n"
        );
    }
    out
}

/// What the script needs to show the state after any step.
fn as_json(ladder: &Ladder) -> Value {
    let steps = ladder.rungs.iter().map(|rung| {
        let changes =
            rung.changes.iter().map(|change| json!([change.field, change.before, change.after]));
        json!({
            "thread": rung.thread,
            "functions": rung.functions,
            "words": rung.words,
            "changes": changes.collect::<Vec<_>>(),
            "held": rung.held,
            "log": rung.log,
            "violated": rung.violated,
        })
    });
    json!({"threads": ladder.threads, "steps": steps.collect::<Vec<_>>()})
}
