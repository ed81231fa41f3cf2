//! One QEMU process: started with exactly the files it needs, never left behind.

use crate::error::{Error, ErrorKind, LastWords};
use crate::find::Installation;
use crate::qmp::Qmp;
use crate::qtest::{Interrupt, QomPath, Qtest, Request, Width};
use crate::ram::Ram;
use crate::sys;
use serde_json::json;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::time::Duration;

/// How long an answer may take unless said otherwise: far more than a loaded machine needs, far less than a test run's patience.
const DEFAULT_BOUND: Duration = Duration::from_secs(20);

/// Bytes of standard error that an error message repeats.
const TAIL: u64 = 2048;

/// A QEMU about to be started.
#[derive(Debug)]
pub struct Launch {
    installation: Installation,
    machine: String,
    arguments: Vec<OsString>,
    ram: Arc<Ram>,
    files: Vec<OwnedFd>,
    bound: Duration,
}

impl Launch {
    /// `-machine machine` with `ram` as its memory. No CPU runs unless the arguments let one run; virtual time jumps to the next timer whenever nothing runs.
    pub fn new(installation: &Installation, machine: impl Into<String>, ram: Arc<Ram>) -> Self {
        Self {
            installation: installation.clone(),
            machine: machine.into(),
            arguments: Vec::new(),
            ram,
            files: Vec::new(),
            bound: DEFAULT_BOUND,
        }
    }

    /// Adds arguments to the command line.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Lets QEMU inherit `file`; the result is the name under which it can open it.
    pub fn share(&mut self, file: impl Into<OwnedFd>) -> String {
        let file = file.into();
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.files.push(file);
        name
    }

    /// Bounds the wait for each answer.
    #[must_use]
    pub fn bound(mut self, bound: Duration) -> Self {
        self.bound = bound;
        self
    }

    /// Starts it and waits for its first answers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`] where it cannot be run, [`ErrorKind::Closed`] with its words where it ended at once (it did not like an argument), [`ErrorKind::Timeout`].
    pub fn start(mut self) -> Result<Arc<Qemu>, Error> {
        let io = |what| move |error| ErrorKind::Io { what, error };
        let (qtest, qtest_end) = UnixStream::pair().map_err(io("making a socket pair"))?;
        let (qmp, qmp_end) = UnixStream::pair().map_err(io("making a socket pair"))?;
        let log = Log::new().map_err(io("making a memory file"))?;
        let mut command = self.command(&qtest_end, &qmp_end);
        command.stderr(log.0.try_clone().map_err(io("sharing QEMU's standard error"))?);
        self.files.extend([qtest_end.into(), qmp_end.into()]);
        let mut inherited: Vec<_> = self.files.iter().map(AsRawFd::as_raw_fd).collect();
        inherited.push(self.ram.file().as_raw_fd());
        sys::confine(&mut command, inherited);
        let child = spawn(command).map_err(io("starting QEMU"))?;
        // From here on an error drops `process`, which ends the child. Our copies of its files go now, so that its end closes the sockets.
        drop(self.files);
        let process = Process { child: Mutex::new(child), log };
        let qtest = Qtest::new(qtest, self.bound);
        let greeted = qtest.request(&Request::Endianness);
        let qmp = greeted.and_then(|_| Qmp::new(qmp, self.bound));
        match qmp {
            Ok(qmp) => Ok(Arc::new(Qemu { qtest, qmp, ram: self.ram, process })),
            Err(kind) => Err(Error::with_last_words(kind, process.last_words())),
        }
    }

    fn command(&self, qtest: &UnixStream, qmp: &UnixStream) -> Command {
        let mut command = Command::new(self.installation.program());
        let size = self.ram.len();
        command.args(["-machine", &format!("{},memory-backend=ram0", self.machine)]);
        command.args(["-accel", "tcg", "-icount", "shift=0,sleep=off"]);
        command.args(["-m", &format!("{}k", size >> 10), "-object"]);
        command.arg(format!(
            "memory-backend-file,id=ram0,size={size},mem-path=/proc/self/fd/{},share=on",
            self.ram.file().as_raw_fd()
        ));
        command.arg("-chardev").arg(format!("socket,id=qtest,fd={}", qtest.as_raw_fd()));
        command.args(["-object", "qtest,id=server,chardev=qtest,log=/dev/null"]);
        command.arg("-chardev").arg(format!("socket,id=qmp,fd={}", qmp.as_raw_fd()));
        command.args(["-mon", "chardev=qmp,mode=control"]);
        command.args(["-nodefaults", "-display", "none", "-serial", "none", "-net", "none"]);
        command.args(&self.arguments).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }
}

/// Starts a program with the standard three files only, which the kernel ends when this process ends in whatever way: for a QEMU that runs
/// a guest, which [`Launch`] is not for.
///
/// # Errors
///
/// The operating system's, as [`Command::spawn`].
pub fn spawn_tethered(mut command: Command) -> io::Result<Child> {
    sys::confine(&mut command, Vec::new());
    spawn(command)
}

/// A running QEMU. Killed when dropped, and by the kernel when this process ends in any other way.
#[derive(Debug)]
pub struct Qemu {
    qtest: Qtest,
    qmp: Qmp,
    ram: Arc<Ram>,
    process: Process,
}

impl Qemu {
    /// Reads memory or a register.
    ///
    /// # Errors
    ///
    /// As [`Qtest::request`], with QEMU's last words.
    pub fn read(&self, width: Width, address: u64) -> Result<u64, Error> {
        self.request(&Request::Read(width, address))
    }

    /// Writes memory or a register; what the write sets in motion at once (a command queue, a doorbell) has happened when this returns.
    ///
    /// # Errors
    ///
    /// As [`Qtest::request`], with QEMU's last words.
    pub fn write(&self, width: Width, address: u64, value: u64) -> Result<(), Error> {
        self.request(&Request::Write(width, address, value)).map(drop)
    }

    /// Carries out one request.
    ///
    /// # Errors
    ///
    /// As [`Qtest::request`], with QEMU's last words.
    pub fn request(&self, request: &Request) -> Result<u64, Error> {
        self.qtest.request(request).map_err(|kind| self.explain(kind))
    }

    /// Carries out several requests, pipelined.
    ///
    /// # Errors
    ///
    /// As [`Qtest::pipeline`], with QEMU's last words.
    pub fn pipeline(&self, requests: &[Request]) -> Result<Vec<u64>, Error> {
        self.qtest.pipeline(requests).map_err(|kind| self.explain(kind))
    }

    /// The changes of intercepted interrupt lines since the last call, those that have happened by now included.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request).
    pub fn take_interrupts(&self) -> Result<Vec<Interrupt>, Error> {
        self.request(&Request::Endianness)?;
        Ok(self.qtest.take_interrupts())
    }

    /// Whether QEMU still answers.
    ///
    /// # Errors
    ///
    /// What made the connection unusable: the way to tell silence of a device from death of the machine after register reads gave all ones.
    pub fn check(&self) -> Result<(), Error> {
        self.request(&Request::Endianness).map(drop)
    }

    /// The paths of all objects of type `kind`.
    ///
    /// # Errors
    ///
    /// As [`Qmp::execute`], with QEMU's last words.
    pub fn find_objects(&self, kind: &str) -> Result<Vec<QomPath>, Error> {
        self.qmp.find(kind).map_err(|kind| self.explain(kind))
    }

    /// Resets the machine as its reset button would and waits until that is done. RAM keeps its contents, except where the board writes its devicetree again.
    ///
    /// # Errors
    ///
    /// As [`Qmp::execute`], with QEMU's last words.
    pub fn reset(&self) -> Result<(), Error> {
        let done = self.qmp.execute_and_await("system_reset", json!({}), "RESET");
        done.map(drop).map_err(|kind| self.explain(kind))
    }

    /// The monitor.
    pub fn qmp(&self) -> &Qmp {
        &self.qmp
    }

    /// The machine's memory.
    pub fn ram(&self) -> &Arc<Ram> {
        &self.ram
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// What QEMU wrote to its standard error so far (its tail).
    pub fn stderr(&self) -> String {
        self.process.log.tail()
    }

    fn explain(&self, kind: ErrorKind) -> Error {
        Error::with_last_words(kind, self.process.last_words())
    }
}

/// The child and its standard error.
#[derive(Debug)]
struct Process {
    child: Mutex<Child>,
    log: Log,
}

impl Process {
    fn last_words(&self) -> LastWords {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let exit = child.try_wait().ok().flatten().map(|status| format!("it ended ({status})"));
        LastWords { text: self.log.tail(), exit }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Fails only when the child has ended already, which is what we want.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// QEMU's standard error, in a memory file of its own. When a panic drops its machine it is copied to a file that can be read afterwards.
#[derive(Debug)]
struct Log(File);

impl Log {
    fn new() -> io::Result<Self> {
        Ok(Self(sys::memory_file(c"portcullis-stderr", 0)?))
    }

    fn tail(&self) -> String {
        let len = self.0.metadata().map_or(0, |metadata| metadata.len());
        self.text(len.saturating_sub(TAIL), len)
    }

    fn text(&self, start: u64, end: u64) -> String {
        let mut bytes = vec![0; usize::try_from(end - start).unwrap_or(0)];
        // By position: the file's own position is QEMU's.
        let read = self.0.read_at(&mut bytes, start).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..read]).into_owned()
    }

    fn keep(&self) {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("portcullis-qemu-{}-{number}.log", std::process::id());
        let path = std::env::temp_dir().join(name);
        let len = self.0.metadata().map_or(0, |metadata| metadata.len());
        match std::fs::write(&path, self.text(0, len)) {
            Ok(()) => eprintln!("QEMU's standard error is in {}", path.display()),
            Err(error) => eprintln!("QEMU's standard error cannot be kept: {error}"),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep();
        }
    }
}

type SpawnJob = (Command, mpsc::SyncSender<io::Result<Child>>);

/// Spawns from a thread that lives as long as the process: the kernel ends a child when the *thread* that spawned it ends, and a
/// machine must survive the thread that happened to start it.
fn spawn(command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<SpawnJob>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<SpawnJob>();
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                // The asker waits below, so there is somebody to reply to.
                let _ = reply.send(command.spawn());
            }
        });
        jobs
    });
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = || io::Error::other("the spawning thread has ended");
    spawner.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}
