//! A problem on its way to becoming a finding.

use crate::finding::{Finding, Severity};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Why something cannot be used as described.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) rule: &'static str,
    /// Names the property and what is wrong with it.
    pub(crate) what: String,
    remedy: String,
}

impl Problem {
    pub(crate) fn new(
        rule: &'static str,
        what: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { rule, what: what.into(), remedy: remedy.into() }
    }

    fn finding(&self, severity: Severity, path: &str) -> Finding {
        let message = format!("{}; {}", self.what, self.remedy);
        Finding { severity, path: path.into(), rule: self.rule, message }
    }
}

/// Collects findings in the description's order.
#[derive(Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// A device or IOMMU cannot be used: an error where it is enabled, a warning where nobody would use it anyway.
    pub(crate) fn refuse(&mut self, enabled: bool, path: &str, problem: &Problem) {
        let severity = if enabled { Severity::Error } else { Severity::Warning };
        self.0.push(problem.finding(severity, path));
    }

    pub(crate) fn warn(&mut self, path: &str, problem: &Problem) {
        self.0.push(problem.finding(Severity::Warning, path));
    }

    pub(crate) fn note(&mut self, path: &str, rule: &'static str, message: impl Into<String>) {
        let message = message.into();
        self.0.push(Finding { severity: Severity::Note, path: path.into(), rule, message });
    }

    /// All of them, worst first, otherwise in the order in which they were met.
    pub(crate) fn into_sorted(self) -> Vec<Finding> {
        let mut findings = self.0;
        findings.sort_by_key(|finding| finding.severity);
        findings
    }
}
