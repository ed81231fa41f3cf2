//! `show --rules`: every rule with an example and what Linux does.

use super::human::severity;
use crate::screen::Screen;
use crate::table::wrap;
use portcullis_firmware::rule;
use std::fmt::Write as _;

/// All rules, for `screen`.
pub fn render_rules(screen: Screen) -> String {
    let (style, width) = (screen.style, screen.prose_width());
    let mut out = String::new();
    for rule in rule::ALL {
        let _ = writeln!(out, "{} {}", severity(style, rule.severity), style.strong(rule.id));
        let _ = writeln!(out, "         {}", wrap(rule.finds, width, 9));
        let _ = writeln!(out, "         Example: {}", wrap(rule.example, width, 18));
        let _ = writeln!(out, "         Linux:   {}", wrap(rule.linux, width, 18));
    }
    out
}

/// The same as JSON.
pub fn rules_to_json() -> String {
    let rules: Vec<_> = rule::ALL
        .iter()
        .map(|rule| {
            serde_json::json!({
                "id": rule.id,
                "severity": rule.severity.to_string(),
                "finds": rule.finds,
                "example": rule.example,
                "linux": rule.linux,
            })
        })
        .collect();
    serde_json::Value::Array(rules).to_string()
}
