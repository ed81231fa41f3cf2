//! A world: how many IOMMUs and clients there are, how they hang together, what else happens.

use core::fmt;
use core::str::FromStr;

/// The machine and the circumstances in which a protocol is explored.
///
/// All clients sit behind the first IOMMU, if [`World::behind`] does not say otherwise. Of `iommus` instances the last
/// `registering` are being registered while the clients probe; the others were bound before. So one IOMMU, one registering,
/// is a client racing with its own SMMU; two IOMMUs, one registering, is the world of the report:
/// the client's SMMU is there, another one (of the GPU, say) walks the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World {
    /// IOMMU instances, 1 to [`World::MAX_IOMMUS`].
    pub iommus: usize,
    /// How many of them register while the clients probe, 0 to `iommus`.
    pub registering: usize,
    /// Clients, 1 to [`World::MAX_CLIENTS`].
    pub clients: usize,
    /// How the clients are grouped, and which domain types they want.
    pub grouping: Grouping,
    /// The bus of the clients.
    pub bus: Bus,
    /// What describes the machine.
    pub firmware: Firmware,
    /// The driver of the IOMMUs.
    pub driver: Driver,
    /// Attempts to bind a client that unrelated events cause: the first, and one more for each other
    /// driver that binds at any moment. Retries caused by the IOMMUs' and the clients' own binds come on
    /// top, as in the kernel. 1 to [`World::MAX_ATTEMPTS`].
    pub attempts: usize,
    /// Each client names the last IOMMU as a second node in `iommus` (needs two IOMMUs).
    pub two_nodes: bool,
    /// Which IOMMU the clients sit behind.
    pub behind: Behind,
    /// The last client's driver manages its DMA itself (`driver_managed_dma`): it claims no default domain.
    pub managed: bool,
    /// What else happens, each once, at any moment. Sorted, no duplicates.
    pub events: Vec<Event>,
}

/// How the clients are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Grouping {
    /// A group each, all content with a DMA domain.
    Own,
    /// One group, all content with a DMA domain.
    Shared,
    /// One group; the last client wants an identity domain (needs two clients).
    Mixed,
    /// A group each, all of which want an identity domain (`iommu.passthrough=1`).
    Identity,
}

/// Which IOMMU the clients sit behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Behind {
    /// All behind the first.
    #[default]
    First,
    /// All behind the last, which registers while they probe if any does.
    Last,
    /// Each behind another, in turn (needs a group each).
    Each,
}

/// The bus of the clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bus {
    /// The platform bus.
    Platform,
    /// PCI.
    Pci,
    /// AMBA: PrimeCell devices.
    Amba,
    /// The fsl-mc bus of NXP's DPAA2.
    FslMc,
    /// The CDX bus of AMD's Versal.
    Cdx,
    /// The context devices of Tegra's host1x: a bus without `dma_configure`, whose devices host1x itself configures.
    Host1x,
}

/// What describes the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Firmware {
    /// A devicetree.
    Dt,
    /// ACPI with IORT.
    Acpi,
}

/// The driver of the IOMMUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Driver {
    /// `arm-smmu`: SMMUv2, MMU-500.
    V2,
    /// `arm-smmu-v3`.
    V3,
}

/// Something that happens once, at any moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// The first client is removed (`device_del`).
    Unplug,
    /// The first IOMMU is unregistered, once it is bound.
    Unregister,
    /// VFIO claims the group of the last client, and gives it back.
    Vfio,
    /// The first client is unbound and bound again through sysfs, once it is bound.
    Rebind,
    /// The last client is added while the machine runs (`device_add`), instead of being there at boot.
    Plug,
    /// The deferred-probe timeout fires.
    Timeout,
    /// The first client's driver fails its first probe, after it has used DMA.
    Fail,
    /// The first client's driver defers at its first probe, for a supplier of its own that binds at any moment.
    Defer,
    /// The clients' drivers allocate MSI vectors in their probe.
    Msi,
    /// A driver that registers tries the plugged client (needs [`Event::Plug`]) while `device_add` is at work.
    SecondThread,
    /// The IOMMU's `probe_device` refuses the last client: its stream id is out of range.
    BadId,
    /// Somebody writes `identity` to the `type` file of the first client's group.
    Type,
}

/// A small word of the command line for each value of an enumeration.
macro_rules! words {
    ($type:ty, $what:literal, $($value:path => $word:literal),+ $(,)?) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($value => $word),+ })
            }
        }
        impl $type {
            /// The words that are parsed.
            pub const WORDS: &[&str] = &[$($word),+];
        }

        impl FromStr for $type {
            type Err = WorldError;
            fn from_str(word: &str) -> Result<Self, WorldError> {
                match word {
                    $($word => Ok($value),)+
                    _ => Err(WorldError::Word {
                        what: $what,
                        word: word.into(),
                        known: Self::WORDS,
                    }),
                }
            }
        }
    };
}

words!(Grouping, "group", Grouping::Own => "own", Grouping::Shared => "shared", Grouping::Mixed => "mixed",
    Grouping::Identity => "identity");
words!(Behind, "behind", Behind::First => "first", Behind::Last => "last", Behind::Each => "each");
words!(Bus, "bus", Bus::Platform => "platform", Bus::Pci => "pci", Bus::Amba => "amba", Bus::FslMc => "fsl-mc",
    Bus::Cdx => "cdx", Bus::Host1x => "host1x");
words!(Firmware, "firmware", Firmware::Dt => "dt", Firmware::Acpi => "acpi");
words!(Driver, "driver", Driver::V2 => "v2", Driver::V3 => "v3");
words!(Event, "event", Event::Unplug => "unplug", Event::Unregister => "unregister",
    Event::Vfio => "vfio", Event::Rebind => "rebind", Event::Plug => "plug", Event::Timeout => "timeout",
    Event::Fail => "fail", Event::Defer => "defer", Event::Msi => "msi", Event::SecondThread => "second-thread",
    Event::BadId => "bad-id", Event::Type => "type");

/// Why a world makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorldError {
    /// A number is out of its range.
    Range {
        /// Which number.
        what: &'static str,
        /// The value given.
        value: usize,
        /// The smallest that makes sense.
        least: usize,
        /// The largest that makes sense here.
        most: usize,
    },
    /// An unknown word.
    Word {
        /// What it was to name.
        what: &'static str,
        /// The word given.
        word: String,
        /// The words that are known.
        known: &'static [&'static str],
    },
    /// A mixed group needs two clients.
    MixedNeedsTwo,
    /// Clients with two nodes need two IOMMUs.
    TwoNodesNeedTwo,
    /// ACPI names one IOMMU per device here.
    TwoNodesNeedDt,
    /// Clients behind different IOMMUs cannot share a group.
    EachNeedsOwnGroups,
    /// The second thread needs a client that is being added.
    SecondThreadNeedsPlug,
    /// These two do not go together: what the bus has not, cannot be described or changed.
    BusHasNo {
        /// The bus.
        bus: Bus,
        /// What it does not have.
        what: &'static str,
    },
    /// The name of a world, as in a schedule, cannot be read.
    Name(String),
}

impl fmt::Display for WorldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { what, value, least, most } => {
                write!(f, "{what} is {value}; it must be {least} to {most} here")
            }
            Self::Word { what, word, known } => {
                write!(f, "unknown {what} `{word}`; known are {}", known.join(", "))
            }
            Self::MixedNeedsTwo => {
                f.write_str("a mixed group needs two clients; give --clients 2 or --group own")
            }
            Self::TwoNodesNeedTwo => {
                f.write_str("clients with two IOMMU nodes need a second IOMMU; give --iommus 2")
            }
            Self::TwoNodesNeedDt => f.write_str(
                "clients with two IOMMU nodes are described by a devicetree; give --firmware dt",
            ),
            Self::EachNeedsOwnGroups => f.write_str(
                "clients behind different IOMMUs cannot share a group; give --group own",
            ),
            Self::SecondThreadNeedsPlug => f.write_str(
                "a second thread probes a client that is being added; give --event plug as well",
            ),
            Self::BusHasNo { bus, what } => write!(f, "the {bus} bus has no {what}"),
            Self::Name(name) => write!(f, "`{name}` is not the name of a world"),
        }
    }
}

impl core::error::Error for WorldError {}

/// The world of the report: the client's IOMMU is bound, a second one registers.
impl Default for World {
    fn default() -> Self {
        Self {
            iommus: 2,
            registering: 1,
            clients: 1,
            grouping: Grouping::Own,
            bus: Bus::Platform,
            firmware: Firmware::Dt,
            driver: Driver::V3,
            attempts: 1,
            two_nodes: false,
            behind: Behind::First,
            managed: false,
            events: Vec::new(),
        }
    }
}

impl World {
    /// The most IOMMU instances of a world.
    pub const MAX_IOMMUS: usize = 3;
    /// The most clients of a world.
    pub const MAX_CLIENTS: usize = 3;
    /// The most attempts of a world.
    pub const MAX_ATTEMPTS: usize = 4;

    /// A world with `iommus` instances, of which `registering` are being registered; else as default.
    #[must_use]
    pub fn of(iommus: usize, registering: usize, clients: usize) -> Self {
        Self { iommus, registering, clients, ..Self::default() }
    }

    /// Checks the ranges and sorts the events.
    ///
    /// # Errors
    /// [`WorldError`] with the value that does not fit.
    pub fn checked(mut self) -> Result<Self, WorldError> {
        let range = |what, value, least, most| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(WorldError::Range { what, value, least, most })
            }
        };
        range("iommus", self.iommus, 1, Self::MAX_IOMMUS)?;
        range("registering", self.registering, 0, self.iommus)?;
        range("clients", self.clients, 1, Self::MAX_CLIENTS)?;
        range("attempts", self.attempts, 1, Self::MAX_ATTEMPTS)?;
        if self.grouping == Grouping::Mixed && self.clients < 2 {
            return Err(WorldError::MixedNeedsTwo);
        }
        if self.two_nodes && self.iommus < 2 {
            return Err(WorldError::TwoNodesNeedTwo);
        }
        if self.two_nodes && self.firmware != Firmware::Dt {
            return Err(WorldError::TwoNodesNeedDt);
        }
        let each = self.behind == Behind::Each && self.iommus > 1;
        if each && !matches!(self.grouping, Grouping::Own | Grouping::Identity) {
            return Err(WorldError::EachNeedsOwnGroups);
        }
        if self.has(Event::SecondThread) && !self.has(Event::Plug) {
            return Err(WorldError::SecondThreadNeedsPlug);
        }
        self.bus_fits()?;
        self.events.sort_unstable();
        self.events.dedup();
        Ok(self)
    }

    /// Checks what not every bus has.
    fn bus_fits(&self) -> Result<(), WorldError> {
        let bus = self.bus;
        let dt_only = matches!(bus, Bus::Cdx | Bus::Host1x);
        if dt_only && self.firmware != Firmware::Dt {
            return Err(WorldError::BusHasNo { bus, what: "description by ACPI" });
        }
        let driverless = [Event::Rebind, Event::Plug, Event::Unplug, Event::Fail, Event::Defer];
        if bus == Bus::Host1x && (self.managed || driverless.iter().any(|event| self.has(*event))) {
            return Err(WorldError::BusHasNo { bus, what: "drivers that come and go" });
        }
        Ok(())
    }

    /// Does this happen in the world?
    #[must_use]
    pub fn has(&self, event: Event) -> bool {
        self.events.contains(&event)
    }

    /// The device name of an IOMMU, as in a log.
    #[must_use]
    pub fn iommu_name(&self, index: usize) -> &'static str {
        let names = match (self.firmware, self.driver) {
            (Firmware::Dt, _) => ["15000000.iommu", "5040000.iommu", "3da0000.iommu"],
            (Firmware::Acpi, Driver::V3) => {
                ["arm-smmu-v3.0.auto", "arm-smmu-v3.1.auto", "arm-smmu-v3.2.auto"]
            }
            (Firmware::Acpi, Driver::V2) => {
                ["arm-smmu.0.auto", "arm-smmu.1.auto", "arm-smmu.2.auto"]
            }
        };
        names[index.min(2)]
    }

    /// The device name of a client, as in a log.
    #[must_use]
    pub fn client_name(&self, index: usize) -> &'static str {
        let names = match (self.bus, self.firmware) {
            (Bus::Pci, _) => ["0000:00:02.0", "0000:00:03.0", "0000:00:04.0"],
            (Bus::Platform, Firmware::Dt) => {
                ["aa00000.video-codec", "ae01000.display-controller", "ac6a000.camss"]
            }
            (Bus::Platform, Firmware::Acpi) => ["LNRO0005:00", "LNRO0005:01", "LNRO0005:02"],
            (Bus::Amba, _) => ["2b600000.dma-controller", "2c0f0000.mmc", "2c0a0000.clcd"],
            (Bus::FslMc, _) => ["dprc.2", "dpni.0", "dpni.1"],
            (Bus::Cdx, _) => ["cdx-00:00", "cdx-00:01", "cdx-00:02"],
            (Bus::Host1x, _) => ["host1x-ctx.0", "host1x-ctx.1", "host1x-ctx.2"],
        };
        names[index.min(2)]
    }

    /// The line that the kernel prints when it finds a client's group without a domain.
    #[must_use]
    pub fn retaining_message(&self, client: usize) -> String {
        format!(
            "Failed to set up IOMMU for device {}; retaining platform DMA ops",
            self.client_name(client)
        )
    }
}

/// `i2r1c1.own.platform.dt.v3.a1`, then `.two-nodes`, `.behind-last`, `.managed` and the events: the name inside schedules.
impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            iommus, registering, clients, grouping, bus, firmware, driver, attempts, ..
        } = self;
        write!(
            f,
            "i{iommus}r{registering}c{clients}.{grouping}.{bus}.{firmware}.{driver}.a{attempts}"
        )?;
        if self.two_nodes {
            f.write_str(".two-nodes")?;
        }
        if self.behind != Behind::First {
            write!(f, ".behind-{}", self.behind)?;
        }
        if self.managed {
            f.write_str(".managed")?;
        }
        self.events.iter().try_for_each(|event| write!(f, ".{event}"))
    }
}

impl FromStr for World {
    type Err = WorldError;

    fn from_str(name: &str) -> Result<Self, WorldError> {
        let bad = || WorldError::Name(name.into());
        let mut words = name.split('.');
        let counts = words.next().ok_or_else(bad)?;
        let digits: Vec<usize> = counts
            .split(['i', 'r', 'c'])
            .skip(1)
            .map(|digits| digits.parse().map_err(|_| bad()))
            .collect::<Result<_, _>>()?;
        let [iommus, registering, clients] = digits[..] else { return Err(bad()) };
        let mut word = || words.next().ok_or_else(bad);
        let mut world = Self {
            iommus,
            registering,
            clients,
            grouping: word()?.parse()?,
            bus: word()?.parse()?,
            firmware: word()?.parse()?,
            driver: word()?.parse()?,
            attempts: word()?
                .strip_prefix('a')
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(bad)?,
            ..Self::default()
        };
        for word in words {
            match word {
                "two-nodes" => world.two_nodes = true,
                "managed" => world.managed = true,
                behind if behind.starts_with("behind-") => {
                    world.behind = behind["behind-".len()..].parse()?;
                }
                event => world.events.push(event.parse()?),
            }
        }
        world.checked()
    }
}
