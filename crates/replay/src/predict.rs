//! What the lab says a kernel will do under a plan.

use crate::board::Interrupts;
use crate::error::Error;
use crate::outcome::{BadEnd, EPROBE_DEFER, Evidence, Outcome, bad_ends};
use crate::plan::{Model, ModelEnd, Plan, State, Who};
use crate::steer::{Doorbell, Path};
use portcullis_explore::search::Trace;
use portcullis_lab::linux::{Protocol, World};

/// The prediction.
#[derive(Debug)]
pub(crate) struct Prediction {
    /// For each step that is taken: how it ends, and the client then.
    pub(crate) steps: Vec<(ModelEnd, State)>,
    /// The outcome.
    pub(crate) outcome: Outcome,
    /// The client when everything has run to its end, retries included.
    pub(crate) last: State,
    /// The run, for the ladder.
    pub(crate) trace: Trace,
}

/// Drives the model by the plan.
pub(crate) fn predict(
    protocol: &Protocol,
    world: &World,
    plan: &Plan,
) -> Result<Prediction, Error> {
    let mut model = Model::new(protocol, world);
    let mut steps = Vec::new();
    let mut early = None;
    for (number, step) in plan.steps.iter().enumerate() {
        if early.as_ref().is_some_and(|(who, _)| *who == step.who) {
            // This thread is through.
            continue;
        }
        let end = model.advance(step.who, step.site.place)?;
        let stuck = end != ModelEnd::Reached;
        steps.push((end.clone(), model.state()?));
        if stuck {
            early = Some((step.who, number + 1));
        }
        if matches!(end, ModelEnd::Blocked(_)) {
            break;
        }
    }
    let outcome = outcome(&model, &steps, early.map(|(_, step)| step))?;
    let trace = model.trace()?;
    model.finish()?;
    Ok(Prediction { steps, outcome, last: model.state()?, trace })
}

fn outcome(
    model: &Model,
    steps: &[(ModelEnd, State)],
    early: Option<usize>,
) -> Result<Outcome, Error> {
    let state = steps.last().map(|(_, state)| state.clone());
    let state = state.ok_or_else(|| Error::Schedule("a schedule without steps".into()))?;
    if steps.iter().any(|(end, _)| *end == ModelEnd::Died) {
        return Ok(Outcome::Occurred { ends: vec![BadEnd::Oops] });
    }
    let blocked = steps.iter().any(|(end, _)| matches!(end, ModelEnd::Blocked(_)));
    let refused = if blocked { None } else { refusal(&model.trace()?) };
    if let Some(function) = refused.filter(|_| state.first_mapping.is_none()) {
        return Ok(Outcome::Prevented { function, value: EPROBE_DEFER });
    }
    if let Some(step) = early {
        return Ok(Outcome::Infeasible { step });
    }
    let evidence = Evidence {
        began: state.first_mapping,
        bound: state.first_mapping.is_some(),
        last: &state.client,
    };
    let ends = bad_ends(&evidence);
    Ok(if ends.is_empty() { Outcome::Harmless } else { Outcome::Occurred { ends } })
}

/// Functions that can put a client's probe off.
const REFUSERS: &[&str] =
    &["iommu_fwspec_init", "iommu_probe_device", "iommu_device_use_default_domain"];

/// The function that put the client's `really_probe` off, if it is through: the last one of those that can that it was in.
fn refusal(trace: &Trace) -> Option<String> {
    let mut own = trace.steps.iter().rev().filter(|step| step.thread == Who::Client.number());
    own.find_map(|step| {
        let functions = step.label.functions.iter().rev();
        functions.copied().find(|function| REFUSERS.contains(function)).map(str::to_owned)
    })
}

impl Prediction {
    /// Will the device work for its user in the end?
    pub(crate) fn works(&self) -> bool {
        let broken = match &self.outcome {
            Outcome::Occurred { ends } => ends.iter().any(|end| BadEnd::breaks_the_device(*end)),
            _ => false,
        };
        !broken && self.last.client.path == Path::IommuDma
    }

    /// Will an interrupt of the client arrive in the end? Nothing is said of wires.
    pub(crate) fn interrupts(&self, by: Interrupts) -> Option<bool> {
        match by {
            Interrupts::Wires => None,
            Interrupts::Commands => Some(self.works()),
            Interrupts::Messages => Some(match self.last.client.doorbell {
                Doorbell::None => false,
                Doorbell::Physical => {
                    self.last.client.default_domain.as_deref() == Some("IDENTITY")
                }
                Doorbell::Mapped => self.last.translated,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::Board;
    use crate::plan::{Named, protocol_of};
    use portcullis_lab::linux::Bus;

    fn outcome_of(version: (u32, u32, u32), board: &str, schedule: &str) -> String {
        let board = Board::find(board).expect("a board");
        let plan =
            Named::find(schedule).expect("a name").plan(version, board.client.bus).expect("a plan");
        let protocol = protocol_of(version).expect("a known version");
        predict(&protocol, &board.world(), &plan).expect("the lab runs").outcome.to_string()
    }

    /// The outcomes that stock kernels gave when they were steered by hand: 6.1.192, 6.12.117, 6.16.3 and 7.3.4 of Debian.
    #[test]
    fn predictions_are_what_kernels_did() {
        let deferred = "prevented at iommu_device_use_default_domain, -EPROBE_DEFER";
        for (version, board, schedule, outcome) in [
            ((6, 1, 192), "nvme-two", "seed", "occurred: wrong-path"),
            ((6, 1, 192), "e1000e-two", "seed", "occurred: wrong-path, msi-unmapped"),
            ((6, 1, 192), "virtio-mmio-two", "seed", "occurred: wrong-path"),
            ((6, 1, 192), "nvme", "seed", "occurred: no-iommu"),
            ((6, 12, 117), "nvme-two", "seed", deferred),
            ((6, 12, 117), "nvme", "seed", "occurred: no-iommu"),
            ((6, 12, 117), "nvme", "unbound", "occurred: no-iommu"),
            ((6, 16, 3), "nvme", "grouped", deferred),
            ((6, 16, 3), "nvme", "early", "prevented at iommu_fwspec_init, -EPROBE_DEFER"),
            ((7, 3, 4), "nvme", "grouped", deferred),
            ((7, 3, 4), "nvme-two", "seed", "infeasible at step 2"),
            ((7, 3, 4), "e1000e", "late-group", "occurred: path-switched, uncounted, msi-unmapped"),
            ((6, 1, 192), "nvme", "control", "harmless: the whole schedule ran, nothing is wrong"),
            ((6, 12, 117), "nvme", "control", "harmless: the whole schedule ran, nothing is wrong"),
        ] {
            assert_eq!(
                outcome_of(version, board, schedule),
                outcome,
                "{version:?} {board} {schedule}"
            );
        }
    }

    /// The bit that a store of its byte loses: `dma_iommu` and `dma_coherent` are bits of one byte (`include/linux/device.h`, 6.12.117; the layout of docs/replay.md), and a stock
    /// 6.12.118 did it.
    #[test]
    fn a_lost_bit_is_predicted() {
        for (version, board, schedule) in
            [((6, 12, 118), "nvme-two", "lost-bit"), ((6, 18, 15), "nvme", "late-lost-bit")]
        {
            let found = outcome_of(version, board, schedule);
            assert_eq!(found, "occurred: wrong-path", "{version:?} {board} {schedule}");
        }
        let lost = Named::find("late-lost-bit").expect("a name");
        assert!(lost.plan((7, 3, 4), Bus::Pci).is_err(), "atomic bits are not lost");
    }

    /// What stock kernels did on the board with a network card: an interrupt by wire says nothing, and messages arrive where they are composed for the device's
    /// domain. Behind an SMMU that lets nothing through a right address does not help.
    #[test]
    fn interrupts_arrive_where_kernels_let_them() {
        for (version, board, schedule, arrive) in [
            ((6, 1, 192), "e1000e", "control", Some(true)),
            ((6, 1, 192), "e1000e", "unbound", Some(false)),
            ((6, 1, 192), "e1000e-two", "seed", Some(false)),
            ((7, 3, 4), "e1000e", "late-group", Some(false)),
            ((7, 3, 4), "nvme", "late-group", Some(false)),
            ((7, 3, 4), "nvme", "grouped", Some(true)),
            ((7, 3, 4), "virtio-mmio", "late-group", None),
        ] {
            let board = Board::find(board).expect("a board");
            let named = Named::find(schedule).expect("a name");
            let plan = named.plan(version, board.client.bus).expect("a plan");
            let protocol = protocol_of(version).expect("a known version");
            let prediction = predict(&protocol, &board.world(), &plan).expect("the lab runs");
            let by = board.client.interrupts_by;
            assert_eq!(prediction.interrupts(by), arrive, "{version:?} {} {schedule}", board.name);
        }
    }

    /// The text between two `mark`s, each.
    fn marked(text: &str, mark: char) -> Vec<&str> {
        text.split(mark).skip(1).step_by(2).collect()
    }

    /// What docs/affected.md says in the column of `boards` of a kernel of this version; each claim that does not hold, in words.
    fn wrong_claims(cell: &str, version: (u32, u32, u32), boards: &[&str]) -> Vec<String> {
        let outcome = |schedule: &str, board: &str| outcome_of(version, board, schedule);
        let Some((before, claim)) = cell.split_once("**affected**: ") else {
            let said = cell.trim_start_matches([' ', '|']).split([' ', ':']).next().unwrap_or("");
            let found = outcome("seed", boards[0]);
            let wrong = (!found.starts_with(said)).then(|| format!("{version:?}: {found}"));
            return wrong.into_iter().collect();
        };
        let mut wrong = Vec::new();
        let ends = marked(claim, '*');
        let schedules =
            marked(claim, '`').into_iter().filter_map(|text| text.split(' ').next_back());
        let found: Vec<String> = schedules
            .flat_map(|name| boards.iter().map(move |board| outcome(name, board)))
            .collect();
        let seen = |end: &&str| found.iter().any(|outcome| outcome.contains(*end));
        if ends.is_empty() || found.is_empty() || !ends.iter().all(seen) {
            wrong.push(format!("{version:?}: {ends:?}, and the outcomes are {found:?}"));
        }
        let other = found.iter().find(|outcome| !outcome.starts_with("occurred: "));
        wrong.extend(other.map(|outcome| format!("{version:?}: {outcome}")));
        if before.contains("the three above") {
            let harmful = |name: &&str| outcome(name, boards[0]).starts_with("occurred");
            let harmful = ["unbound", "seed", "early"].into_iter().find(harmful);
            wrong.extend(harmful.map(|name| format!("{version:?}: {name} is neither")));
        }
        wrong
    }

    #[test]
    fn the_page_of_affected_kernels_says_what_the_lab_predicts() {
        let page = include_str!("../../../docs/affected.md");
        let rows = page.lines().filter(|line| line.starts_with("| ")).skip(2);
        let mut checked = 0;
        for row in rows {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let [_, _, report, own, confirmed, _] = cells[..] else { panic!("{row}") };
            let numbers: Vec<u32> = confirmed.split('.').filter_map(|n| n.parse().ok()).collect();
            let [major, minor, stable] = numbers[..] else { panic!("{confirmed}") };
            let version = (major, minor, stable);
            let mut wrong = wrong_claims(report, version, &["nvme-two"]);
            wrong.extend(wrong_claims(own, version, &["nvme", "virtio-mmio"]));
            assert_eq!(wrong, Vec::<String>::new(), "{row}");
            checked += 1;
        }
        assert!(checked >= 4, "{checked} rows");
    }

    #[test]
    fn a_wrong_claim_is_noticed() {
        for (cell, boards) in [
            ("**affected**: *no-iommu* (`--board nvme-two --schedule seed`)", ["nvme-two"]),
            ("prevented by b46064a18810", ["nvme-two"]),
            ("**affected**: *no-iommu* (`unbound`, `control`)", ["nvme"]),
            ("the three above prevented or harmless; **affected**: *no-iommu* (`seed`)", ["nvme"]),
        ] {
            assert_ne!(wrong_claims(cell, (6, 1, 192), &boards), Vec::<String>::new(), "{cell}");
        }
    }
}
