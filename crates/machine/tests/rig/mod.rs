//! A driver by hand: just enough register writes and table stores to put the model through its paces. Independent of the real driver on purpose.

use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{
    AccessKind, Device, DmaOutcome, DmaRequest, Machine, PhysicalMemory, Policy, Profile,
    SmmuRegisters, SmmuV3,
};
use portcullis_platform::{Clock, Coherency, DmaMemory, PageLayout, Registers};
use portcullis_spec::smmuv3::event;
use std::sync::Arc;

pub(crate) const SID: u32 = 0x10;
pub(crate) const ASID: u64 = 7;
pub(crate) const VMID: u64 = 3;
pub(crate) const QUEUE_LOG2: u32 = 4;
/// Stage 1 leaf: AF, inner shareable, not global, unprivileged.
pub(crate) const LEAF: u64 = 0x403 | 3 << 8 | 1 << 11 | 1 << 6;
pub(crate) const READ_ONLY: u64 = 1 << 7;
/// Stage 2 leaf: AF, inner shareable, normal memory, read and write.
pub(crate) const LEAF2: u64 = 0x403 | 3 << 8 | 0xf << 2 | 3 << 6;

pub(crate) struct Rig {
    pub(crate) machine: Arc<Machine>,
    pub(crate) memory: Arc<PhysicalMemory>,
    pub(crate) smmu: Arc<SmmuV3>,
    pub(crate) device: Arc<Device>,
    pub(crate) r: SmmuRegisters,
    pub(crate) strtab: u64,
    pub(crate) cmdq: u64,
    pub(crate) eventq: u64,
    pub(crate) cd: u64,
    pub(crate) root: u64,
    prod: u32,
    seen: u32,
}

pub(crate) fn machine(policy: Policy) -> Arc<Machine> {
    Machine::builder().ram(PhysAddr::new(0x4000_0000), 64 << 20).seed(5).policy(policy).build()
}

pub(crate) fn layout(size: usize, align: usize) -> PageLayout {
    PageLayout::new(size, align).expect("test layout")
}

impl Rig {
    /// A machine with one device behind an SMMU that was brought up, its stream table all zero (every stream: C_BAD_STE).
    pub(crate) fn new(profile: Profile, policy: Policy) -> Self {
        Self::on(machine(policy), profile)
    }

    pub(crate) fn on(machine: Arc<Machine>, profile: Profile) -> Self {
        let memory = Arc::clone(machine.memory());
        let smmu = machine.add_smmuv3(profile);
        let device = machine.add_client("edu", &smmu, StreamId::new(SID));
        let page = |size: usize| memory.allocate(layout(size, size)).expect("fresh").raw();
        let (strtab, cmdq, eventq) = (page(64 << 8), page(4096), page(4096));
        let (cd, root) = (page(64), page(4096));
        let r = smmu.registers();
        let mut rig = Self {
            machine,
            memory,
            smmu,
            device,
            r,
            strtab,
            cmdq,
            eventq,
            cd,
            root,
            prod: 0,
            seen: 0,
        };
        rig.boot();
        rig
    }

    fn boot(&mut self) {
        let log2 = u64::from(QUEUE_LOG2.min(self.smmu.profile().cmdq_log2.into()));
        let elog2 = u64::from(QUEUE_LOG2.min(self.smmu.profile().eventq_log2.into()));
        self.enable(0);
        self.r.write32(0x28, 0xd75);
        self.r.write32(0x2c, 6);
        self.r.write64(0x80, self.strtab | 1 << 62);
        self.r.write32(0x88, 8);
        self.r.write64(0x90, self.cmdq | 1 << 62 | log2);
        self.r.write64(0xa0, self.eventq | 1 << 62 | elog2);
        for index in [0x98, 0x9c, 0x100a8, 0x100ac] {
            self.r.write32(index, 0);
        }
        self.r.write32(0x50, 5);
        self.enable(8);
        self.commands(&[[0x04, 31]]);
        self.commands(&[[0x30, 0]]);
        self.enable(0xd);
    }

    pub(crate) fn enable(&self, bits: u32) {
        self.r.write32(0x20, bits);
        for _ in 0..100 {
            if self.r.read32(0x24) == bits {
                return;
            }
        }
        panic!("CR0ACK {:#x} is not {bits:#x}", self.r.read32(0x24));
    }

    /// Stores without publishing.
    pub(crate) fn store(&self, address: u64, words: &[u64]) {
        for (index, word) in words.iter().enumerate() {
            self.memory.store64(PhysAddr::new(address + 8 * index as u64), *word);
        }
    }

    pub(crate) fn put(&self, address: u64, words: &[u64]) {
        self.store(address, words);
        self.memory.publish(PhysAddr::new(address), 8 * words.len(), Coherency::NonCoherent);
    }

    pub(crate) fn get(&self, address: u64) -> u64 {
        self.memory.load64(PhysAddr::new(address))
    }

    pub(crate) fn page(&self) -> u64 {
        self.memory.allocate(layout(4096, 4096)).expect("memory left").raw()
    }

    /// Puts commands in without waiting.
    pub(crate) fn submit(&mut self, commands: &[[u64; 2]]) {
        let log2 = QUEUE_LOG2.min(self.smmu.profile().cmdq_log2.into());
        for command in commands {
            self.put(self.cmdq + 16 * u64::from(self.prod & ((1 << log2) - 1)), command);
            self.prod = (self.prod + 1) & ((2 << log2) - 1);
            self.r.write32(0x98, self.prod);
            if self.r.read32(0x60) & 1 == self.r.read32(0x64) & 1 {
                self.wait_space(log2);
            }
        }
    }

    fn wait_space(&self, log2: u32) {
        for _ in 0..1000 {
            if (self.prod ^ self.r.read32(0x9c)) & ((2 << log2) - 1) != 1 << log2 {
                return;
            }
        }
    }

    /// Commands, a CMD_SYNC, and the wait for it.
    pub(crate) fn commands(&mut self, commands: &[[u64; 2]]) {
        self.submit(commands);
        self.submit(&[[0x46, 0]]);
        assert!(self.drained(), "CMDQ_CONS {:#x} behind {:#x}", self.r.read32(0x9c), self.prod);
    }

    /// Whether the queue becomes empty within some looks.
    pub(crate) fn drained(&self) -> bool {
        (0..1000).any(|_| {
            self.machine.clock().relax();
            self.r.read32(0x9c) == self.prod
        })
    }

    pub(crate) fn cfgi_ste(&mut self) {
        self.commands(&[[0x03 | u64::from(SID) << 32, 1]]);
    }

    pub(crate) fn ste(&self) -> u64 {
        self.strtab + 64 * u64::from(SID)
    }

    /// Points the stream to a stage 1 table of 4 KiB granule and 48 bits, and says so.
    pub(crate) fn stage1(&mut self) {
        self.put(self.cd, &cd_words(self.root));
        self.put(self.ste(), &ste_stage1(self.cd));
        self.cfgi_ste();
    }

    pub(crate) fn stage2(&mut self, root: u64) {
        self.put(self.ste(), &[1 | 6 << 1, 0, ste_stage2_word(), root, 0, 0, 0, 0]);
        self.cfgi_ste();
    }

    /// Maps 4 KiB with the given descriptor bits; makes tables where they are missing.
    pub(crate) fn map(&self, root: u64, top: u32, va: u64, leaf: u64) {
        let mut table = root;
        for level in top..3 {
            let entry = table + 8 * (va >> (39 - 9 * level) & 511);
            if self.get(entry) & 1 == 0 {
                self.put(entry, &[self.page() | 3]);
            }
            table = self.get(entry) & 0xffff_ffff_f000;
        }
        self.put(table + 8 * (va >> 12 & 511), &[leaf]);
    }

    /// The address of the level 3 descriptor of `va`.
    pub(crate) fn leaf_of(&self, root: u64, top: u32, va: u64) -> u64 {
        let mut table = root;
        for level in top..3 {
            table = self.get(table + 8 * (va >> (39 - 9 * level) & 511)) & 0xffff_ffff_f000;
        }
        table + 8 * (va >> 12 & 511)
    }

    pub(crate) fn write(&self, address: u64, bytes: &[u8]) -> DmaOutcome {
        self.machine.dma_of(&self.device, DmaRequest::write(Iova::new(address), bytes))
    }

    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> DmaOutcome {
        self.machine.dma_of(&self.device, DmaRequest::read(Iova::new(address), bytes))
    }

    pub(crate) fn lands(&self, address: u64) -> bool {
        self.write(address, b"data").is_completed()
    }

    pub(crate) fn tlbi_va(&mut self, va: u64) {
        self.commands(&[[0x12 | ASID << 48, va | 1]]);
    }

    /// The records that were written since the last call.
    pub(crate) fn events(&mut self) -> Vec<[u64; 4]> {
        let log2 = QUEUE_LOG2.min(self.smmu.profile().eventq_log2.into());
        let producer = self.r.read32(0x100a8) & 0xf_ffff;
        let mut records = Vec::new();
        while self.seen != producer {
            let at = self.eventq + 32 * u64::from(self.seen & ((1 << log2) - 1));
            self.memory.refresh(PhysAddr::new(at), 32, Coherency::NonCoherent);
            records.push([0, 8, 16, 24].map(|word| self.get(at + word)));
            self.seen = (self.seen + 1) & ((2 << log2) - 1);
        }
        self.r.write32(0x100ac, self.seen | self.r.read32(0x100a8) & 1 << 31);
        records
    }

    /// The one record since the last call: its number, whether stage 2, class, whether a read, input address, IPA.
    pub(crate) fn event(&mut self) -> Seen {
        let records = self.events();
        assert_eq!(records.len(), 1, "{records:x?}");
        let r = &records[0];
        assert_eq!(event::STREAM_ID.read(r), u64::from(SID));
        Seen {
            number: event::TYPE.read(r),
            stage2: event::S2.read(r) == 1,
            class: event::CLASS.read(r),
            kind: if event::RNW.read(r) == 1 { AccessKind::Read } else { AccessKind::Write },
            input: r[2],
            other: r[3],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) number: u64,
    pub(crate) stage2: bool,
    pub(crate) class: u64,
    pub(crate) kind: AccessKind,
    pub(crate) input: u64,
    pub(crate) other: u64,
}

/// 48-bit lower range with 4 KiB pages, upper range off, record and abort, 44-bit output.
pub(crate) fn cd_words(root: u64) -> [u64; 8] {
    let word0 = 16
        | 1 << 8
        | 1 << 10
        | 3 << 12
        | 1 << 30
        | 1 << 31
        | 4 << 32
        | 1 << 41
        | 1 << 45
        | 1 << 46
        | 1 << 47
        | ASID << 48;
    [word0, root, 0, 0xff, 0, 0, 0, 0]
}

pub(crate) fn ste_stage1(cd: u64) -> [u64; 8] {
    [1 | 5 << 1 | cd, 1 << 2 | 1 << 4 | 3 << 6, 0, 0, 0, 0, 0, 0]
}

/// VMID 3, 39-bit input from level 1, 4 KiB pages, 44-bit output, record.
pub(crate) fn ste_stage2_word() -> u64 {
    VMID | 25 << 32 | 1 << 38 | 1 << 40 | 1 << 42 | 3 << 44 | 4 << 48 | 1 << 51 | 1 << 58
}

pub(crate) fn ste_nested(cd: u64, root2: u64) -> [u64; 8] {
    let word1 = 1 << 2 | 1 << 4 | 3 << 6;
    [1 | 7 << 1 | cd, word1, ste_stage2_word(), root2, 0, 0, 0, 0]
}
