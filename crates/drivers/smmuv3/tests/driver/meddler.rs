//! Registers that let a test alter commands between the driver and the unit: the planted bugs.

use portcullis_addr::PhysAddr;
use portcullis_machine::{PhysicalMemory, SmmuRegisters};
use portcullis_platform::{Coherency, DmaMemory, Registers};
use portcullis_spec::smmuv3::{CMDQ_BASE, CMDQ_PROD, cmdq_base, command};
use std::sync::{Arc, Mutex};

/// Alters a command, or leaves it alone.
pub(crate) type Rule = Arc<dyn Fn(&mut [u64; 2]) + Send + Sync>;

/// Passes everything on, and applies a rule to the commands that become visible with a write of CMDQ_PROD.
pub(crate) struct Meddler {
    inner: SmmuRegisters,
    memory: Arc<PhysicalMemory>,
    rule: Option<Rule>,
    /// CMDQ_BASE and the last CMDQ_PROD.
    queue: Mutex<(u64, u32)>,
}

impl Meddler {
    pub(crate) fn new(
        inner: SmmuRegisters,
        memory: &Arc<PhysicalMemory>,
        rule: Option<Rule>,
    ) -> Self {
        let memory = Arc::clone(memory);
        Self { inner, memory, rule, queue: Mutex::new((0, 0)) }
    }

    fn apply(&self, rule: &Rule, produced: u32) {
        let mut queue = self.queue.lock().expect("no test panics here");
        let (base, seen) = *queue;
        let entries = 1u32 << cmdq_base::LOG2SIZE.get(base);
        for n in 0..produced.wrapping_sub(seen) & (2 * entries - 1) {
            let slot = u64::from(seen.wrapping_add(n) & (entries - 1)) * command::BYTES as u64;
            let address = cmdq_base::ADDR.in_place(base) + slot;
            let (low, high) = (PhysAddr::new(address), PhysAddr::new(address + 8));
            let mut words = [self.memory.load64(low), self.memory.load64(high)];
            rule(&mut words);
            self.memory.store64(low, words[0]);
            self.memory.store64(high, words[1]);
            self.memory.publish(low, command::BYTES, Coherency::NonCoherent);
        }
        queue.1 = produced;
    }
}

impl Registers for Meddler {
    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(rule) = self.rule.as_ref().filter(|_| offset == CMDQ_PROD.offset) {
            self.apply(rule, value);
        }
        self.inner.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        if offset == CMDQ_BASE.offset {
            *self.queue.lock().expect("no test panics here") = (value, 0);
        }
        self.inner.write64(offset, value);
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}
