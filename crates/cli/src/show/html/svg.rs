//! One IOMMU and what is behind it: a trunk with a branch for each device, the stream ids on it, the functions of a bus below it.

use super::{Placed, escaped};
use crate::show::ids::{label, map, runs};
use crate::show::verdict::{Verdict, of_client, of_device};
use portcullis::{DmaPath, FwNode};
use portcullis_firmware::MachineDescription;
use std::fmt::Write as _;

/// Width of the drawing: that of a narrow screen, in units of which the page scales one to about a pixel.
const WIDTH: usize = 360;
const LINE: usize = 17;
/// Characters of the 12 px font that fit from a column to the right edge.
const fn characters(from: usize) -> usize {
    (WIDTH - from) * 10 / 74
}

/// A line of text at a column, with its full text where that is cut.
struct Row {
    column: usize,
    class: &'static str,
    text: String,
}

/// The drawing of what is behind the IOMMU at `node`: one picture for its name and one for each device below, so that a printed page can end between two of them.
pub(super) fn drawing(
    machine: &MachineDescription,
    title: &str,
    node: Option<FwNode>,
    devices: &[Placed<'_>],
) -> String {
    let name = node.map_or("no IOMMU", |node| label(machine, node));
    let width = name.chars().count().min(44) * 74 / 10 + 18;
    let mut out = format!("<div role=\"img\" aria-label=\"{}\">\n", escaped(title));
    let _ = writeln!(
        out,
        "<svg viewBox=\"0 0 {WIDTH} 36\"><rect x=\"1\" y=\"4\" width=\"{width}\" height=\"22\" rx=\"4\"/><text x=\"9\" y=\"19\">{}</text><path d=\"M10 26V36\"/></svg>",
        escaped(&cut(name, 44))
    );
    for (index, placed) in devices.iter().enumerate() {
        let mut rows = Vec::new();
        device_rows(machine, node, placed, &mut rows);
        out += &branch(&rows, index + 1 == devices.len());
    }
    out + "</div>\n"
}

/// A device on its branch of the trunk, which goes on below unless it is the last.
fn branch(rows: &[Row], last: bool) -> String {
    let height = rows.len() * LINE;
    let trunk = if last { 8 } else { height };
    let mut out =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\"><path d=\"M10 0V{trunk}M10 8H20\"/>\n");
    for (index, row) in rows.iter().enumerate() {
        let shown = cut(&row.text, characters(row.column));
        let whole = if shown == row.text {
            String::new()
        } else {
            format!("<title>{}</title>", escaped(&row.text))
        };
        let _ = writeln!(
            out,
            "<text x=\"{}\" y=\"{}\" class=\"{}\">{whole}{}</text>",
            row.column,
            index * LINE + 12,
            row.class,
            escaped(&shown)
        );
    }
    out + "</svg>\n"
}

/// `text` in at most `most` characters; its end says more than its beginning.
fn cut(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = text.chars().skip(count - most.saturating_sub(1));
    std::iter::once('…').chain(kept).collect()
}

/// `text` in lines of at most `most` characters, broken at spaces; a longer word has a line of its own.
fn wrapped(text: &str, most: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        let length = word.chars().count();
        match lines.last_mut().filter(|line| line.chars().count() + 1 + length <= most) {
            Some(line) => {
                line.push(' ');
                line.push_str(word);
            }
            None => lines.push(word.to_owned()),
        }
    }
    lines
}

fn device_rows(
    machine: &MachineDescription,
    node: Option<FwNode>,
    placed: &Placed<'_>,
    rows: &mut Vec<Row>,
) {
    let device = placed.device;
    let path = device.description.path.clone();
    let group = placed.group.map(|group| format!("#{group} ")).unwrap_or_default();
    let class = if device.enabled { "" } else { "faint" };
    rows.push(Row { column: 24, class, text: format!("{group}{path}") });
    let own: Vec<_> = device.streams.iter().copied().filter(|it| Some(it.iommu) == node).collect();
    let mut ids: Vec<String> = runs(&own)
        .map(|run| match (run, run[0].mask) {
            ([one], 0) => format!("{}", one.id),
            ([first, .., last], _) => format!("{}-{}", first.id, last.id),
            ([one], mask) => format!("{}/{mask:#x}", one.id),
            ([], _) => String::new(),
        })
        .collect();
    let maps = device.bus.iter().flat_map(|bus| bus.maps());
    ids.extend(maps.filter(|it| Some(it.iommu) == node).map(map));
    let Verdict { word, because } = of_device(machine, device);
    let said =
        [word, &because].into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(": ");
    let mut below = |class, text: &str| {
        let lines = wrapped(text, characters(36)).into_iter();
        rows.extend(lines.map(|text| Row { column: 36, class, text }));
    };
    below("faint", &ids.join(" "));
    below(if device.enabled { word } else { "faint" }, &said);
    for function in device.functions.iter().filter(|_| device.enabled && device.bus.is_some()) {
        let own = match &function.description.dma {
            DmaPath::Translated(spec) => spec.streams.iter().any(|it| Some(it.iommu) == node),
            DmaPath::Direct | DmaPath::Unusable(_) => true,
        };
        if own {
            let verdict = of_client(machine, &function.description, true);
            let path = &function.description.path;
            let short = path.rsplit('/').next().unwrap_or(path);
            let text = format!("{} {short} {}", function.requester, verdict.word);
            rows.push(Row { column: 48, class: verdict.word, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::wrapped;

    #[test]
    fn lines_are_broken_at_spaces_only() {
        assert_eq!(wrapped("rid:0>0x10 rid:1>0x11 0x5", 21), ["rid:0>0x10 rid:1>0x11", "0x5"]);
        assert_eq!(wrapped("much-too-long a", 4), ["much-too-long", "a"]);
        assert!(wrapped("", 4).is_empty());
    }
}
