//! What a user of the machine sees after the schedule.

use crate::board::Board;
use crate::machine::{ConsoleLine, DISK_TEXT};
use serde::Serialize;
use std::collections::BTreeMap;

/// The state of things when the guest was done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Damage {
    /// The guest came to its end by itself.
    pub finished: bool,
    /// The device did what it is for; none if that cannot be told here.
    pub works: Option<bool>,
    /// What the guest got from it.
    pub answer: String,
    /// Interrupts of the client that were counted.
    pub interrupts: Option<u64>,
    /// `driver=... group=... type=...`, as sysfs claims.
    pub claims: String,
    /// Warnings, oopses and the report's line in the kernel's log.
    pub complaints: Vec<String>,
    /// Events that the SMMU reported to the kernel, by number.
    pub smmu_events: BTreeMap<String, u64>,
    /// What QEMU's SMMUs did: trace events with their numbers.
    pub trace: BTreeMap<String, u64>,
}

impl Damage {
    /// Whether an interrupt of the client arrived; none if the guest did not come to count them.
    #[must_use]
    pub fn interrupted(&self) -> Option<bool> {
        self.interrupts.filter(|_| self.finished).map(|number| number > 0)
    }

    /// Its interrupts, in words.
    pub(super) fn interrupts_in_words(&self, predicted: Option<bool>) -> Option<String> {
        let as_predicted = match (predicted, self.interrupted()) {
            (Some(predicted), Some(observed)) if predicted == observed => " (as predicted)",
            (Some(true), Some(_)) => " (the lab says that some do)",
            (Some(false), Some(_)) => " (the lab says that none does)",
            _ => "",
        };
        let number = self.interrupts?;
        Some(format!("{number} interrupts of it arrived{as_predicted}"))
    }

    /// Reads the console and the trace of a run.
    pub(crate) fn read(
        console: &[ConsoleLine],
        trace: &str,
        board: &Board,
        finished: bool,
    ) -> Self {
        let said = |what: &str| {
            let mark = format!("@@@ {what}");
            let line = console.iter().rev().find(|line| line.text.starts_with(&mark))?;
            Some(line.text[mark.len()..].trim().to_owned())
        };
        let answer = said("use").unwrap_or_default();
        let expected = match board.client.module {
            "nvme" => Some(answer == DISK_TEXT),
            // A network interface appears without any DMA, and no packet is sent: nothing can be told.
            _ => None,
        };
        Self {
            finished,
            works: expected.filter(|_| board.client.dma_translated).map(|works| works && finished),
            answer,
            interrupts: said("interrupts").and_then(|number| number.parse().ok()),
            claims: said("state").unwrap_or_default(),
            complaints: complaints(console),
            smmu_events: smmu_events(console),
            trace: events(trace),
        }
    }
}

/// Lines that mean trouble, without their time stamps, each once.
fn complaints(console: &[ConsoleLine]) -> Vec<String> {
    let signs = [
        "WARNING:",
        "BUG:",
        "Oops",
        "Unable to handle",
        "retaining platform DMA ops",
        "late IOMMU probe",
        "Kernel panic",
        "I/O timeout",
        "Device not ready",
        "Identify",
        "Failed to register",
    ];
    let mut found: Vec<String> = Vec::new();
    for line in console {
        let text = line.text.split_once("] ").map_or(line.text.as_str(), |(_, text)| text);
        if signs.iter().any(|sign| text.contains(sign))
            && !found.iter().any(|known| known == text)
            && found.len() < 20
        {
            found.push(text.to_owned());
        }
    }
    found
}

/// `arm-smmu-v3 9050000.smmuv3: event 0x10 received:` (drivers/iommu/arm/arm-smmu-v3; newer kernels name it: `event: F_TRANSLATION client: ...`).
fn smmu_events(console: &[ConsoleLine]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in console {
        let numbered = line
            .text
            .split_once(": event 0x")
            .map(|(_, rest)| format!("0x{}", rest.split(' ').next().unwrap_or_default()));
        let named = || {
            line.text
                .split_once("event: ")
                .map(|(_, rest)| rest.split(' ').next().unwrap_or_default().to_owned())
        };
        if let Some(event) = numbered.or_else(named).filter(|_| line.text.contains("arm-smmu-v3")) {
            *counts.entry(event).or_insert(0) += 1;
        }
    }
    counts
}

/// QEMU's trace events by name.
pub(crate) fn events(trace: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for line in trace.lines() {
        let name = line.split([' ', '(']).find(|word| word.starts_with("smmuv3_"));
        if let Some(name) = name {
            *counts.entry(name.trim_start_matches("smmuv3_").to_owned()).or_insert(0) += 1;
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<ConsoleLine> {
        text.lines().map(|line| ConsoleLine { at: 0.0, text: line.into() }).collect()
    }

    /// Lines as Linux 6.1 and 7.3 print them.
    #[test]
    fn a_broken_and_a_working_disk() {
        let board = Board::find("nvme").expect("a board");
        let broken = lines(
            "[    2.1] Failed to set up IOMMU for device 0000:00:02.0; retaining platform DMA ops\n[    2.2] arm-smmu-v3 9050000.smmuv3: event 0x10 received:\n[    2.2] arm-smmu-v3 9050000.smmuv3: event 0x10 received:\n@@@ state driver=nvme group=0 type=DMA\n@@@ interrupts 0\n@@@ use \n@@@ end",
        );
        let damage = Damage::read(
            &broken,
            "smmuv3_translate_abort sid=1\nsmmuv3_translate_abort sid=1\n",
            board,
            true,
        );
        assert_eq!(damage.works, Some(false));
        assert_eq!(damage.interrupts, Some(0));
        assert_eq!(damage.claims, "driver=nvme group=0 type=DMA");
        assert_eq!(damage.smmu_events["0x10"], 2);
        assert_eq!(
            damage.complaints,
            ["Failed to set up IOMMU for device 0000:00:02.0; retaining platform DMA ops"]
        );
        assert_eq!(damage.trace["translate_abort"], 2);
        let working = lines(&format!(
            "@@@ use {DISK_TEXT}\n[ 1.0] arm-smmu-v3 9050000.smmuv3: event: F_TRANSLATION client: 0000:00:02.0 sid: 0x10"
        ));
        let damage = Damage::read(&working, "", board, true);
        assert_eq!(damage.works, Some(true));
        assert_eq!(damage.smmu_events["F_TRANSLATION"], 1);
        let platform = Board::find("virtio-mmio").expect("a board");
        assert_eq!(Damage::read(&working, "", platform, true).works, None);
        // Linux 6.1.192 brought eth0 up on this board although its SMMU would have aborted every packet.
        let card = Board::find("e1000e").expect("a board");
        assert_eq!(Damage::read(&lines("@@@ use eth0"), "", card, true).works, None);
    }
}
