//! A machine that answers as QEMU's gdb stub does, for tests without QEMU: kernel threads are lists of the places that they pass.

use crate::gdb::{Client, Parsed, frame, from_hex, parse, to_hex};
use crate::image::{KernelImage, sample};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// Where the kernel is in the fake's memory.
pub(crate) const BASE: u64 = 0xffff_8000_0800_0000;
/// Functions of the fake's kernel, by offset.
pub(crate) const FUNCTIONS: &[(u64, &str)] = &[
    (0, "T_text"),
    (0x800, "tvectors"),
    (0x1000, "Tmsleep"),
    (0x1100, "Tmake_task_dead"),
    (0x2000, "Tiommu_device_register"),
    (0x2100, "treally_probe"),
    (0x2200, "tprobe_iommu_group"),
    (0x2300, "tpci_device_probe"),
    (0x2400, "Tiommu_device_use_default_domain"),
    (0x3000, "tcaller"),
];
/// Registers of the target description, by number.
const SP_EL0: u64 = 0x100;
const VBAR: u64 = 0x101;

/// A place that a thread passes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pass {
    /// The instruction, from the start of the image.
    pub(crate) at: u64,
    /// x0 there: an argument or a result.
    pub(crate) x0: u64,
    /// Where the function there returns to.
    pub(crate) back: u64,
    /// The stack pointer.
    pub(crate) sp: u64,
}

/// A kernel thread.
#[derive(Clone, Debug)]
pub(crate) struct FakeThread {
    /// `current`.
    pub(crate) task: u64,
    /// What it passes, in order.
    pub(crate) path: Vec<Pass>,
    /// Its preempt_count.
    pub(crate) preempt_count: u32,
}

/// Who executed which place, in the order in which that happened.
pub(crate) type Log = Arc<Mutex<Vec<(u64, u64)>>>;

/// A device's name.
pub(crate) const CLIENT: &str = "0000:00:02.0";
/// The client's `struct device`.
pub(crate) const CLIENT_DEVICE: u64 = 0xffff_0000_1000_0000;
/// The device of the SMMU, whose name is [`SMMU`].
pub(crate) const SMMU_DEVICE: u64 = 0xffff_0000_1001_0000;
/// The SMMU's name.
pub(crate) const SMMU: &str = "9050000.smmuv3";

/// The kernel that the fake runs.
pub(crate) fn kernel() -> KernelImage {
    let symbols: Vec<(u64, String)> =
        FUNCTIONS.iter().map(|(offset, name)| sample::symbol(*offset, name)).collect();
    let mut bytes = sample::kallsyms(crate::image::Layout::OffsetsLast, &symbols);
    bytes[56..60].copy_from_slice(b"ARM\x64");
    bytes.extend(sample::kernel_btf());
    KernelImage::read(&bytes).expect("the sample is complete")
}

struct Running {
    thread: FakeThread,
    /// The next entry of its path; it stands at the one before.
    next: usize,
    x: [u64; 31],
    sp: u64,
    pc: u64,
}

struct Fake {
    image: Vec<u8>,
    memory: BTreeMap<u64, Vec<u8>>,
    threads: Vec<Running>,
    breakpoints: BTreeSet<u64>,
    selected: usize,
    turn: usize,
    running: bool,
    log: Log,
}

/// Starts a fake and connects to it.
pub(crate) fn connect(image: &KernelImage, threads: Vec<FakeThread>) -> (Client, Log) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let log = Log::default();
    let mut memory = BTreeMap::new();
    for (device, name) in [(CLIENT_DEVICE, CLIENT), (SMMU_DEVICE, SMMU)] {
        let mut bytes = vec![0; 0x100];
        bytes[..8].copy_from_slice(&(device + 0x80).to_le_bytes());
        bytes[0x80..0x80 + name.len()].copy_from_slice(name.as_bytes());
        memory.insert(device, bytes);
    }
    for thread in &threads {
        // comm, pid, preempt_count as `sample::kernel_btf` lays them out.
        let mut task = b"kworker\0\0\0\0\0\0\0\0\0".to_vec();
        task.extend(7_u32.to_le_bytes());
        task.extend(thread.preempt_count.to_le_bytes());
        memory.insert(thread.task, task);
    }
    let running =
        threads.into_iter().map(|thread| Running { thread, next: 0, x: [0; 31], sp: 0, pc: 0 });
    let mut fake = Fake {
        image: image.bytes.clone(),
        memory,
        threads: running.collect(),
        breakpoints: BTreeSet::new(),
        selected: 0,
        turn: 0,
        running: false,
        log: Arc::clone(&log),
    };
    thread::spawn(move || fake.serve(theirs));
    (Client::new(ours).expect("the fake answers"), log)
}

impl Fake {
    fn serve(&mut self, mut stream: UnixStream) {
        let mut input = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len) = stream.read(&mut buffer) {
            if len == 0 {
                return;
            }
            input.extend(&buffer[..len]);
            loop {
                let answer = if input.first() == Some(&3) {
                    input.remove(0);
                    // Nobody hears an interrupt when all stand still.
                    std::mem::take(&mut self.running).then(|| "T02thread:01;".to_owned())
                } else if let Parsed::Packet(payload, used) = parse(&input) {
                    input.drain(..used);
                    self.answer(&payload)
                } else {
                    break;
                };
                let sent =
                    answer.map_or(Ok(()), |answer| stream.write_all(&frame(answer.as_bytes())));
                if sent.is_err() {
                    return;
                }
            }
        }
    }

    /// The answer to a packet; none while threads run and nobody stops.
    fn answer(&mut self, payload: &[u8]) -> Option<String> {
        let text = String::from_utf8_lossy(payload).into_owned();
        let number = |digits: &str| u64::from_str_radix(digits, 16).expect("a number");
        if text == "vCont;c" {
            let stop = self.run();
            self.running = stop.is_none();
            return stop;
        }
        let ok = || "OK".to_owned();
        Some(match text.split_at(1) {
            ("q", rest) if rest.starts_with("Supported") => "PacketSize=1000".into(),
            ("q", rest) if rest.contains("target.xml") => {
                "l<target><xi:include href=\"all.xml\"/></target>".into()
            }
            ("q", _) => format!(
                "l<reg name=\"SP_EL0\" bitsize=\"64\" regnum=\"{SP_EL0}\"/><reg name=\"VBAR\" bitsize=\"64\"/>"
            ),
            ("H", rest) => {
                self.selected = number(&rest[1..]) as usize - 1;
                ok()
            }
            ("g", _) => self.registers(),
            ("G", rest) => {
                self.set_registers(&from_hex(rest.as_bytes()).expect("digits"));
                ok()
            }
            ("p", rest) => {
                let value = match number(rest) {
                    VBAR => BASE + 0x800,
                    _ => self.threads.get(self.selected).map_or(0, |running| running.thread.task),
                };
                to_hex(&value.to_le_bytes())
            }
            ("m", rest) => {
                let (address, len) = rest.split_once(',').expect("address and length");
                self.read(number(address), number(len) as usize)
            }
            ("Z", rest) => {
                self.breakpoints.insert(number(rest.split(',').nth(1).expect("an address")));
                ok()
            }
            ("v", _) => "T05thread:01;".into(),
            _ => ok(),
        })
    }

    /// Lets threads pass places in turn until one meets a breakpoint.
    fn run(&mut self) -> Option<String> {
        if self.breakpoints.is_empty() {
            // Still booting: nothing of the schedule has begun.
            return None;
        }
        let mut idle = 0;
        while idle < self.threads.len() {
            self.turn = (self.turn + 1) % self.threads.len();
            let running = &mut self.threads[self.turn];
            if running.pc == BASE + 0x1000 {
                // The nap is over; what a call may destroy is destroyed.
                running.pc = running.x[30];
                running.x[..19].fill(0xdead_dead);
            } else if let Some(pass) = running.thread.path.get(running.next).copied() {
                if running.next > 0 {
                    assert_eq!(running.x[1], 0x1111, "registers were not restored");
                    self.log
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push((running.thread.task, running.pc - BASE));
                }
                running.next += 1;
                running.x = [0x1111; 31];
                (running.x[0], running.x[2], running.x[30]) = (pass.x0, pass.x0, BASE + pass.back);
                (running.pc, running.sp) = (BASE + pass.at, pass.sp);
            } else {
                idle += 1;
                continue;
            }
            idle = 0;
            if self.breakpoints.contains(&self.threads[self.turn].pc) {
                return Some(format!("T05thread:{:02x};", self.turn + 1));
            }
        }
        None
    }

    fn registers(&self) -> String {
        let Some(running) = self.threads.get(self.selected) else { return "E01".into() };
        let words = running.x.iter().chain([&running.sp, &running.pc]);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        // EL1h, interrupts on.
        bytes.extend(5_u32.to_le_bytes());
        to_hex(&bytes)
    }

    fn set_registers(&mut self, bytes: &[u8]) {
        let word = |at: usize| {
            u64::from_le_bytes(bytes[at * 8..at * 8 + 8].try_into().expect("eight bytes"))
        };
        let running = &mut self.threads[self.selected];
        running.x = std::array::from_fn(word);
        (running.sp, running.pc) = (word(31), word(32));
    }

    fn read(&self, address: u64, len: usize) -> String {
        let in_image = address.checked_sub(BASE).and_then(|at| usize::try_from(at).ok());
        if let Some(bytes) = in_image.and_then(|at| self.image.get(at..at + len)) {
            return to_hex(bytes);
        }
        let region = self.memory.range(..=address).next_back();
        let found = region.and_then(|(start, bytes)| {
            let at = usize::try_from(address - start).ok()?;
            // Short regions read as zero behind their end, up to a page.
            (at + len <= 0x1000).then(|| {
                (at..at + len).map(|at| bytes.get(at).copied().unwrap_or(0)).collect::<Vec<u8>>()
            })
        });
        found.map_or_else(|| "E14".into(), |bytes| to_hex(&bytes))
    }
}
