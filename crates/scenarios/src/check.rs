//! What a scenario saw, next to what the specification says it must see.

use crate::bench::Client;
use portcullis_spec::smmuv3::event::{self, class, number};
use std::fmt;

/// One observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was looked at.
    pub what: String,
    /// What the specification says.
    pub expected: String,
    /// What the platform showed.
    pub observed: String,
}

impl Check {
    /// Whether the platform did what the specification says.
    pub fn holds(&self) -> bool {
        self.expected == self.observed
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.observed)?;
        if !self.holds() {
            write!(f, " (the specification: {})", self.expected)?;
        }
        Ok(())
    }
}

/// The direction of an access, as the device sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From memory.
    Read,
    /// To memory.
    Write,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
        })
    }
}

/// What was being accessed when stage 2 refused (§7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A context descriptor.
    Cd,
    /// A stage 1 table.
    Table,
    /// The transaction's own target.
    Input,
}

/// Where a translation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spot {
    /// The address that the device sent.
    pub iova: u64,
    /// What the record says of the direction; compared only for the transaction's own access.
    pub direction: Direction,
    /// 1 or 2.
    pub stage: u8,
    /// What was being accessed.
    pub class: Class,
    /// The intermediate address, for stage 2: its page.
    pub ipa: Option<u64>,
}

/// An event record, as far as its kind defines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A configuration error or a fetch of configuration that failed: only number and stream mean something to all of them.
    Configuration {
        /// Its number (§7.3).
        number: u64,
        /// The stream.
        stream: u32,
    },
    /// A translation that failed.
    Translation {
        /// Its number (§7.3).
        number: u64,
        /// The stream.
        stream: u32,
        /// Where.
        spot: Spot,
    },
}

impl Event {
    /// The event that `client` causes when translation fails at `spot`.
    pub fn translation(number: u64, client: Client, spot: Spot) -> Self {
        Self::Translation { number, stream: client.stream().raw(), spot }
    }

    /// The event that `client` causes when its configuration is at fault.
    pub fn configuration(number: u64, client: Client) -> Self {
        Self::Configuration { number, stream: client.stream().raw() }
    }

    /// Reads a record.
    pub fn decode(record: &[u64; 4]) -> Self {
        let number = event::TYPE.read(record);
        let stream = event::STREAM_ID.read(record) as u32;
        let translation = (number::F_TRANSLATION..=number::F_PERMISSION).contains(&number)
            || number == number::F_WALK_EABT;
        if !translation {
            return Self::Configuration { number, stream };
        }
        let stage_two = event::S2.read(record) == 1;
        let spot = Spot {
            iova: event::INPUT_ADDR.read(record),
            direction: if event::RNW.read(record) == 1 {
                Direction::Read
            } else {
                Direction::Write
            },
            stage: if stage_two { 2 } else { 1 },
            class: match event::CLASS.read(record) {
                class::CD => Class::Cd,
                class::TT => Class::Table,
                _ => Class::Input,
            },
            // F_WALK_EABT has the address that was fetched there, which no two machines share.
            ipa: (stage_two && number != number::F_WALK_EABT)
                .then(|| event::IPA.in_place(record[event::IPA.word()])),
        };
        Self::Translation { number, stream, spot }
    }

    /// The event as a line; without the class where the platform does not record it.
    pub fn describe(&self, with_class: bool) -> String {
        let name = |number: u64| {
            let known = number::CODES.iter().find(|code| code.value == number);
            known.map_or_else(|| format!("event {number:#x}"), |code| code.name.to_owned())
        };
        match self {
            Self::Configuration { number, stream } => format!("{} of {stream:#x}", name(*number)),
            Self::Translation { number, stream, spot } => {
                let Spot { iova, direction, stage, class, ipa } = spot;
                let mut line = format!("{} of {stream:#x}", name(*number));
                // Of a fetch that the SMMU made itself the direction is not compared: readings of the document differ.
                let fetched =
                    *number == number::F_WALK_EABT || with_class && *class != Class::Input;
                if fetched {
                    line += ", fetch for";
                } else {
                    line += &format!(", {direction}");
                }
                line += &format!(" {iova:#x}, stage {stage}");
                if with_class {
                    line += match class {
                        Class::Cd => ", CD",
                        Class::Table => ", table",
                        Class::Input => "",
                    };
                }
                if let Some(ipa) = ipa {
                    line += &format!(", IPA {ipa:#x}");
                }
                line
            }
        }
    }
}
