//! The page of a schedule that was also forced on a kernel.

use super::escape::escaped;
use super::page::Page;
use crate::picture::Ladder;

/// A small table beside a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub below: String,
    /// The columns' heads.
    pub head: [String; 3],
    /// The rows; where the last two cells differ, the row is marked.
    pub rows: Vec<[String; 3]>,
    /// Lines of a log.
    pub lines: Vec<String>,
}

/// A page with an answer, tables, what followed, and the model's ladder.
#[must_use]
pub fn compared(
    title: &str,
    world: &str,
    answer: &[String],
    tables: &[Table],
    after: &[String],
    ladder: &Ladder,
) -> String {
    let mut page = Page::new(title);
    page.add(&format!("<h1>{}</h1>\n<p class=\"world\">{}</p>\n", escaped(title), escaped(world)));
    for line in answer {
        page.add(&format!("<p class=\"verdict\"><strong>{}</strong></p>\n", escaped(line)));
    }
    for table in tables {
        page.add(&markup(table));
    }
    let items = after.iter().map(|line| format!("<li>{}</li>\n", escaped(line)));
    page.add(&format!("<h2>Afterwards</h2>\n<ul>\n{}</ul>\n", items.collect::<String>()));
    page.add("<h2>The same schedule in the lab</h2>\n<section>\n");
    page.ladder(ladder);
    page.add("</section>\n");
    page.finish()
}

fn markup(table: &Table) -> String {
    let head: String =
        table.head.iter().map(|word| format!("<th scope=\"col\">{}</th>", escaped(word))).collect();
    let row = |row: &[String; 3]| {
        let class = if row[1] == row[2] { "" } else { " class=\"violated\"" };
        let cells: String = row.iter().map(|cell| format!("<td>{}</td>", escaped(cell))).collect();
        format!("<tr{class}>{cells}</tr>\n")
    };
    let rows: String = table.rows.iter().map(row).collect();
    let lines: String =
        table.lines.iter().map(|line| format!("<code>{}</code><br>\n", escaped(line))).collect();
    format!(
        "<h3>{}</h3>\n<p class=\"quiet\">{}</p>\n<table class=\"contents\"><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table>\n{lines}",
        escaped(&table.title),
        escaped(&table.below)
    )
}
