//! Which number each register has: the target description ("Debugging with GDB", appendix G).

use std::collections::BTreeMap;

/// A register as the description lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    /// Its number in `p` and `P` packets.
    pub(crate) number: u32,
    /// Its width.
    pub(crate) bytes: usize,
}

/// The documents that `target.xml` includes.
pub(crate) fn includes(xml: &str) -> Vec<String> {
    tags(xml, "xi:include").filter_map(|tag| attribute(tag, "href")).collect()
}

/// Adds the registers of one document. Where no number is written the next one counts (appendix G.2.7).
pub(crate) fn registers(xml: &str, next: &mut u32, into: &mut BTreeMap<String, Register>) {
    for tag in tags(xml, "reg") {
        let number = |name| attribute(tag, name).and_then(|text| text.parse::<u32>().ok());
        if let Some(number) = number("regnum") {
            *next = number;
        }
        let bits = number("bitsize").unwrap_or(0);
        if let Some(name) = attribute(tag, "name") {
            let register = Register { number: *next, bytes: bits as usize / 8 };
            into.entry(name).or_insert(register);
        }
        *next += 1;
    }
}

/// The insides of every `<name ...>`.
fn tags<'a>(xml: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    xml.split('<').skip(1).filter_map(move |rest| {
        let inside = rest.split('>').next()?;
        let attributes = inside.strip_prefix(name)?;
        attributes.starts_with([' ', '\n', '\t', '/']).then_some(attributes)
    })
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let mut rest = tag;
    while let Some((before, after)) = rest.split_once('=') {
        let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (value, next) = after[1..].split_once(quote)?;
        if before.trim() == name {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the form that QEMU 10.0 and 11.1 send: numbers only at the first register of a feature.
    #[test]
    fn numbers_count_on() {
        let top = r#"<?xml version="1.0"?><target><xi:include href="aarch64-core.xml"/><xi:include href="system-registers.xml"/></target>"#;
        assert_eq!(includes(top), ["aarch64-core.xml", "system-registers.xml"]);
        let (mut next, mut all) = (0, BTreeMap::new());
        registers(
            r#"<feature><reg name="x0" bitsize="64" type="int"/><reg name="x1" bitsize="64"/></feature>"#,
            &mut next,
            &mut all,
        );
        registers(
            r#"<reg name="SP_EL0" bitsize="64" regnum="165" group="cp_regs"/><reg name="VBAR" bitsize="64"/>"#,
            &mut next,
            &mut all,
        );
        assert_eq!(all["x1"], Register { number: 1, bytes: 8 });
        assert_eq!(all["SP_EL0"].number, 165);
        assert_eq!(all["VBAR"].number, 166);
    }

    #[test]
    fn nonsense_is_skipped() {
        let (mut next, mut all) = (0, BTreeMap::new());
        registers(
            "<reg name=x0><reg><regs name=\"a\"/><reg name='b' bitsize='32'>",
            &mut next,
            &mut all,
        );
        assert_eq!(all.keys().collect::<Vec<_>>(), ["b"]);
    }
}
