//! The register file (11.4): what is stored, what is read-only, when a command is in effect.

use super::VtdProfile;
use portcullis_spec::Register;
use portcullis_spec::vtd::{
    self as spec, fault, fectl, fsts, gcmd, gsts, ics, iectl, iqa, iqh, iqt, pmen, rtaddr,
};

/// Where the fault recording registers begin.
pub(super) const FAULTS: usize = 0x400;

/// Commands that stay in effect until they are taken back.
const ENABLES: u32 =
    (gcmd::TE.mask() | gcmd::EAFL.mask() | gcmd::QIE.mask() | gcmd::IRE.mask() | gcmd::CFI.mask())
        as u32;
/// Those of them that a unit of this model has.
const KNOWN: u32 = (gcmd::TE.mask() | gcmd::QIE.mask()) as u32;
/// Bits of `FSTS` that raise an event (7.4).
const STATUS: u32 =
    (fsts::PFO.mask() | fsts::PPF.mask() | fsts::IQE.mask() | fsts::ICE.mask() | fsts::ITE.mask())
        as u32;

/// The message of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) address: u64,
    pub(super) data: u32,
}

/// One of the two event interrupts, as its registers stand.
#[derive(Clone, Copy, Debug)]
struct EventRegisters {
    control: u32,
    data: u32,
    address: u64,
}

impl EventRegisters {
    const RESET: Self = Self { control: fectl::IM.mask() as u32, data: 0, address: 0 };

    /// Something happened: a message, or a pending bit where messages are masked.
    fn raise(&mut self) -> Option<Event> {
        if fectl::IM.is_set(self.control.into()) {
            self.control |= fectl::IP.mask() as u32;
            return None;
        }
        Some(Event { address: self.address, data: self.data })
    }

    fn write_control(&mut self, value: u32) -> Option<Event> {
        let pending = fectl::IP.is_set(self.control.into());
        self.control = self.control & fectl::IP.mask() as u32 | value & fectl::IM.mask() as u32;
        let due = pending && !fectl::IM.is_set(value.into());
        if due {
            self.control = 0;
        }
        due.then_some(Event { address: self.address, data: self.data })
    }
}

/// What a write did beyond changing the register.
#[derive(Clone, Debug, Default)]
pub(super) struct Effect {
    /// The document leaves open what such a write does, so it was ignored.
    pub(super) unspecified: bool,
    /// Transactions may now be treated differently.
    pub(super) changes_translation: bool,
    /// Write buffers are flushed.
    pub(super) flushes: bool,
    pub(super) event: Option<Event>,
}

/// A command that is not yet in effect.
#[derive(Clone, Copy, Debug)]
struct Pending {
    /// `GCMD` as it was written.
    value: u32,
    /// How many looks it takes.
    looks: u32,
}

#[derive(Clone, Debug)]
pub(super) struct RegisterFile {
    profile: VtdProfile,
    /// `GSTS`: what is in effect.
    status: u32,
    pending: Option<Pending>,
    rtaddr: u64,
    /// `RTADDR` as it was at the last `SRTP`.
    root: u64,
    fsts: u32,
    fault_event: EventRegisters,
    queue_event: EventRegisters,
    ics: u32,
    pmen: u32,
    pub(super) head: u64,
    tail: u64,
    iqa: u64,
    iqercd: u64,
    records: Vec<[u64; fault::WORDS]>,
    next_record: usize,
}

/// The register's name, for hooks.
pub(super) fn name(offset: usize) -> &'static str {
    if offset >= FAULTS {
        return "FRCD";
    }
    spec::REGISTERS.iter().find(|r| covers(r, offset)).map_or("reserved", |r| r.name)
}

fn covers(register: &Register, offset: usize) -> bool {
    (register.offset..register.offset + usize::from(register.bits) / 8).contains(&offset)
}

/// Whether a read of `bytes` at `offset` shows how far the queue was consumed.
pub(super) fn shows_consumption(offset: usize, bytes: usize) -> bool {
    [spec::IQH.offset, spec::FSTS.offset].iter().any(|at| (offset..offset + bytes).contains(at))
}

fn half(register: Register, offset: usize, value: u64) -> u32 {
    if offset == register.offset { value as u32 } else { (value >> 32) as u32 }
}

fn with_half(register: Register, offset: usize, old: u64, value: u32) -> u64 {
    if offset == register.offset {
        old & !0xffff_ffff | u64::from(value)
    } else {
        old & 0xffff_ffff | u64::from(value) << 32
    }
}

impl RegisterFile {
    pub(super) fn reset(profile: &VtdProfile) -> Self {
        Self {
            profile: profile.clone(),
            status: 0,
            pending: None,
            rtaddr: 0,
            root: 0,
            fsts: 0,
            fault_event: EventRegisters::RESET,
            queue_event: EventRegisters::RESET,
            ics: 0,
            pmen: 0,
            head: 0,
            tail: 0,
            iqa: 0,
            iqercd: 0,
            records: vec![[0; fault::WORDS]; usize::from(profile.fault_records)],
            next_record: 0,
        }
    }

    pub(super) fn translates(&self) -> bool {
        gsts::TES.is_set(self.status.into())
    }

    /// The mode in effect.
    pub(super) fn mode(&self) -> u64 {
        rtaddr::TTM.get(self.root)
    }

    /// Where the root table is.
    pub(super) fn root(&self) -> u64 {
        rtaddr::RTA.in_place(self.root)
    }

    pub(super) fn queue_is_on(&self) -> bool {
        gsts::QIES.is_set(self.status.into())
    }

    /// Whether descriptors are fetched: the queue is on, there is one, and no error stops it.
    pub(super) fn takes_descriptors(&self) -> bool {
        let stopped = fsts::IQE.mask() | fsts::ITE.mask();
        self.queue_is_on() && self.head != self.tail && u64::from(self.fsts) & stopped == 0
    }

    /// Bytes of a descriptor.
    pub(super) fn descriptor_bytes(&self) -> u64 {
        if iqa::DW.is_set(self.iqa) { 32 } else { 16 }
    }

    fn queue_bytes(&self) -> u64 {
        4096 << iqa::QS.get(self.iqa)
    }

    /// Whether the tail is one that the queue can have.
    pub(super) fn tail_is_good(&self) -> bool {
        self.tail < self.queue_bytes() && self.tail.is_multiple_of(self.descriptor_bytes())
    }

    /// Where the descriptor at the head is.
    pub(super) fn descriptor(&self) -> u64 {
        iqa::IQA.in_place(self.iqa) + self.head
    }

    pub(super) fn advance(&mut self) {
        self.head = (self.head + self.descriptor_bytes()) % self.queue_bytes();
    }

    pub(super) fn read(&self, offset: usize) -> u32 {
        match offset {
            o if o == spec::VER.offset => spec::ver::MAX.of(6) as u32,
            o if covers(&spec::CAP, o) => half(spec::CAP, o, self.profile.cap()),
            o if covers(&spec::ECAP, o) => half(spec::ECAP, o, self.profile.ecap()),
            o if o == spec::GSTS.offset => {
                let flushing = self.pending.is_some_and(|it| gcmd::WBF.is_set(it.value.into()));
                self.status | gsts::WBFS.of(flushing.into()) as u32
            }
            o if covers(&spec::RTADDR, o) => half(spec::RTADDR, o, self.rtaddr),
            o if o == spec::FSTS.offset => self.fsts,
            o if o == spec::FECTL.offset => self.fault_event.control,
            o if o == spec::FEDATA.offset => self.fault_event.data,
            o if o == spec::FEADDR.offset => self.fault_event.address as u32,
            o if o == spec::FEUADDR.offset => (self.fault_event.address >> 32) as u32,
            o if o == spec::PMEN.offset => self.pmen,
            o if covers(&spec::IQH, o) => half(spec::IQH, o, self.head),
            o if covers(&spec::IQT, o) => half(spec::IQT, o, self.tail),
            o if covers(&spec::IQA, o) => half(spec::IQA, o, self.iqa),
            o if o == spec::ICS.offset => self.ics,
            o if o == spec::IECTL.offset => self.queue_event.control,
            o if covers(&spec::IQERCD, o) => half(spec::IQERCD, o, self.iqercd),
            o => self
                .record_at(o)
                .map_or(0, |(index, word, shift)| (self.records[index][word] >> shift) as u32),
        }
    }

    /// Which fault recording register 32 bits belong to, in which word, and from which bit on.
    fn record_at(&self, offset: usize) -> Option<(usize, usize, u32)> {
        let at = offset.checked_sub(FAULTS)?;
        let (index, at) = (at / fault::BYTES, at % fault::BYTES);
        (index < self.records.len()).then_some((index, at / 8, 8 * (at as u32 % 8)))
    }

    /// Writes 32 bits. `delay` is how many looks it takes until a command is in effect.
    pub(super) fn write(&mut self, offset: usize, value: u32, delay: u32) -> Effect {
        let mut event = None;
        match offset {
            o if o == spec::GCMD.offset => return self.write_command(value, delay),
            o if covers(&spec::RTADDR, o) => {
                let known = rtaddr::TTM.mask() | rtaddr::RTA.mask();
                self.rtaddr = with_half(spec::RTADDR, o, self.rtaddr, value) & known;
            }
            o if o == spec::FSTS.offset => self.write_status(value),
            o if o == spec::FECTL.offset => event = self.fault_event.write_control(value),
            o if o == spec::FEDATA.offset => self.fault_event.data = value,
            o if o == spec::FEADDR.offset => {
                let low = spec::feaddr::MA.in_place(value.into());
                self.fault_event.address = self.fault_event.address & !0xffff_ffff | low;
            }
            o if o == spec::FEUADDR.offset => {
                let high = u64::from(value) << 32;
                self.fault_event.address = self.fault_event.address & 0xffff_ffff | high;
            }
            o if o == spec::PMEN.offset && self.profile.protected_memory => {
                let on = pmen::EPM.is_set(value.into());
                self.pmen = (pmen::EPM.of(on.into()) | pmen::PRS.of(on.into())) as u32;
            }
            o if covers(&spec::IQT, o) => {
                self.tail = iqt::QT.in_place(with_half(spec::IQT, o, self.tail, value));
            }
            o if covers(&spec::IQA, o) => return self.write_queue(o, value),
            o if o == spec::ICS.offset => self.ics &= !(value & ics::IWC.mask() as u32),
            o if o == spec::IECTL.offset => event = self.queue_event.write_control(value),
            o => {
                let top = fault::F.mask() >> 32;
                if let Some((index, 1, 32)) = self.record_at(o)
                    && u64::from(value) & top != 0
                {
                    self.records[index][1] &= !fault::F.mask();
                    self.show_faults();
                }
            }
        }
        Effect { event, ..Effect::default() }
    }

    /// One bit is changed at a time, and waited for (11.4.4.1).
    fn write_command(&mut self, value: u32, delay: u32) -> Effect {
        let one_shot = value & !ENABLES;
        let changed = (value ^ self.status) & ENABLES;
        let queue = changed & gcmd::QIE.mask() as u32 != 0;
        if self.pending.is_some() || (one_shot | changed).count_ones() > 1 {
            return Effect { unspecified: true, ..Effect::default() };
        }
        // A queue begins at its start (6.5.2): the tail is cleared first.
        if queue && !self.queue_is_on() && self.tail != 0 {
            return Effect { unspecified: true, ..Effect::default() };
        }
        if one_shot & gcmd::SRTP.mask() as u32 != 0 {
            self.status &= !(gsts::RTPS.mask() as u32);
        }
        self.pending = Some(Pending { value, looks: delay });
        self.settle()
    }

    /// Takes a command that has waited long enough into effect.
    fn settle(&mut self) -> Effect {
        let Some(Pending { value, looks: 0 }) = self.pending else { return Effect::default() };
        self.pending = None;
        let mut effect = Effect::default();
        let was_on = self.queue_is_on();
        if gcmd::SRTP.is_set(value.into()) {
            self.root = self.rtaddr;
            self.status |= gsts::RTPS.mask() as u32;
            effect.changes_translation = true;
        }
        effect.flushes = gcmd::WBF.is_set(value.into());
        let enables = value & KNOWN;
        effect.changes_translation |= (self.status ^ enables) & gcmd::TE.mask() as u32 != 0;
        self.status = self.status & !KNOWN | enables;
        if was_on != self.queue_is_on() {
            // Of a queue that is turned off nothing is left (6.5.2).
            self.head = 0;
        }
        effect
    }

    fn write_queue(&mut self, offset: usize, value: u32) -> Effect {
        if self.queue_is_on() {
            return Effect { unspecified: true, ..Effect::default() };
        }
        let width = if self.profile.scalable { iqa::DW.mask() } else { 0 };
        let known = iqa::QS.mask() | width | iqa::IQA.mask();
        self.iqa = with_half(spec::IQA, offset, self.iqa, value) & known;
        Effect::default()
    }

    fn write_status(&mut self, value: u32) {
        let cleared = fsts::PFO.mask() | fsts::IQE.mask() | fsts::ICE.mask() | fsts::ITE.mask();
        self.fsts &= !(value & cleared as u32);
        if !fsts::IQE.is_set(self.fsts.into()) {
            self.iqercd = 0;
        }
        self.forget_event();
    }

    /// An event that is pending is over when nothing is left that it is about (11.4.7.2).
    fn forget_event(&mut self) {
        if self.fsts & STATUS == 0 {
            self.fault_event.control &= !(fectl::IP.mask() as u32);
        }
    }

    /// Whether some record is there.
    fn show_faults(&mut self) {
        let any = self.records.iter().any(|record| fault::F.read(record) == 1);
        self.fsts = fsts::PPF.with(self.fsts.into(), any.into()) as u32;
        self.forget_event();
    }

    /// Sets status bits; an event is due if none was set before (7.4).
    fn set_status(&mut self, bits: u64) -> Option<Event> {
        let quiet = self.fsts & STATUS == 0;
        self.fsts |= bits as u32;
        if quiet { self.fault_event.raise() } else { None }
    }

    /// Puts a record into the next register. Whether there was room.
    pub(super) fn record(&mut self, record: [u64; fault::WORDS]) -> (bool, Option<Event>) {
        if fsts::PFO.is_set(self.fsts.into()) {
            return (false, None);
        }
        let at = self.next_record;
        if fault::F.read(&self.records[at]) == 1 {
            return (false, self.set_status(fsts::PFO.mask()));
        }
        self.records[at] = record;
        self.next_record = (at + 1) % self.records.len();
        if !fsts::PPF.is_set(self.fsts.into()) {
            self.fsts = fsts::FRI.with(self.fsts.into(), at as u64) as u32;
        }
        (true, self.set_status(fsts::PPF.mask()))
    }

    /// The queue stops at its head.
    pub(super) fn queue_error(&mut self, info: u64) -> Option<Event> {
        if self.profile.error_info {
            self.iqercd = spec::iqercd::IQEI.of(info);
        }
        self.set_status(fsts::IQE.mask())
    }

    /// A device did not answer: the queue stops behind what was fetched.
    pub(super) fn device_timed_out(&mut self) -> Option<Event> {
        self.set_status(fsts::ITE.mask())
    }

    /// A completion came that nobody waits for.
    pub(super) fn stray_completion(&mut self) -> Option<Event> {
        self.set_status(fsts::ICE.mask())
    }

    /// A wait with an event has completed.
    pub(super) fn wait_is_over(&mut self) -> Option<Event> {
        let again = ics::IWC.is_set(self.ics.into());
        self.ics |= ics::IWC.mask() as u32;
        if again { None } else { self.queue_event.raise() }
    }

    /// Software looks at `bytes` bytes at `offset`: a command takes effect a little later.
    pub(super) fn looked_at(&mut self, offset: usize, bytes: usize) -> Effect {
        if (offset..offset + bytes).contains(&spec::GSTS.offset) {
            return self.time_passes();
        }
        Effect::default()
    }

    /// As [`looked_at`](Self::looked_at) for a moment of time.
    pub(super) fn time_passes(&mut self) -> Effect {
        if let Some(pending) = &mut self.pending {
            pending.looks = pending.looks.saturating_sub(1);
        }
        self.settle()
    }
}

// What is kept of the head and the tail has the same place in both.
const _: () = assert!(iqh::QH.mask() == iqt::QT.mask());
const _: () = assert!(iectl::IM.mask() == fectl::IM.mask() && iectl::IP.mask() == fectl::IP.mask());
const _: () = assert!(gcmd::TE.mask() == gsts::TES.mask() && gcmd::QIE.mask() == gsts::QIES.mask());
