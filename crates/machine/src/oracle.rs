//! What the machine saw: every access that reached memory, and everything that must not happen.

use crate::access::{AccessKind, AccessRecord, Agent};
use portcullis_addr::{PhysAddr, StreamId};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// Something that must not happen on a machine whose software keeps its promises.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Violation {
    /// Memory was accessed after its owner had freed it.
    FreedMemory {
        /// Who accessed it.
        by: Agent,
        /// Where.
        address: PhysAddr,
        /// Direction as the agent sees it.
        kind: AccessKind,
    },
    /// Software used an address outside memory, or one that is no multiple of 8.
    OutsideMemory {
        /// The address.
        address: PhysAddr,
    },
    /// A block was freed twice.
    DoubleFree {
        /// The block.
        address: PhysAddr,
    },
    /// An address was freed at which no block begins.
    ForeignFree {
        /// The address.
        address: PhysAddr,
    },
    /// A block was freed with another layout than it was allocated with.
    WrongLayout {
        /// The block.
        address: PhysAddr,
        /// Bytes allocated.
        allocated: usize,
        /// Bytes freed.
        freed: usize,
    },
    /// An access was let through by a cached translation that the tables in memory no longer contain (P3).
    StaleHit(AccessRecord),
    /// An access landed in memory that changed its owner after the translation was cached (P4).
    ReusedFrame(AccessRecord),
    /// An access was let through although the test had declared its device blocked (P2).
    BlockedPassed(AccessRecord),
    /// An access was let through untranslated although the test had declared its device translated (P1, P2).
    Untranslated(AccessRecord),
    /// An access was let through in a range that the test had declared unmapped (P3).
    ForbiddenRange(AccessRecord),
    /// The TLB holds two overlapping translations for one address: an entry was replaced by one of another size without break-before-make.
    TlbConflict {
        /// The IOMMU.
        iommu: u32,
        /// The input address.
        address: u64,
    },
    /// A register was written while its enable bit guards it (IHI 0070, 6.3).
    GuardedWrite {
        /// The IOMMU.
        iommu: u32,
        /// The register's offset.
        offset: usize,
    },
    /// A command's operands make its effect UNPREDICTABLE (IHI 0070, 4.4.1.1); the machine invalidates nothing.
    UnpredictableCommand {
        /// The IOMMU.
        iommu: u32,
        /// The command.
        command: [u64; 2],
    },
    /// Two invalidation commands of different kinds without a CMD_SYNC between them, on a unit whose erratum forbids that; the second one had no effect.
    UnsyncedCommands {
        /// The IOMMU.
        iommu: u32,
        /// Opcodes of the two.
        opcodes: [u64; 2],
    },
    /// A stream matched two stream mapping groups of an SMMUv2.
    MatchConflict {
        /// The IOMMU.
        iommu: u32,
        /// The stream.
        stream: StreamId,
    },
    /// A register access of 64 bits on an interconnect that carries 32 only.
    LostAccess {
        /// The IOMMU.
        iommu: u32,
        /// The register's offset.
        offset: usize,
    },
    /// A valid entry has a bit set that is reserved on this unit (RES0).
    ReservedField {
        /// The IOMMU.
        iommu: u32,
        /// The kind of entry and the field, as the document names them.
        field: (&'static str, &'static str),
    },
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::FreedMemory { by, address, kind } => {
                write!(f, "freed memory at {address} reached by {by} ({kind})")
            }
            Self::OutsideMemory { address } => {
                write!(f, "software used {address}, which is no memory")
            }
            Self::DoubleFree { address } => write!(f, "block {address} given back twice"),
            Self::ForeignFree { address } => write!(f, "{address} given back but never allocated"),
            Self::WrongLayout { address, allocated, freed } => {
                write!(f, "block {address} of {allocated} bytes given back as {freed} bytes")
            }
            Self::StaleHit(record) => write!(f, "stale translation used: {record}"),
            Self::ReusedFrame(record) => write!(f, "frame of a new owner reached: {record}"),
            Self::BlockedPassed(record) => write!(f, "blocked device let through: {record}"),
            Self::Untranslated(record) => write!(f, "device passed its IOMMU: {record}"),
            Self::ForbiddenRange(record) => write!(f, "unmapped range reached: {record}"),
            Self::TlbConflict { iommu, address } => {
                write!(f, "IOMMU {iommu}: two TLB entries for {address:#x}")
            }
            Self::GuardedWrite { iommu, offset } => {
                write!(f, "IOMMU {iommu}: register {offset:#x} written while in use")
            }
            Self::UnpredictableCommand { iommu, command: [low, high] } => {
                write!(f, "IOMMU {iommu}: command {low:#x} {high:#x} has an unpredictable scope")
            }
            Self::UnsyncedCommands { iommu, opcodes: [first, second] } => {
                write!(
                    f,
                    "IOMMU {iommu}: command {second:#x} follows {first:#x} without a CMD_SYNC"
                )
            }
            Self::MatchConflict { iommu, stream } => {
                write!(f, "IOMMU {iommu}: stream {stream} matches two groups")
            }
            Self::LostAccess { iommu, offset } => {
                write!(f, "IOMMU {iommu}: a 64-bit access to {offset:#x} was lost")
            }
            Self::ReservedField { iommu, field: (entry, field) } => {
                write!(f, "IOMMU {iommu}: {entry}.{field} is reserved here and not 0")
            }
        }
    }
}

/// Violations kept in full; more are only counted.
const VIOLATIONS_KEPT: usize = 1024;

/// The machine's record of what happened.
#[derive(Debug)]
pub struct Oracle {
    accesses_kept: usize,
    accesses: Mutex<VecDeque<AccessRecord>>,
    passed: AtomicU64,
    refused: AtomicU64,
    violations: Mutex<Vec<Violation>>,
    violation_count: AtomicU64,
}

impl Oracle {
    pub(crate) fn new(accesses_kept: usize) -> Self {
        Self {
            accesses_kept,
            accesses: Mutex::new(VecDeque::new()),
            passed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            violations: Mutex::new(Vec::new()),
            violation_count: AtomicU64::new(0),
        }
    }

    pub(crate) fn passed(&self, record: AccessRecord) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        if self.accesses_kept > 0 {
            let mut accesses = self.accesses.lock().unwrap_or_else(PoisonError::into_inner);
            if accesses.len() == self.accesses_kept {
                accesses.pop_front();
            }
            accesses.push_back(record);
        }
    }

    pub(crate) fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn violated(&self, violation: Violation) {
        self.violation_count.fetch_add(1, Ordering::Relaxed);
        let mut violations = self.violations.lock().unwrap_or_else(PoisonError::into_inner);
        if violations.len() < VIOLATIONS_KEPT {
            violations.push(violation);
        }
    }

    /// The last accesses that reached memory, oldest first (as many as [`Policy::accesses_kept`](crate::Policy::accesses_kept)).
    pub fn accesses(&self) -> Vec<AccessRecord> {
        let accesses = self.accesses.lock().unwrap_or_else(PoisonError::into_inner);
        accesses.iter().copied().collect()
    }

    /// Accesses that reached memory.
    pub fn passed_count(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Accesses that were refused.
    pub fn refused_count(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What went wrong, oldest first, at most the first 1,024.
    pub fn violations(&self) -> Vec<Violation> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often something went wrong.
    pub fn violation_count(&self) -> u64 {
        self.violation_count.load(Ordering::Relaxed)
    }

    /// Forgets the violations so far, for tests that provoke them.
    pub fn take_violations(&self) -> Vec<Violation> {
        self.violation_count.store(0, Ordering::Relaxed);
        std::mem::take(&mut *self.violations.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
