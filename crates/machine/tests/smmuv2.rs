//! The SMMUv2 model, driven by raw register offsets (Arm IHI 0062 D.c), without the crate that has names for them.

use portcullis_addr::{Iova, PhysAddr, StreamId};
use portcullis_machine::{
    AccessKind, Consumption, Device, DmaRequest, Expectation, Faults, IommuModel, Machine, Passage,
    PhysicalMemory, Policy, SmmuV2, SmmuV2Line, SmmuV2Profile, SmmuV2Registers, StoreOrder,
    TlbPolicy, Violation,
};
use portcullis_platform::{Clock, Coherency, DmaMemory, PageLayout, Registers};
use std::sync::{Arc, Mutex};

const ID: u32 = 0x402;
const VA: u64 = 0x12_3456_7000;
/// Valid page, access flag, inner shareable, unprivileged, not global.
const LEAF: u64 = 3 | 1 << 6 | 3 << 8 | 1 << 10 | 1 << 11;
const TRANSLATE: u32 = 0;
const BYPASS: u32 = 1 << 16;
const FAULT: u32 = 2 << 16;
const MATCH: u32 = 1 << 31;
/// `sCR0`: faults abort and interrupt, unmatched streams fault.
const ON: u32 = 1 << 1 | 1 << 2 | 1 << 10;

const TF: u32 = 1 << 1;
const PF: u32 = 1 << 3;
const MULTI: u32 = 1 << 31;

struct Rig {
    machine: Arc<Machine>,
    memory: Arc<PhysicalMemory>,
    smmu: Arc<SmmuV2>,
    device: Arc<Device>,
    r: SmmuV2Registers,
    root: u64,
}

fn page(memory: &PhysicalMemory) -> u64 {
    let layout = PageLayout::new(4096, 4096).expect("a page");
    memory.allocate(layout).expect("room").raw()
}

impl Rig {
    fn new(profile: SmmuV2Profile, policy: Policy) -> Self {
        let machine = Machine::builder()
            .ram(PhysAddr::new(0x4000_0000), 64 << 20)
            .seed(7)
            .policy(policy)
            .build();
        let memory = Arc::clone(machine.memory());
        let id = if profile.stream_matching { ID } else { 2 };
        let smmu = machine.add_smmuv2(profile);
        let device = machine.add_client("client", &smmu, StreamId::new(id));
        let (r, root) = (smmu.registers(), page(&memory));
        Self { machine, memory, smmu, device, r, root }
    }

    /// An MMU-500 that is on, with group 0 leading `ID` to bank 0, which does stage 1 with the rig's table and ASID 5.
    fn stage1() -> Self {
        Self::stage1_with(Policy::default())
    }

    fn stage1_with(policy: Policy) -> Self {
        let rig = Self::new(SmmuV2Profile::mmu500(), policy);
        rig.bank_stage1(0, 5);
        rig.group(0, ID, 0, TRANSLATE);
        rig.r.write32(0, ON);
        rig.device.expect(Expectation::Translated);
        rig
    }

    fn bank(&self, n: usize) -> usize {
        self.smmu.profile().shape().bank(n)
    }

    /// `S2CR` before `SMR`.
    fn group(&self, n: usize, id: u32, mask: u32, s2cr: u32) {
        self.r.write32(0xc00 + 4 * n, s2cr);
        self.r.write32(0x800 + 4 * n, MATCH | mask << 16 | id);
    }

    fn bank_stage1(&self, n: usize, asid: u64) {
        let (bank, space1) = (self.bank(n), self.smmu.profile().shape().page());
        self.r.write32(space1 + 0x800 + 4 * n, 1);
        self.r.write32(space1 + 4 * n, 1 << 16 | 0xf << 12 | 3 << 8);
        self.r.write32(bank + 0x10, 5 | 1 << 4 | 7 << 15);
        // 2^39 addresses, 4 KiB, nothing in the upper half.
        self.r.write32(bank + 0x30, 25 | 1 << 23);
        self.r.write64(bank + 0x20, self.root | asid << 48);
        self.r.write32(bank, 1 | 1 << 5 | 1 << 6 | 1 << 8);
    }

    /// Leads `address` to `entry` in three levels below the root.
    fn map(&self, address: u64, entry: u64) -> u64 {
        self.map_from(self.root, 1, address, entry)
    }

    fn map_from(&self, root: u64, start: u32, address: u64, entry: u64) -> u64 {
        let mut table = root;
        for level in start..3 {
            let at = table + 8 * (address >> (39 - 9 * level) & 0x1ff);
            if self.memory.load64(PhysAddr::new(at)) == 0 {
                self.put(at, page(&self.memory) | 3);
            }
            table = self.memory.load64(PhysAddr::new(at)) & 0xffff_ffff_f000;
        }
        let at = table + 8 * (address >> 12 & 0x1ff);
        self.put(at, entry);
        at
    }

    fn put(&self, at: u64, value: u64) {
        self.memory.store64(PhysAddr::new(at), value);
        self.memory.publish(PhysAddr::new(at), 8, Coherency::NonCoherent);
    }

    fn lands(&self, address: u64) -> bool {
        self.machine
            .dma_of(&self.device, DmaRequest::write(Iova::new(address), b"x"))
            .is_completed()
    }

    fn landed(&self) -> PhysAddr {
        self.machine.oracle().accesses().last().expect("an access").physical
    }

    /// Waits as a driver does: global, or of a bank.
    fn sync(&self, bank: Option<usize>) -> bool {
        let at = bank.map_or(0x70, |n| self.bank(n) + 0x7f0);
        self.r.write32(at, u32::MAX);
        (0..100).any(|_| self.r.read32(at + 4) & 1 == 0)
    }

    fn violations(&self) -> Vec<Violation> {
        self.machine.oracle().take_violations()
    }
}

#[test]
fn out_of_reset_clients_pass_and_an_unmatched_stream_passes_until_told() {
    let rig = Rig::new(SmmuV2Profile::mmu500(), Policy::default());
    assert_eq!(rig.r.read32(0), 1, "CLIENTPD");
    assert!(rig.lands(0x4000_0000));
    rig.r.write32(0, 0);
    assert!(rig.lands(0x4000_0000), "USFCFG is 0");
    let passages: Vec<_> =
        rig.machine.oracle().accesses().iter().map(|access| access.passage).collect();
    assert_eq!(passages, [Passage::GlobalBypass, Passage::StreamBypass]);
    rig.r.write32(0, ON);
    assert!(!rig.lands(0x4000_0123));
    assert_eq!(rig.r.read32(0x48), 2, "unidentified stream");
    assert_eq!((rig.r.read64(0x40), rig.r.read32(0x54)), (0x4000_0123, ID));
    assert_eq!(rig.r.read32(0x50), 2 | 3 << 4, "a write of a Non-secure device");
    assert_eq!(rig.violations(), []);
}

#[test]
fn a_fault_is_kept_the_next_is_only_counted_and_interrupts_come_once() {
    let rig = Rig::stage1();
    let lines = Arc::new(Mutex::new(Vec::new()));
    let sink = Arc::clone(&lines);
    rig.smmu.on_interrupt(move |line| sink.lock().expect("test").push(line));
    let fsr = rig.bank(0) + 0x58;
    assert!(!rig.lands(VA) && !rig.lands(VA + 0x1000));
    assert_eq!(rig.r.read32(fsr), TF | MULTI | 2 << 9, "AArch64 format");
    assert_eq!(rig.r.read64(fsr + 8), VA, "the first address");
    assert_eq!(rig.r.read32(fsr + 16), 1 | 1 << 4 | 3 << 7, "level 1, a write, Non-secure");
    assert_eq!(rig.r.read32(0x1400), ID);
    rig.r.write32(fsr, u32::MAX);
    assert_eq!(rig.r.read32(fsr), 2 << 9, "the format is not a fault");
    rig.map(VA, page(&rig.memory) | LEAF | 1 << 7);
    assert!(!rig.lands(VA), "read only");
    assert_eq!(rig.r.read32(fsr), PF | 2 << 9);
    assert_eq!(rig.r.read32(fsr + 16) & 3, 3, "level 3");
    assert_eq!(*lines.lock().expect("test"), [SmmuV2Line::Context(0); 2]);
    let counters = rig.smmu.counters();
    assert_eq!((counters.faults, counters.faults_lost, counters.interrupts), (2, 1, 2));
    assert_eq!(rig.violations(), []);
}

#[test]
fn an_outstanding_fault_holds_the_bank_up_unless_told_not_to() {
    let rig = Rig::stage1();
    rig.map(VA, page(&rig.memory) | LEAF);
    assert!(!rig.lands(VA + 0x1000) && rig.lands(VA), "HUPCF");
    rig.r.write32(rig.bank(0), 1 | 1 << 5 | 1 << 6);
    assert!(!rig.lands(VA), "it waits for the fault to be cleared");
    rig.r.write32(rig.bank(0) + 0x58, u32::MAX);
    assert!(rig.lands(VA));
}

#[test]
fn stage_1_translates_and_the_tlb_forgets_only_after_a_sync_that_covers_it() {
    let rig = Rig::stage1();
    let (first, second) = (page(&rig.memory), page(&rig.memory));
    let entry = rig.map(VA, first | LEAF);
    assert!(rig.lands(VA + 8));
    assert_eq!(rig.landed(), PhysAddr::new(first + 8));
    let passage = rig.machine.oracle().accesses()[0].passage;
    assert_eq!(passage, Passage::Translated { asid: Some(5), vmid: 0, cached: false });
    assert_eq!(rig.smmu.cached_translations(), 1);
    rig.put(entry, second | LEAF);
    let tlbival = rig.bank(0) + 0x620;
    rig.r.write64(tlbival, VA >> 12 | 5 << 48);
    assert!(rig.lands(VA), "maintenance without a sync has done nothing");
    assert_eq!(rig.landed(), PhysAddr::new(first));
    assert!(matches!(rig.violations()[..], [Violation::StaleHit(_)]));
    assert!(rig.sync(Some(1)) && rig.lands(VA), "another bank's sync covers nothing of this one");
    assert!(matches!(rig.violations()[..], [Violation::StaleHit(_)]));
    rig.r.write32(rig.bank(0) + 0x7f0, 0);
    assert!(rig.lands(VA), "a sync that nobody waits for is not over");
    assert!(matches!(rig.violations()[..], [Violation::StaleHit(_)]));
    assert!(rig.sync(Some(0)) && rig.lands(VA));
    assert_eq!(rig.landed(), PhysAddr::new(second));
    // The wrong ASID covers nothing; the global sync covers what a bank issued.
    rig.put(entry, 0);
    rig.r.write64(tlbival, VA >> 12 | 6 << 48);
    assert!(rig.sync(None) && rig.lands(VA));
    assert!(matches!(rig.violations()[..], [Violation::StaleHit(_)]));
    rig.r.write64(tlbival, VA >> 12 | 5 << 48);
    assert!(rig.sync(None) && !rig.lands(VA));
    assert_eq!(rig.violations(), []);
}

/// A wait ends only when the operations that it covers are over, also where somebody else's wait has begun to wait for them before.
#[test]
fn two_waits_that_cover_one_operation_both_wait_for_it() {
    let rig = Rig::stage1_with(Policy::default().update_delay(2));
    let leaf = rig.map(VA, page(&rig.memory) | LEAF);
    assert!(rig.lands(VA));
    rig.put(leaf, 0);
    let bank = rig.bank(0);
    rig.r.write64(bank + 0x600, 5 << 48 | VA >> 12);
    // One thread begins the global wait; the other waits for its bank to the end.
    rig.r.write32(0x70, 0);
    rig.r.write32(bank + 0x7f0, 0);
    while rig.r.read32(bank + 0x7f4) & 1 == 1 {}
    assert!(!rig.lands(VA), "the bank's own wait is over");
    while rig.r.read32(0x74) & 1 == 1 {}
    assert_eq!(rig.machine.violations(), []);
}

#[test]
fn every_operation_drops_its_scope() {
    let tlb = |operation: &dyn Fn(&Rig)| {
        let rig = Rig::stage1();
        rig.bank_stage1(1, 6);
        let other = rig.machine.add_client("other", &rig.smmu, StreamId::new(0x500));
        rig.group(1, 0x500, 0, TRANSLATE | 1);
        for address in [VA, VA + 0x1000] {
            rig.map(address, page(&rig.memory) | LEAF);
            assert!(rig.lands(address));
            let request = DmaRequest::write(Iova::new(address), b"x");
            assert!(rig.machine.dma_of(&other, request).is_completed());
        }
        assert_eq!(rig.smmu.cached_translations(), 4);
        operation(&rig);
        assert!(rig.sync(None));
        rig.smmu.cached_translations()
    };
    let at =
        |offset: usize, value: u64| move |rig: &Rig| rig.r.write64(rig.bank(0) + offset, value);
    assert_eq!(tlb(&at(0x600, VA >> 12 | 5 << 48)), 3, "TLBIVA");
    assert_eq!(tlb(&at(0x608, VA >> 12)), 2, "TLBIVAA: both ASIDs");
    assert_eq!(tlb(&at(0x628, VA >> 12)), 2, "TLBIVAAL");
    assert_eq!(tlb(&|rig| rig.r.write32(rig.bank(0) + 0x610, 6)), 2, "TLBIASID");
    assert_eq!(tlb(&|rig| rig.r.write32(rig.bank(1) + 0x618, 0)), 0, "TLBIALL: the VMID's");
    assert_eq!(tlb(&|rig| rig.r.write32(0x64, 0)), 0, "TLBIVMID");
    assert_eq!(tlb(&|rig| rig.r.write32(0x64, 9)), 4, "TLBIVMID of nobody");
    assert_eq!(tlb(&|rig| rig.r.write32(0x68, 0)), 0, "TLBIALLNSNH");
    assert_eq!(tlb(&|rig| rig.r.write32(0x60, 0)), 4, "STLBIALL is Secure software's");
    assert_eq!(tlb(&|rig| rig.r.write32(0x6c, 0)), 4, "TLBIALLH: there is no hypervisor");
}

/// Planted bug: the match register is written before the group leads anywhere safe.
#[test]
fn a_match_before_its_destination_lets_the_stream_pass() {
    let rig = Rig::new(SmmuV2Profile::mmu500(), Policy::default());
    rig.r.write32(0, ON);
    rig.device.expect(Expectation::Blocked);
    rig.r.write32(0x800, MATCH | ID);
    assert!(rig.lands(0x4000_0000));
    assert!(matches!(rig.violations()[..], [Violation::BlockedPassed(_)]));
    rig.r.write32(0xc00, FAULT);
    assert!(!rig.lands(0x4000_0000));
    assert_eq!(rig.r.read32(0x48), 1, "invalid context");
}

#[test]
fn a_bank_that_is_not_enabled_passes_addresses_unchanged() {
    let rig = Rig::stage1();
    rig.r.write32(rig.bank(0), 0);
    assert!(rig.lands(0x4000_0000));
    assert!(matches!(rig.violations()[..], [Violation::Untranslated(_)]));
}

#[test]
fn two_groups_for_one_stream_are_a_conflict_and_masks_decide() {
    let rig = Rig::stage1();
    rig.map(VA, page(&rig.memory) | LEAF);
    rig.group(3, ID & !0xf, 0xf, TRANSLATE);
    assert!(!rig.lands(VA));
    assert_eq!(rig.r.read32(0x48), 1 << 2);
    assert!(matches!(rig.violations()[..], [Violation::MatchConflict { iommu: 0, .. }]));
    rig.r.write32(0x800, 0);
    assert!(rig.lands(VA), "the masked group alone");
    rig.r.write32(0x80c, MATCH | 0xd << 16 | ID & !0xf);
    assert!(!rig.lands(VA), "bit 1 matters now");
    rig.r.write32(0x48, u32::MAX);
    assert_eq!(rig.r.read32(0x48), 0);
}

/// Planted bug: a bank and its tags are used again before the TLB was cleaned.
#[test]
fn a_bank_used_again_with_its_tags_finds_what_the_last_user_left() {
    let rig = Rig::stage1();
    let frame = page(&rig.memory);
    rig.map(VA, frame | LEAF);
    assert!(rig.lands(VA));
    let fresh = page(&rig.memory);
    rig.map_from(fresh, 1, VA, page(&rig.memory) | LEAF);
    rig.r.write64(rig.bank(0) + 0x20, fresh | 5 << 48);
    let layout = PageLayout::new(4096, 4096).expect("a page");
    rig.memory.free(PhysAddr::new(frame), layout);
    assert_eq!(page(&rig.memory), frame, "the last one given back is handed out first");
    assert!(rig.lands(VA));
    let found = rig.violations();
    assert!(found.iter().any(|violation| matches!(violation, Violation::StaleHit(_))));
    assert!(found.iter().any(|violation| matches!(violation, Violation::ReusedFrame(_))));
    rig.r.write32(rig.bank(0) + 0x610, 5);
    assert!(rig.sync(Some(0)) && rig.lands(VA));
    assert_eq!(rig.violations(), []);
}

#[test]
fn what_is_secure_reads_as_zero_and_ignores_writes() {
    let rig = Rig::new(SmmuV2Profile::mmu500(), Policy::default());
    for offset in [0x4, 0x8, 0x60, 0x400, 0x410, 0x448, 0x470] {
        rig.r.write32(offset, u32::MAX);
        assert_eq!(rig.r.read32(offset), 0, "{offset:#x}");
    }
    assert_eq!(rig.r.read32(0x20) >> 31, 0, "SES");
    rig.r.write32(0xc00, u32::MAX);
    assert_eq!(rig.r.read32(0xc00) >> 18 & 3, 0, "S2CR.NSCFG");
    rig.r.write32(rig.bank(0), u32::MAX);
    assert_eq!(rig.r.read32(rig.bank(0)) >> 28 & 3, 0, "SCTLR.NSCFG");
    assert_eq!(rig.r.read32(rig.bank(0)) >> 7 & 1, 0, "no stalls here");
}

#[test]
fn identification_says_what_is_there() {
    let profile = SmmuV2Profile::mmu500();
    let rig = Rig::new(profile.clone(), Policy::default());
    assert_eq!(
        rig.r.read32(0x20),
        0x6d10_5e30,
        "S1TS S2TS SMS ATOSNS, LPAE, 16, CTTW, 15 bits, 48"
    );
    assert_eq!(rig.r.read32(0x24), 3 << 28 | 16);
    assert_eq!((rig.r.read32(0x28), rig.r.read32(0x3c)), (0x5555, 0x24));
    // As Linux asks which bits of a match register there are.
    rig.r.write32(0x800, 0x7fff);
    assert_eq!(rig.r.read32(0x800), 0x7fff);
    rig.r.write32(0x800, 0x7fff << 16);
    assert_eq!(rig.r.read32(0x800) >> 16, 0x7fff);
    assert_eq!(rig.r.len(), 0x2_0000);
    // A narrower one.
    let rig = Rig::new(SmmuV2Profile { id_bits: 7, mask_bits: 0x3f, ..profile }, Policy::default());
    rig.r.write32(0x800, u32::MAX);
    assert_eq!(rig.r.read32(0x800), MATCH | 0x3f << 16 | 0x7f);
    // Without matching the group is the id, and the match registers are not there.
    let rig = Rig::new(SmmuV2Profile::minimal(), Policy::default());
    assert_eq!(rig.r.read32(0x20) >> 27 & 1, 0);
    rig.r.write32(0x808, MATCH);
    assert_eq!(rig.r.read32(0x808), 0);
    rig.r.write32(0, ON);
    assert!(rig.lands(0x4000_0000), "group 2 bypasses after reset");
    rig.r.write32(0xc08, FAULT);
    assert!(!rig.lands(0x4000_0000));
}

#[test]
fn stage_2_has_its_own_tags_and_the_first_banks_do_nothing_else() {
    let profile = SmmuV2Profile { stage2_banks: 1, ..SmmuV2Profile::mmu500() };
    let rig = Rig::new(profile, Policy::default());
    rig.r.write32(0, ON);
    rig.group(0, ID, 0, TRANSLATE);
    rig.bank_stage1(0, 5);
    assert!(!rig.lands(VA));
    assert_eq!(rig.r.read32(0x48), 1, "stage 1 in a bank for stage 2");
    // VMID 3, 2^39 addresses from level 1, 40 bits out.
    rig.r.write32(0x1000, 3);
    rig.r.write32(rig.bank(0) + 0x30, 25 | 1 << 6 | 2 << 16);
    rig.r.write64(rig.bank(0) + 0x20, rig.root);
    let (frame, leaf2) = (page(&rig.memory), 3 | 3 << 6 | 0xf << 2 | 3 << 8 | 1 << 10);
    let entry = rig.map(VA, frame | leaf2);
    assert!(rig.lands(VA));
    let passage = rig.machine.oracle().accesses()[0].passage;
    assert_eq!(passage, Passage::Translated { asid: None, vmid: 3, cached: false });
    rig.put(entry, frame | leaf2 & !(1 << 7));
    rig.r.write64(rig.bank(0) + 0x638, VA >> 12);
    assert!(rig.sync(Some(0)) && !rig.lands(VA), "read only");
    assert_eq!(rig.r.read32(rig.bank(0) + 0x58) & PF, PF);
    let mut byte = [0];
    let read = DmaRequest::read(Iova::new(VA), &mut byte);
    assert!(rig.machine.dma_of(&rig.device, read).is_completed());
}

#[test]
fn aarch32_tables_of_long_descriptors_are_walked() {
    let rig = Rig::stage1();
    rig.r.write32(0x1800, 0);
    rig.r.write32(rig.bank(0) + 0x30, 1 << 31);
    let (frame, address) = (page(&rig.memory), 0xfedc_b000);
    rig.map(address, frame | LEAF);
    assert!(rig.lands(address));
    assert_eq!(rig.landed(), PhysAddr::new(frame));
    assert!(!rig.lands(1 << 32 | address), "32 bits only");
    assert_eq!(rig.r.read32(rig.bank(0) + 0x58) >> 9 & 3, 1, "format");
    // 32-bit maintenance: the address in place, the ASID below it.
    rig.map(address, 0);
    rig.r.write32(rig.bank(0) + 0x620, address as u32 | 5);
    assert!(rig.sync(Some(0)) && !rig.lands(address));
    // 2^30 addresses begin at level 2.
    let rig = Rig::stage1();
    rig.r.write32(0x1800, 0);
    rig.r.write32(rig.bank(0) + 0x30, 1 << 31 | 2);
    rig.map_from(rig.root, 2, 0x3fff_f000, frame | LEAF);
    assert!(rig.lands(0x3fff_f000) && !rig.lands(0x4000_0000));
}

#[test]
fn extended_ids_have_sixteen_bits_and_another_valid_bit() {
    let rig = Rig::new(SmmuV2Profile::extended(), Policy::default());
    let far = rig.machine.add_client("far", &rig.smmu, StreamId::new(0x8402));
    let lands = || {
        let request = DmaRequest::write(Iova::new(0x4000_0000), b"x");
        rig.machine.dma_of(&far, request).is_completed()
    };
    rig.r.write32(0, ON | 1 << 3);
    rig.r.write32(0xc00, BYPASS);
    rig.r.write32(0x800, 0xff00 << 16 | 0x0002);
    assert!(!lands(), "EXIDVALID is clear");
    rig.r.write32(0xc00, BYPASS | 1 << 10);
    assert!(lands());
    rig.r.write32(0, ON);
    assert_eq!(rig.r.read32(0) & 1 << 3, 0);
    assert!(!lands(), "ids of 15 bits again");
    let narrow = Rig::new(SmmuV2Profile::mmu500(), Policy::default());
    narrow.r.write32(0, u32::MAX);
    assert_eq!(narrow.r.read32(0) & (1 << 3 | 1 << 31), 0, "neither is there");
}

#[test]
fn integrations_that_are_not_what_the_document_says() {
    // Qualcomm's firmware: "fault" is ignored, "bypass" becomes "fault", and the last bank is not ours.
    let profile = SmmuV2Profile { fakes_s2cr: true, kept_banks: 1, ..SmmuV2Profile::mmu500() };
    let rig = Rig::new(profile, Policy::default());
    rig.r.write32(0xc00, TRANSLATE | 3);
    rig.r.write32(0xc00, FAULT);
    assert_eq!(rig.r.read32(0xc00), TRANSLATE | 3);
    rig.r.write32(0xc00, BYPASS);
    assert_eq!(rig.r.read32(0xc00), FAULT);
    rig.r.write32(rig.bank(15) + 0x30, 25);
    rig.r.write32(0x1000 + 4 * 15, 1 << 16);
    assert_eq!((rig.r.read32(rig.bank(15) + 0x30), rig.r.read32(0x103c)), (0, 0));
    rig.r.write32(rig.bank(14) + 0x30, 25);
    assert_eq!(rig.r.read32(rig.bank(14) + 0x30), 25);
    // Marvell's interconnect carries 32 bits.
    let rig = Rig::new(
        SmmuV2Profile { wide_access: false, ..SmmuV2Profile::mmu500() },
        Policy::default(),
    );
    rig.r.write64(rig.bank(0) + 0x20, 0x4000_1000);
    assert_eq!(rig.r.read32(rig.bank(0) + 0x20), 0);
    assert!(matches!(rig.violations()[..], [Violation::LostAccess { iommu: 0, offset: 0x1_0020 }]));
    rig.r.write32(rig.bank(0) + 0x24, 5 << 16);
    rig.r.write32(rig.bank(0) + 0x20, 0x4000_1000);
    assert_eq!(rig.violations(), []);
}

#[test]
fn an_mmu500_keeps_that_a_stream_passes() {
    let rig = Rig::new(SmmuV2Profile::mmu500(), Policy::default());
    rig.r.write32(0x10, 1 << 8 | 1 << 10);
    rig.r.write32(0, ON);
    rig.group(0, ID, 0, BYPASS);
    assert!(rig.lands(0x4000_0000));
    rig.device.expect(Expectation::Blocked);
    rig.r.write32(0xc00, FAULT);
    assert!(rig.lands(0x4000_0000), "kept");
    let found = rig.violations();
    assert!(
        matches!(found[..], [Violation::StaleHit(_), Violation::BlockedPassed(_)]),
        "{found:?}"
    );
    rig.r.write32(0x68, 0);
    assert!(rig.sync(None) && !rig.lands(0x4000_0000));
    assert_eq!(rig.violations(), []);
}

#[test]
fn a_unit_that_does_not_snoop_sees_what_was_published() {
    let profile = SmmuV2Profile { coherent: false, ..SmmuV2Profile::mmu500() };
    let rig = Rig::new(profile, Policy::default());
    rig.bank_stage1(0, 5);
    rig.group(0, ID, 0, TRANSLATE);
    rig.r.write32(0, ON);
    let entry = PhysAddr::new(rig.map(VA, 0));
    rig.memory.store64(entry, page(&rig.memory) | LEAF);
    assert!(!rig.lands(VA));
    rig.memory.publish(entry, 8, Coherency::Coherent);
    assert!(!rig.lands(VA), "an order is not enough");
    rig.memory.publish(entry, 8, Coherency::NonCoherent);
    assert!(rig.lands(VA));
}

#[test]
fn freed_tables_are_noticed_and_so_are_entries_of_two_sizes() {
    let rig = Rig::stage1();
    let entry = rig.map(VA, page(&rig.memory) | LEAF);
    let layout = PageLayout::new(4096, 4096).expect("a page");
    rig.memory.free(PhysAddr::new(entry & !0xfff), layout);
    assert!(!rig.lands(VA) || !rig.violations().is_empty());
    let found = rig.machine.oracle().violations();
    let freed = |violation: &Violation| {
        matches!(violation, Violation::FreedMemory { kind: AccessKind::Read, .. })
    };
    assert!(found.iter().any(freed), "{found:?}");
    // A block put over a page without break-before-make.
    let rig = Rig::stage1_with(Policy::default().tlb(TlbPolicy::LIKE_QEMU));
    let block = 0x4020_0000;
    rig.map(VA, block | LEAF);
    assert!(rig.lands(VA));
    let middle = rig.memory.load64(PhysAddr::new(rig.root + 8 * (VA >> 30))) & !0xfff;
    rig.put(middle + 8 * (VA >> 21 & 0x1ff), block | LEAF & !2);
    assert!(rig.lands(VA + 0x1000));
    let conflict =
        |violation: &Violation| matches!(violation, Violation::TlbConflict { iommu: 0, .. });
    assert!(rig.violations().iter().any(conflict));
}

#[test]
fn a_broken_unit_is_broken_as_it_was_told() {
    let rig = Rig::stage1();
    rig.smmu.inject(Faults::none().hang_sync(2));
    assert!(rig.sync(None));
    assert!(!rig.sync(None), "the second never completes");
    rig.smmu.inject(Faults::none());
    assert_eq!(rig.r.read32(0x74), 0, "repaired");
    rig.smmu.inject(Faults::none().stick(0xc00).drop_interrupts());
    rig.r.write32(0xc00, FAULT);
    assert_eq!(rig.r.read32(0xc00), TRANSLATE);
    rig.smmu.on_interrupt(|line| panic!("{line:?} was to get lost"));
    assert!(!rig.lands(VA));
    rig.smmu.inject(Faults::none().gone_at(1));
    assert_eq!((rig.r.read32(0), rig.r.read64(0x40)), (u32::MAX, u64::MAX));
    assert!(!rig.lands(VA));
    rig.smmu.inject(Faults::none());
    rig.smmu.reset();
    assert_eq!(rig.r.read32(0), 1);
}

#[test]
fn hardware_that_acts_at_once_needs_no_sync_and_time_ends_waits() {
    let rig = Rig::new(SmmuV2Profile::mmu500(), Policy::like_qemu());
    rig.bank_stage1(0, 5);
    rig.group(0, ID, 0, TRANSLATE);
    rig.r.write32(0, ON);
    rig.map(VA, page(&rig.memory) | LEAF);
    assert!(rig.lands(VA));
    rig.r.write32(rig.bank(0) + 0x610, 5);
    assert_eq!(rig.smmu.cached_translations(), 0);
    let policy = Policy::default().update_delay(50).consumption(Consumption::Late { most: 1 });
    let rig = Rig::new(SmmuV2Profile::mmu500(), policy);
    rig.r.write32(0x70, 0);
    assert_eq!(rig.r.read32(0x74), 1);
    (0..50).for_each(|_| rig.machine.clock().relax());
    assert_eq!(rig.r.read32(0x74), 0);
}

/// Whatever software writes wherever, and whatever a walk then reads: no panic, no endless walk.
#[test]
fn nonsense_in_registers_is_survived() {
    for seed in 0..40u64 {
        let profile = match seed % 3 {
            0 => SmmuV2Profile::mmu500(),
            1 => SmmuV2Profile::extended(),
            _ => SmmuV2Profile::minimal(),
        };
        let order = if seed % 2 == 0 { StoreOrder::Immediate } else { StoreOrder::Late };
        let policy = Policy::harshest().store_order(order).tlb(TlbPolicy::HOARD).verify(false);
        let rig = Rig::new(profile, policy);
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state ^ state >> 31) >> 3
        };
        for round in 0..300 {
            let near =
                [0, 0x800, 0xc00, rig.smmu.profile().shape().page(), rig.bank(0), rig.bank(1)];
            let offset = near[next() as usize % near.len()] + 4 * (next() as usize % 32);
            let value = next() as u32;
            match round % 4 {
                0 => rig.r.write32(offset, value),
                1 => rig.r.write64(offset & !7, next() << 30 ^ u64::from(value)),
                2 => _ = rig.r.read64(offset & !7),
                // Something that translates, now and then.
                _ => {
                    rig.r.write32(0, ON);
                    rig.group(0, ID, 0, value & 1);
                    rig.r.write32(rig.smmu.profile().shape().page(), value & 3 << 16);
                    rig.r.write64(rig.bank(0) + 0x20, rig.root);
                    rig.r.write32(rig.bank(0) + 0x30, value);
                    rig.r.write32(rig.bank(0), 1 | 1 << 8);
                }
            }
            rig.memory.store64(PhysAddr::new(rig.root + 8 * (next() % 512)), next() << 5 | 3);
            let _answer = rig.lands(next() >> (next() % 60));
        }
    }
}
