//! One run of a board: the process, its console, its gdb stub and its trace.

use crate::board::{Board, gate};
use crate::error::{Error, io, io_at};
use crate::gdb::Client;
use crate::scratch::Folder;
use portcullis_qemu::Installation;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How long QEMU may take to open its gdb socket or to dump a devicetree.
const START: Duration = Duration::from_secs(30);

/// QEMU's trace events that tell what an SMMU did with a transaction; 11.x calls the recorded event another name.
const EVENTS: &[&str] = &[
    "smmuv3_translate_success",
    "smmuv3_translate_abort",
    "smmuv3_translate_bypass",
    "smmuv3_translate_disable",
    "smmuv3_record_event",
    "smmuv3_propagate_event",
];

/// What the guest is started with.
#[derive(Debug)]
pub(crate) struct Boot<'a> {
    /// The raw kernel image.
    pub(crate) kernel: &'a Path,
    /// The first file system.
    pub(crate) initramfs: &'a [u8],
    /// The kernel's command line.
    pub(crate) command_line: String,
}

/// A line of the guest's console.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ConsoleLine {
    /// Seconds since the start.
    pub(crate) at: f64,
    /// The text.
    pub(crate) text: String,
}

/// The console, filled by a thread of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Console(Arc<Mutex<Vec<ConsoleLine>>>);

impl Console {
    /// The lines from number `from` on.
    pub(crate) fn since(&self, from: usize) -> Vec<ConsoleLine> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.get(from..).unwrap_or_default().to_vec()
    }

    /// How many lines there are.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Is there a line that contains `text`?
    pub(crate) fn says(&self, text: &str) -> bool {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().any(|line| line.text.contains(text))
    }

    fn push(&self, at: f64, text: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(ConsoleLine { at, text });
    }
}

/// A running QEMU. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    folder: Folder,
    console: Console,
    started: Instant,
}

impl Machine {
    /// Starts `board`; its CPUs stand still until the gdb client lets them run.
    pub(crate) fn start(
        qemu: &Installation,
        board: &Board,
        boot: &Boot<'_>,
    ) -> Result<Self, Error> {
        board.supported_by(qemu)?;
        let folder = Folder::create("replay")?;
        let file = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).map_err(io_at(&path)).map(|()| path)
        };
        let disk = file("disk", &disk())?;
        let disk = disk.display().to_string();
        let tree = file("board.dtb", &gate(&dump(qemu, board, &folder, &disk)?, board)?)?;
        let initramfs = file("initramfs", boot.initramfs)?;
        let mut command = Command::new(qemu.program());
        command.args(board.arguments(&disk)).args(["-accel", "tcg,thread=multi"]);
        command.args(["-serial", "stdio", "-monitor", "none", "-no-reboot", "-S"]);
        command.arg("-dtb").arg(tree).arg("-kernel").arg(boot.kernel).arg("-initrd").arg(initramfs);
        command.arg("-append").arg(&boot.command_line);
        command.arg("-chardev").arg(socket_argument(folder.path()));
        command.args(["-gdb", "chardev:gdb", "-D"]).arg(folder.path().join("trace"));
        command.args(EVENTS.iter().flat_map(|event| ["-trace", event]));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = portcullis_qemu::spawn_tethered(command).map_err(io("starting QEMU"))?;
        let mut machine =
            Self { child, folder, console: Console::default(), started: Instant::now() };
        machine.listen();
        Ok(machine)
    }

    /// Reads standard output and standard error until QEMU ends.
    fn listen(&mut self) {
        let started = self.started;
        let listen = |stream: Box<dyn Read + Send>, console: Console| {
            thread::spawn(move || {
                let mut reader = BufReader::new(stream);
                let mut line = Vec::new();
                while reader.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                    let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                    console.push(started.elapsed().as_secs_f64(), text);
                    line.clear();
                }
            });
        };
        if let Some(stdout) = self.child.stdout.take() {
            listen(Box::new(stdout), self.console.clone());
        }
        if let Some(stderr) = self.child.stderr.take() {
            listen(Box::new(stderr), self.console.clone());
        }
    }

    /// Connects to the gdb stub.
    pub(crate) fn connect(&mut self) -> Result<Client, Error> {
        let path = self.folder.path().join("gdb");
        let deadline = Instant::now() + START;
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => return Client::new(stream),
                Err(_) if self.has_ended() => {
                    let words: Vec<String> =
                        self.console.since(0).into_iter().map(|line| line.text).collect();
                    return Err(Error::Qemu(format!("QEMU ended at once: {}", words.join("; "))));
                }
                Err(error) if Instant::now() > deadline => {
                    return Err(io("connecting to the gdb stub")(error));
                }
                Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|status| status.is_some())
    }

    /// The guest's console.
    pub(crate) fn console(&self) -> &Console {
        &self.console
    }

    /// Seconds since the start.
    pub(crate) fn seconds(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// The trace so far.
    pub(crate) fn trace(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("trace")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Fails only when the child has ended already, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn socket_argument(folder: &Path) -> OsString {
    let mut argument = OsString::from("socket,id=gdb,server=on,wait=off,path=");
    argument.push(folder.join("gdb"));
    argument
}

/// What the first block of the disk says; the guest reads it back.
pub(crate) const DISK_TEXT: &str = "HELLO-FROM-THE-DISK-0001";

fn disk() -> Vec<u8> {
    let mut disk = DISK_TEXT.as_bytes().to_vec();
    disk.resize(16 << 20, 0);
    disk
}

/// The devicetree that QEMU writes for the board.
fn dump(qemu: &Installation, board: &Board, folder: &Folder, disk: &str) -> Result<Vec<u8>, Error> {
    let path = folder.path().join("dump.dtb");
    let mut arguments = board.arguments(disk);
    // The machine's argument is the second: `-machine virt,...`.
    arguments[1] += &format!(",dumpdtb={}", path.display());
    let mut command = Command::new(qemu.program());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = portcullis_qemu::spawn_tethered(command).map_err(io("starting QEMU"))?;
    let deadline = Instant::now() + START;
    let status = loop {
        match child.try_wait().map_err(io("waiting for QEMU"))? {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::Qemu("QEMU did not dump a devicetree in time".into()));
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    if status.success() {
        return std::fs::read(&path).map_err(io_at(&path));
    }
    let mut words = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        // Without its words the status says enough.
        let _ = stderr.read_to_string(&mut words);
    }
    Err(Error::Qemu(format!("QEMU could not make the board `{}`: {}", board.name, words.trim())))
}
