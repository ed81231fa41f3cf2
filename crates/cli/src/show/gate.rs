//! Which findings make the command fail: errors, unless the command line says otherwise.

use portcullis_firmware::{MachineDescription, Severity, rule_named};

/// `--deny` and `--allow`.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    deny: Vec<String>,
    allow: Vec<String>,
}

/// Words that stand for all rules of a severity.
const SEVERITIES: [(&str, Severity); 3] =
    [("errors", Severity::Error), ("warnings", Severity::Warning), ("notes", Severity::Note)];

impl Gate {
    /// Each of `deny` and `allow` is the id of a rule, or `errors`, `warnings` or `notes` for all of that severity.
    ///
    /// # Errors
    ///
    /// The first that is neither.
    pub fn new(deny: &[String], allow: &[String]) -> Result<Self, String> {
        let known =
            |id: &String| rule_named(id).is_some() || SEVERITIES.iter().any(|(word, _)| word == id);
        match deny.iter().chain(allow).find(|id| !known(id)) {
            Some(id) => Err(format!("no rule {id:?}; `portcullis show --rules` lists them")),
            None => Ok(Self { deny: deny.to_vec(), allow: allow.to_vec() }),
        }
    }

    /// Takes out what is allowed and makes errors of what is denied; a rule's own id counts more than its severity.
    pub fn apply(&self, machine: &mut MachineDescription) {
        for finding in &mut machine.findings {
            let word = SEVERITIES.iter().find(|(_, severity)| *severity == finding.severity);
            let word = word.map_or("", |(word, _)| *word);
            let named = |list: &[String], id: &str| list.iter().any(|known| known == id);
            let by_id = (named(&self.deny, finding.rule), named(&self.allow, finding.rule));
            let by_word = (named(&self.deny, word), named(&self.allow, word));
            match (by_id, by_word) {
                ((_, true), _) | ((false, false), (_, true)) => finding.severity = Severity::Note,
                ((true, false), _) | ((false, false), (true, false)) => {
                    finding.severity = Severity::Error;
                }
                ((false, false), (false, false)) => {}
            }
        }
        machine.findings.sort_by_key(|finding| finding.severity);
    }

    /// Whether a finding stands that makes the command fail.
    pub fn fails(machine: &MachineDescription) -> bool {
        machine.findings.iter().any(|finding| finding.severity == Severity::Error)
    }
}
