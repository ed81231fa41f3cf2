//! The pages: they hold the run to the letter, stand alone, and work in a real browser.

use portcullis_lab::linux::{
    Budget, Protocol, Report, World, advise, check, closers, compare, comparison_worlds,
};
use portcullis_lab::picture::{Ladder, html};
use portcullis_threads::{Action, LadderStep, Note};
use std::path::{Path, PathBuf};
use std::process::Command;

fn report_of(base: &str, world: &World) -> Report {
    let protocol = Protocol::parse::<&str>(base, &[], &[]).expect("a known base");
    check(&protocol, world, Budget::for_world(world), &mut |_| {}).expect("the model is sound")
}

/// The values of an attribute, in order, as a browser reads them.
fn attribute(page: &str, name: &str) -> Vec<String> {
    let lead = format!(" {name}=\"");
    let values = page.split(lead.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap_or(""));
    values.map(unescaped).collect()
}

fn unescaped(text: &str) -> String {
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"");
    text.replace("&#39;", "'").replace("&nbsp;", "\u{a0}").replace("&amp;", "&")
}

/// The numbers and labels of the page's steps are those of the report's traces.
fn assert_same_steps(page: &str, report: &Report) {
    let steps = report.violations.iter().enumerate().flat_map(|(ladder, found)| {
        let labels = found.trace.steps.iter().enumerate();
        labels.map(move |(at, step)| (ladder, at + 1, step.label.to_string()))
    });
    let (mut places, mut labels) = (Vec::new(), Vec::new());
    for (ladder, number, label) in steps {
        places.push(format!("step-{ladder}-{number}"));
        labels.push(label);
    }
    let ids: Vec<String> =
        attribute(page, "id").into_iter().filter(|id| id.starts_with("step-")).collect();
    assert_eq!(ids, places);
    assert_eq!(attribute(page, "data-label"), labels);
}

fn assert_stands_alone(page: &str) {
    let outside = page.replace("http://www.w3.org/2000/svg", "");
    for way in [
        "http:",
        "https:",
        "<script src",
        "<link rel=\"stylesheet",
        "@import",
        "url(",
        "<img",
        "<iframe",
    ] {
        assert!(!outside.contains(way), "the page refers to something outside: {way}");
    }
}

#[test]
fn a_page_holds_every_step_to_the_letter() {
    let world = World::of(2, 1, 2);
    for base in ["v6.1.0", "v6.6", "v6.14"] {
        let report = report_of(base, &world);
        assert!(!report.violations.is_empty());
        let page = html::report(&report, None);
        assert_same_steps(&page, &report);
        assert_stands_alone(&page);
        for found in &report.violations {
            assert!(page.contains(&found.schedule), "the schedule is there to be copied");
        }
    }
}

#[test]
fn a_matrix_has_a_cell_for_each_check() {
    let worlds: Vec<_> = comparison_worlds().into_iter().take(3).collect();
    let matrix = compare(None, worlds, None, &|_, _| {}).expect("the models are sound");
    let page = html::matrix(&matrix);
    assert_stands_alone(&page);
    let cells = page.matches("<td class=\"").count();
    assert_eq!(cells, matrix.protocols.len() * matrix.worlds.len());
    let violated = matrix.rows.iter().flatten().filter(|cell| !cell.report.violations.is_empty());
    assert_eq!(page.matches("<table class=\"ladder\"").count(), violated.count());
    for link in attribute(&page, "href").iter().filter(|link| link.starts_with('#')) {
        assert!(page.contains(&format!("id=\"{}\"", &link[1..])), "{link} leads nowhere");
    }
}

/// The sizes of text in pixels that a page's style sheet and drawings ask for.
fn text_sizes(page: &str) -> Vec<f64> {
    let asked = |property: &'static str| page.split(property).skip(1);
    let number = |rest: &str| {
        let rest = rest.trim_start();
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..digits].parse().expect("a size in pixels")
    };
    asked("font-size:").chain(asked("font:")).map(number).collect()
}

#[test]
fn no_text_is_smaller_than_twelve_pixels() {
    let (page, _) = hostile();
    let sizes = text_sizes(&page);
    assert!(sizes.len() > 10 && sizes.iter().all(|size| *size >= 12.0), "{sizes:?}");
    assert_eq!(
        text_sizes("a{font-size: 9.5px} b{font:11px/1 x}"),
        [9.5, 11.0],
        "they would be seen"
    );
    // Nor is a drawing made smaller than it is: its table has its width.
    let width = page.split("<table class=\"ladder\" style=\"width:").nth(1).unwrap();
    let width = &width[..width.find("px").unwrap()];
    assert!(page.contains(&format!("width=\"{width}\" height=")), "{width}");
    assert!(!page.contains("svg { display: block; width: 100%"));
}

#[test]
fn a_page_says_what_made_it_and_when() {
    let (page, _) = hostile();
    let signed = html::signed(&page, "2026-11-27", "portcullis lab compare --html <x>");
    let head = &signed[..signed.find("</title>").unwrap()];
    assert!(
        head.ends_with("Portcullis 0.1.0, 2026-11-27: portcullis lab compare --html &lt;x&gt;")
    );
    assert!(
        signed.contains("2026-11-27. Made by <code>portcullis lab compare --html &lt;x&gt;</code>")
    );
    assert_eq!(signed.matches("2026-11-27").count(), 2);
}

const HOSTILE: &str = "</script><script>document.title='out'</script><b x=\"&amp;'";

/// A run whose every word tries to get out of its place.
fn hostile() -> (String, Ladder) {
    let steps = [0, 1, 0].map(|thread| LadderStep {
        thread,
        thread_name: format!("{HOSTILE}{thread}"),
        action: Action::Lock,
        object: HOSTILE.to_owned(),
        notes: vec![
            Note::Unlocked(HOSTILE.to_owned()),
            Note::Changed {
                field: HOSTILE.to_owned(),
                before: HOSTILE.to_owned(),
                after: HOSTILE.to_lowercase() + "1",
            },
        ],
        held: vec![HOSTILE.to_owned()],
    });
    let ladder = Ladder::of_run(&steps, &[HOSTILE.to_owned()]);
    (html::run(HOSTILE, HOSTILE, &ladder, &[HOSTILE.to_owned()]), ladder)
}

#[test]
fn nothing_in_a_run_becomes_markup() {
    let (page, ladder) = hostile();
    assert!(!page.contains("<b x") && !page.contains("<script>document"));
    assert_eq!(page.matches("</script>").count(), 2, "the data and the program");
    let labels: Vec<&String> = ladder.rungs.iter().map(|rung| &rung.label).collect();
    assert_eq!(attribute(&page, "data-label").iter().collect::<Vec<_>>(), labels);
}

/// A browser, and a directory of its own for what it leaves behind.
struct Browser {
    program: &'static str,
    scratch: PathBuf,
}

impl Browser {
    /// None, said aloud, where there is no browser; then `PORTCULLIS_REQUIRE_CHROMIUM=1` makes that a failure.
    fn find(test: &str) -> Option<Self> {
        let runs = |program: &&str| {
            Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success())
        };
        let found = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(runs);
        let required = std::env::var("PORTCULLIS_REQUIRE_CHROMIUM").is_ok_and(|value| value == "1");
        assert!(
            found.is_some() || !required,
            "PORTCULLIS_REQUIRE_CHROMIUM is set, and there is no Chromium"
        );
        let Some(program) = found else {
            eprintln!("SKIPPED {test}: no Chromium here");
            return None;
        };
        let scratch =
            std::env::temp_dir().join(format!("portcullis-{test}-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).expect("a scratch directory");
        Some(Self { program, scratch })
    }

    /// Writes a page to look at.
    fn page(&self, name: &str, text: &str) -> PathBuf {
        let path = self.scratch.join(name);
        std::fs::write(&path, text).expect("the page is written");
        path
    }

    fn run(&self, page: &Path, fragment: &str, flags: &[&str]) -> String {
        let profile = self.scratch.join(format!("profile-{}", flags.len()));
        let out = Command::new(self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(flags)
            .arg(format!("file://{}{fragment}", page.display()))
            .output()
            .expect("the browser starts");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    }

    /// The document after its script has run.
    fn dom(&self, page: &Path, fragment: &str) -> String {
        self.run(page, fragment, &["--dump-dom"])
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // What stays behind is in the system's temporary directory.
        let _ = std::fs::remove_dir_all(&self.scratch);
    }
}

/// What the text says of the same answer (README.md, "The report's race, found") stands on the page too.
#[test]
fn what_closes_it_says_what_it_leaves_open() {
    let report = report_of("v6.6", &World::default());
    let closers = closers(&report, None).expect("the models are sound");
    let advice = advise(&report, &closers.clean, None).expect("the models are sound");
    let page = html::report(&report, Some((&closers, &advice)));
    let backport = page.lines().find(|line| line.starts_with("<li><b>apply b46064a18810-6.6.y"));
    assert!(
        backport.is_some_and(|line| line.contains("Leaves open: wrong-path (two attempts)")),
        "{backport:?}"
    );
}

#[test]
fn a_browser_shows_every_step_and_the_state_after_it() {
    let Some(browser) = Browser::find("steps") else { return };
    let report = report_of("v6.6", &World::default());
    let closers = closers(&report, None).expect("the models are sound");
    let page = browser.page("check.html", &html::report(&report, Some((&closers, &[]))));
    let dom = browser.dom(&page, "");
    let steps = report.violations[0].trace.steps.len();
    assert_eq!(attribute(&dom, "data-ready"), [steps.to_string()], "the script ran to its end");
    assert!(attribute(&dom, "data-error").is_empty(), "the script failed");
    assert_same_steps(&dom, &report);
    assert_eq!(attribute(&dom, "data-shows"), [steps.to_string()], "it opens at the bad state");
    assert!(dom.contains("violated: wrong-path") && dom.contains("revert f188056352bc"));
    // A link to a step shows the state there: the domain is not set yet, the client reads it.
    let there = browser.dom(&page, "#step-0-43");
    assert_eq!(attribute(&there, "data-shows"), ["43"]);
    assert!(there.contains("<td>group-&gt;domain</td><td>NULL</td>"), "{there}");
    let later = browser.dom(&page, "#step-0-44");
    assert!(later.contains("<td>group-&gt;domain</td><td>DMA</td>"));
}

/// The page with a program of ours at its end, which looks at it and leaves what it saw in attributes.
fn looked_at(page: &str, program: &str) -> String {
    page.replace("</body>", &format!("<script>{program}</script></body>"))
}

/// The size of the smallest text as it is drawn, drawings that are scaled included.
const SMALLEST: &str = "
    let smallest = 99;
    for (const each of document.querySelectorAll('main *')) {
        if (![...each.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim())) continue;
        const scale = each.ownerSVGElement ? each.getScreenCTM().a : 1;
        smallest = Math.min(smallest, parseFloat(getComputedStyle(each).fontSize) * scale);
    }
    document.documentElement.dataset.smallest = String(Math.round(smallest * 10) / 10);
";

#[test]
fn a_browser_draws_no_text_smaller_than_twelve_pixels() {
    let Some(browser) = Browser::find("sizes") else { return };
    let two = html::report(&report_of("v7.3-rc7", &World::of(1, 1, 2)), None);
    let worlds = comparison_worlds().into_iter().take(3).collect();
    let matrix = html::matrix(&compare(None, worlds, None, &|_, _| {}).expect("sound models"));
    let smaller = two.replace("</style>", "dd { font-size: 9.5px }</style>");
    let (narrow, wide) = ("--window-size=400,800", "--window-size=1280,800");
    for (name, page, window, expected) in [
        ("two", &two, narrow, "12"),
        ("two", &two, wide, "12"),
        ("matrix", &matrix, narrow, "12"),
        ("matrix", &matrix, wide, "12"),
        ("smaller", &smaller, wide, "9.5"),
    ] {
        let page = browser.page(&format!("{name}.html"), &looked_at(page, SMALLEST));
        let dom = browser.run(&page, "", &["--dump-dom", window]);
        assert_eq!(attribute(&dom, "data-smallest"), [expected], "{name} {window}");
    }
}

#[test]
fn a_browser_keeps_the_state_in_sight_and_walks_without_a_click() {
    let Some(browser) = Browser::find("walking") else { return };
    let page = html::report(&report_of("v6.6", &World::default()), None);
    let program = "
        const seen = document.documentElement.dataset;
        const press = (key) => (document.activeElement ?? document.body)
            .dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true, cancelable: true }));
        document.getElementById('step-0-20').scrollIntoView({ block: 'center' });
        const panel = document.querySelector('aside.state').getBoundingClientRect();
        seen.sight = String(panel.top >= 0 && panel.top < innerHeight - 100);
        seen.walk = ['j', 'j', 'ArrowDown', 'k'].map((key) => {
            press(key);
            return document.querySelector('aside.state').dataset.shows;
        }).join(' ');
    ";
    let page = browser.page("walk.html", &looked_at(&page, program));
    for window in ["--window-size=400,800", "--window-size=1280,800", "--window-size=1600,800"] {
        let dom = browser.run(&page, "", &["--dump-dom", window]);
        assert_eq!(attribute(&dom, "data-sight"), ["true"], "{window}");
        assert_eq!(attribute(&dom, "data-walk"), ["1 2 3 2"], "{window}");
    }
}

#[test]
fn a_browser_follows_a_cell_to_its_ladder() {
    let Some(browser) = Browser::find("cells") else { return };
    let worlds = comparison_worlds().into_iter().take(1).collect();
    let matrix = compare(None, worlds, None, &|_, _| {}).expect("the models are sound");
    let program = "
        document.querySelector('.matrix td a').click();
        setTimeout(() => {
            const cell = document.querySelector(location.hash);
            const { top, height } = cell.getBoundingClientRect();
            const seen = height > 0 && top >= 0 && top < innerHeight;
            document.documentElement.dataset.cell = `${cell.id} ${seen} ${cell.querySelector('table.ladder') !== null}`;
        }, 200);
    ";
    let page = browser.page("matrix.html", &looked_at(&html::matrix(&matrix), program));
    let dom = browser.run(&page, "", &["--dump-dom", "--virtual-time-budget=5000"]);
    assert_eq!(attribute(&dom, "data-cell"), ["cell-0-0 true true"]);
}

#[test]
fn a_clean_world_shows_that_it_is_alive() {
    let report = report_of("v7.3-rc7", &World::default());
    assert!(report.violations.is_empty());
    let page = html::report(&report, None);
    let healthy = report.healthy.expect("every client can end well");
    assert!(page.contains("Not vacuous") && page.contains(&healthy), "{healthy}");
    assert_eq!(page.matches("<table class=\"ladder\"").count(), 1);
    let ids = attribute(&page, "id");
    assert!(ids.iter().filter(|id| id.starts_with("step-0-")).count() > 5, "{ids:?}");
}

#[test]
fn a_browser_draws_in_light_dark_and_on_paper() {
    let Some(browser) = Browser::find("drawing") else { return };
    let report = report_of("v6.6", &World::default());
    let page = browser.page("check.html", &html::report(&report, None));
    let shot = |name: &str, flags: &[&str]| {
        let file = browser.scratch.join(name);
        let out = format!("{}={}", flags[0], file.display());
        browser.run(&page, "", &[&[out.as_str()], &flags[1..]].concat());
        std::fs::read(&file).expect("the browser wrote the picture")
    };
    let light = shot("light.png", &["--screenshot", "--window-size=1200,900"]);
    let dark = shot(
        "dark.png",
        &["--screenshot", "--window-size=1200,900", "--blink-settings=preferredColorScheme=0"],
    );
    let paper = shot("page.pdf", &["--print-to-pdf"]);
    assert!(light.starts_with(b"\x89PNG") && light.len() > 20_000, "{} bytes", light.len());
    assert!(dark.starts_with(b"\x89PNG") && dark != light, "dark differs from light");
    assert!(paper.starts_with(b"%PDF") && paper.len() > 10_000, "{} bytes", paper.len());
}

#[test]
fn a_browser_runs_nothing_that_a_run_contains() {
    let Some(browser) = Browser::find("hostile") else { return };
    let (page, ladder) = hostile();
    let dom = browser.dom(&browser.page("run.html", &page), "");
    assert_eq!(attribute(&dom, "data-ready"), [ladder.rungs.len().to_string()]);
    assert!(attribute(&dom, "data-error").is_empty());
    assert!(!dom.contains("<title>out</title>"), "a script got out");
    let labels: Vec<&String> = ladder.rungs.iter().map(|rung| &rung.label).collect();
    assert_eq!(attribute(&dom, "data-label").iter().collect::<Vec<_>>(), labels);
}
