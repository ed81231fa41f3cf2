//! The comparison model as tables of lines, so that a single line can be changed: as a protocol, and as a naive
//! enumeration that shares no code with the explorer and remembers whole states.

use std::collections::{BTreeSet, HashSet};
use std::ops::ControlFlow;
use std::rc::Rc;

use portcullis_explore::proto::{Builder, EndState, Field, Mutex, Protocol, Role, ThreadId};

/// One line. Fields and locks are numbers; `to` is a line of the same thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Line {
    Lock(usize),
    Unlock(usize),
    Set(usize, bool),
    /// Reads the field; goes on at `to` if it has this value.
    If(usize, bool, usize),
    Goto(usize),
    /// Waits until the field is clear.
    AwaitClear(usize),
    /// Clears these fields in one step.
    ClearAll(usize, usize),
    /// Reads the field, which must be set.
    Check(usize),
    /// Not a step.
    Nothing,
}

/// A change of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mutation {
    Drop(usize),
    /// Exchanges the line and the next.
    Swap(usize),
    /// The opposite value stored or asked for.
    Invert(usize),
    /// Another lock.
    OtherLock(usize),
}

/// The threads' lines and the size of the shared state.
#[derive(Debug, Clone)]
pub(crate) struct Lines {
    pub(crate) threads: Vec<Vec<Line>>,
    clients: usize,
    fields: usize,
    locks: usize,
    /// Whether to ask, too, which values three fields have together while the first lock is free.
    guarded: bool,
    twins: Option<Twins>,
}

/// What is said of the first two threads, which do the same: where one uses F0 and L2, the other uses F1 and L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Twins {
    /// Nothing.
    Untold,
    /// That they are equal.
    Equal,
    /// Planted bug: the same, without their field.
    WithoutField,
    /// Planted bug: the same, without their lock.
    WithoutLock,
    /// Planted bug: the same, and a third thread looks at the field of the first alone.
    OneIsLookedAt,
}

struct Fields {
    clients: usize,
}

impl Fields {
    fn published(m: usize) -> usize {
        m
    }
    fn of(&self, d: usize, which: usize) -> usize {
        2 + d + which * self.clients
    }
    fn group(&self, d: usize) -> usize {
        self.of(d, 0)
    }
    fn domain(&self, d: usize) -> usize {
        self.of(d, 1)
    }
    fn dma(&self, d: usize) -> usize {
        self.of(d, 2)
    }
    fn deferred(&self, d: usize) -> usize {
        self.of(d, 3)
    }
}

const PROBE: usize = 0;

impl Lines {
    /// The model with its lines as they should be.
    pub(crate) fn new(clients: usize, iommus: usize, fixed: bool) -> Self {
        let f = Fields { clients };
        let mut threads = vec![registrar(&f, clients, iommus)];
        threads.extend((0..clients).map(|d| client(&f, d, iommus, fixed)));
        Self {
            threads,
            clients,
            fields: 2 + 4 * clients,
            locks: 1 + clients,
            guarded: false,
            twins: None,
        }
    }

    /// The lines that a mutation can name: the registrar's, then those that all clients share.
    pub(crate) fn count(&self) -> usize {
        self.threads[0].len() + self.threads[1].len()
    }

    /// The model with one line changed (in every client, if it is a client's); `None` if that changes nothing.
    pub(crate) fn mutated(&self, mutation: Mutation) -> Option<Self> {
        let mut new = self.clone();
        let (Mutation::Drop(at)
        | Mutation::Swap(at)
        | Mutation::Invert(at)
        | Mutation::OtherLock(at)) = mutation;
        let first = self.threads[0].len();
        let (range, line) =
            if at < first { (0..1, at) } else { (1..self.threads.len(), at - first) };
        for thread in range {
            let lines = &mut new.threads[thread];
            match mutation {
                Mutation::Drop(_) => lines[line] = Line::Nothing,
                Mutation::Swap(_) if line + 1 < lines.len() => lines.swap(line, line + 1),
                Mutation::Invert(_) => lines[line] = inverted(lines[line]),
                Mutation::OtherLock(_) => lines[line] = other_lock(lines[line], self.locks),
                _ => {}
            }
        }
        (new.threads != self.threads).then_some(new)
    }
}

/// A small pseudo-random generator (xorshift64*), so that a failing program can be named by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n as u64) as usize
    }
}

impl Lines {
    /// A random program: two or three threads of a few lines over two locks and four fields, mostly with locks
    /// properly nested, in any order.
    pub(crate) fn random(seed: u64) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let threads = (0..2 + dice.below(2)).map(|_| random_thread(&mut dice)).collect();
        let guarded = seed.is_multiple_of(2);
        Self { threads, clients: 1, fields: 6, locks: 2, guarded, twins: None }
    }

    /// A random program whose first two threads do the same, often with a third one that may clear what is theirs.
    pub(crate) fn twins(seed: u64, twins: Twins) -> Self {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let first = random_thread(&mut dice);
        let mut threads: Vec<Vec<Line>> =
            [0, 1].map(|twin| first.iter().map(|line| own(*line, twin)).collect()).into();
        if dice.below(4) > 0 {
            let mut third = random_thread(&mut dice);
            third.truncate(4);
            if dice.below(2) == 0 {
                third.insert(dice.below(third.len()), Line::ClearAll(0, 1));
            }
            if twins == Twins::OneIsLookedAt {
                third.insert(0, Line::If(0, true, third.len()));
            }
            threads.push(third);
        }
        let guarded = seed.is_multiple_of(2);
        Self { threads, clients: 1, fields: 6, locks: 4, guarded, twins: Some(twins) }
    }
}

/// The line with F5 and L1 replaced by what is this twin's own.
fn own(line: Line, twin: usize) -> Line {
    let field = |f| if f == 5 { twin } else { f };
    let lock = |l| if l == 1 { 2 + twin } else { l };
    match line {
        Line::Lock(l) => Line::Lock(lock(l)),
        Line::Unlock(l) => Line::Unlock(lock(l)),
        Line::Set(f, value) => Line::Set(field(f), value),
        Line::If(f, value, to) => Line::If(field(f), value, to),
        Line::AwaitClear(f) => Line::AwaitClear(field(f)),
        Line::Check(f) => Line::Check(field(f)),
        other => other,
    }
}

/// Tells a protocol what is said of its twins.
fn tell(b: &mut Builder, twins: Twins, threads: &[ThreadId], locks: &[Mutex], fields: &[Field]) {
    let role = |twin: usize| Role {
        thread: threads[twin],
        fields: if twins == Twins::WithoutField { Vec::new() } else { vec![fields[twin]] },
        mutexes: if twins == Twins::WithoutLock { Vec::new() } else { vec![locks[2 + twin]] },
        names: Vec::new(),
    };
    if twins != Twins::Untold {
        b.interchangeable(vec![role(0), role(1)]);
    }
    let both = [fields[0], fields[1]];
    b.always("not both", move |v| !both.iter().all(|field| v.is_set(*field)));
}

/// An end with the twins exchanged, or not, whichever comes first.
pub(crate) fn sorted(end: (Vec<u64>, Vec<String>)) -> (Vec<u64>, Vec<String>) {
    let (mut fields, mut threads) = end.clone();
    fields.swap(0, 1);
    threads.swap(0, 1);
    for place in &mut threads[..2] {
        *place = place.replace("L2", "L?").replace("L3", "L2").replace("L?", "L3");
    }
    end.min((fields, threads))
}

fn random_thread(dice: &mut Dice) -> Vec<Line> {
    let (length, mut held, mut lines) = (3 + dice.below(6), Vec::new(), Vec::new());
    while lines.len() < length {
        let field = 2 + dice.below(4);
        let value = dice.below(3) > 0;
        lines.push(match dice.below(12) {
            0..3 if held.len() < 2 => {
                let lock = dice.below(2);
                held.push(lock);
                Line::Lock(lock)
            }
            3..5 => held.pop().map_or(Line::Set(field, value), Line::Unlock),
            5 if dice.below(4) == 0 => Line::Unlock(dice.below(2)),
            6 | 7 => Line::If(field, value, lines.len() + 1 + dice.below(3)),
            8 if dice.below(2) == 0 => Line::AwaitClear(field),
            9 => Line::Check(field),
            _ => Line::Set(field, value),
        });
    }
    if dice.below(8) > 0 {
        lines.extend(held.into_iter().rev().map(Line::Unlock));
    }
    lines
}

fn inverted(line: Line) -> Line {
    match line {
        Line::Set(field, value) => Line::Set(field, !value),
        Line::If(field, value, to) => Line::If(field, !value, to),
        other => other,
    }
}

fn other_lock(line: Line, locks: usize) -> Line {
    match line {
        Line::Lock(lock) => Line::Lock((lock + 1) % locks),
        Line::Unlock(lock) => Line::Unlock((lock + 1) % locks),
        other => other,
    }
}

fn registrar(f: &Fields, clients: usize, iommus: usize) -> Vec<Line> {
    let mut lines = Vec::new();
    for m in 0..iommus {
        let own = || (0..clients).filter(move |d| d % iommus == m);
        lines.extend([Line::Lock(PROBE), Line::Set(Fields::published(m), true)]);
        lines.push(Line::Unlock(PROBE));
        for d in own() {
            let after = lines.len() + 3;
            lines.extend([Line::Lock(PROBE), Line::If(f.group(d), true, after)]);
            lines.extend([Line::Set(f.group(d), true), Line::Unlock(PROBE)]);
        }
        for d in own() {
            let after = lines.len() + 3;
            lines.extend([Line::Lock(1 + d), Line::If(f.domain(d), true, after)]);
            lines.extend([Line::Set(f.domain(d), true), Line::Unlock(1 + d)]);
            lines.push(Line::Set(f.dma(d), true));
        }
        let deferred = Line::ClearAll(f.deferred(0), f.deferred(clients - 1));
        lines.extend([Line::Lock(PROBE), deferred, Line::Unlock(PROBE)]);
    }
    lines
}

fn client(f: &Fields, d: usize, iommus: usize, fixed: bool) -> Vec<Line> {
    let (group, domain, dma, deferred) = (f.group(d), f.domain(d), f.dma(d), f.deferred(d));
    let (lock, early) = (1 + d, if fixed { 16 } else { 14 });
    vec![
        Line::Lock(PROBE),
        Line::If(Fields::published(d % iommus), true, 6),
        Line::Set(deferred, true),
        Line::Unlock(PROBE),
        Line::AwaitClear(deferred),
        Line::Goto(0),
        Line::If(group, true, early), // 6
        Line::Set(group, true),
        Line::Lock(lock),
        Line::If(domain, true, 11),
        Line::Set(domain, true),
        Line::Set(dma, true), // 11
        Line::Unlock(lock),
        Line::Nothing,
        Line::Unlock(PROBE), // 14
        Line::Goto(22),
        Line::Unlock(PROBE), // 16: the early return
        Line::Lock(lock),
        Line::If(domain, true, 20),
        Line::Set(domain, true),
        Line::Set(dma, true), // 20
        Line::Unlock(lock),
        Line::Check(dma), // 22
    ]
}

/// Where a line leads without a step: past what is none.
fn settle(lines: &[Line], mut at: usize) -> usize {
    for _ in 0..=lines.len() {
        match lines.get(at) {
            Some(Line::Nothing) => at += 1,
            Some(Line::Goto(to)) => at = *to,
            _ => return at,
        }
    }
    panic!("a loop without a step");
}

/// What a search found, in a form that both can give: violated properties, `sometimes` reached, and the end
/// states: fields, and for each thread its line and the locks it holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Findings {
    pub(crate) violated: BTreeSet<String>,
    pub(crate) reached: bool,
    pub(crate) ends: BTreeSet<(Vec<u64>, Vec<String>)>,
}

fn never(values: u64) -> String {
    format!("not {values} while L0 is free")
}

// ---- As a protocol ----

/// The lines as a protocol.
pub(crate) fn protocol(lines: &Lines) -> Protocol {
    let mut b = Builder::new();
    let locks: Vec<_> = (0..lines.locks).map(|i| b.mutex(format!("L{i}"))).collect();
    let fields: Vec<_> = (0..lines.fields).map(|i| b.field(format!("F{i}"), 1)).collect();
    let right = b.checked("right DMA");
    let shared = Rc::new((locks, fields));
    let threads = lines.threads.iter().map(|thread| {
        let (lines, shared) = (thread.clone(), Rc::clone(&shared));
        b.thread("thread", move |t| {
            let (locks, fields) = &*shared;
            t.fold(settle(&lines, 0), |t, at| {
                let why = at.to_string();
                let Some(&line) = lines.get(at) else { return Ok(ControlFlow::Break(())) };
                let mut next = at + 1;
                match line {
                    Line::Lock(lock) => t.lock(locks[lock], &why)?,
                    Line::Unlock(lock) => t.unlock(locks[lock])?,
                    Line::Set(field, value) => t.write(fields[field], value, &why)?,
                    Line::If(field, value, to) => {
                        if t.is_set(fields[field], &why)? == value {
                            next = to;
                        }
                    }
                    Line::AwaitClear(field) => {
                        let field = fields[field];
                        t.wait_until(&why, move |v| !v.is_set(field))?;
                    }
                    Line::ClearAll(from, to) => {
                        let all = fields[from..=to].to_vec();
                        t.update(&why, move |s| all.iter().for_each(|&f| s.set(f, 0)))?;
                    }
                    Line::Check(field) => {
                        let set = t.is_set(fields[field], &why)?;
                        t.check(right, set);
                    }
                    Line::Goto(_) | Line::Nothing => {}
                }
                Ok(ControlFlow::Continue(settle(&lines, next)))
            })
        })
    });
    let threads: Vec<ThreadId> = threads.collect();
    if let Some(twins) = lines.twins {
        tell(&mut b, twins, &threads, &shared.0, &shared.1);
    }
    ask(&mut b, lines, &shared.0, &shared.1);
    b.build("lines")
}

/// Declares the properties of states and ends.
fn ask(b: &mut Builder, lines: &Lines, locks: &[Mutex], all: &[Field]) {
    let (f, clients) = (Fields { clients: lines.clients }, lines.clients);
    let pairs: Vec<_> = (0..clients).map(|d| (all[f.dma(d)], all[f.domain(d)])).collect();
    let (first, pairs) = (pairs[0], pairs);
    b.always("domain before DMA", move |v| !v.is_set(first.0) || v.is_set(first.1));
    if lines.guarded {
        let lock = locks[0];
        for values in 0..8_u64 {
            let fields = [all[2], all[3], all[4]];
            b.always(never(values), move |v| {
                let seen = v.while_free(lock, |v| {
                    fields.iter().enumerate().map(|(i, &f)| v.get(f) << i).sum::<u64>()
                });
                seen != Some(values)
            });
        }
    }
    let last = pairs[clients - 1];
    b.sometimes("domain without DMA", move |v| v.is_set(last.1) && !v.is_set(last.0));
    b.eventually("all set up", move |v| pairs.iter().all(|p| v.is_set(p.0) && v.is_set(p.1)));
}

/// An end state of the protocol in the common form.
pub(crate) fn common(end: &EndState) -> (Vec<u64>, Vec<String>) {
    let threads = end.threads.iter().map(|place| {
        let (_, held) = place.split_once('[').unwrap();
        let at = match (place.contains("finished"), place.split_once('(')) {
            (false, Some((_, rest))) => rest.split(')').next().unwrap(),
            // A wait has its line in its words.
            (false, None) => place.rsplit_once("wait: ").unwrap().1.split(' ').next().unwrap(),
            (true, _) => "finished",
        };
        let at = place.rsplit_once("wait: ").map_or(at, |(_, w)| w.split(' ').next().unwrap());
        format!("{at} [{held}")
    });
    (end.fields.clone(), threads.collect())
}

// ---- Naively ----

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Naive {
    fields: Vec<bool>,
    owners: Vec<Option<usize>>,
    at: Vec<usize>,
}

/// Every state, by remembering whole states.
pub(crate) fn enumerate(lines: &Lines) -> Findings {
    let mut findings = Findings::default();
    let initial = Naive {
        fields: vec![false; lines.fields],
        owners: vec![None; lines.locks],
        at: lines.threads.iter().map(|l| settle(l, 0)).collect(),
    };
    let mut seen = HashSet::from([initial.clone()]);
    let mut stack = vec![initial];
    while let Some(state) = stack.pop() {
        judge(lines, &state, &mut findings);
        let mut moved = false;
        for thread in 0..lines.threads.len() {
            if let Some(next) = step(lines, &state, thread, &mut findings) {
                moved = true;
                if seen.insert(next.clone()) {
                    stack.push(next);
                }
            }
        }
        if !moved {
            end(lines, &state, &mut findings);
        }
    }
    findings
}

fn judge(lines: &Lines, state: &Naive, findings: &mut Findings) {
    let f = Fields { clients: lines.clients };
    let last = lines.clients - 1;
    if state.fields[f.dma(0)] && !state.fields[f.domain(0)] {
        findings.violated.insert("domain before DMA".to_owned());
    }
    if lines.guarded && state.owners[0].is_none() {
        let values = (0..3).map(|i| u64::from(state.fields[2 + i]) << i).sum();
        findings.violated.insert(never(values));
    }
    findings.reached |= state.fields[f.domain(last)] && !state.fields[f.dma(last)];
}

fn step(lines: &Lines, state: &Naive, thread: usize, findings: &mut Findings) -> Option<Naive> {
    let mut new = state.clone();
    let at = state.at[thread];
    let mut next = at + 1;
    match *lines.threads[thread].get(at)? {
        Line::Lock(lock) if state.owners[lock].is_some() => return None,
        Line::Lock(lock) => new.owners[lock] = Some(thread),
        Line::Unlock(lock) if state.owners[lock] == Some(thread) => new.owners[lock] = None,
        Line::Unlock(_) => {
            findings.violated.insert("lock-misuse".to_owned());
        }
        Line::Set(field, value) => new.fields[field] = value,
        Line::If(field, value, to) if state.fields[field] == value => next = to,
        Line::If(..) | Line::Goto(_) | Line::Nothing => {}
        Line::AwaitClear(field) if state.fields[field] => return None,
        Line::AwaitClear(_) => {}
        Line::ClearAll(from, to) => new.fields[from..=to].fill(false),
        Line::Check(field) => {
            if !state.fields[field] {
                findings.violated.insert("right DMA".to_owned());
            }
        }
    }
    new.at[thread] = settle(&lines.threads[thread], next);
    Some(new)
}

fn end(lines: &Lines, state: &Naive, findings: &mut Findings) {
    let f = Fields { clients: lines.clients };
    let finished = |t: usize| state.at[t] >= lines.threads[t].len();
    if !(0..lines.threads.len()).all(finished) {
        findings.violated.insert("deadlock".to_owned());
    }
    if !(0..lines.clients).all(|d| state.fields[f.dma(d)] && state.fields[f.domain(d)]) {
        findings.violated.insert("all set up".to_owned());
    }
    let threads = (0..lines.threads.len()).map(|t| {
        let owned = (0..lines.locks).filter(|&l| state.owners[l] == Some(t));
        let held: Vec<String> = owned.map(|l| format!("L{l}")).collect();
        let at = if finished(t) { "finished".to_owned() } else { state.at[t].to_string() };
        format!("{at} [{}]", held.join(", "))
    });
    let fields = state.fields.iter().map(|&f| u64::from(f)).collect();
    findings.ends.insert((fields, threads.collect()));
}
