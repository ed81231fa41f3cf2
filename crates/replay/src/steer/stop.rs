//! Stops: places in a kernel where a thread can be parked.

use crate::error::Error;
use crate::image::{KernelImage, calls, stores_of_byte};
use std::fmt;
use std::str::FromStr;

/// A place in the kernel's code, and whose thread is meant there.
///
/// | written | means |
/// | --- | --- |
/// | `function` | about to execute its first instruction |
/// | `function#2` | the second function of that name, by address |
/// | `function:return` | just back in its caller |
/// | `function@callee.3` | in `function`, just behind its third direct call of `callee` |
/// | `function!member` | in `function`, about to store the byte that holds this bit of `struct device` |
/// | `...?x0=client` | as above, only if register x0 points to the client's `struct device` |
/// | `...?x2=smmu` | only if x2 points to the device of the SMMU that registers |
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stop {
    /// The function.
    pub(crate) function: String,
    /// Where in it.
    pub(crate) at: At,
    /// Which register must hold which device.
    pub(crate) device: Option<(usize, Role)>,
}

/// Where in a function.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum At {
    /// At its first instruction.
    Entry,
    /// Back in the caller.
    Return,
    /// Behind the `number`th direct call of `callee`, counted from 1.
    Behind {
        /// The function called.
        callee: String,
        /// Which of its calls.
        number: usize,
    },
    /// Between the load and the store of the byte that holds a bit of `struct device`, at its first store.
    Storing {
        /// The bit.
        member: String,
    },
}

/// A device that a schedule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Role {
    /// The client.
    Client,
    /// The SMMU that registers.
    Smmu,
}

/// The devices' names, by role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Devices {
    /// The client.
    pub(crate) client: &'static str,
    /// The SMMU that registers.
    pub(crate) smmu: &'static str,
}

impl Devices {
    /// The name of a device.
    pub(crate) fn name(&self, role: Role) -> &'static str {
        match role {
            Role::Client => self.client,
            Role::Smmu => self.smmu,
        }
    }
}

impl FromStr for Stop {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |why: &str| Error::Stop { stop: text.to_owned(), why: why.to_owned() };
        let (place, device) = match text.split_once('?') {
            None => (text, None),
            Some((place, condition)) => {
                let (register, role) =
                    condition.split_once('=').ok_or_else(|| bad("a condition is `xN=client`"))?;
                let number = register.strip_prefix('x').and_then(|digits| digits.parse().ok());
                let number =
                    number.filter(|number| *number < 31).ok_or_else(|| bad("no register"))?;
                let role = match role {
                    "client" => Role::Client,
                    "smmu" => Role::Smmu,
                    _ => return Err(bad("a device is `client` or `smmu`")),
                };
                (place, Some((number, role)))
            }
        };
        let (function, at) = if let Some(function) = place.strip_suffix(":return") {
            (function, At::Return)
        } else if let Some((function, member)) = place.split_once('!') {
            if member.is_empty() {
                return Err(bad("no member"));
            }
            (function, At::Storing { member: member.to_owned() })
        } else if let Some((function, call)) = place.split_once('@') {
            let (callee, number) = call.rsplit_once('.').unwrap_or((call, "1"));
            let number = number.parse().ok().filter(|number| *number > 0);
            let number = number.ok_or_else(|| bad("calls are counted from 1"))?;
            (function, At::Behind { callee: callee.to_owned(), number })
        } else {
            (place, At::Entry)
        };
        if function.is_empty() {
            return Err(bad("no function"));
        }
        Ok(Self { function: function.to_owned(), at, device })
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.function)?;
        match &self.at {
            At::Entry => {}
            At::Return => f.write_str(":return")?,
            At::Behind { callee, number } => write!(f, "@{callee}.{number}")?,
            At::Storing { member } => write!(f, "!{member}")?,
        }
        match self.device {
            Some((register, Role::Client)) => write!(f, "?x{register}=client"),
            Some((register, Role::Smmu)) => write!(f, "?x{register}=smmu"),
            None => Ok(()),
        }
    }
}

impl Stop {
    /// Where the breakpoint of this stop stands, from the start of the image: for a return the function's entry, where it is armed.
    pub(crate) fn offset(&self, image: &KernelImage) -> Result<u64, Error> {
        let start = symbol(image, &self.function, &format!("the stop `{self}`"))?;
        let end = image.symbols.end(start).unwrap_or(start);
        let code = usize::try_from(start).ok().zip(usize::try_from(end).ok());
        let code = code.and_then(|(start, end)| image.bytes.get(start..end)).unwrap_or_default();
        let missing = |why: String| Error::Stop { stop: self.to_string(), why };
        match &self.at {
            At::Entry | At::Return => Ok(start),
            At::Behind { callee, number } => {
                let target = symbol(image, callee, &format!("the stop `{self}`"))?;
                let found: Vec<u64> = calls(code, start)
                    .filter(|call| call.target == target)
                    .map(|call| call.at + 4)
                    .collect();
                found.get(number - 1).copied().ok_or_else(|| {
                    let count = found.len();
                    missing(format!("{} calls `{callee}` directly {count} times", self.function))
                })
            }
            At::Storing { member } => {
                let place = image.btf.member("device", member);
                let place =
                    place.ok_or_else(|| missing(format!("struct device has no {member}")))?;
                stores_of_byte(code, start, place.byte).next().ok_or_else(|| {
                    missing(format!("{} stores no byte that holds {member}", self.function))
                })
            }
        }
    }
}

/// The offset of a symbol, or an error that says why it was wanted.
pub(crate) fn symbol(image: &KernelImage, name: &str, wanted: &str) -> Result<u64, Error> {
    image.symbols.offset(name).ok_or_else(|| {
        let count = image.symbols.count(name);
        let wanted = match count {
            0 | 1 => wanted.to_owned(),
            many => format!(
                "{wanted} ({many} functions have that name: write `{name}#1` to `{name}#{many}`)"
            ),
        };
        Error::NoSymbol { name: name.to_owned(), wanted }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_read_back() {
        for text in [
            "bus_iommu_probe",
            "arm_smmu_probe_device#2:return?x0=client",
            "of_iommu_configure@mutex_unlock.3",
            "arch_setup_dma_ops!dma_iommu",
            "iommu_device_register?x2=smmu",
        ] {
            let stop: Stop = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
            assert_eq!(stop.to_string(), text);
        }
        for text in
            ["", "f@g.0", "f!", "!dma_iommu", "f?x31=client", "f?x0=disk", "f?x0", ":return"]
        {
            assert!(text.parse::<Stop>().is_err(), "{text}");
        }
    }
}
