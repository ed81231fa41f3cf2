//! The qtest protocol (QEMU's `docs/devel/testing/qtest.rst` and `softmmu/qtest.c`): registers, ports and interrupt lines from outside.
//!
//! QEMU aborts on a malformed number, so nobody but this file writes a line: requests are values, numbers are formatted here.

use crate::error::ErrorKind;
use crate::wire::LineSocket;
use std::collections::VecDeque;
use std::fmt;
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests that go out in one piece. Their answers fit the socket's buffer, so that neither side waits for the other to read.
const REQUESTS_IN_FLIGHT: usize = 128;

/// Interrupt changes kept for a reader; the oldest go first.
const INTERRUPTS_KEPT: usize = 4096;

/// How many bits one access moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
    /// 64 bits.
    Quad,
}

impl Width {
    fn letter(self) -> char {
        match self {
            Self::Byte => 'b',
            Self::Word => 'w',
            Self::Long => 'l',
            Self::Quad => 'q',
        }
    }

    fn mask(self) -> u64 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Long => 0xffff_ffff,
            Self::Quad => u64::MAX,
        }
    }
}

/// The path of an object in QEMU's object tree. Holds nothing that could end or split a protocol line.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[doc(alias = "QOM path")]
pub struct QomPath(String);

impl QomPath {
    /// `path` when it is absolute and made of printable characters without blanks.
    pub fn new(path: impl Into<String>) -> Option<Self> {
        let path = path.into();
        let plain = path.starts_with('/') && path.chars().all(|c| c.is_ascii_graphic());
        plain.then_some(Self(path))
    }

    /// The path as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QomPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One request. Values wider than the access are cut to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Reads memory or a register at a physical address.
    Read(Width, u64),
    /// Writes memory or a register at a physical address.
    Write(Width, u64, u64),
    /// Reads an I/O port; at most 32 bits.
    In(Width, u16),
    /// Writes an I/O port; at most 32 bits.
    Out(Width, u16, u32),
    /// Reports the input lines of a device (an interrupt controller) from now on. One device per QEMU.
    InterceptInputs(QomPath),
    /// Reports the system-bus interrupt outputs of a device from now on. One device per QEMU.
    InterceptOutputs(QomPath),
    /// Asks for nothing in particular: its answer proves that all earlier requests were carried out.
    Endianness,
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(width, address) => write!(f, "read{} {address:#x}", width.letter()),
            Self::Write(width, address, value) => {
                write!(f, "write{} {address:#x} {:#x}", width.letter(), value & width.mask())
            }
            Self::In(width, port) => write!(f, "in{} {port:#x}", port_width(*width).letter()),
            Self::Out(width, port, value) => {
                let width = port_width(*width);
                write!(f, "out{} {port:#x} {:#x}", width.letter(), u64::from(*value) & width.mask())
            }
            Self::InterceptInputs(path) => write!(f, "irq_intercept_in {path}"),
            Self::InterceptOutputs(path) => write!(f, "irq_intercept_out {path} sysbus-irq"),
            Self::Endianness => f.write_str("endianness"),
        }
    }
}

/// There are no 64-bit ports.
fn port_width(width: Width) -> Width {
    if width == Width::Quad { Width::Long } else { width }
}

impl Request {
    /// What the words after `OK` mean for this request.
    fn value_in(&self, words: &str) -> Option<u64> {
        match self {
            Self::Read(..) | Self::In(..) => {
                u64::from_str_radix(words.trim().strip_prefix("0x")?, 16).ok()
            }
            Self::Endianness => matches!(words.trim(), "little" | "big").then_some(0),
            _ => words.trim().is_empty().then_some(0),
        }
    }
}

/// An interrupt line changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interrupt {
    /// The line's number on the intercepted device.
    pub line: u32,
    /// Whether it rose.
    pub raised: bool,
}

/// A connection to a qtest server. Requests of several threads are carried out one after another.
#[derive(Debug)]
pub struct Qtest {
    lines: Mutex<LineSocket>,
    interrupts: Mutex<VecDeque<Interrupt>>,
}

impl Qtest {
    /// Talks over `socket`; each answer may take `bound`.
    pub fn new(socket: UnixStream, bound: Duration) -> Self {
        Self {
            lines: Mutex::new(LineSocket::new(socket, bound)),
            interrupts: Mutex::new(VecDeque::new()),
        }
    }

    /// Carries out one request and returns the value that it read (0 where it reads none).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`], [`ErrorKind::Closed`], [`ErrorKind::Malformed`], [`ErrorKind::Io`]: the connection is unusable from then
    /// on ([`ErrorKind::Lost`]). [`ErrorKind::Refused`]: QEMU said no, nothing else changed.
    pub fn request(&self, request: &Request) -> Result<u64, ErrorKind> {
        let mut lines = self.lines();
        lines.send(format!("{request}\n").as_bytes(), request)?;
        self.answer(&mut lines, request)?
    }

    /// Carries out all requests in order, without waiting for each answer before the next is sent (4 us each instead of 15 to 50), and returns their values.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); where QEMU refused one the others were carried out all the same.
    pub fn pipeline(&self, requests: &[Request]) -> Result<Vec<u64>, ErrorKind> {
        let mut lines = self.lines();
        let mut values = Vec::with_capacity(requests.len());
        let mut refused = None;
        for chunk in requests.chunks(REQUESTS_IN_FLIGHT) {
            let text: String = chunk.iter().map(|request| format!("{request}\n")).collect();
            lines.send(text.as_bytes(), &chunk[0])?;
            for request in chunk {
                match self.answer(&mut lines, request)? {
                    Ok(value) => values.push(value),
                    Err(error) => refused = refused.or(Some(error)),
                }
            }
        }
        refused.map_or(Ok(values), Err)
    }

    /// The interrupt changes since the last call, oldest first. They arrive with answers: those caused by a request are here once it was answered.
    pub fn take_interrupts(&self) -> Vec<Interrupt> {
        self.interrupts.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    fn lines(&self) -> MutexGuard<'_, LineSocket> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The outer error is fatal to the connection, the inner one is QEMU's refusal.
    fn answer(
        &self,
        lines: &mut LineSocket,
        request: &Request,
    ) -> Result<Result<u64, ErrorKind>, ErrorKind> {
        let deadline = lines.deadline();
        loop {
            let line = lines.line(deadline, request)?;
            if let Some(change) = line.strip_prefix("IRQ ").and_then(interrupt) {
                self.note(change);
                continue;
            }
            if line.starts_with("FAIL") || line.starts_with("ERR") {
                let what = request.to_string();
                return Ok(Err(ErrorKind::Refused { what, answer: line }));
            }
            return match line.strip_prefix("OK").and_then(|words| request.value_in(words)) {
                Some(value) => Ok(Ok(value)),
                None => {
                    let what = request.to_string();
                    Err(lines.poison(ErrorKind::Malformed { what, answer: line }))
                }
            };
        }
    }

    fn note(&self, change: Interrupt) {
        let mut interrupts = self.interrupts.lock().unwrap_or_else(PoisonError::into_inner);
        if interrupts.len() == INTERRUPTS_KEPT {
            interrupts.pop_front();
        }
        interrupts.push_back(change);
    }
}

/// `raise 3` or `lower 3`.
fn interrupt(words: &str) -> Option<Interrupt> {
    let (change, line) = words.split_once(' ')?;
    let raised = match change {
        "raise" => true,
        "lower" => false,
        _ => return None,
    };
    Some(Interrupt { line: line.trim().parse().ok()?, raised })
}
