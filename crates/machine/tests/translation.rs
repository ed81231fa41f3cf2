//! The model against tables built by hand: what lands, what is refused, and what is recorded about it.

use crate::rig::{self, LEAF, LEAF2, READ_ONLY, Rig, SID, VMID, cd_words, ste_nested, ste_stage1};
use portcullis_machine::{AccessKind, Policy, Profile};
use portcullis_platform::Registers;
use portcullis_spec::smmuv3::event::{class, number};

const VA: u64 = 0x12_3456_7000;

fn every_policy() -> [Policy; 3] {
    [Policy::default(), Policy::like_qemu(), Policy::harshest()]
}

#[test]
fn out_of_reset_everything_passes_and_gbpa_ends_it() {
    let machine = rig::machine(Policy::default());
    let smmu = machine.add_smmuv3(Profile::qemu10());
    let device = machine.add_client("d", &smmu, portcullis_addr::StreamId::new(SID));
    let at = portcullis_addr::Iova::new(0x4000_1000);
    let write = || machine.dma_of(&device, portcullis_machine::DmaRequest::write(at, b"x"));
    assert!(write().is_completed());
    let profile = Profile { reset_abort: true, ..Profile::qemu10() };
    let smmu = machine.add_smmuv3(profile);
    let device = machine.add_client("d", &smmu, portcullis_addr::StreamId::new(SID));
    let refused = machine.dma_of(&device, portcullis_machine::DmaRequest::write(at, b"x"));
    assert!(!refused.is_completed());
}

#[test]
fn an_empty_stream_table_refuses_and_reports() {
    for policy in every_policy() {
        let mut rig = Rig::new(Profile::qemu10(), policy);
        assert!(!rig.lands(VA));
        assert_eq!(rig.event().number, number::C_BAD_STE);
    }
}

#[test]
fn stage_1_translates_both_ways() {
    for policy in every_policy() {
        let mut rig = Rig::new(Profile::qemu10(), policy);
        let (first, second) = (rig.page(), rig.page());
        rig.map(rig.root, 0, VA, first | LEAF);
        rig.map(rig.root, 0, VA + 0x1000, second | LEAF);
        rig.stage1();
        let sent: Vec<u8> = (0..6000u32).map(|n| (n * 7) as u8).collect();
        assert!(rig.write(VA + 0x123, &sent).is_completed());
        let mut back = vec![0; 6000];
        assert!(rig.read(VA + 0x123, &mut back).is_completed());
        assert_eq!(back, sent);
        let mut crossing = [0; 8];
        assert!(rig.memory.read_bytes(portcullis_addr::PhysAddr::new(second), &mut crossing));
        assert_eq!(crossing, sent[0x1000 - 0x123..][..8]);
        assert_eq!(rig.events(), Vec::<[u64; 4]>::new());
        assert_eq!(rig.machine.violations(), []);
    }
}

#[test]
fn stage_1_faults_say_what_and_where() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let page = rig.page();
    rig.map(rig.root, 0, VA, page | LEAF | READ_ONLY);
    rig.map(rig.root, 0, VA + 0x1000, page | LEAF & !0x400);
    rig.map(rig.root, 0, VA + 0x2000, 1 << 45 | LEAF);
    rig.map(rig.root, 0, VA + 0x3000, page | LEAF & !0x40);
    rig.map(rig.root, 0, VA + 0x5000, (page | LEAF) & !2);
    rig.stage1();
    let mut expect = |address: u64, kind, wanted| {
        let outcome = match kind {
            AccessKind::Read => rig.read(address, &mut [0; 4]),
            AccessKind::Write => rig.write(address, &[0; 4]),
        };
        assert!(!outcome.is_completed());
        let seen = rig.event();
        assert_eq!(
            (seen.number, seen.stage2, seen.class, seen.kind, seen.input),
            (wanted, false, class::IN, kind, address)
        );
    };
    use AccessKind::{Read, Write};
    expect(VA + 8, Write, number::F_PERMISSION);
    expect(VA + 0x1004, Read, number::F_ACCESS);
    expect(VA + 0x2000, Write, number::F_ADDR_SIZE);
    expect(VA + 0x3000, Read, number::F_PERMISSION);
    expect(VA + 0x4000, Read, number::F_TRANSLATION);
    expect(VA + 0x5000, Read, number::F_TRANSLATION);
    expect(1 << 48, Read, number::F_TRANSLATION);
    expect(0xffff_0000_0000_0000, Write, number::F_TRANSLATION);
    assert!(rig.read(VA, &mut [0; 4]).is_completed(), "the read-only page can be read");
}

#[test]
fn privileged_accesses_reach_privileged_pages() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let page = rig.page();
    rig.map(rig.root, 0, VA, page | LEAF & !0x40);
    rig.stage1();
    let request = || portcullis_machine::DmaRequest::write(portcullis_addr::Iova::new(VA), b"k");
    assert!(rig.machine.dma_of(&rig.device, request().privileged()).is_completed());
    assert!(!rig.machine.dma_of(&rig.device, request()).is_completed());
}

#[test]
fn blocks_and_their_misuse() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let block = rig.memory.allocate_block(2 << 20);
    rig.map(rig.root, 0, VA, 0);
    let level1 = rig.get(rig.root + 8 * (VA >> 39 & 511)) & !0xfff;
    let level2 = rig.get(level1 + 8 * (VA >> 30 & 511)) & !0xfff;
    rig.put(level2 + 8 * (VA >> 21 & 511), &[block | LEAF & !2]);
    rig.stage1();
    assert!(rig.write(VA + 0x5_0000, b"block").is_completed());
    let offset = (VA & 0x1f_ffff) + 0x5_0000;
    assert_eq!(rig.get(block + offset) & 0xff_ffff_ffff, u64::from_le_bytes(*b"block\0\0\0"));
    assert_eq!(rig.smmu.cached_translations(), 1);
    assert!(rig.lands(VA & !0x1f_ffff), "the same entry serves the whole block");
    assert_eq!(rig.smmu.cached_translations(), 1);
    // A block at level 0 is no block.
    rig.put(rig.root + 8, &[block | LEAF & !2]);
    assert!(!rig.lands(1 << 39));
    assert_eq!(rig.event().number, number::F_TRANSLATION);
}

trait Block {
    fn allocate_block(&self, bytes: usize) -> u64;
}

impl Block for portcullis_machine::PhysicalMemory {
    fn allocate_block(&self, bytes: usize) -> u64 {
        use portcullis_platform::DmaMemory;
        self.allocate(rig::layout(bytes, bytes)).expect("memory left").raw()
    }
}

/// Maps one page by hand with any granule: TG0 code, log2 of the granule, T0SZ.
#[test]
fn all_granules_and_widths() {
    for (tg, granule, t0sz) in [
        (0u64, 12u32, 16u64),
        (0, 12, 25),
        (0, 12, 32),
        (0, 12, 39),
        (2, 14, 16),
        (2, 14, 17),
        (2, 14, 28),
        (2, 14, 39),
        (1, 16, 16),
        (1, 16, 22),
        (1, 16, 39),
    ] {
        let mut rig = Rig::new(Profile::qemu10(), Policy::default());
        let bytes = 1usize << granule;
        let input_bits = 64 - t0sz as u32;
        let stride = granule - 3;
        let levels = (input_bits - granule).div_ceil(stride);
        let va = ((1 << input_bits) - 1) & !0xfff & 0x7fff_5a5a_5000;
        let root = rig.memory.allocate_block(bytes);
        let mut table = root;
        for level in 4 - levels..3 {
            let next = rig.memory.allocate_block(bytes);
            let index = va >> (granule + stride * (3 - level)) & ((1 << stride) - 1);
            rig.put(table + 8 * index, &[next | 3]);
            table = next;
        }
        let page = rig.memory.allocate_block(bytes);
        rig.put(table + 8 * (va >> granule & ((1 << stride) - 1)), &[page | LEAF]);
        let mut cd = cd_words(root);
        cd[0] = cd[0] & !0xff | t0sz | tg << 6;
        rig.put(rig.cd, &cd);
        rig.put(rig.ste(), &ste_stage1(rig.cd));
        rig.cfgi_ste();
        assert!(rig.lands(va), "granule {granule}, T0SZ {t0sz}");
        let offset = va & (bytes as u64 - 1);
        assert_eq!(rig.get(page + offset) as u32, u32::from_le_bytes(*b"data"));
        if input_bits < 64 {
            assert!(!rig.lands(va | 1 << input_bits), "beyond T0SZ {t0sz}");
        }
        assert_eq!(rig.machine.violations(), []);
    }
}

#[test]
fn the_upper_range_has_its_own_table() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let (page, upper) = (rig.page(), rig.page());
    let va = 0xffff_8000_0000_1000;
    rig.map(upper, 0, va, page | LEAF);
    let mut cd = cd_words(rig.root);
    // T1SZ 16, TG1 2 (4 KiB), EPD1 clear.
    cd[0] = cd[0] & !(1 << 30) | 16 << 16 | 2 << 22;
    cd[2] = upper;
    rig.put(rig.cd, &cd);
    rig.put(rig.ste(), &ste_stage1(rig.cd));
    rig.cfgi_ste();
    assert!(rig.lands(va));
    assert!(!rig.lands(va & 0xffff_ffff_ffff), "the lower range is empty");
}

#[test]
fn stage_2_translates_and_reports_the_intermediate_address() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let (root2, page) = (rig.page(), rig.page());
    let ipa = 0x9_8765_4000;
    rig.map(root2, 1, ipa, page | LEAF2);
    rig.map(root2, 1, ipa + 0x1000, page | LEAF2 & !(1 << 7));
    rig.stage2(root2);
    assert!(rig.lands(ipa));
    for (address, wanted) in
        [(ipa + 0x2008, number::F_TRANSLATION), (ipa + 0x1008, number::F_PERMISSION)]
    {
        assert!(!rig.lands(address));
        let seen = rig.event();
        assert_eq!((seen.number, seen.stage2, seen.class), (wanted, true, class::IN));
        assert_eq!((seen.input, seen.other), (address, address & !0xfff));
    }
    assert!(!rig.lands(1 << 39), "beyond T0SZ");
    assert_eq!(rig.event().number, number::F_TRANSLATION);
}

#[test]
fn concatenated_start_tables() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let tables = rig.memory.allocate_block(16 * 4096);
    let page = rig.page();
    // 43 bits from level 1: sixteen tables side by side.
    let ipa = (1 << 43) - 0x1000;
    let (level2, level3) = (rig.page(), rig.page());
    rig.put(tables + 8 * (ipa >> 30), &[level2 | 3]);
    rig.put(level2 + 8 * 511, &[level3 | 3]);
    rig.put(level3 + 8 * 511, &[page | LEAF2]);
    let word2 = rig::ste_stage2_word() & !(0x3f << 32) | 21 << 32;
    rig.put(rig.ste(), &[1 | 6 << 1, 1 << 44, word2, tables, 0, 0, 0, 0]);
    rig.cfgi_ste();
    assert!(rig.lands(ipa));
    // One bit more does not fit level 1: the entry is illegal.
    rig.put(rig.ste() + 16, &[word2 & !(0x3f << 32) | 20 << 32]);
    rig.cfgi_ste();
    assert!(!rig.lands(ipa));
    assert_eq!(rig.event().number, number::C_BAD_STE);
}

/// Stage 2 maps the rig's own memory to itself, so that tables of stage 1 are found.
fn nested() -> (Rig, u64, u64, u64) {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let (root2, page) = (rig.page(), rig.page());
    let ipa = 0x8_0000_1000;
    rig.map(root2, 1, ipa, page | LEAF2);
    let base = rig.memory.base().raw();
    rig.map(rig.root, 0, VA, ipa | LEAF);
    for at in (base..base + (1 << 20)).step_by(0x1000) {
        rig.map(root2, 1, at, at | LEAF2);
    }
    rig.put(rig.cd, &cd_words(rig.root));
    rig.put(rig.ste(), &ste_nested(rig.cd, root2));
    rig.cfgi_ste();
    (rig, root2, ipa, page)
}

#[test]
fn nested_translation_goes_through_both() {
    let (rig, _root2, _ipa, page) = nested();
    assert!(rig.write(VA + 0x10, b"nested!!").is_completed());
    assert_eq!(rig.get(page + 0x10), u64::from_le_bytes(*b"nested!!"));
    assert!(rig.lands(VA));
    assert_eq!(rig.smmu.counters().hits, 1);
    assert_eq!(rig.machine.violations(), []);
}

#[test]
fn nested_faults_tell_whose_access_it_was() {
    let (mut rig, root2, ipa, _page) = nested();
    let all = [0x28 | VMID << 32, 0];
    let hole = rig.leaf_of(root2, 1, ipa);
    rig.put(hole, &[0]);
    assert!(!rig.lands(VA + 4));
    let seen = rig.event();
    assert_eq!((seen.number, seen.stage2, seen.class), (number::F_TRANSLATION, true, class::IN));
    assert_eq!((seen.input, seen.other), (VA + 4, ipa));
    // The table of stage 1 behind a hole.
    let root_leaf = rig.leaf_of(root2, 1, rig.root);
    let kept = rig.get(root_leaf);
    rig.put(root_leaf, &[0]);
    rig.commands(&[all]);
    assert!(!rig.lands(VA));
    let seen = rig.event();
    assert_eq!((seen.number, seen.stage2, seen.class), (number::F_TRANSLATION, true, class::TT));
    assert_eq!(seen.other, (rig.root + 8 * (VA >> 39)) & !0xfff);
    // The context descriptor behind a hole.
    rig.put(root_leaf, &[kept]);
    let cd_leaf = rig.leaf_of(root2, 1, rig.cd);
    rig.put(cd_leaf, &[0]);
    rig.cfgi_ste();
    rig.commands(&[all]);
    assert!(!rig.lands(VA));
    let seen = rig.event();
    assert_eq!((seen.number, seen.stage2, seen.class), (number::F_TRANSLATION, true, class::CD));
}

#[test]
fn external_aborts_name_the_fetch() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    rig.put(rig.root, &[0x1_0000_0000 | 3]);
    rig.stage1();
    assert!(!rig.lands(0x1000));
    let seen = rig.event();
    assert_eq!((seen.number, seen.class, seen.stage2), (number::F_WALK_EABT, class::TT, false));
    assert_eq!(seen.other, 0x1_0000_0000);
    rig.put(rig.ste(), &ste_stage1(0x7_0000_0040));
    rig.cfgi_ste();
    assert!(!rig.lands(0x1000));
    let seen = rig.event();
    assert_eq!((seen.number, seen.other), (number::F_CD_FETCH, 0x7_0000_0040));
}

#[test]
fn configurations_by_their_word() {
    let mut rig = Rig::new(Profile::qemu10(), Policy::default());
    let page = rig.page();
    // Abort is silent, bypass passes.
    rig.put(rig.ste(), &[1]);
    rig.cfgi_ste();
    assert!(!rig.lands(page));
    assert_eq!(rig.events(), Vec::<[u64; 4]>::new());
    rig.put(rig.ste(), &[1 | 4 << 1]);
    rig.cfgi_ste();
    assert!(rig.lands(page));
    assert!(!rig.lands(1 << 44), "beyond the output size");
    assert_eq!(rig.event().number, number::F_ADDR_SIZE);
    // Beyond the table.
    let far = rig.machine.add_client("far", &rig.smmu, portcullis_addr::StreamId::new(256));
    let at = portcullis_addr::Iova::new(page);
    let refused = rig.machine.dma_of(&far, portcullis_machine::DmaRequest::write(at, b"x"));
    assert!(!refused.is_completed());
    let record = rig.events();
    assert_eq!(record.len(), 1);
    assert_eq!((record[0][0] & 0xff, record[0][0] >> 32), (number::C_BAD_STREAMID, 256));
}

/// Every field of a context descriptor that makes it illegal here, one at a time.
#[test]
fn illegal_context_descriptors() {
    type Spoil = fn(&mut [u64; 8]);
    let bad: [(&str, Spoil); 11] = [
        ("V", |cd| cd[0] &= !(1 << 31)),
        ("AA64", |cd| cd[0] &= !(1 << 41)),
        ("A with TERM_MODEL", |cd| cd[0] &= !(1 << 46)),
        ("S", |cd| cd[0] |= 1 << 44),
        ("HA", |cd| cd[0] |= 1 << 43),
        ("HD", |cd| cd[0] |= 1 << 42),
        ("ENDI", |cd| cd[0] |= 1 << 15),
        ("T0SZ too small", |cd| cd[0] = cd[0] & !0x3f | 15),
        ("T0SZ too large", |cd| cd[0] = cd[0] & !0x3f | 40),
        ("TG0", |cd| cd[0] |= 3 << 6),
        ("TTB0 beyond IPS", |cd| cd[1] |= 1 << 45),
    ];
    for (what, spoil) in bad {
        let mut rig = Rig::new(Profile::qemu10(), Policy::default());
        let page = rig.page();
        rig.map(rig.root, 0, VA, page | LEAF);
        let mut cd = cd_words(rig.root);
        spoil(&mut cd);
        rig.put(rig.cd, &cd);
        rig.put(rig.ste(), &ste_stage1(rig.cd));
        rig.cfgi_ste();
        assert!(!rig.lands(VA), "{what}");
        assert_eq!(rig.event().number, number::C_BAD_CD, "{what}");
    }
}

#[test]
fn illegal_stream_table_entries() {
    let stage2_only = |profile: Profile| Profile { stage1: false, ..profile };
    let stage1_only = |profile: Profile| Profile { stage2: false, ..profile };
    for (what, profile, words) in [
        ("stage 1 absent", stage2_only(Profile::qemu10()), [1 | 5 << 1, 0, 0]),
        ("stage 2 absent", stage1_only(Profile::qemu10()), [1 | 6 << 1, 0, rig::ste_stage2_word()]),
        ("S1CDMax", Profile::qemu10(), [1 | 5 << 1 | 1 << 59, 0, 0]),
        ("S1STALLD", Profile::qemu10(), [1 | 5 << 1, 1 << 27, 0]),
        ("S2AA64", Profile::qemu10(), [1 | 6 << 1, 0, rig::ste_stage2_word() & !(1 << 51)]),
        ("S2T0SZ", Profile::qemu10(), [1 | 6 << 1, 0, rig::ste_stage2_word() | 63 << 32]),
        ("S2S", Profile::qemu10(), [1 | 6 << 1, 0, rig::ste_stage2_word() | 1 << 57]),
    ] {
        let mut rig = Rig::new(profile, Policy::default());
        rig.put(rig.ste(), &words);
        rig.cfgi_ste();
        assert!(!rig.lands(VA), "{what}");
        assert_eq!(rig.event().number, number::C_BAD_STE, "{what}");
    }
}

#[test]
fn two_level_stream_tables() {
    let mut rig = Rig::new(Profile::large(), Policy::default());
    let page = rig.page();
    rig.enable(8);
    // Ids of 10 bits, split at 6; id 0x10 is in the first group, whose table has 32 entries (span 6).
    rig.r.write32(0x88, 1 << 16 | 6 << 6 | 10);
    let (level1, level2) = (rig.page(), rig.page());
    rig.r.write64(0x80, level1);
    rig.enable(0xd);
    assert!(!rig.lands(page));
    assert_eq!(rig.event().number, number::C_BAD_STREAMID, "no second level");
    rig.put(level2 + 64 * u64::from(SID), &[1 | 4 << 1]);
    rig.put(level1, &[level2 | 6]);
    // The absent descriptor is cached too: a leaf invalidation does not reach it.
    rig.cfgi_ste();
    assert!(!rig.lands(page));
    assert_eq!(rig.event().number, number::C_BAD_STREAMID);
    rig.commands(&[[0x03 | u64::from(SID) << 32, 0]]);
    assert!(rig.lands(page));
    let other = rig.machine.add_client("o", &rig.smmu, portcullis_addr::StreamId::new(32));
    let at = portcullis_addr::Iova::new(page);
    let refused = rig.machine.dma_of(&other, portcullis_machine::DmaRequest::write(at, b"x"));
    assert!(!refused.is_completed());
    assert_eq!(rig.events()[0][0] & 0xff, number::C_BAD_STREAMID, "beyond the span");
}

#[test]
fn substreams_choose_the_context() {
    let mut rig = Rig::new(Profile::server(), Policy::default());
    let page = rig.page();
    let contexts = rig.memory.allocate_block(64 * 4);
    rig.map(rig.root, 0, VA, page | LEAF);
    rig.put(contexts + 64 * 3, &cd_words(rig.root));
    let mut ste = ste_stage1(contexts);
    ste[0] |= 2 << 59;
    rig.put(rig.ste(), &ste);
    rig.cfgi_ste();
    let at = portcullis_addr::Iova::new(VA);
    let request = |id: u32| portcullis_machine::DmaRequest::write(at, b"x").substream(id);
    assert!(rig.machine.dma_of(&rig.device, request(3)).is_completed());
    assert!(!rig.machine.dma_of(&rig.device, request(4)).is_completed());
    assert_eq!(rig.event().number, number::C_BAD_SUBSTREAMID);
    assert!(!rig.machine.dma_of(&rig.device, request(1)).is_completed());
    assert_eq!(rig.event().number, number::C_BAD_CD);
    assert!(!rig.lands(VA), "S1DSS terminates");
    assert_eq!(rig.event().number, number::F_STREAM_DISABLED);
}
