//! Registers that drop or alter commands between the driver and the unit: the driver's planted bugs, without a line in the driver.

use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, Registers};
use portcullis_spec::smmuv3::command::{self, OPCODE, opcode};
use portcullis_spec::smmuv3::{CMDQ_BASE, CMDQ_PROD, cmdq_base};
use std::sync::{Arc, Mutex, PoisonError};

/// A command as it stands in the queue.
pub(crate) type Words = [u64; command::WORDS];

/// Says what is sent in a command's place; `None` for nothing.
pub type CommandFilter = Arc<dyn Fn(Words) -> Option<Words> + Send + Sync>;

/// Passes everything on, and filters the commands that become visible with a write of CMDQ_PROD, where they stand.
pub(crate) struct Tampering<R, M> {
    inner: R,
    memory: Arc<M>,
    filter: Option<CommandFilter>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// CMDQ_BASE.
    base: u64,
    /// The last CMDQ_PROD; the first one after CMDQ_BASE only says where the indices begin.
    seen: Option<u32>,
}

impl<R: Registers, M: DmaMemory> Tampering<R, M> {
    pub(crate) fn new(inner: R, memory: &Arc<M>, filter: Option<CommandFilter>) -> Self {
        Self { inner, memory: Arc::clone(memory), filter, queue: Mutex::default() }
    }

    fn tamper(&self, filter: &CommandFilter, produced: u32) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = 1u32 << cmdq_base::LOG2SIZE.get(queue.base);
        let first = queue.seen.replace(produced).unwrap_or(produced);
        for n in 0..produced.wrapping_sub(first) & (2 * entries - 1) {
            let slot = u64::from(first.wrapping_add(n) & (entries - 1)) * command::BYTES as u64;
            let at = cmdq_base::ADDR.in_place(queue.base) + slot;
            let [low, high] = [PhysAddr::new(at), PhysAddr::new(at + 8)];
            let words = [self.memory.load64(low), self.memory.load64(high)];
            // A prefetch without an effect stands for a command that is not sent.
            let words = filter(words).unwrap_or([OPCODE.of(opcode::PREFETCH_CONFIG), 0]);
            self.memory.store64(low, words[0]);
            self.memory.store64(high, words[1]);
            self.memory.publish(low, command::BYTES, Coherency::NonCoherent);
        }
    }
}

impl<R: Registers, M: DmaMemory> Registers for Tampering<R, M> {
    fn read32(&self, offset: usize) -> u32 {
        self.inner.read32(offset)
    }

    fn write32(&self, offset: usize, value: u32) {
        if let Some(filter) = self.filter.as_ref().filter(|_| offset == CMDQ_PROD.offset) {
            self.tamper(filter, value);
        }
        self.inner.write32(offset, value);
    }

    fn read64(&self, offset: usize) -> u64 {
        self.inner.read64(offset)
    }

    fn write64(&self, offset: usize, value: u64) {
        if offset == CMDQ_BASE.offset {
            let queue = Queue { base: value, seen: None };
            *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = queue;
        }
        self.inner.write64(offset, value);
    }

    fn len(&self) -> usize {
        self.inner.len()
    }
}
