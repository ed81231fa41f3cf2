//! The matrix of `lab compare`.

use super::escape::escaped;
use super::page::Page;
use super::word;
use crate::linux::{Cell, Matrix, PROPERTIES, ViolationReport};
use crate::picture::{Ladder, words};

/// Versions downwards, worlds across.
pub(crate) fn table(matrix: &Matrix) -> String {
    let head = matrix.worlds.iter().map(|(name, world)| {
        format!(
            "<th scope=\"col\" title=\"{}\">{}</th>",
            escaped(&words::world(world)),
            escaped(name)
        )
    });
    let head: String = head.collect();
    let row = |(row, protocol): (usize, &crate::linux::Protocol)| {
        let cells = matrix.rows[row].iter().enumerate();
        let cells: String = cells.map(|(column, found)| cell(found, row, column)).collect();
        format!("<tr><th scope=\"row\">{}</th>{cells}</tr>\n", escaped(&protocol.to_string()))
    };
    let rows: String = matrix.protocols.iter().enumerate().map(row).collect();
    format!(
        "<div class=\"wide\"><table class=\"matrix\"><thead><tr><th></th>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>\n"
    )
}

fn cell(cell: &Cell, row: usize, column: usize) -> String {
    let word = word(cell.report.verdict);
    let ways = words::fewest(&cell.report);
    let title = format!(
        "{} states, {}{}",
        cell.report.explored.states,
        cell.report.explored.mode,
        if cell.report.explored.exhaustive { "" } else { ", not all of them" }
    );
    let title = escaped(&title);
    if ways.is_empty() {
        let states = cell.report.explored.states;
        return format!(
            "<td class=\"{word}\" title=\"{title}\">{word}<br><span class=\"quiet\">{states}</span></td>"
        );
    }
    let ways: Vec<String> = ways
        .iter()
        .map(|(code, steps)| format!("{} <span class=\"quiet\">{steps}</span>", escaped(code)))
        .collect();
    format!(
        "<td class=\"{word}\" title=\"{title}\"><a href=\"#cell-{row}-{column}\">{}</a></td>",
        ways.join("<br>")
    )
}

/// What the cells mean.
pub(crate) fn legend(matrix: &Matrix) -> String {
    let mut out = String::from(
        "<h2>Legend</h2>\n<dl class=\"legend\"><dt class=\"clean\">clean</dt><dd>every schedule of this world was explored, none violates a property; below it the number of its states</dd>\n\
         <dt class=\"bounded\">bounded</dt><dd>cut short: nothing was found in what was covered</dd>\n\
         <dt class=\"violated\">I1/B1 50</dt><dd>the invariant, the bad end, and the steps of the shortest schedule that shows it:</dd>\n",
    );
    let seen = matrix.rows.iter().flatten().flat_map(|cell| &cell.report.violations);
    let mut seen: Vec<(String, &str)> =
        seen.map(|found| (words::code(found), found.name)).collect();
    seen.sort();
    seen.dedup();
    for (code, name) in seen {
        let meaning =
            PROPERTIES.iter().find(|info| info.name == name).map_or("", |info| info.meaning);
        out += &format!(
            "<dt>{}</dt><dd><b>{}</b>: {}</dd>\n",
            escaped(&code),
            escaped(name),
            escaped(meaning)
        );
    }
    out += "</dl>\n<h2>Worlds</h2>\n<dl class=\"legend\">";
    for (name, world) in &matrix.worlds {
        out += &format!("<dt>{}</dt><dd>{}</dd>\n", escaped(name), escaped(&words::world(world)));
    }
    out + "</dl>\n"
}

/// Every violated cell: the ladder of the worst violation, and the schedules of all.
pub(crate) fn details(page: &mut Page, matrix: &Matrix) {
    page.add("<details class=\"cells\"><summary>Violated cells</summary>\n");
    for (row, protocol) in matrix.protocols.iter().enumerate() {
        for (column, (name, world)) in matrix.worlds.iter().enumerate() {
            let report = &matrix.rows[row][column].report;
            let Some(worst) = words::worst(report) else { continue };
            page.add(&format!(
                "<section class=\"cell\" id=\"cell-{row}-{column}\"><h3>{}, {}</h3>\n",
                escaped(&protocol.to_string()),
                escaped(name)
            ));
            report.violations.iter().for_each(|found| page.add(&violation(found)));
            page.ladder(&Ladder::of_trace(&worst.trace, world));
            page.add("</section>\n");
        }
    }
    page.add("</details>\n");
}

fn violation(found: &ViolationReport) -> String {
    let log =
        found.message.as_ref().map(|message| format!(" Log: <code>{}</code>.", escaped(message)));
    format!(
        "<p><b>{} {}</b> in {} steps. Seen: {}.{}<br><code class=\"schedule\">portcullis lab replay {}</code></p>\n",
        escaped(&words::code(found)),
        escaped(found.name),
        found.trace.steps.len(),
        escaped(&found.symptom),
        log.unwrap_or_default(),
        escaped(&found.schedule)
    )
}
