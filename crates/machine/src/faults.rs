//! The knobs: how unkind the hardware is within what the architecture permits ([`Policy`]), and what is broken about it ([`Faults`]).

use portcullis_spec::smmuv3::cerror;
use std::fmt;
use std::sync::Arc;

/// When commands are taken from the queue, and when they take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consumption {
    /// All at once when the producer index is written; each takes effect at once (what QEMU does).
    Eager,
    /// As late as permitted: a few each time the consumer index is read or time passes. What they invalidate stays cached until a CMD_SYNC is consumed.
    Late {
        /// The most commands that are consumed at each of these moments, at least 1. The seed decides how many exactly.
        most: u32,
    },
}

/// In which order the parts of an entry are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkOrder {
    /// Lowest address first.
    Ascending,
    /// Highest address first.
    Descending,
    /// Drawn from the seed, anew for each entry.
    Random,
}

/// Which chunk of an entry was just read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkPoint {
    /// `"STE"`, `"CD"` or `"DC"`.
    pub structure: &'static str,
    /// Physical address of the entry (of a CD behind stage 2: intermediate).
    pub address: u64,
    /// How many chunks of it have been read.
    pub read: u32,
    /// How many there are.
    pub of: u32,
}

type BetweenChunks = Arc<dyn Fn(ChunkPoint) + Send + Sync>;

/// How the bytes of a stream table entry, context descriptor or device context are read.
#[derive(Clone)]
pub struct ReadChunks {
    pub(crate) bytes: usize,
    pub(crate) order: ChunkOrder,
    pub(crate) between: Option<BetweenChunks>,
}

impl ReadChunks {
    /// In pieces of `bytes`: 8, 16, 32 or 64 (other numbers are rounded up to one of these; 64 is the most).
    pub fn of(bytes: usize, order: ChunkOrder) -> Self {
        Self { bytes: bytes.clamp(8, 64).next_power_of_two(), order, between: None }
    }

    /// Calls `act` after every chunk but the last, so that a test can store in between. The machine holds no lock then.
    #[must_use]
    pub fn between(mut self, act: impl Fn(ChunkPoint) + Send + Sync + 'static) -> Self {
        self.between = Some(Arc::new(act));
        self
    }
}

impl fmt::Debug for ReadChunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadChunks")
            .field("bytes", &self.bytes)
            .field("order", &self.order)
            .field("between", &self.between.is_some())
            .finish()
    }
}

/// When hardware that snoops the caches sees software's stores. (Hardware that does not snoop always sees them only once they are published.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreOrder {
    /// At once, in order.
    Immediate,
    /// When they are published or a register is written. Until then the seed decides for each store whether it is visible, in any order.
    Late,
}

/// What the TLB keeps. It never evicts by itself: what was cached stays until a command covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlbPolicy {
    /// Keep translations. Otherwise every access walks the tables.
    pub translations: bool,
    /// Keep table descriptors (a walk then begins at the lowest cached table), so that a table freed with only a leaf invalidation is still walked.
    pub tables: bool,
    /// Keep stream table entries and context descriptors.
    pub configuration: bool,
    /// Keep them also when they are invalid, as IHI 0070, 5.2.2 permits ("in any state"): whoever makes one valid must invalidate too.
    pub invalid_configuration: bool,
}

impl TlbPolicy {
    /// Everything is kept.
    pub const HOARD: Self =
        Self { translations: true, tables: true, configuration: true, invalid_configuration: true };
    /// What QEMU keeps: translations and valid configuration.
    pub const LIKE_QEMU: Self = Self {
        translations: true,
        tables: false,
        configuration: true,
        invalid_configuration: false,
    };
    /// Nothing is kept.
    pub const NONE: Self = Self {
        translations: false,
        tables: false,
        configuration: false,
        invalid_configuration: false,
    };
}

/// How the hardware uses the freedom that the architecture gives it. [`Policy::default`] is harsh only in ways whose failures are easy to explain,
/// [`Policy::harshest`] in every way, and [`Policy::like_qemu`] in none.
#[derive(Clone, Debug)]
pub struct Policy {
    /// What is cached.
    pub tlb: TlbPolicy,
    /// How entries are read.
    pub chunks: ReadChunks,
    /// When commands are consumed.
    pub consumption: Consumption,
    /// When stores are seen.
    pub store_order: StoreOrder,
    /// After each walk, fetch also the pages before and after, and the configuration of the neighbouring stream (its id with bit 0 flipped). Software that skips an invalidation
    /// because "nothing ever used the entry" is caught by that.
    pub speculation: bool,
    /// How many reads of `CR0ACK`, `IRQ_CTRLACK` or `GBPA` it takes until a write is in effect; 0 for at once.
    pub update_delay: u32,
    /// Compare every TLB hit with the tables in memory and record [`Violation::StaleHit`](crate::Violation::StaleHit). Turn it off where a device works while its mappings change:
    /// a hit between the store and the confirmed invalidation is no offence then.
    pub verify_hits: bool,
    /// Record [`Violation::ReusedFrame`](crate::Violation::ReusedFrame) when a hit lands in a page that was allocated after the translation was cached. Turn it
    /// off where memory is mapped before it is allocated (identity mappings by tables).
    pub verify_owners: bool,
    /// How many accesses [`Oracle::accesses`](crate::Oracle::accesses) keeps.
    pub accesses_kept: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            tlb: TlbPolicy::HOARD,
            chunks: ReadChunks::of(8, ChunkOrder::Ascending),
            consumption: Consumption::Late { most: 4 },
            store_order: StoreOrder::Immediate,
            speculation: false,
            update_delay: 1,
            verify_hits: true,
            verify_owners: true,
            accesses_kept: 4096,
        }
    }
}

impl Policy {
    /// What QEMU's SMMUv3 does: commands run when the producer index is written, entries are read whole, only valid configuration is cached.
    pub fn like_qemu() -> Self {
        Self {
            tlb: TlbPolicy::LIKE_QEMU,
            chunks: ReadChunks::of(64, ChunkOrder::Ascending),
            consumption: Consumption::Eager,
            update_delay: 0,
            ..Self::default()
        }
    }

    /// Everything unpleasant that the architecture permits, together: late stores in any order, entries in pieces of 8 bytes in any order, late commands, slow
    /// updates, and fetches that nobody asked for.
    pub fn harshest() -> Self {
        Self {
            chunks: ReadChunks::of(8, ChunkOrder::Random),
            store_order: StoreOrder::Late,
            speculation: true,
            update_delay: 3,
            ..Self::default()
        }
    }

    /// The same policy with other caches.
    #[must_use]
    pub fn tlb(mut self, tlb: TlbPolicy) -> Self {
        self.tlb = tlb;
        self
    }

    /// The same policy with another way to read entries.
    #[must_use]
    pub fn chunks(mut self, chunks: ReadChunks) -> Self {
        self.chunks = chunks;
        self
    }

    /// The same policy with another time of consumption.
    #[must_use]
    pub fn consumption(mut self, consumption: Consumption) -> Self {
        self.consumption = consumption;
        self
    }

    /// The same policy with another store order.
    #[must_use]
    pub fn store_order(mut self, order: StoreOrder) -> Self {
        self.store_order = order;
        self
    }

    /// The same policy with [`speculation`](Self::speculation).
    #[must_use]
    pub fn speculation(mut self) -> Self {
        self.speculation = true;
        self
    }

    /// The same policy with another [`update_delay`](Self::update_delay).
    #[must_use]
    pub fn update_delay(mut self, reads: u32) -> Self {
        self.update_delay = reads;
        self
    }

    /// The same policy with [`verify_hits`](Self::verify_hits) and [`verify_owners`](Self::verify_owners) set to `on`.
    #[must_use]
    pub fn verify(mut self, on: bool) -> Self {
        self.verify_hits = on;
        self.verify_owners = on;
        self
    }
}

/// Why a command is refused (`CMDQ_CONS.ERR`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CommandError {
    /// CERROR_ILL.
    Illegal,
    /// CERROR_ABT.
    FetchAbort,
    /// CERROR_ATC_INV_SYNC.
    AtcInvalidation,
}

impl CommandError {
    /// The number that `CMDQ_CONS.ERR` shows.
    pub const fn code(self) -> u32 {
        (match self {
            Self::Illegal => cerror::ILL,
            Self::FetchAbort => cerror::ABT,
            Self::AtcInvalidation => cerror::ATC_INV_SYNC,
        }) as u32
    }
}

/// What is broken about one IOMMU. Nothing by default. Counts begin when the faults are injected ([`SmmuV3::inject`](crate::SmmuV3::inject)); 1 is the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    pub(crate) stuck: Vec<(usize, Option<u64>)>,
    pub(crate) gone_at_access: Option<u64>,
    pub(crate) failing_commands: Vec<(u64, CommandError)>,
    pub(crate) frozen_after: Option<u64>,
    pub(crate) hang_sync: Option<u64>,
    pub(crate) restart_helps: bool,
    pub(crate) service_failure: bool,
    pub(crate) event_write_aborts: bool,
    pub(crate) no_interrupts: bool,
}

impl Faults {
    /// Nothing is broken.
    pub fn none() -> Self {
        Self::default()
    }

    /// The register at `offset` no longer takes writes.
    #[must_use]
    pub fn stick(mut self, offset: usize) -> Self {
        self.stuck.push((offset, None));
        self
    }

    /// The register at `offset` reads as `value` whatever was written.
    #[must_use]
    pub fn stick_at(mut self, offset: usize, value: u64) -> Self {
        self.stuck.push((offset, Some(value)));
        self
    }

    /// From register access number `nth` on the unit is gone: reads give all ones, writes do nothing, transactions are aborted.
    #[must_use]
    pub fn gone_at(mut self, nth: u64) -> Self {
        self.gone_at_access = Some(nth);
        self
    }

    /// Command number `nth` is refused with `error`, once.
    #[must_use]
    pub fn fail_command(mut self, nth: u64, error: CommandError) -> Self {
        self.failing_commands.push((nth, error));
        self
    }

    /// After `commands` more commands no further one is consumed.
    #[must_use]
    pub fn freeze_after(mut self, commands: u64) -> Self {
        self.frozen_after = Some(commands);
        self
    }

    /// The CMD_SYNC (SMMUv2: TLB sync) number `nth` from now never completes, and neither does anything after it.
    #[must_use]
    pub fn hang_sync(mut self, nth: u64) -> Self {
        self.hang_sync = Some(nth);
        self
    }

    /// As [`hang_sync`](Self::hang_sync), but disabling the command queue ends it: what was in the queue is not carried out.
    #[must_use]
    pub fn hang_sync_until_restart(self, nth: u64) -> Self {
        Self { restart_helps: true, ..self.hang_sync(nth) }
    }

    /// The unit enters service failure mode (IHI 0070, 12.3): it reports `GERROR.SFM_ERR`, aborts every transaction, consumes no command and records no event.
    #[must_use]
    pub fn fail_service(mut self) -> Self {
        self.service_failure = true;
        self
    }

    /// Every write of an event record is aborted.
    #[must_use]
    pub fn abort_event_writes(mut self) -> Self {
        self.event_write_aborts = true;
        self
    }

    /// What the register at `offset` reads as, if it is stuck at a value.
    pub(crate) fn stuck_at(&self, offset: usize) -> Option<u64> {
        self.stuck.iter().find(|(at, _)| *at & !3 == offset)?.1
    }

    /// Every interrupt is lost, by wire or as a message.
    #[must_use]
    pub fn drop_interrupts(mut self) -> Self {
        self.no_interrupts = true;
        self
    }
}
