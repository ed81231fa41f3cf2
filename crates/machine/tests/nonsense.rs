//! Whatever software writes, into registers, queues and tables, the machine answers; it neither panics nor loops.

use crate::rig::{self, LEAF};
use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{Device, DmaRequest, Machine, Policy, Profile, SmmuRegisters};
use portcullis_platform::{Clock, Coherency, DmaMemory, Registers};
use std::sync::Arc;

const STRTAB: u64 = 0x4000_0000;
const CONTEXT: u64 = 0x4000_1000;
const ROOT: u64 = 0x4000_2000;

struct Nonsense {
    machine: Arc<Machine>,
    registers: SmmuRegisters,
    device: Arc<Device>,
    state: u64,
}

impl Nonsense {
    fn new(seed: u64, profile: Profile) -> Self {
        let machine = Machine::builder()
            .ram(PhysAddr::new(STRTAB), 1 << 20)
            .seed(seed)
            .policy(Policy::default().speculation())
            .build();
        let smmu = machine.add_smmuv3(profile);
        let device = machine.add_client("d", &smmu, StreamId::new(seed as u32 & 3));
        Self { machine, registers: smmu.registers(), device, state: seed }
    }

    fn draw(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(0x1405_7b7e_f767_814f);
        (self.state ^ self.state >> 29).rotate_left((self.state >> 59) as u32)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[(self.draw() % from.len() as u64) as usize]
    }

    fn step(&mut self) {
        let near = STRTAB | self.draw() & 0xf_ffff;
        match self.draw() % 40 {
            0 => self.write_some_register(),
            1 => {
                let offset = self.pick(&[0x80, 0x90, 0xa0]);
                let value = near & !0x1f | self.draw() & 7;
                self.registers.write64(offset, value);
            }
            2 => {
                let (offset, value) = (self.draw() as usize & 0x1_fff8, self.draw());
                self.registers.write64(offset, value);
            }
            3 => {
                let offset = self.draw() as usize & 0x1_fff8;
                let _value = self.registers.read64(offset);
            }
            4..8 => {
                // Something between noise and a valid entry.
                let noise = (self.draw() & self.draw() & self.draw()) << 40;
                let word = near & !0xfff | self.draw() & 0xfff | noise | 1;
                self.machine.memory().store64(PhysAddr::new(near & !7), word);
            }
            8..10 => self.almost_configure(),
            10..12 => self.machine.clock().relax(),
            _ => {
                let address = Iova::new(self.draw() >> (self.draw() % 60));
                let request = DmaRequest::write(address, b"nonsense");
                let _outcome = self.machine.dma_of(&self.device, request);
            }
        }
    }

    fn write_some_register(&mut self) {
        let offset = self.pick(&[
            0x20usize, 0x44, 0x50, 0x64, 0x80, 0x88, 0x90, 0x98, 0x9c, 0xa0, 0x100a8, 0x100ac, 0xb0,
        ]);
        let value = self.draw() as u32 & self.pick(&[0xf, 0x1f, u32::MAX]);
        self.registers.write32(offset, value);
    }

    /// A working configuration, stage 1, 2 or both, whose table points to itself, with a few bits flipped here and there.
    fn almost_configure(&mut self) {
        let config = 5 + self.draw() % 3;
        let word2 = rig::ste_stage2_word();
        for stream in 0..4 {
            let entry = [1 | config << 1 | CONTEXT, 1 << 44, word2, ROOT];
            self.almost_store(STRTAB + 64 * stream, &entry, 15);
        }
        self.almost_store(CONTEXT, &rig::cd_words(ROOT), 15);
        let leaf = ROOT | LEAF | 3 << 6;
        self.almost_store(ROOT, &[leaf; 512], 1);
        self.machine.memory().publish(PhysAddr::new(STRTAB), 0x3000, Coherency::NonCoherent);
        self.registers.write32(0x20, 0);
        self.machine.clock().relax();
        self.registers.write64(0x80, STRTAB);
        self.registers.write32(0x88, 2);
        self.registers.write32(0x20, 0xd);
        self.machine.clock().relax();
    }

    /// Stores words; one in `rarity` has a bit flipped.
    fn almost_store(&mut self, address: u64, words: &[u64], rarity: u64) {
        for (word, value) in (0..).zip(words) {
            let flip = if self.draw().is_multiple_of(rarity) { 1 << (self.draw() % 64) } else { 0 };
            self.machine.memory().store64(PhysAddr::new(address + 8 * word), value ^ flip);
        }
    }
}

#[test]
fn nonsense_is_survived() {
    let profiles = [
        Profile::qemu10(),
        Profile::minimal(),
        Profile::stage2_only(),
        Profile::server(),
        Profile::non_coherent(),
    ];
    let (mut walked, mut passed) = (0, 0);
    for (seed, profile) in (0..).zip(profiles.into_iter().cycle().take(20)) {
        let mut nonsense = Nonsense::new(seed, profile);
        (0..3000).for_each(|_| nonsense.step());
        walked += nonsense.registers.smmu().counters().descriptors;
        passed += nonsense.machine.oracle().passed_count();
    }
    assert!(walked > 5000, "only {walked} descriptors were read: refused too early");
    assert!(passed > 100, "only {passed} accesses got through");
}
