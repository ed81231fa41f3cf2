//! `show A B`: what changed from one description to the other.

use super::json::document;
use crate::screen::{Screen, count};
use crate::style::Tone;
use crate::table::wrap;
use portcullis_firmware::MachineDescription;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// The lists that are compared, and what one entry of each is called.
const LISTS: [(&str, &str); 3] =
    [("iommus", "IOMMU"), ("devices", "device"), ("findings", "finding")];

/// What became of one entry.
#[derive(Debug)]
enum Change {
    Added,
    Removed,
    /// Field, before, after.
    Changed(Vec<(String, Value, Value)>),
}

/// What changed from one description to the other.
#[derive(Debug)]
pub struct Difference {
    before: String,
    after: String,
    lists: Vec<(&'static str, &'static str, Entries)>,
}

/// Changed entries by what names them, in the order of their names.
type Entries = BTreeMap<String, Change>;

impl Change {
    fn mark(&self) -> &'static str {
        match self {
            Self::Added => "+",
            Self::Removed => "-",
            Self::Changed(_) => "~",
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed(_) => "changed",
        }
    }
}

impl Difference {
    /// Compares what `show --json` has of each.
    pub fn between(before: &MachineDescription, after: &MachineDescription) -> Self {
        let as_value =
            |machine| serde_json::to_value(document(machine)).expect("strings and numbers only");
        let (old, new) = (as_value(before), as_value(after));
        let lists = LISTS
            .map(|(list, word)| (list, word, compared(&entries(&old, list), &entries(&new, list))));
        Self { before: before.board.clone(), after: after.board.clone(), lists: lists.into() }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lists.iter().all(|(_, _, entries)| entries.is_empty())
    }

    /// For people.
    pub fn render(&self, screen: Screen) -> String {
        let style = screen.style;
        let mut out = format!("{}\n", style.strong(&format!("{} -> {}", self.before, self.after)));
        for (_, word, entries) in self.lists.iter().filter(|(.., entries)| !entries.is_empty()) {
            let _ = writeln!(
                out,
                "\n{}",
                style.strong(&format!("{} changed", count(entries.len(), word)))
            );
            entries.iter().for_each(|(name, change)| out += &lines(name, change, screen));
        }
        if self.is_empty() {
            out += "no difference in IOMMUs, devices and findings\n";
        }
        out
    }

    /// For programs: `{"before", "after", "iommus": [{"name", "change", "fields": [{"field", "before", "after"}]}], "devices": ..., "findings": ...}`.
    pub fn to_json(&self) -> String {
        let mut out = Map::new();
        out.insert("before".into(), json!(self.before));
        out.insert("after".into(), json!(self.after));
        for (list, _, entries) in &self.lists {
            let entries = entries.iter().map(|(name, change)| {
                let fields: Vec<Value> = match change {
                    Change::Changed(fields) => fields
                        .iter()
                        .map(|(field, before, after)| json!({"field": field, "before": before, "after": after}))
                        .collect(),
                    Change::Added | Change::Removed => Vec::new(),
                };
                json!({"name": name, "change": change.word(), "fields": fields})
            });
            out.insert((*list).into(), entries.collect());
        }
        Value::Object(out).to_string()
    }
}

/// The entries of a list by name. A finding is named by its place, rule and words; a device's group by the others in it, since numbers shift.
fn entries(document: &Value, list: &str) -> BTreeMap<String, Map<String, Value>> {
    let all = document[list].as_array().map_or(&[][..], Vec::as_slice);
    let mut groups: BTreeMap<Option<u64>, Vec<&Value>> = BTreeMap::new();
    for entry in all {
        groups.entry(entry["group"].as_u64()).or_default().push(&entry["path"]);
    }
    let named = all.iter().filter_map(|entry| {
        let mut fields = entry.as_object()?.clone();
        if let Some(group) = fields.get("group").map(Value::as_u64) {
            let fellows =
                groups.get(&group).into_iter().flatten().filter(|it| ***it != entry["path"]);
            let fellows: Vec<&Value> = fellows.copied().collect();
            fields.insert("group".into(), json!(fellows));
        }
        let text = |field: &str| entry[field].as_str().unwrap_or_default();
        let name = match list {
            "findings" => format!("{} [{}] {}", text("path"), text("rule"), text("message")),
            _ => text("path").to_owned(),
        };
        Some((name, fields))
    });
    named.collect()
}

fn compared(
    old: &BTreeMap<String, Map<String, Value>>,
    new: &BTreeMap<String, Map<String, Value>>,
) -> Entries {
    let removed = old.keys().filter(|name| !new.contains_key(*name));
    let removed = removed.map(|name| (name.clone(), Change::Removed));
    let others = new.iter().filter_map(|(name, fields)| {
        let Some(before) = old.get(name) else { return Some((name.clone(), Change::Added)) };
        let changed = fields.iter().filter(|(field, value)| before.get(*field) != Some(value));
        let changed = changed.map(|(field, value)| {
            (field.clone(), before.get(field).cloned().unwrap_or(Value::Null), value.clone())
        });
        let changed: Vec<_> = changed.collect();
        (!changed.is_empty()).then(|| (name.clone(), Change::Changed(changed)))
    });
    removed.chain(others).collect()
}

fn lines(name: &str, change: &Change, screen: Screen) -> String {
    let width = screen.table_width();
    let tone = match change {
        Change::Added => Tone::Good,
        Change::Removed => Tone::Bad,
        Change::Changed(_) => Tone::Warn,
    };
    let head = wrap(&format!("{} {name}", change.mark()), width, 2);
    let mut out = format!("{}\n", screen.style.paint(tone, &head));
    if let Change::Changed(fields) = change {
        for (field, before, after) in fields {
            let (before, after) = parted(before, after);
            let told = format!("{field}: {before} -> {after}");
            let _ = writeln!(out, "    {}", wrap(&told, width, 6));
        }
    }
    out
}

/// Both values in words; of lists only the entries that the other one has not.
fn parted(before: &Value, after: &Value) -> (String, String) {
    let (Value::Array(old), Value::Array(new)) = (before, after) else {
        return (said(before), said(after));
    };
    let alone = |own: &[Value], other: &[Value]| {
        let alone: Vec<_> = own.iter().filter(|it| !other.contains(it)).map(said).collect();
        if alone.is_empty() { "none".to_owned() } else { alone.join(", ") }
    };
    (alone(old, new), alone(new, old))
}

/// A value as people write it: a range from first to last, a record as "field value" with numbers in hexadecimal.
fn said(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "none".to_owned(),
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        Value::Object(fields) => record(fields),
        Value::Array(entries) => entries.iter().map(said).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn record(fields: &Map<String, Value>) -> String {
    let number = |value: &Value| match value.as_u64() {
        Some(number) => format!("{number:#x}"),
        None => said(value),
    };
    let range = ["first", "last"].map(|field| fields.get(field).and_then(Value::as_u64));
    let range = match range {
        [Some(first), Some(last)] => Some(format!("{first:#x}-{last:#x}")),
        _ => None,
    };
    let others = fields.iter().filter(|(field, value)| {
        let told = range.is_some() && ["first", "last"].contains(&field.as_str());
        let empty = value.as_array().is_some_and(Vec::is_empty) || *value == "";
        !told && !empty && !value.is_null()
    });
    let others = others.map(|(field, value)| format!("{field} {}", number(value)));
    range.iter().cloned().chain(others).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::parted;
    use serde_json::json;

    #[test]
    fn values_are_told_as_people_write_them_and_lists_by_what_is_different() {
        let range = |last: u64| json!({"first": 0x2b40_0000, "last": last});
        assert_eq!(
            parted(&range(0x2b40_ffff), &range(0x2b4f_ffff)),
            ("0x2b400000-0x2b40ffff".into(), "0x2b400000-0x2b4fffff".into())
        );
        let streams = |id: u32| json!([{"id": 1, "iommu": "/a"}, {"id": id, "iommu": "/a"}]);
        let told = ("id 0x2 iommu /a".into(), "id 0x7f iommu /a".into());
        assert_eq!(parted(&streams(2), &streams(0x7f)), told);
        assert_eq!(parted(&json!(["a", "b"]), &json!(["a"])), ("b".into(), "none".into()));
        assert_eq!(parted(&json!(1), &json!(2)), ("1".into(), "2".into()));
        let kept = json!([{"first": 0, "last": 15, "kind": "reserved"}]);
        assert_eq!(parted(&json!([]), &kept), ("none".into(), "0x0-0xf kind reserved".into()));
    }
}
