//! An NVMe controller, brought up from reset to its first read (NVM Express Base 2.0): the proof that a real driver's queues work at bus addresses.

use super::DmaBuffer;
use crate::error::{Error, ErrorKind};
use crate::platform::Mmio;
use crate::ram::Ram;
use portcullis_addr::PhysAddr;
use portcullis_platform::{Coherency, DmaMemory, Registers};
use std::sync::Arc;
use std::time::Duration;

/// Bytes of a logical block as QEMU's controller formats its namespace.
pub const BLOCK_LEN: usize = 512;

/// Entries of every queue here.
const ENTRIES: u16 = 32;
const SUBMISSION_LEN: usize = 64;
const COMPLETION_LEN: usize = 16;

// Figure 33 (controller properties).
const CAP: usize = 0x00;
const CC: usize = 0x14;
const CSTS: usize = 0x1c;
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
const DOORBELLS: usize = 0x1000;
const READY: u32 = 1;
const FATAL: u32 = 1 << 1;
/// Enable, 64-byte submissions, 16-byte completions.
const CC_ENABLE: u32 = 1 | 6 << 16 | 4 << 20;

const COMPLETION_BOUND: Duration = Duration::from_secs(5);

/// Memory for the queues and one page of data; each page aligned on both sides.
#[derive(Clone, Copy, Debug)]
pub struct NvmeBuffers {
    /// Admin submission queue: 2 KiB.
    pub admin_submissions: DmaBuffer,
    /// Admin completion queue: 512 bytes.
    pub admin_completions: DmaBuffer,
    /// I/O submission queue: 2 KiB.
    pub io_submissions: DmaBuffer,
    /// I/O completion queue: 512 bytes.
    pub io_completions: DmaBuffer,
    /// Data: 4 KiB.
    pub data: DmaBuffer,
}

/// What a controller says of itself (figure 275).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmeIdentity {
    /// PCI vendor.
    pub vendor: u16,
    /// Serial number.
    pub serial: String,
    /// Model.
    pub model: String,
    /// Namespaces.
    pub namespaces: u32,
}

/// A controller with its admin queue and one I/O queue.
#[derive(Debug)]
pub struct Nvme {
    registers: Mmio,
    ram: Arc<Ram>,
    admin: Queue,
    io: Queue,
    data: DmaBuffer,
}

#[derive(Debug)]
struct Queue {
    submissions: DmaBuffer,
    completions: DmaBuffer,
    submission_doorbell: usize,
    completion_doorbell: usize,
    tail: u16,
    head: u16,
    phase: bool,
    next_id: u16,
}

/// The parts of a command that differ here.
#[derive(Clone, Copy, Default)]
struct Command {
    opcode: u8,
    namespace: u32,
    data: u64,
    words: [u32; 3],
}

impl Nvme {
    /// Resets the controller behind BAR 0 `registers`, enables it with its admin queue and creates the I/O queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when it does not become ready or refuses a command.
    pub fn start(registers: Mmio, ram: &Arc<Ram>, buffers: NvmeBuffers) -> Result<Self, Error> {
        let stride = 4usize << (registers.read64(CAP) >> 32 & 0xf);
        let admin = Queue::new(buffers.admin_submissions, buffers.admin_completions, 0, stride);
        let io = Queue::new(buffers.io_submissions, buffers.io_completions, 1, stride);
        let mut nvme = Self { registers, ram: Arc::clone(ram), admin, io, data: buffers.data };
        nvme.enable()?;
        nvme.create_io_queue()?;
        Ok(nvme)
    }

    /// IDENTIFY CONTROLLER, through the data page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when the command fails or is not answered.
    pub fn identify(&mut self) -> Result<NvmeIdentity, Error> {
        const CONTROLLER: u32 = 1;
        let data = self.data.iova.raw();
        self.admin(Command {
            opcode: 0x06,
            data,
            words: [CONTROLLER, 0, 0],
            ..Command::default()
        })?;
        let page = self.ram.read_vec(self.data.phys, 4096);
        let text =
            |range: std::ops::Range<usize>| String::from_utf8_lossy(&page[range]).trim().to_owned();
        Ok(NvmeIdentity {
            vendor: u16::from_le_bytes([page[0], page[1]]),
            serial: text(4..24),
            model: text(24..64),
            namespaces: u32::from_le_bytes([page[516], page[517], page[518], page[519]]),
        })
    }

    /// Reads logical block `lba` of namespace 1, through the data page.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Device`] when the command fails or is not answered.
    pub fn read_block(&mut self, lba: u64) -> Result<Vec<u8>, Error> {
        let words = [lba as u32, (lba >> 32) as u32, 0];
        let data = self.data.iova.raw();
        let command = Command { opcode: 0x02, namespace: 1, data, words };
        let Self { registers, ram, io, .. } = self;
        io.run(registers, ram, command)?;
        Ok(self.ram.read_vec(self.data.phys, BLOCK_LEN))
    }

    fn enable(&self) -> Result<(), Error> {
        let registers = &self.registers;
        registers.write32(CC, 0);
        self.await_status("not ready after reset", 0)?;
        let last = u32::from(ENTRIES - 1);
        registers.write32(AQA, last << 16 | last);
        registers.write64(ASQ, self.admin.submissions.iova.raw());
        registers.write64(ACQ, self.admin.completions.iova.raw());
        registers.write32(CC, CC_ENABLE);
        self.await_status("ready after enabling", READY)
    }

    fn await_status(&self, what: &str, wanted: u32) -> Result<(), Error> {
        // CAP.TO is in units of 500 ms (figure 36).
        let units = self.registers.read64(CAP) >> 24 & 0xff;
        let bound = Duration::from_millis(500 * units.max(1));
        self.registers.await_device("nvme", what, bound, || {
            self.registers.read32(CSTS) & (READY | FATAL) == wanted
        })
    }

    fn create_io_queue(&mut self) -> Result<(), Error> {
        const CONTIGUOUS: u32 = 1;
        let size_and_id = u32::from(ENTRIES - 1) << 16 | 1;
        let completions = self.io.completions.iova.raw();
        let words = [size_and_id, CONTIGUOUS, 0];
        self.admin(Command { opcode: 0x05, data: completions, words, ..Command::default() })?;
        let submissions = self.io.submissions.iova.raw();
        // Its completions go to queue 1.
        let words = [size_and_id, 1 << 16 | CONTIGUOUS, 0];
        self.admin(Command { opcode: 0x01, data: submissions, words, ..Command::default() })
    }

    fn admin(&mut self, command: Command) -> Result<(), Error> {
        let Self { registers, ram, admin, .. } = self;
        admin.run(registers, ram, command)
    }
}

impl Queue {
    fn new(submissions: DmaBuffer, completions: DmaBuffer, number: usize, stride: usize) -> Self {
        Self {
            submissions,
            completions,
            submission_doorbell: DOORBELLS + 2 * number * stride,
            completion_doorbell: DOORBELLS + (2 * number + 1) * stride,
            tail: 0,
            head: 0,
            phase: true,
            next_id: 0,
        }
    }

    /// Submits one command and waits for its completion.
    fn run(&mut self, registers: &Mmio, ram: &Ram, command: Command) -> Result<(), Error> {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = at(self.submissions.phys, usize::from(self.tail) * SUBMISSION_LEN);
        let first =
            u64::from(command.opcode) | u64::from(id) << 16 | u64::from(command.namespace) << 32;
        let [word10, word11, word12] = command.words.map(u64::from);
        let words = [first, 0, 0, command.data, 0, word10 | word11 << 32, word12, 0];
        for (index, word) in words.into_iter().enumerate() {
            ram.store64(at(slot, 8 * index), word);
        }
        ram.publish(slot, SUBMISSION_LEN, Coherency::Coherent);
        self.tail = (self.tail + 1) % ENTRIES;
        registers.write32(self.submission_doorbell, u32::from(self.tail));
        self.complete(registers, ram, id, command.opcode)
    }

    fn complete(&mut self, registers: &Mmio, ram: &Ram, id: u16, opcode: u8) -> Result<(), Error> {
        let entry = at(self.completions.phys, usize::from(self.head) * COMPLETION_LEN);
        // Figure 90: status in bits 31:17, phase in bit 16, command id below.
        let status = || ram.load32(at(entry, 12));
        let what = format!("completion of opcode {opcode:#04x}");
        registers.await_device("nvme", &what, COMPLETION_BOUND, || {
            // A register read lets QEMU run; memory alone would be read without it.
            registers.read32(CSTS);
            (status() >> 16 & 1 == 1) == self.phase
        })?;
        self.head = (self.head + 1) % ENTRIES;
        self.phase ^= self.head == 0;
        registers.write32(self.completion_doorbell, u32::from(self.head));
        let status = status();
        if status >> 17 == 0 && status as u16 == id {
            return Ok(());
        }
        let what =
            format!("opcode {opcode:#04x}: status {:#x}, id {}", status >> 17, status as u16);
        Err(ErrorKind::Device { device: "nvme", what }.into())
    }
}

fn at(start: PhysAddr, offset: usize) -> PhysAddr {
    PhysAddr::new(start.raw() + offset as u64)
}
