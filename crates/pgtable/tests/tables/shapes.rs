//! Every format in every shape that it has, to run the same cases on all of them.

use super::TestMemory;
use portcullis_addr::{Iova, PageSize, PageSizes};
use portcullis_pgtable::{
    Aarch32LpaeStage1, Aarch32LpaeStage2, AmdV1, AmdV2, ArmLpa2Stage1, ArmLpa2Stage2,
    ArmLpa64Stage1, ArmLpa64Stage2, ArmLpaeStage1, ArmLpaeStage2, Format, IoPageTable, PageTable,
    RiscvFirstStage, RiscvSecondStage, TableParams, VtdFirstStage, VtdSecondStage, X86_64,
};
use std::sync::Arc;

type Make = fn(&Arc<TestMemory>, TableParams) -> Arc<dyn PageTable>;

/// A format with parameters.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) params: TableParams,
    pub(crate) software: u64,
    make: Make,
    /// Looks at the entries that lead to tables, without a table.
    pub(crate) check_table_entries: fn(TableParams),
}

impl Shape {
    /// An empty table that reaches all its input addresses.
    pub(crate) fn table(&self, memory: &Arc<TestMemory>) -> Arc<dyn PageTable> {
        memory.set_software_bit(self.software);
        let table = (self.make)(memory, self.params);
        let last = u64::MAX >> (64 - u32::from(self.params.input_bits));
        let config = table.grow(Iova::new(last)).expect("reachable");
        assert!(table.grown(&config));
        table
    }

    pub(crate) fn input_bits(&self) -> u32 {
        self.params.input_bits.into()
    }

    pub(crate) fn page(&self) -> u64 {
        self.params.granule.bytes()
    }
}

fn shape<F: Format>(name: &'static str, granule: PageSize, input: u8, output: u8) -> Shape {
    let params = TableParams {
        granule,
        input_bits: input,
        output_bits: output,
        leaf_sizes: PageSizes::ALL,
        force_snoop: false,
        coherent: false,
    };
    let make: Make = |memory, params| {
        Arc::new(IoPageTable::<F, _>::new(memory, params).expect("every shape is supported"))
    };
    let check_table_entries = super::formats::table_entries::<F>;
    Shape { name, params, software: F::SOFTWARE_BIT, make, check_table_entries }
}

/// All of them, with every leaf size and, where there are leaves of several entries, once more without these.
pub(crate) fn all() -> Vec<Shape> {
    let (k4, k16, k64) = (PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K);
    let mut shapes = vec![
        shape::<ArmLpaeStage1>("arm stage 1", k4, 48, 48),
        shape::<ArmLpaeStage1>("arm stage 1", k16, 47, 44),
        shape::<ArmLpaeStage1>("arm stage 1", k64, 48, 48),
        shape::<ArmLpaeStage2>("arm stage 2", k4, 42, 42),
        shape::<ArmLpaeStage2>("arm stage 2", k16, 40, 40),
        shape::<ArmLpaeStage2>("arm stage 2", k64, 48, 48),
        shape::<ArmLpa64Stage1>("arm stage 1, LPA", k64, 52, 52),
        shape::<ArmLpa64Stage2>("arm stage 2, LPA", k64, 52, 52),
        shape::<ArmLpa2Stage1>("arm stage 1, LPA2", k4, 52, 52),
        shape::<ArmLpa2Stage1>("arm stage 1, LPA2", k16, 52, 52),
        shape::<ArmLpa2Stage2>("arm stage 2, LPA2", k4, 52, 52),
        shape::<ArmLpa2Stage2>("arm stage 2, LPA2", k16, 51, 52),
        shape::<Aarch32LpaeStage1>("arm AArch32 stage 1", k4, 32, 40),
        shape::<Aarch32LpaeStage2>("arm AArch32 stage 2", k4, 40, 40),
        shape::<VtdSecondStage>("VT-d second stage", k4, 39, 39),
        shape::<VtdSecondStage>("VT-d second stage", k4, 48, 46),
        shape::<VtdSecondStage>("VT-d second stage", k4, 57, 52),
        shape::<VtdFirstStage>("VT-d first stage", k4, 47, 46),
        shape::<VtdFirstStage>("VT-d first stage", k4, 56, 52),
        shape::<X86_64>("x86-64", k4, 47, 52),
        shape::<X86_64>("x86-64", k4, 56, 52),
        shape::<AmdV2>("AMD v2", k4, 47, 52),
        shape::<AmdV1>("AMD v1", k4, 32, 48),
        shape::<AmdV1>("AMD v1", k4, 39, 48),
        shape::<AmdV1>("AMD v1", k4, 64, 52),
        shape::<RiscvFirstStage>("RISC-V first stage", k4, 38, 56),
        shape::<RiscvFirstStage>("RISC-V first stage", k4, 47, 56),
        shape::<RiscvFirstStage>("RISC-V first stage", k4, 56, 56),
        shape::<RiscvSecondStage>("RISC-V second stage", k4, 41, 56),
        shape::<RiscvSecondStage>("RISC-V second stage", k4, 50, 56),
        shape::<RiscvSecondStage>("RISC-V second stage", k4, 59, 56),
    ];
    // Once more with only one leaf size a level: entries 9, 11 or 13 bits apart.
    let plain: Vec<Shape> = shapes.iter().map(|shape| plain(*shape)).collect();
    shapes.extend(plain);
    let snooping = |shape: &Shape| {
        let has = matches!(shape.name, "VT-d second stage" | "AMD v1");
        let params = TableParams { force_snoop: true, ..shape.params };
        has.then_some(Shape { params, ..*shape })
    };
    let snooping: Vec<Shape> = shapes.iter().filter_map(snooping).collect();
    shapes.extend(snooping);
    shapes
}

fn plain(shape: Shape) -> Shape {
    let log2 = u32::from(shape.params.granule.log2());
    let sizes = (log2..64).step_by(log2 as usize - 3).fold(0, |sizes, size| sizes | 1 << size);
    let params = TableParams { leaf_sizes: PageSizes::from_bitmap(sizes), ..shape.params };
    Shape { params, ..shape }
}

/// Runs `case` on an empty table of each shape, and sees to it that every page comes back.
pub(crate) fn on_all(case: impl Fn(Shape, &TestMemory, &dyn PageTable)) {
    let memory = TestMemory::new();
    for shape in all() {
        let table = shape.table(&memory);
        // A tree that has grown begins with the empty roots that it had before.
        super::debts::reclaim_all(&*table);
        let (pages, place) = (table.table_pages(), format!("{} {:?}", shape.name, shape.params));
        let run = std::panic::AssertUnwindSafe(|| case(shape, &memory, &*table));
        if let Err(error) = std::panic::catch_unwind(run) {
            eprintln!("failed on {place}");
            std::panic::resume_unwind(error);
        }
        assert_eq!(super::walker::all_leaves(&memory, table.config()), [], "{place}");
        super::debts::reclaim_all(&*table);
        assert_eq!(table.table_pages(), pages, "{place}");
        drop(table);
        assert_eq!(memory.live(), 0, "{place}");
    }
}
