//! One IOMMU and what is behind it: a trunk with a branch for each device, the stream ids on it, the functions of a bus below it.

use super::{Placed, escaped};
use crate::show::ids::{map, runs};
use crate::show::verdict::{Verdict, of_client, of_device};
use portcullis::{DmaPath, FwNode};
use portcullis_firmware::MachineDescription;
use std::fmt::Write as _;

/// Width of the drawing: that of a narrow screen, in units of a pixel or a little more: the page draws it no narrower, so that no text is below 12 px.
const WIDTH: usize = 360;
const LINE: usize = 17;
/// Characters of the 12 px font that fit from a column to the right edge.
const fn characters(from: usize) -> usize {
    (WIDTH - from) * 10 / 74
}

/// A line at a column: pieces of text, each with its class.
struct Row {
    column: usize,
    pieces: Vec<(&'static str, String)>,
}

impl Row {
    /// `text` in as many lines as the drawing's width asks for, broken behind `separator`.
    fn lines(column: usize, class: &'static str, text: &str, separator: char) -> Vec<Self> {
        let lines = wrapped(text, characters(column), separator).into_iter();
        lines.map(|text| Self { column, pieces: vec![(class, text)] }).collect()
    }

    /// How many characters its pieces have, and a blank between each two.
    fn len(&self) -> usize {
        self.pieces.iter().map(|(_, text)| text.chars().count() + 1).sum::<usize>() - 1
    }

    /// As SVG, its base line at `y`; a piece that is too long is cut, and its whole text is a tooltip.
    fn svg(&self, y: usize) -> String {
        let mut out = format!("<text x=\"{}\" y=\"{y}\">", self.column);
        for (index, (class, text)) in self.pieces.iter().enumerate() {
            let shown = cut(text, characters(self.column));
            let whole = match shown == *text {
                true => String::new(),
                false => format!("<title>{}</title>", escaped(text)),
            };
            let blank = if index == 0 { "" } else { " " };
            let shown = escaped(&shown);
            let _ = write!(out, "{blank}<tspan class=\"{class}\">{whole}{shown}</tspan>");
        }
        out + "</text>\n"
    }
}

/// The drawing of what is behind the IOMMU at `node`: one picture for its name and one for each device below, so that a printed page can end between two of them.
pub(super) fn drawing(
    machine: &MachineDescription,
    title: &str,
    node: Option<FwNode>,
    devices: &[Placed<'_>],
) -> String {
    let name = node.map_or("no IOMMU", |node| machine.iommu_path(node));
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
        out += &row.svg(index * LINE + 12);
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

/// `text` in lines of at most `most` characters, broken behind `separator`; a longer piece has a line of its own.
fn wrapped(text: &str, most: usize, separator: char) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for piece in text.split_inclusive(separator) {
        let length = piece.trim_end().chars().count();
        match lines.last_mut().filter(|line| line.chars().count() + length <= most) {
            Some(line) => line.push_str(piece),
            None => lines.push(piece.to_owned()),
        }
    }
    lines.iter().map(|line| line.trim_end().to_owned()).collect()
}

/// Puts `text` behind what the last of `rows` says where it fits, and below otherwise.
fn say_beside(rows: &mut Vec<Row>, class: &'static str, text: String) {
    let length = text.chars().count();
    match rows.last_mut().filter(|row| row.len() + 1 + length <= characters(row.column)) {
        Some(row) => row.pieces.push((class, text)),
        None => rows.extend(Row::lines(36, class, &text, ' ')),
    }
}

fn device_rows(
    machine: &MachineDescription,
    node: Option<FwNode>,
    placed: &Placed<'_>,
    rows: &mut Vec<Row>,
) {
    let device = placed.device;
    let path = &device.description.path;
    let group = placed.group.map(|group| format!("#{group} ")).unwrap_or_default();
    let class = if device.enabled { "" } else { "faint" };
    rows.extend(Row::lines(24, class, &format!("{group}{path}"), '/'));
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
    let mut below = Row::lines(36, "faint", &ids.join(" "), ' ');
    say_beside(&mut below, if device.enabled { word } else { "faint" }, said);
    rows.append(&mut below);
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
            rows.extend(Row::lines(48, verdict.word, &text, ' '));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Row, say_beside, wrapped};

    #[test]
    fn lines_are_broken_behind_separators_only() {
        let ids = "rid:0>0x10 rid:1>0x11 0x5";
        assert_eq!(wrapped(ids, 21, ' '), ["rid:0>0x10 rid:1>0x11", "0x5"]);
        assert_eq!(wrapped("much-too-long a", 4, ' '), ["much-too-long", "a"]);
        assert_eq!(wrapped("/soc@0/bus/codec@1", 12, '/'), ["/soc@0/bus/", "codec@1"]);
        assert!(wrapped("", 4, ' ').is_empty());
    }

    /// 43 characters fit beside column 36.
    #[test]
    fn a_verdict_stands_beside_the_ids_where_it_fits() {
        let rows = |ids: &str| {
            let mut rows = Row::lines(36, "faint", ids, ' ');
            say_beside(&mut rows, "translated", "translated".to_owned());
            rows.iter().map(|row| row.pieces.len()).collect::<Vec<_>>()
        };
        assert_eq!(rows("0x5a3"), [2]);
        assert_eq!(rows(&"x".repeat(32)), [2]);
        assert_eq!(rows(&"x".repeat(33)), [1, 1]);
        assert_eq!(rows(""), [1], "a device without ids");
    }
}
