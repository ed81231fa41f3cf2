//! The SMMU driven by hand: registers, queues, entries and tables written word by word, so that a scenario can do what a good driver never does.

pub mod command;
pub mod entry;
mod queue;
mod table;

pub use table::{Granule, Leaf, Tree};

use crate::bench::{Bench, Client, Failure, Line};
use crate::check::{Check, Direction, Event};
use crate::pattern::{self, LANDING_OFFSET, allocate, outcome, target};
use portcullis_addr::{Iova, PhysAddr};
use portcullis_platform::Coherency;
use portcullis_spec::Register;
use portcullis_spec::smmuv3 as spec;
use queue::Queue;

/// How long a scenario looks at a register before it gives up.
const LOOKS: usize = 200_000;

/// How the SMMU is set up.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// A two-level stream table with `SPLIT` 8, otherwise a linear one.
    pub two_level: bool,
    /// log2 of the streams covered.
    pub streams_log2: u8,
    /// log2 of the event queue's entries.
    pub events_log2: u8,
}

impl Default for Layout {
    fn default() -> Self {
        Self { two_level: false, streams_log2: 10, events_log2: 6 }
    }
}

/// What an access must come to.
#[derive(Clone, Copy, Debug)]
pub enum Expected {
    /// The bytes arrive, nothing is recorded.
    Landed,
    /// They do not, and exactly this is recorded.
    Refused(Event),
    /// They do not, and nothing is recorded.
    Silence,
}

/// An SMMU under a scenario's hands.
pub struct Rig<'a> {
    bench: &'a dyn Bench,
    checks: Vec<Check>,
    streams: PhysAddr,
    layout: Layout,
    commands: Queue,
    events: Queue,
    tokens: u32,
}

impl std::fmt::Debug for Rig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").field("layout", &self.layout).finish_non_exhaustive()
    }
}

impl<'a> Rig<'a> {
    /// An SMMU as it comes out of reset, the devices' buffers filled. Nothing is enabled.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn cold(bench: &'a dyn Bench, layout: Layout) -> Result<Self, Failure> {
        let entries = 1usize << layout.streams_log2;
        let bytes = if layout.two_level { (entries >> 8).max(1) * 8 } else { entries * 64 };
        let rig = Self {
            bench,
            checks: Vec::new(),
            streams: allocate(bench, bytes)?,
            layout,
            commands: Queue::new(bench, 6, 16)?,
            events: Queue::new(bench, layout.events_log2, 32)?,
            tokens: 0x1000_0000,
        };
        pattern::load(bench)?;
        Ok(rig)
    }

    /// An SMMU that translates: everything enabled, all streams invalid (`V` = 0).
    ///
    /// # Errors
    ///
    /// When the platform fails or the SMMU does not come up.
    pub fn start(bench: &'a dyn Bench, layout: Layout) -> Result<Self, Failure> {
        let mut rig = Self::cold(bench, layout)?;
        rig.enable()?;
        Ok(rig)
    }

    /// Programs the tables and queues and enables everything, in the order of §6.3.9.6.
    ///
    /// # Errors
    ///
    /// When the SMMU does not follow.
    pub fn enable(&mut self) -> Result<(), Failure> {
        use spec::{cr0, cr2, irq_ctrl};
        let smmu = self.bench.smmu();
        // Write-back, inner shareable, for queues and tables.
        self.write(spec::CR1, 0xd75);
        self.write(spec::CR2, cr2::RECINVSID.of(1) | cr2::PTM.of(1));
        let (format, split) = if self.layout.two_level {
            (spec::strtab_fmt::TWO_LEVEL, 8)
        } else {
            (spec::strtab_fmt::LINEAR, 0)
        };
        let config = spec::strtab_base_cfg::LOG2SIZE.of(self.layout.streams_log2.into())
            | spec::strtab_base_cfg::SPLIT.of(split)
            | spec::strtab_base_cfg::FMT.of(format);
        smmu.write64(spec::STRTAB_BASE.offset, self.streams.raw());
        self.write(spec::STRTAB_BASE_CFG, config);
        smmu.write64(spec::CMDQ_BASE.offset, self.commands.base_register());
        self.write(spec::CMDQ_PROD, 0);
        self.write(spec::CMDQ_CONS, 0);
        smmu.write64(spec::EVENTQ_BASE.offset, self.events.base_register());
        self.write(spec::EVENTQ_PROD, 0);
        self.write(spec::EVENTQ_CONS, 0);
        let enables = irq_ctrl::EVENTQ_IRQEN.of(1) | irq_ctrl::GERROR_IRQEN.of(1);
        self.write(spec::IRQ_CTRL, enables);
        self.await_register(spec::IRQ_CTRLACK, enables)?;
        self.control(cr0::CMDQEN.of(1))?;
        self.run(&[command::cfgi_all(), command::tlbi_nsnh_all()])?;
        self.control(cr0::CMDQEN.of(1) | cr0::EVENTQEN.of(1))?;
        self.control(cr0::CMDQEN.of(1) | cr0::EVENTQEN.of(1) | cr0::SMMUEN.of(1))
    }

    /// Sets `CR0` and waits until that is in effect.
    ///
    /// # Errors
    ///
    /// When `CR0ACK` does not follow.
    pub fn control(&self, value: u64) -> Result<(), Failure> {
        self.write(spec::CR0, value);
        self.await_register(spec::CR0ACK, value)
    }

    /// The platform.
    pub fn bench(&self) -> &'a dyn Bench {
        self.bench
    }

    /// Reads a register.
    pub fn read(&self, register: Register) -> u64 {
        self.bench.smmu().read32(register.offset).into()
    }

    /// Writes a 32-bit register.
    pub fn write(&self, register: Register, value: u64) {
        self.bench.smmu().write32(register.offset, value as u32);
    }

    /// Waits until a register reads `wanted`.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn await_register(&self, register: Register, wanted: u64) -> Result<(), Failure> {
        if (0..LOOKS).any(|_| self.read(register) == wanted) {
            return Ok(());
        }
        let found = self.read(register);
        Err(Failure(format!("{} reads {found:#x} instead of {wanted:#x}", register.name)))
    }

    /// Zeroed memory on its natural boundary.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn allocate(&self, bytes: usize) -> Result<PhysAddr, Failure> {
        allocate(self.bench, bytes)
    }

    /// A page of 4 KiB.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn page(&self) -> Result<PhysAddr, Failure> {
        self.allocate(4096)
    }

    /// Writes 64-bit words to memory, the first one last, so that an entry becomes valid in one piece.
    pub fn store(&self, address: PhysAddr, words: &[u64]) {
        let memory = self.bench.memory();
        for (index, word) in words.iter().enumerate().rev() {
            memory.store64(PhysAddr::new(address.raw() + 8 * index as u64), *word);
        }
        memory.publish(address, 8 * words.len(), Coherency::NonCoherent);
    }

    /// Where the entry of `stream` is; allocates the second-level table that it is in.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn entry_of(&self, stream: u32) -> Result<PhysAddr, Failure> {
        let start = self.streams.raw();
        if !self.layout.two_level {
            return Ok(PhysAddr::new(start + 64 * u64::from(stream)));
        }
        let descriptor = PhysAddr::new(start + 8 * u64::from(stream >> 8));
        let mut word = self.bench.memory().load64(descriptor);
        if spec::l1std::SPAN.get(word) == 0 {
            let table = self.allocate(256 * 64)?;
            word = spec::l1std::SPAN.of(9) | spec::l1std::L2PTR.in_place(table.raw());
            self.store(descriptor, &[word]);
        }
        let table = spec::l1std::L2PTR.in_place(word);
        Ok(PhysAddr::new(table + 64 * u64::from(stream & 0xff)))
    }

    /// Writes the level 1 descriptor that covers `stream`.
    pub fn store_descriptor(&self, stream: u32, word: u64) {
        self.store(PhysAddr::new(self.streams.raw() + 8 * u64::from(stream >> 8)), &[word]);
    }

    /// Writes the stream table entry of `client` and nothing else.
    ///
    /// # Errors
    ///
    /// When there is no memory.
    pub fn store_entry(&self, client: Client, entry: &[u64; 8]) -> Result<(), Failure> {
        let at = self.entry_of(client.stream().raw())?;
        self.store(at, entry);
        Ok(())
    }

    /// Writes the entry of `client` and has the SMMU forget the old one.
    ///
    /// # Errors
    ///
    /// When the command is not carried out.
    pub fn install(&mut self, client: Client, entry: &[u64; 8]) -> Result<(), Failure> {
        self.store_entry(client, entry)?;
        self.run(&[command::cfgi_ste(client.stream().raw())])
    }

    /// Carries out commands and a `CMD_SYNC` after them.
    ///
    /// # Errors
    ///
    /// When the SMMU does not consume them or reports an error.
    pub fn run(&mut self, commands: &[[u64; 2]]) -> Result<(), Failure> {
        for command in commands {
            self.submit(*command);
        }
        self.submit(command::sync());
        let produced = self.read(spec::CMDQ_PROD);
        self.await_register(spec::CMDQ_CONS, produced)
    }

    /// Puts a command into the queue and tells the SMMU, without waiting.
    pub fn submit(&mut self, command: [u64; 2]) {
        self.store(self.commands.slot(), &command);
        let index = self.commands.advance();
        self.write(spec::CMDQ_PROD, index.into());
    }

    /// Overwrites the command that the SMMU stopped at.
    pub fn replace_command_at(&self, index: u64, command: [u64; 2]) {
        self.store(self.commands.slot_at(index as u32), &command);
    }

    /// Takes the events that were recorded.
    pub fn take_events(&mut self) -> Vec<Event> {
        let produced = spec::eventq_prod::WR.get(self.read(spec::EVENTQ_PROD)) as u32;
        let mut taken = Vec::new();
        while self.events.index() != produced && taken.len() < 1 << 19 {
            let slot = self.events.slot();
            self.bench.memory().refresh(slot, 32, Coherency::NonCoherent);
            let word = |n: u64| self.bench.memory().load64(PhysAddr::new(slot.raw() + 8 * n));
            taken.push(Event::decode(&[word(0), word(1), word(2), word(3)]));
            self.events.advance();
        }
        let acknowledged = self.read(spec::EVENTQ_PROD) & spec::eventq_prod::OVFLG.mask();
        self.write(spec::EVENTQ_CONS, u64::from(self.events.index()) | acknowledged);
        taken
    }

    /// Lets `client` write a word at `iova`, looks for it at `phys`, and checks that against `expected`.
    ///
    /// # Errors
    ///
    /// When the platform fails, or memory holds neither what was there nor what was written.
    pub fn writes(
        &mut self,
        client: Client,
        iova: u64,
        phys: PhysAddr,
        expected: Expected,
    ) -> Result<(), Failure> {
        let landed = pattern::write(self.bench, client, iova, phys)?;
        let events = self.take_events();
        self.judge(client, Direction::Write, iova, phys, (landed, &events), expected);
        Ok(())
    }

    /// Lets `client` read the word at `iova`, which is expected to come from `phys`, and checks that against `expected`.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn reads(
        &mut self,
        client: Client,
        iova: u64,
        phys: PhysAddr,
        expected: Expected,
    ) -> Result<(), Failure> {
        self.tokens += 0x0101_0101;
        let token = self.tokens;
        self.bench.write_bytes(phys, &token.to_le_bytes());
        self.bench.device_reads(client, Iova::new(iova), LANDING_OFFSET, 4)?;
        let events = self.take_events();
        let landed = self.buffer_word(client)? == token;
        self.judge(client, Direction::Read, iova, phys, (landed, &events), expected);
        Ok(())
    }

    /// Notes one more observation.
    pub fn check(
        &mut self,
        what: impl Into<String>,
        expected: impl ToString,
        observed: impl ToString,
    ) {
        let (expected, observed) = (expected.to_string(), observed.to_string());
        self.checks.push(Check { what: what.into(), expected, observed });
    }

    /// Checks which interrupts came since the last look; several of one kind count once.
    ///
    /// # Errors
    ///
    /// When the platform fails.
    pub fn interrupts(&mut self, expected: &[Line]) -> Result<(), Failure> {
        let mut lines = self.bench.take_interrupts()?;
        let mut seen = Vec::new();
        lines.retain(|line| {
            !seen.contains(line) && {
                seen.push(*line);
                true
            }
        });
        self.check("interrupts", format!("{expected:?}"), format!("{lines:?}"));
        Ok(())
    }

    /// What was seen.
    pub fn into_checks(self) -> Vec<Check> {
        self.checks
    }

    fn judge(
        &mut self,
        client: Client,
        direction: Direction,
        iova: u64,
        phys: PhysAddr,
        (landed, events): (bool, &[Event]),
        expected: Expected,
    ) {
        let what = format!("{client}, {direction} {}", target(iova, phys));
        let events: Vec<_> = events.iter().map(|event| self.describe(event, phys, iova)).collect();
        let expected = match expected {
            Expected::Landed => outcome(true, &[]),
            Expected::Silence => outcome(false, &[]),
            Expected::Refused(event) => outcome(false, &[self.describe(&event, phys, iova)]),
        };
        self.check(what, expected, outcome(landed, &events));
    }

    fn describe(&self, event: &Event, phys: PhysAddr, iova: u64) -> String {
        let line = event.describe(self.bench.records_class());
        if iova == phys.raw() {
            line.replace(&format!("{iova:#x}"), &target(iova, phys))
        } else {
            line
        }
    }

    /// The word that the device read last: it writes it back while the SMMU is disabled, which lets everything pass and forgets nothing.
    fn buffer_word(&self, client: Client) -> Result<u32, Failure> {
        let control = self.read(spec::CR0);
        let abort = self.read(spec::GBPA);
        self.control(control & !spec::cr0::SMMUEN.mask())?;
        self.bypass_globally(false)?;
        let scratch = self.page()?;
        let iova = Iova::new(scratch.raw());
        self.bench.device_writes(client, iova, LANDING_OFFSET, 4)?;
        self.bypass_globally(spec::gbpa::ABORT.is_set(abort))?;
        self.control(control)?;
        Ok(pattern::word(self.bench, scratch))
    }

    /// Sets what happens while the SMMU is disabled: abort, or pass (§6.3.14).
    ///
    /// # Errors
    ///
    /// When the SMMU does not follow.
    pub fn bypass_globally(&self, abort: bool) -> Result<(), Failure> {
        use spec::gbpa;
        let value = gbpa::ABORT.with(self.read(spec::GBPA), u64::from(abort));
        if value == self.read(spec::GBPA) {
            return Ok(());
        }
        self.write(spec::GBPA, gbpa::UPDATE.with(value, 1));
        self.await_register(spec::GBPA, gbpa::UPDATE.with(value, 0))
    }
}
