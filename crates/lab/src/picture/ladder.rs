//! A run, ready to be drawn.

use portcullis_explore::search::{
    Action, Change as FieldChange, Note, Object, Operation, Site, ThreadStatus, Trace, TraceStep,
};
use portcullis_threads::{LadderStep, Note as Happened};

use super::words::{self, Names};
use crate::linux::{ON_GROUP_LIST, TRIGGERS, World};

/// How much a step matters to a reader; see the [chapter head](super).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// Locking, or a read that nobody can disturb.
    Plain,
    /// It changes something of its own.
    Change,
    /// Threads meet here, or it goes wrong here.
    Key,
}

/// A field that a step changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its name, with its owner where there could be doubt.
    pub field: String,
    /// Its name alone.
    pub name: String,
    /// Its value before.
    pub before: String,
    /// Its value after.
    pub after: String,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rung {
    /// Number of the thread that takes it.
    pub thread: usize,
    /// The functions that it is in, outermost first; empty where the explorer sees no functions.
    pub functions: Vec<String>,
    /// The step as the explorer names it, to the letter.
    pub label: String,
    /// The place in the code; none for shipped code, whose places the explorer does not see.
    pub site: Option<Site>,
    /// What it does, in words.
    pub words: String,
    /// What it changed and the words do not say; its thread's own device is not named.
    pub more: Vec<Change>,
    /// Everything that it changed.
    pub changes: Vec<Change>,
    /// Remarks.
    pub notes: Vec<String>,
    /// Lines that it leaves in the kernel's log.
    pub log: Vec<String>,
    /// What each thread holds after it, by thread.
    pub held: Vec<Vec<String>>,
    /// The properties that it violates.
    pub violated: Vec<String>,
    /// How much it matters.
    pub weight: Weight,
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ladder {
    /// The threads' names.
    pub threads: Vec<String>,
    /// The steps.
    pub rungs: Vec<Rung>,
    /// Threads that are stuck when the run ends, each with the step that it cannot take.
    pub stuck: Vec<(usize, String)>,
}

impl Ladder {
    /// The picture of a run of a kernel's protocol.
    #[must_use]
    pub fn of_trace(trace: &Trace, world: &World) -> Self {
        let names = Names::of(world);
        let stuck = trace.waiting.iter().enumerate().filter_map(|(thread, label)| {
            let label = label.as_ref().filter(|_| trace.status[thread] == ThreadStatus::Blocked)?;
            Some((thread, words::waiting(label, &names)))
        });
        let mut ladder = Self {
            threads: trace.threads.clone(),
            rungs: trace.steps.iter().map(|step| rung(step, &names)).collect(),
            stuck: stuck.collect(),
        };
        let touches: Vec<Touch> = trace.steps.iter().map(Touch::of_step).collect();
        ladder.weigh(&touches);
        ladder
    }

    /// The picture of a run of shipped code. `wrong` is what its last step leads to.
    #[must_use]
    pub fn of_run(steps: &[LadderStep], wrong: &[String]) -> Self {
        let mut ladder = Self::default();
        let mut held: Vec<Vec<String>> = Vec::new();
        for step in steps {
            let threads = (step.thread + 1).max(held.len());
            held.resize(threads, Vec::new());
            ladder.threads.resize(threads, String::new());
            ladder.threads[step.thread].clone_from(&step.thread_name);
            held[step.thread].clone_from(&step.held);
            ladder.rungs.push(shipped(step, held.clone()));
        }
        for rung in &mut ladder.rungs {
            rung.held.resize(ladder.threads.len(), Vec::new());
        }
        let touches: Vec<Touch> = steps.iter().map(Touch::of_shipped).collect();
        if let Some(last) = ladder.rungs.last_mut() {
            last.violated = wrong.to_vec();
        }
        ladder.weigh(&touches);
        ladder
    }

    fn weigh(&mut self, touches: &[Touch]) {
        for at in 0..self.rungs.len() {
            let weight = self.weight(touches, at);
            self.rungs[at].weight = weight;
        }
    }

    fn weight(&self, touches: &[Touch], at: usize) -> Weight {
        let rung = &self.rungs[at];
        let loud = !rung.violated.is_empty() || !rung.log.is_empty();
        if loud || touches[at].writes.iter().any(|field| is_shared(touches, at, field)) {
            return Weight::Key;
        }
        if touches[at].read.as_deref().is_some_and(|field| is_news(touches, at, field)) {
            return Weight::Key;
        }
        let told = rung.changes.iter().any(|change| !change.is_bookkeeping());
        if told || touches[at].chose { Weight::Change } else { Weight::Plain }
    }

    /// The fields that end otherwise than they began: name and last value, in the order in which they first changed.
    #[must_use]
    pub fn changed(&self) -> Vec<(&str, &str)> {
        let mut fields: Vec<(&str, &str, &str)> = Vec::new();
        for change in self.rungs.iter().flat_map(|rung| &rung.changes) {
            match fields.iter_mut().find(|(field, ..)| *field == change.field) {
                Some(known) => known.2 = &change.after,
                None => fields.push((&change.field, &change.before, &change.after)),
            }
        }
        let changed = fields.into_iter().filter(|(_, first, last)| first != last);
        changed.map(|(field, _, last)| (field, last)).collect()
    }

    /// As [`changed`](Self::changed), without what says little: that something is there, and bookkeeping.
    #[must_use]
    pub fn telling(&self) -> Vec<(&str, &str)> {
        let dull = |field: &str, value: &str| {
            matches!(value, "set" | "yes") || self.is_bookkeeping(field, value)
        };
        self.changed().into_iter().filter(|(field, value)| !dull(field, value)).collect()
    }

    /// Whether the last change of `field` to `value` was bookkeeping.
    fn is_bookkeeping(&self, field: &str, value: &str) -> bool {
        let changes = self.rungs.iter().flat_map(|rung| &rung.changes).rev();
        let mut same = changes.filter(|change| change.field == field && change.after == value);
        same.next().is_some_and(Change::is_bookkeeping)
    }

    /// The threads that take part: those with a step, and those that are stuck.
    #[must_use]
    pub fn active(&self) -> Vec<usize> {
        let steps = |thread: &usize| self.rungs.iter().any(|rung| rung.thread == *thread);
        let stuck = |thread: &usize| self.stuck.iter().any(|(other, _)| other == thread);
        (0..self.threads.len()).filter(|thread| steps(thread) || stuck(thread)).collect()
    }
}

impl Change {
    /// Changes of fields that only mirror others, or that no other thread asks for, are not worth a line.
    pub(crate) fn is_bookkeeping(&self) -> bool {
        let mirrors = [
            "dev->driver",
            "dev->iommu->priv",
            "devices",
            ON_GROUP_LIST,
            "domain at the first mapping",
        ];
        mirrors.contains(&self.name.as_str())
            || TRIGGERS.contains(&self.name.as_str())
            || (self.name == "entry" && self.after == "on no list")
    }
}

/// A step of shipped code as a rung.
fn shipped(step: &LadderStep, held: Vec<Vec<String>>) -> Rung {
    let changes: Vec<Change> = step
        .notes
        .iter()
        .filter_map(|note| match note {
            Happened::Changed { field, before, after } => Some(Change {
                field: field.clone(),
                name: field.clone(),
                before: before.clone(),
                after: after.clone(),
            }),
            _ => None,
        })
        .collect();
    let told = |note: &&Happened| !matches!(note, Happened::Changed { .. });
    Rung {
        thread: step.thread,
        functions: Vec::new(),
        label: format!("{}: {}", step.thread_name, step.what()),
        site: None,
        words: step.what(),
        more: changes.clone(),
        changes,
        notes: step.notes.iter().filter(told).map(ToString::to_string).collect(),
        log: Vec::new(),
        held,
        violated: Vec::new(),
        weight: Weight::Plain,
    }
}

fn rung(step: &TraceStep, names: &Names) -> Rung {
    let thread = step.label.thread.as_str();
    let changed = |name: &dyn Fn(&Object) -> String| -> Vec<Change> {
        let changes = step.report.changes.iter().map(|change| Change {
            field: name(&change.field),
            name: change.field.name.clone(),
            before: change.before.clone(),
            after: change.after.clone(),
        });
        changes.collect()
    };
    let (words, said) = words::step(step, names);
    let report = &step.report;
    let short = |object: &Object| names.in_thread(object, thread);
    Rung {
        thread: step.thread,
        functions: step.label.functions.iter().map(ToString::to_string).collect(),
        label: step.label.to_string(),
        site: Some(step.label.site.clone()),
        words,
        more: changed(&short)
            .into_iter()
            .filter(|change| said.as_ref() != Some(&change.field))
            .collect(),
        changes: changed(&|object| names.object(object)),
        notes: report.notes.iter().filter_map(Note::remark).map(str::to_owned).collect(),
        log: report.notes.iter().filter_map(Note::logged).map(str::to_owned).collect(),
        held: report.held.iter().map(|held| held.iter().map(short).collect()).collect(),
        violated: step.violated.clone(),
        weight: Weight::Plain,
    }
}

/// The fields that a step touches.
struct Touch {
    thread: usize,
    read: Option<String>,
    writes: Vec<String>,
    /// The environment chose in it.
    chose: bool,
}

impl Touch {
    fn of_step(step: &TraceStep) -> Self {
        let read = match &step.label.operation {
            Operation::Read(field) => Some(field.to_string()),
            _ => None,
        };
        // What follows from them is told by the steps that it leads to.
        let noted = |change: &&FieldChange| !TRIGGERS.contains(&change.field.name.as_str());
        let written = step.report.changes.iter().filter(noted);
        Self {
            thread: step.thread,
            read,
            writes: written.map(|change| change.field.to_string()).collect(),
            chose: step.label.operation.action() == Action::Choose,
        }
    }

    /// Shipped code: the objects of its operations stand for fields.
    fn of_shipped(step: &LadderStep) -> Self {
        let object = || Some(step.object.clone());
        let (read, written) = match step.action.is_read() {
            true => (object(), None),
            false => (None, object()),
        };
        Self {
            thread: step.thread,
            read,
            writes: written.into_iter().collect(),
            chose: step.notes.iter().any(|note| matches!(note, Happened::Chose { .. })),
        }
    }

    fn writes(&self, field: &str) -> bool {
        self.writes.iter().any(|written| written == field)
    }

    fn reads(&self, field: &str) -> bool {
        self.read.as_deref() == Some(field)
    }
}

/// Does another thread of this run touch the field that step `at` writes?
fn is_shared(touches: &[Touch], at: usize, field: &str) -> bool {
    let others = touches.iter().filter(|touch| touch.thread != touches[at].thread);
    others.into_iter().any(|touch| touch.writes(field) || touch.reads(field))
}

/// Does step `at` read what another thread has written, or will write next, and is that news to its thread?
fn is_news(touches: &[Touch], at: usize, field: &str) -> bool {
    let me = touches[at].thread;
    let before = touches[..at]
        .iter()
        .rev()
        .find(|touch| touch.writes(field) || (touch.thread == me && touch.reads(field)));
    let after = touches[at + 1..].iter().find(|touch| touch.writes(field));
    let known = before.is_some_and(|touch| touch.thread == me && touch.reads(field));
    let theirs = |touch: &Touch| touch.thread != me && touch.writes(field);
    before.is_some_and(theirs) || (!known && after.is_some_and(theirs))
}
