//! The connection to QEMU's gdb stub.

use super::packet::{self, Parsed};
use super::target::{self, Register};
use crate::error::{Error, io};
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long the stub may take to answer a command. It answers within microseconds; a machine with other work may be late.
const ANSWER: Duration = Duration::from_secs(30);

/// Bytes of memory asked for at once: the stub's packet buffer holds more.
const CHUNK: usize = 1024;

/// The registers of the `g` packet: x0 to x30, sp, pc, cpsr, in this order (QEMU's aarch64-core.xml).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CoreRegisters {
    /// x0 to x30.
    pub(crate) x: [u64; 31],
    /// The stack pointer.
    pub(crate) sp: u64,
    /// The program counter.
    pub(crate) pc: u64,
    /// The processor state; bit 7 masks interrupts.
    pub(crate) cpsr: u32,
}

impl CoreRegisters {
    const BYTES: usize = 33 * 8 + 4;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| {
            let bytes = bytes.get(at * 8..at * 8 + 8)?;
            Some(u64::from_le_bytes(bytes.try_into().ok()?))
        };
        let mut x = [0; 31];
        for (at, register) in x.iter_mut().enumerate() {
            *register = word(at)?;
        }
        let cpsr = u32::from_le_bytes(bytes.get(33 * 8..Self::BYTES)?.try_into().ok()?);
        Some(Self { x, sp: word(31)?, pc: word(32)?, cpsr })
    }

    fn encode(&self) -> Vec<u8> {
        let words = self.x.iter().chain([&self.sp, &self.pc]);
        let mut bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend(self.cpsr.to_le_bytes());
        bytes
    }
}

/// Why the machine stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// A virtual CPU hit a breakpoint or finished a step (SIGTRAP).
    Trap {
        /// The stub's number of the CPU, from 1.
        cpu: u32,
    },
    /// Stopped because we asked.
    Interrupted {
        /// The stub's number of the CPU that reported, from 1.
        cpu: u32,
    },
    /// The machine is gone.
    Gone,
}

/// A connection whose machine is stopped, except between [`Client::resume`] and the stop that [`Client::wait`] returns.
#[derive(Debug)]
pub(crate) struct Client {
    stream: UnixStream,
    input: Vec<u8>,
    registers: BTreeMap<String, Register>,
    packets: u64,
}

impl Client {
    /// Greets the stub at the other end of `stream` and reads its register list.
    pub(crate) fn new(stream: UnixStream) -> Result<Self, Error> {
        let mut client = Self { stream, input: Vec::new(), registers: BTreeMap::new(), packets: 0 };
        client.command(
            b"qSupported:multiprocess-;swbreak+;hwbreak+;vContSupported+;xmlRegisters=aarch64",
        )?;
        client.command(b"QStartNoAckMode")?;
        client.command(b"?")?;
        client.read_register_list()?;
        Ok(client)
    }

    /// Packets sent so far.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    fn read_register_list(&mut self) -> Result<(), Error> {
        let top = self.document("target.xml")?;
        let mut next = 0;
        for name in target::includes(&top) {
            let text = self.document(&name)?;
            target::registers(&text, &mut next, &mut self.registers);
        }
        Ok(())
    }

    fn document(&mut self, name: &str) -> Result<String, Error> {
        let mut text = Vec::new();
        loop {
            let ask = format!("qXfer:features:read:{name}:{:x},ffb", text.len());
            let answer = self.command(ask.as_bytes())?;
            match answer.split_first() {
                Some((b'm', more)) if !more.is_empty() => text.extend(more),
                Some((b'l', rest)) => {
                    text.extend(rest);
                    return Ok(String::from_utf8_lossy(&text).into_owned());
                }
                _ => return Err(refused(&ask, &answer)),
            }
        }
    }

    /// Chooses the virtual CPU that the following commands speak of.
    pub(crate) fn select(&mut self, cpu: u32) -> Result<(), Error> {
        self.expect_ok(&format!("Hg{cpu:x}"))
    }

    /// The core registers of the selected CPU.
    pub(crate) fn core_registers(&mut self) -> Result<CoreRegisters, Error> {
        let answer = self.command(b"g")?;
        let bytes = packet::from_hex(&answer).ok_or_else(|| refused("g", &answer))?;
        CoreRegisters::decode(&bytes).ok_or_else(|| refused("g", &answer))
    }

    /// Stores the core registers of the selected CPU, in one packet.
    pub(crate) fn set_core_registers(&mut self, registers: &CoreRegisters) -> Result<(), Error> {
        self.expect_ok(&format!("G{}", packet::to_hex(&registers.encode())))
    }

    /// A register of the selected CPU by the name that the stub gives it.
    pub(crate) fn register(&mut self, name: &str) -> Result<u64, Error> {
        let register = *self
            .registers
            .get(name)
            .ok_or_else(|| Error::Stub(format!("it has no register {name}")))?;
        let ask = format!("p{:x}", register.number);
        let answer = self.command(ask.as_bytes())?;
        let mut bytes = packet::from_hex(&answer).ok_or_else(|| refused(&ask, &answer))?;
        bytes.resize(8, 0);
        let bytes = bytes.try_into().map_err(|_| refused(&ask, &answer))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// The first of several names that the stub knows: QEMU renamed some system registers.
    pub(crate) fn register_of(&mut self, names: &[&str]) -> Result<u64, Error> {
        let known = names.iter().find(|name| self.registers.contains_key(**name));
        self.register(known.unwrap_or(&names[0]))
    }

    /// `len` bytes of memory at a virtual address of the selected CPU.
    pub(crate) fn memory(&mut self, address: u64, len: usize) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let at = address.wrapping_add(bytes.len() as u64);
            let ask = format!("m{at:x},{:x}", CHUNK.min(len - bytes.len()));
            let answer = self.command(ask.as_bytes())?;
            match packet::from_hex(&answer) {
                Some(more) if !more.is_empty() => bytes.extend(more),
                _ => return Err(Error::Memory(at)),
            }
        }
        Ok(bytes)
    }

    /// A 64-bit word of memory.
    pub(crate) fn word(&mut self, address: u64) -> Result<u64, Error> {
        let bytes = self.memory(address, 8)?;
        Ok(bytes.try_into().map_or(0, u64::from_le_bytes))
    }

    /// A 32-bit word of memory.
    pub(crate) fn half_word(&mut self, address: u64) -> Result<u32, Error> {
        let bytes = self.memory(address, 4)?;
        Ok(bytes.try_into().map_or(0, u32::from_le_bytes))
    }

    /// The text at `address`, at most `most` bytes; empty for NULL.
    pub(crate) fn text(&mut self, address: u64, most: usize) -> Result<String, Error> {
        if address == 0 {
            return Ok(String::new());
        }
        let bytes = self.memory(address, most)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(most);
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    /// Stops whoever is about to execute the instruction at `address`.
    pub(crate) fn insert_breakpoint(&mut self, address: u64) -> Result<(), Error> {
        self.expect_ok(&format!("Z1,{address:x},4"))
    }

    /// Lets all CPUs run.
    pub(crate) fn resume(&mut self) -> Result<(), Error> {
        self.send(b"vCont;c")
    }

    /// Lets one CPU execute one instruction, breakpoint or not, with interrupts held off; the others stand still.
    pub(crate) fn step(&mut self, cpu: u32) -> Result<Stop, Error> {
        self.send(format!("vCont;s:{cpu:x}").as_bytes())?;
        self.wait(ANSWER)?.ok_or(Error::Silent { what: "a single step".into(), after: ANSWER })
    }

    /// Waits for the machine to stop; `None` if it still runs after `bound`.
    pub(crate) fn wait(&mut self, bound: Duration) -> Result<Option<Stop>, Error> {
        let answer = match self.receive(bound) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(None),
            Err(Error::Closed) => return Ok(Some(Stop::Gone)),
            Err(error) => return Err(error),
        };
        parse_stop(&answer).map(Some).ok_or_else(|| refused("a stop", &answer))
    }

    /// Stops the running machine.
    pub(crate) fn interrupt(&mut self) -> Result<Stop, Error> {
        match self.stream.write_all(&[3]) {
            Ok(()) => {}
            Err(error) if is_gone(&error) => return Ok(Stop::Gone),
            Err(error) => return Err(io("interrupting the machine")(error)),
        }
        self.wait(ANSWER)?.ok_or(Error::Silent { what: "an interrupt".into(), after: ANSWER })
    }

    fn expect_ok(&mut self, ask: &str) -> Result<(), Error> {
        let answer = self.command(ask.as_bytes())?;
        if answer == b"OK" { Ok(()) } else { Err(refused(ask, &answer)) }
    }

    fn command(&mut self, payload: &[u8]) -> Result<Vec<u8>, Error> {
        self.send(payload)?;
        self.receive(ANSWER)?.ok_or_else(|| Error::Silent {
            what: String::from_utf8_lossy(payload).into_owned(),
            after: ANSWER,
        })
    }

    fn send(&mut self, payload: &[u8]) -> Result<(), Error> {
        self.packets += 1;
        match self.stream.write_all(&packet::frame(payload)) {
            Err(error) if is_gone(&error) => Err(Error::Closed),
            other => other.map_err(io("writing to the gdb stub")),
        }
    }

    /// The next packet; `None` after `bound`.
    fn receive(&mut self, bound: Duration) -> Result<Option<Vec<u8>>, Error> {
        let deadline = Instant::now() + bound;
        loop {
            match packet::parse(&self.input) {
                Parsed::Packet(payload, used) => {
                    self.input.drain(..used);
                    return Ok(Some(payload));
                }
                Parsed::Damaged(_) => return Err(Error::Stub("a damaged packet".into())),
                Parsed::Incomplete => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.fill(left)? {
                return Ok(None);
            }
        }
    }

    /// Reads what is there; `false` when nothing came in time.
    fn fill(&mut self, bound: Duration) -> Result<bool, Error> {
        let set = self.stream.set_read_timeout(Some(bound));
        set.map_err(io("setting a time limit"))?;
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(Error::Closed),
            Ok(len) => {
                self.input.extend(&buffer[..len]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(true),
            Err(error) if is_gone(&error) => Err(Error::Closed),
            Err(error) => Err(io("reading from the gdb stub")(error)),
        }
    }
}

fn is_gone(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

fn refused(ask: &str, answer: &[u8]) -> Error {
    let answer: String = String::from_utf8_lossy(answer).chars().take(80).collect();
    Error::Stub(format!("`{ask}` was answered by `{answer}`"))
}

/// `T05thread:p01.02;...`, `W00`, `X0f`.
fn parse_stop(answer: &[u8]) -> Option<Stop> {
    let text = std::str::from_utf8(answer).ok()?;
    if text.starts_with(['W', 'X']) {
        return Some(Stop::Gone);
    }
    let signal = text.get(1..3).filter(|_| text.starts_with(['T', 'S']))?;
    let thread = text.split(';').find_map(|part| part.split_once("thread:").map(|(_, id)| id));
    let number = thread.map(|id| id.rsplit('.').next().unwrap_or(id));
    let cpu = number.and_then(|id| u32::from_str_radix(id, 16).ok()).unwrap_or(1);
    Some(if signal == "05" { Stop::Trap { cpu } } else { Stop::Interrupted { cpu } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_as_qemu_writes_them() {
        let parse = |text: &str| parse_stop(text.as_bytes());
        assert_eq!(parse("T05thread:02;"), Some(Stop::Trap { cpu: 2 }));
        assert_eq!(parse("T05thread:p01.0a;"), Some(Stop::Trap { cpu: 10 }));
        assert_eq!(parse("T02thread:01;"), Some(Stop::Interrupted { cpu: 1 }));
        assert_eq!(parse("W00"), Some(Stop::Gone));
        assert_eq!(parse("OK"), None);
    }

    #[test]
    fn core_registers_survive() {
        let mut registers = CoreRegisters { x: [7; 31], sp: 1, pc: 2, cpsr: 0x6000_0005 };
        registers.x[30] = u64::MAX;
        assert_eq!(CoreRegisters::decode(&registers.encode()), Some(registers));
        assert_eq!(CoreRegisters::decode(&[0; 100]), None);
    }
}
