//! The documents' rules, typed from their prose and figures.

use super::walker::{Entry, LeafEntry, Rules};
use portcullis_pgtable::{TableConfig, TableFormat, TableRoot};

/// The rules of a table's format.
pub(crate) fn of(config: &TableConfig) -> Box<dyn Rules> {
    let config = *config;
    match config.format {
        TableFormat::ArmLpaeStage1
        | TableFormat::ArmLpaeStage2
        | TableFormat::ArmLpa2Stage1
        | TableFormat::ArmLpa2Stage2
        | TableFormat::Aarch32LpaeStage1
        | TableFormat::Aarch32LpaeStage2 => Box::new(Arm(config)),
        TableFormat::VtdSecondStage => Box::new(VtdSecond(config)),
        TableFormat::VtdFirstStage | TableFormat::AmdV2 | TableFormat::X86_64 => {
            Box::new(X86(config))
        }
        TableFormat::AmdV1 => Box::new(Amd(config)),
        TableFormat::RiscvFirstStage => Box::new(Riscv { config, x4: false }),
        TableFormat::RiscvSecondStage => Box::new(Riscv { config, x4: true }),
        other => panic!("no rules for {other:?}"),
    }
}

fn bits(entry: u64, high: u32, low: u32) -> u64 {
    (entry >> low) & (u64::MAX >> (63 - (high - low)))
}

fn bit(entry: u64, number: u32) -> bool {
    bits(entry, number, number) == 1
}

fn the_same(first: u64, _: u64, _: u32) -> u64 {
    first
}

/// Arm DDI 0487: D8.2 "Translation process", D8.3 "Translation table descriptor formats", D8.4 "Memory access control", D8.6 for attributes and the
/// contiguous bit; G5 for AArch32.
struct Arm(TableConfig);

impl Arm {
    fn granule(&self) -> u64 {
        self.0.granule.bytes()
    }

    /// Input address bits that a full table of Arm's level `level` resolves: [high:low].
    fn slice(&self, level: i32) -> (u32, u32) {
        let (page, each) = match self.granule() {
            0x1000 => (12, 9),
            0x4000 => (14, 11),
            0x1_0000 => (16, 13),
            other => panic!("no granule of {other:#x} bytes"),
        };
        let low = page + each * (3 - level) as u32;
        (low + each - 1, low)
    }

    fn is_stage1(&self) -> bool {
        use TableFormat::{Aarch32LpaeStage1, ArmLpa2Stage1, ArmLpaeStage1};
        matches!(self.0.format, ArmLpaeStage1 | ArmLpa2Stage1 | Aarch32LpaeStage1)
    }

    /// `DS`: 52 bits in 4 and 16 KiB tables.
    fn ds(&self) -> bool {
        matches!(self.0.format, TableFormat::ArmLpa2Stage1 | TableFormat::ArmLpa2Stage2)
    }

    /// The address of a descriptor: [47:12], with FEAT_LPA and 64 KiB tables of 52 output bits [15:12] are bits 51:48, with DS [9:8] are 51:50 and [49:48] themselves.
    fn address(&self, descriptor: u64) -> u64 {
        let address = bits(descriptor, 47, 12) << 12;
        if self.ds() {
            return address | bits(descriptor, 49, 48) << 48 | bits(descriptor, 9, 8) << 50;
        }
        if self.granule() == 0x1_0000 && self.0.output_bits == 52 {
            return bits(descriptor, 47, 16) << 16 | bits(descriptor, 15, 12) << 48;
        }
        address
    }

    /// Entries that a contiguous bit groups: 16 with 4 KiB tables; 128 at level 3 and 32 at level 2 with 16 KiB; 32 with 64 KiB.
    fn group(&self, above: u32) -> u64 {
        match (self.granule(), above) {
            (0x1000, _) => 16,
            (0x4000, 0) => 128,
            _ => 32,
        }
    }

    fn may_hold_blocks(&self, level: i32) -> bool {
        let wide = self.ds() || self.0.output_bits == 52;
        match self.granule() {
            0x1000 => level >= if wide { 0 } else { 1 },
            _ => level >= if wide { 1 } else { 2 },
        }
    }

    fn leaf(&self, descriptor: u64, above: u32) -> Entry {
        assert!(bit(descriptor, 10), "AF clear: the first access would fault");
        if !self.ds() {
            assert_ne!(bits(descriptor, 9, 8), 1, "SH 0b01 is reserved");
        }
        assert_eq!(bits(descriptor, 63, 56) | bits(descriptor, 51, 50), 0, "reserved bits");
        let contiguous = bit(descriptor, 52);
        let entries = if contiguous { self.group(above) } else { 1 };
        let (_, low) = self.slice(3 - above as i32);
        let own = self.address(descriptor);
        assert_eq!(own % (1 << low), 0, "bits below an entry's size are RES0: {descriptor:#x}");
        let leaf = LeafEntry {
            phys: own / (entries << low) * (entries << low),
            entries,
            // Groups are aligned, so adding does not carry out of the address field below bit 48.
            alike: |first, offset, low| first + (offset << low),
            readable: true,
            writable: true,
            privileged: false,
            no_execute: false,
            memory_type: 0,
        };
        Entry::Leaf(if self.is_stage1() {
            assert!(bit(descriptor, 11), "nG clear: the entry would match every ASID");
            LeafEntry {
                writable: !bit(descriptor, 7),
                privileged: !bit(descriptor, 6),
                no_execute: bit(descriptor, 53) && bit(descriptor, 54),
                memory_type: u8::try_from(bits(descriptor, 4, 2)).expect("three bits"),
                ..leaf
            }
        } else {
            LeafEntry {
                readable: bit(descriptor, 6),
                writable: bit(descriptor, 7),
                no_execute: bits(descriptor, 54, 53) == 0b10,
                memory_type: match bits(descriptor, 5, 2) {
                    0b0101 => 0,
                    0b1111 => 1,
                    0b0001 => 2,
                    other => panic!("unexpected MemAttr {other:#b}"),
                },
                ..leaf
            }
        })
    }
}

impl Rules for Arm {
    fn shape(&self) -> (u64, Vec<(u32, u32)>) {
        let TableRoot::Arm { address, start_level, tables } = self.0.root else {
            panic!("no Arm root: {:?}", self.0.root)
        };
        // D8.2: concatenated tables are aligned to all of them together.
        let bytes = u64::from(tables) * self.granule();
        assert!(tables == 1 || address.raw() % bytes == 0, "{address} for {tables} tables");
        let top = u32::from(self.0.input_bits) - 1;
        let levels = (i32::from(start_level)..=3).map(|level| {
            let (high, low) = self.slice(level);
            // A start level takes all the bits that are left: fewer than a table has, or more, which is what concatenation means.
            (low, if level == i32::from(start_level) { top } else { high })
        });
        (address.raw(), levels.collect())
    }

    fn entry(&self, descriptor: u64, above: u32, _: u32) -> Entry {
        match (bits(descriptor, 1, 0), above) {
            (0b00 | 0b10, _) => Entry::NotPresent,
            (0b11, 0) => self.leaf(descriptor, above),
            (0b11, _) => {
                let next = self.address(descriptor);
                assert_eq!(next % self.granule(), 0, "table address {next:#x} is not aligned");
                let ignored = if self.ds() { 7 } else { 11 };
                assert_eq!(bits(descriptor, ignored, 2), 0, "ignored low bits are kept zero");
                Entry::Table(next)
            }
            (0b01, 0) => panic!("reserved at level 3: {descriptor:#x}"),
            (0b01, _) => {
                let level = 3 - above as i32;
                assert!(self.may_hold_blocks(level), "no block at level {level}");
                self.leaf(descriptor, above)
            }
            _ => unreachable!("two bits"),
        }
    }
}

/// Bits of an address that 9-bit tables resolve, for `levels` levels, the root resolving `root` bits.
fn nine_bit_levels(levels: u32, root: u32) -> Vec<(u32, u32)> {
    let slice = |above: u32| {
        let low = 12 + 9 * above;
        (low, low + if above + 1 == levels { root } else { 9 } - 1)
    };
    (0..levels).rev().map(slice).collect()
}

/// Intel D51397 rev 4.1, 3.7 "Second-Stage Translation" and 9.8.
struct VtdSecond(TableConfig);

impl Rules for VtdSecond {
    fn shape(&self) -> (u64, Vec<(u32, u32)>) {
        let TableRoot::Vtd { address, levels } = self.0.root else { panic!("{:?}", self.0.root) };
        assert!((3..=5).contains(&levels), "AGAW of 39, 48 or 57 bits");
        (address.raw(), nine_bit_levels(levels.into(), 9))
    }

    fn entry(&self, entry: u64, above: u32, _: u32) -> Entry {
        if bits(entry, 2, 0) == 0 {
            return Entry::NotPresent;
        }
        assert_eq!(bits(entry, 63, 62) | bits(entry, 6, 2), 0, "bits that nobody asked for");
        let address = bits(entry, 51, 12) << 12;
        if above > 0 && !bit(entry, 7) {
            assert_eq!(bits(entry, 11, 0), 0b11, "a table allows what its leaves allow");
            return Entry::Table(address);
        }
        assert!(above < 3, "1 GiB is the largest leaf");
        Entry::Leaf(LeafEntry {
            phys: address,
            entries: 1,
            alike: the_same,
            readable: bit(entry, 0),
            writable: bit(entry, 1),
            privileged: false,
            no_execute: true,
            memory_type: u8::from(bit(entry, 11)),
        })
    }
}

/// Intel SDM volume 3A, 4.5; D51397, 3.6 and 9.7; AMD 48882, 2.2.6.
struct X86(TableConfig);

impl Rules for X86 {
    fn shape(&self) -> (u64, Vec<(u32, u32)>) {
        let TableRoot::X86 { address, levels } = self.0.root else { panic!("{:?}", self.0.root) };
        assert!(matches!(levels, 4 | 5));
        (address.raw(), nine_bit_levels(levels.into(), 9))
    }

    fn entry(&self, entry: u64, above: u32, _: u32) -> Entry {
        if !bit(entry, 0) {
            return Entry::NotPresent;
        }
        assert_eq!(bits(entry, 63, 59) | bits(entry, 11, 8), 0, "bits that nobody asked for");
        assert_eq!(bits(entry, 4, 3), 0, "memory type 0");
        assert!(bit(entry, 5), "accessed: hardware need not write");
        let address = bits(entry, 51, 12) << 12;
        if above > 0 && !bit(entry, 7) {
            assert!(bit(entry, 1) && bit(entry, 2), "a table allows what its leaves allow");
            return Entry::Table(address);
        }
        assert!(above < 3, "1 GiB is the largest leaf");
        assert_eq!(bit(entry, 1), bit(entry, 6), "dirty where writable: hardware need not write");
        Entry::Leaf(LeafEntry {
            phys: address,
            entries: 1,
            alike: the_same,
            readable: true,
            writable: bit(entry, 1),
            privileged: !bit(entry, 2),
            no_execute: false,
            memory_type: 1,
        })
    }
}

/// AMD 48882 rev 3.09, 2.2.3.
struct Amd(TableConfig);

impl Rules for Amd {
    fn shape(&self) -> (u64, Vec<(u32, u32)>) {
        let TableRoot::Amd { address, mode } = self.0.root else { panic!("{:?}", self.0.root) };
        assert!((1..=6).contains(&mode), "mode 0 translates nothing, 7 is reserved");
        (address.raw(), nine_bit_levels(mode.into(), if mode == 6 { 7 } else { 9 }))
    }

    fn entry(&self, entry: u64, above: u32, low: u32) -> Entry {
        if !bit(entry, 0) {
            return Entry::NotPresent;
        }
        assert_eq!(bits(entry, 58, 52), 0, "reserved");
        assert_eq!(bits(entry, 63, 63) | bits(entry, 8, 5), 0, "bits that nobody asked for");
        let address = bits(entry, 51, 12) << 12;
        let next = bits(entry, 11, 9) as u32;
        let entries = match next {
            0 => 1,
            7 => {
                // The size is twice what the bits up to the lowest 0 cover.
                let size = 2u64 << (address | 0xfff).trailing_ones();
                assert!(size > 1 << low, "larger than the level's own size");
                let entries = size >> low;
                assert!(entries < 512, "smaller than the level above");
                entries
            }
            level => {
                // Table 15: a level of the next table that is not below this one's is an error. AMD's level is one more than ours above the last.
                assert_eq!(level, above, "no level is skipped");
                assert!(bit(entry, 61) && bit(entry, 62), "a table allows what its leaves allow");
                return Entry::Table(address);
            }
        };
        Entry::Leaf(LeafEntry {
            phys: address / (entries << low) * (entries << low),
            entries,
            alike: the_same,
            readable: bit(entry, 61),
            writable: bit(entry, 62),
            privileged: false,
            no_execute: false,
            memory_type: u8::from(bit(entry, 60)),
        })
    }
}

/// RISC-V Privileged 20211203: 4.3.2 "Virtual Address Translation Process", 4.4 to 4.6, chapter 5; 8.5.1 for x4.
struct Riscv {
    config: TableConfig,
    x4: bool,
}

impl Rules for Riscv {
    fn shape(&self) -> (u64, Vec<(u32, u32)>) {
        let TableRoot::Riscv { address, mode } = self.config.root else {
            panic!("{:?}", self.config.root)
        };
        let levels = match mode {
            8 => 3,
            9 => 4,
            10 => 5,
            other => panic!("no mode {other}"),
        };
        // x4: the root is 16 KiB, aligned to that, and resolves two bits more.
        assert!(!self.x4 || address.raw() % 0x4000 == 0, "{address}");
        (address.raw(), nine_bit_levels(levels, if self.x4 { 11 } else { 9 }))
    }

    fn entry(&self, pte: u64, above: u32, _: u32) -> Entry {
        if !bit(pte, 0) {
            return Entry::NotPresent;
        }
        assert_eq!(bits(pte, 60, 54), 0, "reserved");
        assert_eq!(bits(pte, 62, 61) | bits(pte, 5, 5), 0, "bits that nobody asked for");
        let address = bits(pte, 53, 10) << 12;
        if bits(pte, 3, 1) == 0 {
            assert!(above > 0, "a pointer in the last level");
            assert_eq!(bits(pte, 7, 4), 0, "D, A and U are reserved here");
            assert!(!bit(pte, 63), "N is reserved here");
            return Entry::Table(address);
        }
        assert!(bit(pte, 1) || !bit(pte, 2), "writable without readable is reserved");
        assert!(
            bit(pte, 6) && bit(pte, 7) == bit(pte, 2),
            "no fault at first use, no write by hardware"
        );
        assert!(!self.x4 || bit(pte, 4), "every access is a user access");
        let napot = bit(pte, 63);
        if napot {
            assert!(above == 0 && bits(pte, 13, 10) == 0b1000, "64 KiB is the only size");
        }
        Entry::Leaf(LeafEntry {
            phys: if napot { address & !0xffff } else { address },
            entries: if napot { 16 } else { 1 },
            alike: the_same,
            readable: true,
            writable: bit(pte, 2),
            privileged: !bit(pte, 4),
            no_execute: !bit(pte, 3),
            memory_type: 1,
        })
    }
}
