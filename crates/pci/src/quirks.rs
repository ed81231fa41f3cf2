//! What hardware does differently from what its configuration space says, as data.
//!
//! The facts are those of `drivers/pci/quirks.c` and `include/linux/pci_ids.h` of Linux 7.3 (`pci_dev_acs_enabled`, `pci_dev_acs_ops` and the fixups that call
//! `pci_add_dma_alias`), where each is reported by its vendor or found by a bug report. Left out, and so in larger groups than in Linux: AMD's south bridges (1002:4383 and
//! its neighbours), which isolate only in a machine with an AMD IOMMU; Intel's PCH ports, which isolate only after a register of the chip set was written, which this crate does not do;
//! NTBs of Microsemi's Switchtec, which are asked through their own registers.

use crate::function::{Function, Kind};

/// What a quirk says of a function's isolation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AcsQuirk {
    /// It keeps to itself, without an ACS capability that says so.
    Isolated,
    /// It does not, whatever its capability says.
    NotIsolated,
    /// Its ACS registers are dwords (Intel 100 series specification update, erratum 23; 200 series, erratum 22).
    WideRegisters,
}

/// Where a rule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum On {
    Any,
    RootPort,
    Port,
    Integrated,
}

impl On {
    fn holds(self, kind: Kind) -> bool {
        match self {
            Self::Any => true,
            Self::RootPort => kind == Kind::RootPort,
            Self::Port => matches!(kind, Kind::RootPort | Kind::DownstreamPort),
            Self::Integrated => kind == Kind::IntegratedEndpoint,
        }
    }
}

struct AcsRule {
    vendor: u16,
    /// First and last device id of each range.
    devices: &'static [(u16, u16)],
    on: On,
    means: AcsQuirk,
}

const fn rule(vendor: u16, devices: &'static [(u16, u16)], on: On, means: AcsQuirk) -> AcsRule {
    AcsRule { vendor, devices, on, means }
}

const EVERY: &[(u16, u16)] = &[(0, u16::MAX)];

/// The first rule that fits counts.
const ACS_RULES: &[AcsRule] = &[
    // Solarflare, Intel, Emulex, Cavium, Broadcom and Zhaoxin functions that do no peer-to-peer with others of their device.
    rule(
        0x1924,
        &[(0x0903, 0x0903), (0x0923, 0x0923), (0x0a03, 0x0a03)],
        On::Any,
        AcsQuirk::Isolated,
    ),
    rule(0x8086, INTEL_FUNCTIONS, On::Any, AcsQuirk::Isolated),
    rule(0x19a2, &[(0x0710, 0x0710)], On::Any, AcsQuirk::Isolated),
    rule(0x10df, &[(0x0720, 0x0720)], On::Any, AcsQuirk::Isolated),
    rule(
        0x177d,
        &[(0xa026, 0xa026), (0xa059, 0xa059), (0xa060, 0xa060)],
        On::Any,
        AcsQuirk::Isolated,
    ),
    rule(
        0x14e4,
        &[(0x16d7, 0x16d7), (0x1750, 0x1752), (0x1760, 0x1763)],
        On::Any,
        AcsQuirk::Isolated,
    ),
    rule(
        0x1d17,
        &[(0x3038, 0x3038), (0x3104, 0x3104), (0x9083, 0x9083)],
        On::Any,
        AcsQuirk::Isolated,
    ),
    // Intel's integrated endpoints reach peers by translated addresses only (VT-d 3.1, 3.16).
    rule(0x8086, EVERY, On::Integrated, AcsQuirk::Isolated),
    rule(0x8086, INTEL_PCH_PORTS, On::RootPort, AcsQuirk::NotIsolated),
    rule(0x8086, INTEL_WIDE_PORTS, On::RootPort, AcsQuirk::WideRegisters),
    // Ports without the capability that do the same: Qualcomm, HXT, Cavium, APM, Ampere, Broadcom, Loongson, Annapurna, NXP, Zhaoxin.
    rule(
        0x17cb,
        &[(0x0111, 0x0111), (0x0115, 0x0115), (0x0120, 0x0120), (0x0400, 0x0401)],
        On::Any,
        AcsQuirk::Isolated,
    ),
    rule(0x1dbf, &[(0x0401, 0x0401)], On::Any, AcsQuirk::Isolated),
    rule(
        0x177d,
        &[(0xa000, 0xa7ff), (0xaf84, 0xaf84), (0xb884, 0xb884)],
        On::RootPort,
        AcsQuirk::Isolated,
    ),
    rule(0x10e8, &[(0xe004, 0xe004)], On::Any, AcsQuirk::Isolated),
    rule(0x1def, &[(0xe005, 0xe00c)], On::Any, AcsQuirk::Isolated),
    rule(0x14e4, &[(0xd714, 0xd714)], On::Any, AcsQuirk::Isolated),
    rule(0x0014, LOONGSON_PORTS, On::Any, AcsQuirk::Isolated),
    rule(0x1c36, &[(0x0031, 0x0031)], On::RootPort, AcsQuirk::Isolated),
    rule(0x1957, NXP_PORTS, On::Any, AcsQuirk::Isolated),
    rule(
        0x1d17,
        &[(0x0710, 0x071e), (0x0721, 0x0721), (0x0723, 0x0752)],
        On::Port,
        AcsQuirk::Isolated,
    ),
    rule(0x1d17, EVERY, On::Port, AcsQuirk::NotIsolated),
    // Wangxun's network functions, and none of its other ones.
    rule(0x8088, WANGXUN_FUNCTIONS, On::Any, AcsQuirk::Isolated),
    rule(0x8088, EVERY, On::Any, AcsQuirk::NotIsolated),
];

const INTEL_FUNCTIONS: &[(u16, u16)] = &[
    (0x105e, 0x1060),
    (0x10a7, 0x10a7),
    (0x10a9, 0x10a9),
    (0x10c6, 0x10c6),
    (0x10c9, 0x10c9),
    (0x10d6, 0x10d6),
    (0x10d9, 0x10d9),
    (0x10db, 0x10db),
    (0x10dd, 0x10dd),
    (0x10e1, 0x10e1),
    (0x10e6, 0x10e8),
    (0x10f1, 0x10f1),
    (0x10f7, 0x10fc),
    (0x1507, 0x1507),
    (0x1509, 0x150a),
    (0x150d, 0x1511),
    (0x1514, 0x1514),
    (0x1516, 0x1516),
    (0x1518, 0x1518),
    (0x151c, 0x151c),
    (0x1521, 0x1524),
    (0x1526, 0x1527),
    (0x1529, 0x152a),
    (0x154d, 0x154d),
    (0x154f, 0x154f),
    (0x1551, 0x1551),
    (0x1558, 0x1558),
    (0x15b7, 0x15b8),
];

/// Ibex Peak to Wellsburg and Lynx Point.
const INTEL_PCH_PORTS: &[(u16, u16)] = &[
    (0x1c10, 0x1c1f),
    (0x1d10, 0x1d10),
    (0x1d12, 0x1d12),
    (0x1d14, 0x1d14),
    (0x1d16, 0x1d16),
    (0x1d18, 0x1d18),
    (0x1d1a, 0x1d1a),
    (0x1d1c, 0x1d1c),
    (0x1d1e, 0x1d1e),
    (0x1e10, 0x1e1f),
    (0x3b42, 0x3b51),
    (0x8c10, 0x8c1f),
    (0x8c90, 0x8c90),
    (0x8c92, 0x8c92),
    (0x8c94, 0x8c94),
    (0x8c96, 0x8c96),
    (0x8c98, 0x8c98),
    (0x8c9a, 0x8c9a),
    (0x8c9c, 0x8c9c),
    (0x8c9e, 0x8c9e),
    (0x8d10, 0x8d1e),
    (0x9c10, 0x9c1b),
    (0x9c90, 0x9c9b),
];

/// Sunrise Point, Union Point and the mobile chips of the 7th and 8th generation.
const INTEL_WIDE_PORTS: &[(u16, u16)] =
    &[(0xa110, 0xa11f), (0xa167, 0xa16a), (0xa290, 0xa29f), (0xa2e7, 0xa2ee), (0x9d10, 0x9d1b)];

const LOONGSON_PORTS: &[(u16, u16)] = &[
    (0x3c09, 0x3c09),
    (0x3c19, 0x3c19),
    (0x3c29, 0x3c29),
    (0x7a09, 0x7a09),
    (0x7a19, 0x7a19),
    (0x7a29, 0x7a29),
    (0x7a39, 0x7a39),
    (0x7a49, 0x7a49),
    (0x7a59, 0x7a59),
    (0x7a69, 0x7a69),
];

const NXP_PORTS: &[(u16, u16)] = &[
    (0x8d80, 0x8d83),
    (0x8d88, 0x8d8b),
    (0x8d90, 0x8d93),
    (0x8d98, 0x8d9b),
    (0x8da0, 0x8da1),
    (0x8da8, 0x8da9),
    (0x8db0, 0x8db1),
    (0x8db8, 0x8db9),
];

const WANGXUN_FUNCTIONS: &[(u16, u16)] = &[
    (0x0100, 0x010f),
    (0x1001, 0x1001),
    (0x2001, 0x2001),
    (0x5010, 0x5010),
    (0x5025, 0x5025),
    (0x5040, 0x5040),
    (0x5110, 0x5110),
    (0x5125, 0x5125),
    (0x5140, 0x5140),
];

fn is_in(ranges: &[(u16, u16)], device: u16) -> bool {
    ranges.iter().any(|(first, last)| (*first..=*last).contains(&device))
}

/// What is known of a function's isolation beyond its capability.
pub(crate) fn acs(function: &Function) -> Option<AcsQuirk> {
    let fits = |rule: &&AcsRule| {
        rule.vendor == function.vendor
            && is_in(rule.devices, function.device)
            && rule.on.holds(function.kind)
    };
    ACS_RULES.iter().find(fits).map(|rule| rule.means)
}

/// Which ids of its own bus a function uses besides its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    /// That function of the same device.
    Function(u8),
    /// These device and function numbers.
    Fixed(&'static [u8]),
    /// Functions 0 to 4 of every device.
    FirstFive,
    /// All.
    Whole,
}

const fn at(device: u8, function: u8) -> u8 {
    device << 3 | function
}

/// Vendor, device, subsystem where it matters, ids.
type AliasRule = (u16, (u16, u16), Option<(u16, u16)>, Ids);

const ALIAS_RULES: &[AliasRule] = &[
    // Ricoh, Glenfly.
    (0x1180, (0xe832, 0xe832), None, Ids::Function(0)),
    (0x1180, (0xe476, 0xe476), None, Ids::Function(0)),
    (0x6766, (0x3d40, 0x3d41), None, Ids::Function(0)),
    // Marvell's SATA controllers and those with one inside (HighPoint, JMicron, Lite-On).
    (0x1b4b, (0x9120, 0x9120), None, Ids::Function(1)),
    (0x1b4b, (0x9123, 0x9123), None, Ids::Function(1)),
    (0x1b4b, (0x9125, 0x9125), None, Ids::Function(1)),
    (0x1b4b, (0x9128, 0x9128), None, Ids::Function(1)),
    (0x1b4b, (0x9130, 0x9130), None, Ids::Function(1)),
    (0x1b4b, (0x9170, 0x9170), None, Ids::Function(1)),
    (0x1b4b, (0x9172, 0x9172), None, Ids::Function(1)),
    (0x1b4b, (0x917a, 0x917a), None, Ids::Function(1)),
    (0x1b4b, (0x9182, 0x9183), None, Ids::Function(1)),
    (0x1b4b, (0x91a0, 0x91a0), None, Ids::Function(1)),
    (0x1b4b, (0x9215, 0x9215), None, Ids::Function(1)),
    (0x1b4b, (0x9220, 0x9220), None, Ids::Function(1)),
    (0x1b4b, (0x9230, 0x9230), None, Ids::Function(1)),
    (0x1b4b, (0x9235, 0x9235), None, Ids::Function(1)),
    (0x1103, (0x0642, 0x0642), None, Ids::Function(1)),
    (0x1103, (0x0645, 0x0645), None, Ids::Function(1)),
    (0x197b, (0x2392, 0x2392), None, Ids::Function(1)),
    (0x1c28, (0x0122, 0x0122), None, Ids::Function(1)),
    // Adaptec 3405 and 3805: a private device does the DMA.
    (0x9005, (0x0285, 0x0285), Some((0x9005, 0x02bb)), Ids::Fixed(&[at(1, 0)])),
    (0x9005, (0x0285, 0x0285), Some((0x9005, 0x02bc)), Ids::Fixed(&[at(1, 0)])),
    // Intel's MIC x200 and Visual Compute Accelerator, PLX's NTBs: what is on the other side.
    (0x8086, (0x2260, 0x2260), None, Ids::Fixed(&[at(0x10, 0), at(0x11, 0), at(0x12, 3)])),
    (0x8086, (0x2264, 0x2264), None, Ids::Fixed(&[at(0x10, 0), at(0x11, 0), at(0x12, 3)])),
    (0x8086, (0x2954, 0x2956), None, Ids::FirstFive),
    (0x8086, (0x2958, 0x295a), None, Ids::FirstFive),
    (0x10b5, (0x87b0, 0x87b1), None, Ids::Whole),
];

impl Ids {
    /// Whether a function with the device and function number `own` uses `number`.
    pub(crate) fn contain(self, own: u8, number: u8) -> bool {
        match self {
            Self::Function(function) => number == own & !7 | function,
            Self::Fixed(list) => list.contains(&number),
            Self::FirstFive => number & 7 < 5,
            Self::Whole => true,
        }
    }
}

/// Which further ids of its bus `function` uses by a quirk.
pub(crate) fn ids(function: &Function) -> Option<Ids> {
    let fits = |(vendor, devices, subsystem, _): &&AliasRule| {
        *vendor == function.vendor
            && is_in(&[*devices], function.device)
            && subsystem.is_none_or(|wanted| wanted == function.subsystem)
    };
    ALIAS_RULES.iter().find(fits).map(|(.., ids)| *ids)
}

/// What a bridge does with the ids of what is below it, where that is not what its kind says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BridgeQuirk {
    /// The IOMMU is right below it: what is above does not matter.
    TranslatesHere,
    /// It forwards ids as they are (ASPEED AST1150).
    Forwards,
    /// It is a PCIe-to-PCI bridge that hides its capability, where what is above it is PCI Express.
    HiddenExpress,
}

/// What is known of a bridge.
pub(crate) fn bridge(function: &Function) -> Option<BridgeQuirk> {
    match (function.vendor, function.device) {
        // Broadcom Vulcan, Cavium ThunderX2.
        (0x14e4, 0x9000 | 0x9084) => Some(BridgeQuirk::TranslatesHere),
        (0x1a03, 0x1150) => Some(BridgeQuirk::Forwards),
        // ASMedia, Tundra, ITE, Intel 82801.
        (0x1b21, 0x1080) | (0x10e3, 0x8113) | (0x1283, 0x8892 | 0x8893) | (0x8086, 0x244e) => {
            Some(BridgeQuirk::HiddenExpress)
        }
        _ => None,
    }
}
