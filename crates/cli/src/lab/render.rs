//! What was found, for a terminal.

use crate::screen::{Screen, count};
use crate::style::{Style, Tone};
use crate::table::{Cell, Table, wrap};
use portcullis_explore::search::Mode;
use portcullis_lab::linux::{Advice, Change, Closers, Report, Verdict, ViolationReport, World};
use portcullis_lab::picture::text::{self, Layout, Role, paragraph};
use portcullis_lab::picture::{Ladder, words};

/// What closes what was found, and what that is worth in the worlds beside.
#[derive(Clone, Debug)]
pub(crate) struct Cure {
    pub(crate) closers: Closers,
    pub(crate) advice: Vec<Advice>,
    /// How long it took to find them.
    pub(crate) seconds: f64,
}

/// How to draw.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View {
    pub(crate) style: Style,
    pub(crate) screen: Screen,
    pub(crate) full: bool,
}

impl View {
    /// For standard output as it is.
    pub(crate) fn of_stdout(full: bool) -> Self {
        let screen = Screen::of_stdout();
        Self { style: screen.style, screen, full }
    }

    /// How wide paragraphs and ladders are.
    pub(crate) fn width(self) -> usize {
        self.screen.prose_width()
    }

    pub(crate) fn ladder(self, ladder: &Ladder) -> String {
        let layout = Layout { width: self.width(), full: self.full };
        text::ladder(ladder, layout, &|role, text| self.paint(role, text))
    }

    fn paint(self, role: Role, text: &str) -> String {
        match role {
            Role::Head | Role::Number => self.style.strong(text),
            Role::Change | Role::Lock => self.style.warn(text),
            Role::Log | Role::Bad => self.style.bad(text),
            Role::Function | Role::Quiet => self.style.quiet(text),
            Role::Words => text.to_owned(),
        }
    }

    /// Which kernel or core, in which world.
    pub(crate) fn title(self, protocol: &str, world: &str) -> String {
        format!("{}\n{}", self.style.strong(protocol), paragraph("    ", world, self.width()))
    }

    /// How to see a schedule again: never broken, so that it can be copied.
    pub(crate) fn command(self, label: &str, schedule: &str) -> String {
        let lead = self.style.strong(&format!("    {label:<12}"));
        format!("{lead}portcullis lab replay {schedule}\n")
    }

    /// A labelled paragraph below a ladder.
    pub(crate) fn say(self, label: &str, text: &str) -> String {
        let lead = format!("    {label:<12}");
        let painted = self.style.strong(&lead);
        paragraph(&lead, text, self.width()).replacen(&lead, &painted, 1)
    }
}

/// A report, with the ladder of the worst violation, or of `all`.
pub(crate) fn report(report: &Report, cure: Option<&Cure>, all: bool, view: View) -> String {
    let mut out = view.title(&report.protocol.to_string(), &words::world(&report.world));
    out += &paragraph("", &words::answer(report), view.width());
    if let Some(cure) = cure {
        out += &paragraph("", &words::remedy(&cure.closers), view.width());
    }
    out += &verdict(report, cure, view);
    let worst = words::worst(report);
    if report.violations.len() > 1 {
        out += &overview(report, view);
    }
    let drawn: Vec<&ViolationReport> = match all {
        true => report.violations.iter().collect(),
        false => worst.into_iter().collect(),
    };
    for found in &drawn {
        out += &violation(found, &report.world, view);
    }
    if let Some(cure) = cure {
        out += &closing(report, cure, view);
    }
    if report.verdict == Verdict::Clean {
        out += &match &report.healthy {
            Some(schedule) => {
                let good = "every client can end bound and healthy, as on this schedule:";
                view.say("not vacuous", good) + &view.command("", schedule)
            }
            None => view
                .say("but", "on no schedule of this world does every client end bound and healthy"),
        };
    }
    out
}

fn verdict(report: &Report, cure: Option<&Cure>, view: View) -> String {
    let explored = &report.explored;
    let (how_far, ends) = match explored.mode {
        Mode::Full | Mode::Reduced if explored.exhaustive => ("", "end"),
        Mode::Full | Mode::Reduced => (", cut short", "end"),
        Mode::Bounded(_) => (" and no others", "end"),
        Mode::Random | Mode::Pct(_) => ("", "run"),
    };
    let closers =
        cure.map(|cure| format!(", then {} for what closes it", words::time(cure.seconds)));
    let covered = format!(
        "{}{how_far}; {}, {}, {}{}",
        explored.mode,
        count(explored.states as usize, "state"),
        count(explored.schedules as usize, ends),
        words::time(explored.seconds),
        closers.unwrap_or_default()
    );
    let word = match report.verdict {
        Verdict::Clean => view.style.good("clean"),
        Verdict::Bounded => view.style.warn("bounded"),
        Verdict::Violated => view.style.bad("violated"),
    };
    let what = match (report.verdict, report.violations.len()) {
        (Verdict::Clean, _) => "no property can be violated here".to_owned(),
        (Verdict::Bounded, _) => "no violation in what was covered".to_owned(),
        (Verdict::Violated, 1) => "one property".to_owned(),
        (Verdict::Violated, number) => format!("{number} properties"),
    };
    wrap(&format!("{word}: {what} ({covered})"), view.width(), 4) + "\n"
}

fn overview(report: &Report, view: View) -> String {
    let mut table = Table::bare(2);
    for found in &report.violations {
        table.row([
            Cell::new(Tone::Bad, words::code(found)),
            found.name.into(),
            format!("{} steps", found.trace.steps.len()).into(),
            found.meaning.into(),
        ]);
    }
    table.render(view.screen)
}

fn violation(found: &ViolationReport, world: &World, view: View) -> String {
    let ladder = Ladder::of_trace(&found.trace, world);
    let mut out = format!("\n{}", view.ladder(&ladder));
    let steps = found.trace.steps.len();
    let fewest = if found.shortest { ", the fewest that show it" } else { "" };
    out += &view.say(
        "wrong",
        &format!("{} {}: {}; {steps} steps{fewest}", words::code(found), found.name, found.meaning),
    );
    if let Some(message) = &found.message {
        out += &view.say("log", message);
    }
    out += &view.say("seen", &found.symptom);
    let fields: Vec<String> =
        ladder.telling().iter().map(|(field, value)| format!("{field} = {value}")).collect();
    if !fields.is_empty() {
        out += &view.say("in the end", &fields.join(", "));
    }
    out += &view.command("replay", &found.schedule);
    out
}

fn closing(report: &Report, cure: &Cure, view: View) -> String {
    let closers = &cure.closers;
    let mut out = String::new();
    for (number, set) in closers.clean.iter().enumerate() {
        for (at, change) in set.iter().enumerate() {
            let label = match (number, at) {
                (0, 0) => "closes it",
                (_, 0) => "or",
                _ => "  and",
            };
            out += &view.say(label, &summary(change));
        }
        let advice = cure.advice.iter().find(|advice| advice.changes == *set);
        let caveats = advice.map(words::caveats).unwrap_or_default();
        if !caveats.is_empty() {
            out += &view.say("", &caveats);
        }
    }
    if closers.clean.is_empty() {
        let most = Closers::LARGEST;
        out += &view.say(
            "closes it",
            &format!("nothing known: no set of up to {most} commits makes this world clean"),
        );
    }
    let partly = closers.by_property.iter().filter_map(|(id, changes)| {
        let new = changes.iter().filter(|change| !closers.clean.contains(&vec![**change]));
        let new: Vec<String> = new.map(ToString::to_string).collect();
        let alone =
            report.violations.iter().find(|found| found.id == Some(*id)).map(words::code)?;
        (!new.is_empty()).then(|| {
            format!(
                "{alone} {} is closed, but not everything, by: {}",
                id.info().name,
                new.join(", ")
            )
        })
    });
    for (number, line) in partly.enumerate() {
        let label = if number == 0 { "in part" } else { "" };
        out += &view.say(label, &line);
    }
    out
}

/// `apply b46064a18810 (defers while ...)`.
fn summary(change: &Change) -> String {
    let (Change::Apply(commit) | Change::Revert(commit)) = change;
    format!("{change} ({})", commit.info().summary)
}
