//! The queue under every schedule of two and three threads and a unit that takes its time.

use super::*;
use crate::unit::Unit;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use portcullis_driver_parts::Running;
use portcullis_platform::host::HostMemory;
use portcullis_platform::{Clock, Coherency, Threads};
use portcullis_spec::Register;
use portcullis_spec::smmuv3::command::{OPCODE, opcode, tlbi};
use portcullis_threads::{
    Budget, Explorer, LabAtomic, LabEvent, LabIrqLock, LabLock, LabThreads, Report, World, observe,
    step,
};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A time of its own for every thread, which each look in vain moves on.
#[derive(Debug)]
struct Looks {
    now: [AtomicU64; 4],
    step: Nanos,
}

impl Looks {
    /// Time in which a wait ends after about `looks` looks in vain.
    fn until(looks: u64) -> Self {
        Self { now: Default::default(), step: SYNC_BOUND / looks }
    }

    fn mine(&self) -> &AtomicU64 {
        &self.now[portcullis_threads::current().map_or(0, |thread| thread + 1)]
    }
}

impl Clock for Looks {
    fn now(&self) -> Nanos {
        self.mine().load(Ordering::Relaxed)
    }
    fn relax(&self) {
        self.mine().fetch_add(self.step, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct Lab {
    memory: Arc<HostMemory>,
    clock: Looks,
}

impl Platform for Lab {
    type Lock = LabLock;
    type IrqLock = LabIrqLock;
    type Event = LabEvent;
    type Atomic = LabAtomic;
    type Memory = HostMemory;
    type Clock = Looks;
    fn memory(&self) -> &Arc<HostMemory> {
        &self.memory
    }
    fn clock(&self) -> &Looks {
        &self.clock
    }
    fn thread(&self) -> usize {
        LabThreads::thread()
    }
}

/// A unit that consumes one command at each look at its read index, and refuses the one with number `refuse`, once.
struct Consumer {
    memory: Arc<HostMemory>,
    state: Arc<Mutex<Consumed>>,
}

#[derive(Debug, Default)]
struct Consumed {
    registers: BTreeMap<usize, u32>,
    base: u64,
    seen: u64,
    refuse: Option<u64>,
    /// It takes so many looks to take one command; 0 as 1.
    slow: u64,
    looks: u64,
    /// The planted bug: shows a CMD_SYNC as consumed and forgets the last command before it.
    hasty: bool,
    /// It takes so many commands and then no more.
    freeze_after: Option<u64>,
    /// What was carried out, in order.
    commands: Vec<[u64; 2]>,
    /// How often a register was read.
    reads: u64,
    /// What was written, in order: register and value.
    writes: Vec<(usize, u32)>,
}

impl Consumed {
    fn get(&self, register: Register) -> u32 {
        self.registers.get(&register.offset).copied().unwrap_or(0)
    }

    fn consume(&mut self, memory: &HostMemory) {
        let (produced, consumed) = (self.get(spec::CMDQ_PROD), self.get(spec::CMDQ_CONS));
        let read = consumed & cmdq_cons::RD.mask() as u32;
        let stopped = (self.get(spec::GERROR) ^ self.get(spec::GERRORN)) & 1 != 0;
        self.looks += 1;
        if self.freeze_after == Some(self.seen) {
            return;
        }
        if produced == read || stopped || !self.looks.is_multiple_of(self.slow.max(1)) {
            return;
        }
        let entries = 1u32 << cmdq_base::LOG2SIZE.get(self.base);
        let slot = cmdq_base::ADDR.in_place(self.base) + u64::from(read & (entries - 1)) * 16;
        self.seen += 1;
        if self.refuse == Some(self.seen) {
            let error = cmdq_cons::ERR.of(cerror::ILL) as u32;
            self.registers.insert(spec::CMDQ_CONS.offset, read | error);
            let toggled = self.get(spec::GERROR) ^ 1;
            self.registers.insert(spec::GERROR.offset, toggled);
            return;
        }
        let words = [slot, slot + 8].map(|at| memory.load64(PhysAddr::new(at)));
        if self.hasty && OPCODE.read(&words) == opcode::SYNC {
            self.commands.pop();
        }
        self.commands.push(words);
        // ERR keeps its last value, as the document permits while no error is active.
        let stale = consumed & cmdq_cons::ERR.mask() as u32;
        let next = (read + 1) & (2 * entries - 1);
        self.registers.insert(spec::CMDQ_CONS.offset, next | stale);
    }
}

impl Registers for Consumer {
    fn read32(&self, offset: usize) -> u32 {
        step("unit", 0, "register read", offset == spec::CMDQ_CONS.offset);
        let mut state = self.state.lock().expect("no panic");
        state.reads += 1;
        if offset == spec::CMDQ_CONS.offset {
            state.consume(&self.memory);
        }
        state.registers.get(&offset).copied().unwrap_or(0)
    }
    fn write32(&self, offset: usize, value: u32) {
        step("unit", 0, "register write", true);
        let mut state = self.state.lock().expect("no panic");
        state.writes.push((offset, value));
        state.registers.insert(offset, value);
    }
    fn write64(&self, _offset: usize, value: u64) {
        self.state.lock().expect("no panic").base = value;
    }
    fn len(&self) -> usize {
        spec::BLOCK_SIZE
    }
}

struct Stand {
    unit: Unit<Lab, Consumer>,
    queue: CommandQueue<Lab>,
    state: Arc<Mutex<Consumed>>,
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    threads: u16,
    log2: u8,
    /// Commands of each thread, before its CMD_SYNC.
    count: u16,
    refuse: Option<u64>,
    hasty: bool,
    /// How often a thread looks before it gives up.
    looks: u64,
    /// Whether an interrupt comes at any moment.
    interrupt: bool,
    /// After how many commands the unit stands still.
    freeze_after: Option<u64>,
}

impl Plan {
    /// Threads that do not get into each other's way for want of room, and are patient.
    const fn of(threads: u16, log2: u8, count: u16) -> Self {
        Self {
            threads,
            log2,
            count,
            refuse: None,
            hasty: false,
            looks: 1_000_000,
            interrupt: false,
            freeze_after: None,
        }
    }
}

fn stand(plan: Plan) -> Arc<Stand> {
    let Plan { log2, refuse, hasty, looks, freeze_after, .. } = plan;
    let lab = Arc::new(Lab { memory: Arc::default(), clock: Looks::until(looks) });
    let state =
        Arc::new(Mutex::new(Consumed { refuse, hasty, freeze_after, ..Consumed::default() }));
    let consumer = Consumer { memory: Arc::clone(&lab.memory), state: Arc::clone(&state) };
    let running = Running::new(Coherency::Coherent);
    running.set(true);
    let queue = CommandQueue::new(&*lab, &running, log2, 48, 0).expect("memory");
    let unit = Unit::new(lab, consumer).expect("a block of registers");
    queue.install(&unit);
    Arc::new(Stand { unit, queue, state })
}

/// What thread `n` sends.
fn commands(n: u16, count: u16) -> impl Iterator<Item = Command> {
    (0..count).map(move |part| Command::tlbi_asid(n << 8 | part))
}

/// Threads that send at the same time.
fn explore(plan: Plan, budget: Budget) -> Report {
    let Plan { threads, count, .. } = plan;
    Explorer::new(budget).run(move |world: &mut World| {
        let stand = stand(plan);
        let failures = Arc::new(AtomicU64::new(0));
        for n in 0..threads {
            let (stand, failures) = (Arc::clone(&stand), Arc::clone(&failures));
            world.thread(format!("thread {n}"), move || {
                let sent = commands(n, count);
                let limit = Deadline::ONE_WAIT;
                let done = stand.queue.execute(&stand.unit, limit, usize::from(count), sent);
                if done.is_err() {
                    failures.fetch_add(1, Ordering::Relaxed);
                }
                // What it asked for has happened by now, in its order, or it was told that it did not.
                let state = stand.state.lock().expect("no panic");
                let mine = |words: &&[u64; 2]| {
                    OPCODE.read(*words) == opcode::TLBI_NH_ASID
                        && tlbi::ASID.read(*words) >> 8 == u64::from(n)
                };
                let carried_out: Vec<_> = state.commands.iter().filter(mine).collect();
                let wanted: Vec<_> = commands(n, count).map(|command| command.0).collect();
                if done.is_ok() && !carried_out.into_iter().eq(wanted.iter()) {
                    portcullis_threads::violation("P4", "confirmed before it was carried out");
                }
            });
        }
        if plan.interrupt {
            let stand = Arc::clone(&stand);
            world.thread("interrupt", move || {
                stand.queue.acknowledge(&stand.unit).expect("the unit is there");
            });
        }
        world.at_end("each command once", move || check_end(&stand, plan, &failures));
    })
}

fn check_end(stand: &Stand, plan: Plan, failures: &AtomicU64) -> Result<(), String> {
    let state = stand.state.lock().expect("no panic");
    let mut told = state.commands.clone();
    told.retain(|words| OPCODE.read(words) != opcode::SYNC);
    let carried_out = told.len();
    told.sort_unstable();
    told.dedup();
    if told.len() != carried_out {
        return Err(format!("{} commands ran twice", carried_out - told.len()));
    }
    let wanted = usize::from(plan.threads * plan.count);
    let failed = failures.load(Ordering::Relaxed);
    observe(format!("{failed} told of an error, {carried_out} carried out"));
    match plan.refuse {
        // One batch was carried out, whose sender does not wait for the others' commands.
        None if plan.freeze_after.is_some() => {
            let rest = u64::from(plan.threads) - 1;
            let own = failed == rest && told.len() == usize::from(plan.count);
            return if own { Ok(()) } else { Err(format!("{failed} threads instead of {rest}")) };
        }
        // Whoever gave up in a full queue was told; the others were checked when they returned.
        None if plan.looks < 100 => return Ok(()),
        None if failed == 0 && told.len() == wanted => {}
        // The refused one may have been a CMD_SYNC, which its replacement makes up for.
        Some(_) if failed == 1 && told.len() + 1 >= wanted => {}
        _ => {
            return Err(format!(
                "{failed} threads were told of an error, {carried_out} commands ran"
            ));
        }
    }
    // One CMD_SYNC to a batch.
    let batch = (1 << plan.log2) - 1;
    let total = wanted + usize::from(plan.threads * plan.count.div_ceil(batch));
    if state.commands.len() == total {
        return Ok(());
    }
    Err(format!("{} commands were consumed instead of {total}", state.commands.len()))
}

fn assert_proved(report: &Report) {
    assert!(report.is_clean(), "{report}");
    assert!(report.exhaustive, "{report}");
}

fn budget() -> Budget {
    Budget { time: Duration::from_secs(60), ..Budget::default() }
}

#[test]
fn no_schedule_loses_repeats_or_confirms_too_early() {
    for (threads, log2, count) in [(2, 2, 1), (2, 3, 3), (3, 3, 1)] {
        let report = explore(Plan::of(threads, log2, count), budget());
        assert_proved(&report);
    }
}

/// Several batches, and queues that hold only one: threads stand in line. Each schedule ends, because a thread gives up after some looks; nothing is lost or repeated.
#[test]
fn threads_that_stand_in_line_for_room_are_served_or_told() {
    for (threads, log2, count) in [(2, 1, 1), (2, 1, 2), (2, 2, 3)] {
        let report = explore(Plan { looks: 5, ..Plan::of(threads, log2, count) }, budget());
        assert_proved(&report);
        let all = format!("0 told of an error, {} carried out", threads * count);
        assert!(report.observed.contains(&all), "{:?}", report.observed);
    }
}

#[test]
fn a_refused_command_is_told_to_exactly_one_thread_under_every_schedule() {
    for refuse in 1..=4 {
        let report = explore(Plan { refuse: Some(refuse), ..Plan::of(2, 2, 1) }, budget());
        assert_proved(&report);
    }
}

/// Whoever is faster repairs the queue: the thread that waits, another one, or the interrupt.
#[test]
fn an_interrupt_may_repair_the_queue_at_any_moment() {
    for refuse in [1, 2] {
        let plan = Plan { refuse: Some(refuse), interrupt: true, ..Plan::of(1, 2, 1) };
        assert_proved(&explore(plan, budget()));
    }
    let plan = Plan { refuse: Some(3), interrupt: true, ..Plan::of(2, 2, 1) };
    assert_proved(&explore(plan, budget()));
}

/// The unit takes one batch and stands still: under every schedule the thread that sent it is done, whatever others have queued behind it.
#[test]
fn a_thread_waits_for_its_own_commands_only() {
    // Each look takes one command, so a thread whose batch comes first needs as many as that has.
    for count in [1, 2] {
        let batch = u64::from(count) + 1;
        let plan = Plan { freeze_after: Some(batch), looks: batch, ..Plan::of(2, 4, count) };
        assert_proved(&explore(plan, budget()));
    }
}

/// What it costs to send is one write, however many commands that are, and no read, which on a bus takes longer than all the rest.
/// Two lines would be two waits a change of producer.
#[test]
fn what_producers_write_is_one_cache_line() {
    type Real = portcullis_platform::host::HostPlatform<HostMemory>;
    assert_eq!((size_of::<Shared<Real>>(), align_of::<Shared<Real>>()), (64, 64));
}

#[test]
fn a_batch_is_one_doorbell_and_placing_it_reads_no_register() {
    once(Plan::of(1, 6, 1), |stand| {
        for count in [1u16, 2, 15, 30] {
            let accesses = || {
                let state = stand.state.lock().expect("no panic");
                (state.reads, state.writes.len())
            };
            let before = accesses();
            let limit = Deadline::ONE_WAIT;
            let sent = commands(0, count);
            let ticket = stand.queue.submit(&stand.unit, limit, usize::from(count), sent);
            let ticket = ticket.expect("room");
            assert_eq!(accesses(), (before.0, before.1 + 1), "{count} commands");
            let last = stand.state.lock().expect("no panic").writes.last().copied();
            assert_eq!(last, Some((spec::CMDQ_PROD.offset, stand.queue.index(ticket.after))));
            stand.queue.wait(&stand.unit, limit, &ticket).expect("carried out");
            assert_eq!(accesses().1, before.1 + 1, "waiting only looks");
        }
        // One command alone: placed in the same way, by a shorter path.
        let before = stand.state.lock().expect("no panic").writes.len();
        let command = commands(0, 1).next().expect("one");
        let ticket = stand.queue.place_at_once(&stand.unit, command).expect("room");
        assert_eq!(stand.state.lock().expect("no panic").writes.len(), before + 1);
        stand.queue.wait(&stand.unit, Deadline::ONE_WAIT, &ticket).expect("carried out");
    });
}

/// Runs `act` once, in a world of its own.
fn once(plan: Plan, act: impl Fn(&Stand) + Copy + 'static) {
    let report = Explorer::new(budget()).run(move |world: &mut World| {
        let stand = stand(plan);
        world.thread("only", move || act(&stand));
    });
    assert_proved(&report);
}

/// A large batch that came first is not passed by a small one for which there is room already.
#[test]
fn room_is_given_first_come_first_served() {
    once(Plan::of(1, 2, 1), |stand| {
        // Nothing is consumed while nobody waits.
        let mut turns = [None; 3];
        let mut place = |n: usize, count: u16| {
            let mut sent = commands(n as u16, count);
            stand.queue.shared.inner.with(|inner| {
                let (turn, count) = (&mut turns[n], usize::from(count));
                stand.queue.try_place(&stand.unit, inner, turn, count, &mut sent).expect("alive")
            })
        };
        assert!(place(0, 1).is_some(), "half of the queue");
        assert!(place(1, 3).is_none(), "it needs the whole queue");
        assert!(place(2, 1).is_none(), "there is room, but somebody else was first");
        for _ in 0..4 {
            stand.unit.read(spec::CMDQ_CONS);
        }
        assert!(place(2, 1).is_none(), "still not its turn");
        assert!(place(1, 3).is_some());
        assert!(place(2, 1).is_none(), "now there is no room");
        for _ in 0..4 {
            stand.unit.read(spec::CMDQ_CONS);
        }
        assert!(place(2, 1).is_some());
    });
}

/// A unit that is slow but alive: each of two waits would end in time, both together do not.
#[test]
fn one_deadline_bounds_all_waits_of_a_call() {
    once(Plan { looks: 100, ..Plan::of(1, 2, 1) }, |stand| {
        stand.state.lock().expect("no panic").slow = 40;
        let execute = |deadline| stand.queue.execute(&stand.unit, deadline, 1, commands(0, 1));
        let deadline = stand.unit.deadline();
        assert_eq!(execute(deadline), Ok(()));
        assert!(matches!(execute(deadline), Err(OpsError::Timeout { .. })));
        let looks = stand.state.lock().expect("no panic").looks;
        assert!(looks < 110, "{looks}");
        // It moves again: a call of its own has time of its own.
        stand.state.lock().expect("no panic").slow = 1;
        stand.unit.read(spec::CMDQ_CONS);
        assert_eq!(execute(stand.unit.deadline()), Ok(()));
    });
}

/// The exploration must be able to fail.
#[test]
fn hardware_that_confirms_too_early_is_seen() {
    let report = explore(
        Plan { hasty: true, ..Plan::of(2, 2, 1) },
        Budget { stop_at_first: true, shorten: 100, ..budget() },
    );
    assert!(report.violation("P4").is_some(), "{report}");
}
