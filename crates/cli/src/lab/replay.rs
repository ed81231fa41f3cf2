//! `lab replay`.

use super::{Answer, ReplayArgs, render};
use crate::page;
use portcullis_explore::schedule;
use portcullis_lab::picture::{Ladder, html, words};
use portcullis_lab::{linux, ours};
use serde_json::{Value, json};

pub(crate) fn run(args: &ReplayArgs) -> Result<Answer, String> {
    let schedule = args.schedule.trim();
    let view = render::View::of_stdout(args.full);
    let (title, world, ladder, wrong) = match schedule::parts(schedule) {
        Ok((ours::EDITION, ..)) => {
            let run = ours::replay(schedule).map_err(|error| error.to_string())?;
            let wrong = run.violations.iter().map(|(property, text)| format!("{property}: {text}"));
            let wrong: Vec<String> = wrong.collect();
            let ladder = Ladder::of_run(&run.ladder, &wrong);
            ("our core".to_owned(), run.world.name.to_owned(), ladder, wrong)
        }
        _ => {
            let (protocol, world, trace) =
                linux::replay(schedule).map_err(|error| error.to_string())?;
            let wrong: Vec<String> = trace.violated().iter().map(|name| meaning(name)).collect();
            (protocol.to_string(), words::world(&world), Ladder::of_trace(&trace, &world), wrong)
        }
    };
    if let Some(path) = &args.html {
        page::write(path, &html::run(&title, &world, &ladder, &wrong))?;
    }
    let text = match args.json {
        true => format!("{:#}\n", as_json(&title, schedule, &ladder, &wrong)),
        false => {
            let mut out = view.title(&title, &world);
            out += &format!("\n{}", view.ladder(&ladder));
            for wrong in &wrong {
                out += &view.say("wrong", wrong);
            }
            if wrong.is_empty() {
                out += &view.say("so far", "nothing is wrong on this schedule");
            }
            out
        }
    };
    Ok(Answer { text, held: wrong.is_empty() })
}

/// `I1/B1 wrong-path: the driver ...`.
fn meaning(name: &str) -> String {
    match linux::PROPERTIES.iter().find(|info| info.name == name) {
        Some(info) => {
            let end = info.bad_end.filter(|end| *end != info.invariant);
            let end = end.map(|end| format!("/{end}")).unwrap_or_default();
            format!("{}{end} {name}: {}", info.invariant, info.meaning)
        }
        None => name.to_owned(),
    }
}

fn as_json(title: &str, schedule: &str, ladder: &Ladder, wrong: &[String]) -> Value {
    let steps = ladder.rungs.iter().enumerate().map(|(at, rung)| {
        let changes = rung.changes.iter().map(
            |change| json!({"field": change.field, "before": change.before, "after": change.after}),
        );
        json!({
            "step": at + 1,
            "thread": ladder.threads[rung.thread],
            "functions": rung.functions,
            "site": rung.site.as_ref().map(ToString::to_string),
            "what": rung.words,
            "changes": changes.collect::<Vec<_>>(),
            "held": rung.held[rung.thread],
            "log": rung.log,
            "violated": rung.violated,
        })
    });
    json!({"protocol": title, "schedule": schedule, "violated": wrong, "steps": steps.collect::<Vec<_>>()})
}
