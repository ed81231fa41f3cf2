//! A function, as enumeration found it.

use crate::acs::Acs;
use crate::bdf::Bdf;
use core::fmt;

/// What a function is on the bus (PCI Express Base 6.0, 7.5.3.2: Device/Port Type).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Without a PCI Express capability.
    Conventional,
    /// An endpoint.
    Endpoint,
    /// A legacy endpoint.
    LegacyEndpoint,
    /// A port of the root complex.
    RootPort,
    /// The upper port of a switch.
    UpstreamPort,
    /// A lower port of a switch.
    DownstreamPort,
    /// A bridge from PCI Express down to conventional PCI.
    ExpressToConventional,
    /// A bridge from conventional PCI down to PCI Express.
    ConventionalToExpress,
    /// An endpoint that is part of the root complex.
    IntegratedEndpoint,
    /// An event collector of the root complex.
    EventCollector,
    /// A type that the specification reserves, or none that could be read.
    Unknown(u8),
}

impl Kind {
    pub(crate) fn of_express(port_type: u8) -> Self {
        match port_type {
            0 => Self::Endpoint,
            1 => Self::LegacyEndpoint,
            4 => Self::RootPort,
            5 => Self::UpstreamPort,
            6 => Self::DownstreamPort,
            7 => Self::ExpressToConventional,
            8 => Self::ConventionalToExpress,
            9 => Self::IntegratedEndpoint,
            10 => Self::EventCollector,
            other => Self::Unknown(other),
        }
    }

    /// One link with one device leads down from it.
    pub(crate) fn has_link_below(self) -> bool {
        matches!(self, Self::RootPort | Self::DownstreamPort)
    }
}

/// The buses below a bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BusesBelow {
    /// The bus right below.
    pub secondary: u8,
    /// The last bus below; at least `secondary`.
    pub subordinate: u8,
}

/// What is wrong with a function's configuration space. It is then taken for a conventional one that nothing isolates from its bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A list of capabilities goes round or leaves its room.
    Capabilities,
    /// A bridge's bus numbers are not above its own bus, overlap what is numbered already or leave the range of the bridge above. Nothing below it was looked at.
    BusNumbers {
        /// Secondary bus.
        secondary: u8,
        /// Subordinate bus.
        subordinate: u8,
    },
    /// No bus number is left for what is below. Nothing below it was looked at.
    NoBusNumber,
    /// Its virtual functions would have ids of other buses than those it may use. None of them is listed.
    VirtualFunctions,
}

impl fmt::Display for Defect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capabilities => f.write_str("its capability list does not end"),
            Self::BusNumbers { secondary, subordinate } => write!(
                f,
                "its bus numbers {secondary:02x}-{subordinate:02x} cannot be: nothing below it was looked at"
            ),
            Self::NoBusNumber => f.write_str("no bus number is left for what is below it"),
            Self::VirtualFunctions => f.write_str("its virtual functions have ids of other buses"),
        }
    }
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Where it is.
    pub address: Bdf,
    /// Vendor id.
    pub vendor: u16,
    /// Device id; of a virtual function the one that the capability of its physical function names.
    pub device: u16,
    /// Subsystem vendor and id; zero for bridges.
    pub subsystem: (u16, u16),
    /// Base class, sub class and interface.
    pub class: u32,
    /// What it is on the bus.
    pub kind: Kind,
    /// Whether its device has several functions (or may have: the header says so, or it is not function 0).
    pub multifunction: bool,
    /// The bridge above, as an index into the list it stands in; lower than its own. `None` on a root bus.
    pub parent: Option<usize>,
    /// The buses below, where it is a bridge that was followed.
    pub below: Option<BusesBelow>,
    /// The physical function whose virtual function it is.
    pub physical: Option<Bdf>,
    /// How many upper bits of the function number it may change in its requests: phantom functions that are turned on (7.5.3.3, 7.5.3.4).
    pub phantom_bits: u8,
    /// Whether it is numbered alternatively, so that all functions of its bus are one device (ARI).
    pub alternative: bool,
    /// Its ACS capability.
    pub acs: Option<Acs>,
    /// What is wrong with it.
    pub defect: Option<Defect>,
}

impl Function {
    /// Whether it is a bridge or port, whose own requests do not matter to a driver.
    pub fn is_bridge(&self) -> bool {
        const BRIDGE: u32 = 6;
        self.class >> 16 == BRIDGE
    }
}
