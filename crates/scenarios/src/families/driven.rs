//! A driver at work, and whether each of its invalidations is needed.

use super::Family;
use super::by_hand::{ByHand, Desk, page_of};
use super::platforms::{Emulated, Hardware, Software};
use super::tamper::Action;
use portcullis::{
    AddressSpace, FormatSupport, IommuOps, SpaceFormat, SpaceRequest, SpaceTag, StreamSpec,
    StreamTarget,
};
use portcullis_addr::{Iova, PageSizes, PhysAddr, Prot, StreamId};
use portcullis_machine::Policy;
use portcullis_pgtable::{IotlbGather, TableFormat};
use portcullis_qemu::{Architecture, Virt, for_test_on};
use std::rc::Rc;
use std::sync::Arc;

const IOVA: u64 = 0x12_3456_7000;
const NEXT: u64 = IOVA + 0x1000;
const LARGE: u64 = 0x40_0000;

/// What [`slips`] says where hardware forgot too little for a device to work.
const NOT_REACHED: &str = "a mapped page that is not reached";

/// An address space of the driver.
struct Space {
    table: Arc<dyn AddressSpace>,
    tag: SpaceTag,
}

/// The driver, with the first device claimed.
struct Driven {
    desk: Desk,
    ops: Box<dyn IommuOps>,
    format: TableFormat,
    spec: StreamSpec,
}

impl Driven {
    fn new<F: Family>(hw: Rc<dyn Hardware>, format: TableFormat, tamper: Option<Action>) -> Self {
        F::Rig::open(&*hw);
        let desk = Desk::new(Rc::clone(&hw));
        let ops = hw.driver(tamper);
        let spec = StreamSpec::exact(StreamId::new(F::DEVICES[0]));
        ops.claim(&[spec]).expect("free");
        Self { desk, ops, format, spec }
    }

    fn space(&self) -> Space {
        let formats = self.ops.capabilities().formats;
        let wanted = SpaceFormat::Table(self.format);
        let support = *formats.iter().find(|it| it.format == wanted).expect("a format");
        let page_sizes = PageSizes::from_bitmap(0x20_1000);
        let support = FormatSupport { page_sizes, ..support };
        let request = SpaceRequest { support, coherent_walk: true };
        let table = self.ops.create_space(&request).expect("a table");
        let tag = self.ops.bind_space(&table).expect("a tag");
        Space { table, tag }
    }

    fn attach(&self, target: StreamTarget) {
        self.ops.attach(&[self.spec], None, target).expect("confirmed");
    }

    fn map(&self, space: &Space, iova: u64, page: u64, len: u64) {
        let (mut gather, prot) = (IotlbGather::new(), Prot::READ | Prot::WRITE | Prot::CACHE);
        let mapped = space.table.map(Iova::new(iova), PhysAddr::new(page), len, prot, &mut gather);
        mapped.expect("mapped");
    }

    fn unmap(&self, space: &Space, iova: u64, len: u64) {
        let mut gather = IotlbGather::new();
        space.table.unmap(Iova::new(iova), len, &mut gather).expect("unmapped");
        self.ops.invalidate(space.tag, &gather).expect("confirmed");
        space.table.retire(gather.confirm());
    }

    /// Whether a mapped page is reached; why not is printed.
    fn reaches(&self, iova: u64, page: u64) -> bool {
        let landed = self.lands(iova, page);
        if !landed {
            let serviced = self.ops.service(usize::MAX, &mut |fault| println!("{fault:x?}"));
            println!("{iova:#x} is mapped and not reached: {serviced:?}");
        }
        landed
    }

    /// Whether what the device writes arrives.
    fn lands(&self, iova: u64, page: u64) -> bool {
        self.desk.store(page, 0xeeee_eeee_eeee_eeee);
        self.desk.hw.writes(0, iova);
        self.desk.load(page) & 0xffff_ffff != 0xeeee_eeee
    }
}

/// Everything that the driver must forget, forgotten: which access got through although it must not, or did not although it must, because hardware still has an entry that permits nothing.
///
/// # Panics
///
/// When the driver refuses what it must do.
pub fn slips<F: Family>(
    hw: Rc<dyn Hardware>,
    format: TableFormat,
    tamper: Option<Action>,
) -> Option<&'static str> {
    let (page, large) = (page_of(&*hw, 4096), page_of(&*hw, 2 << 20));
    let driven = Driven::new::<F>(hw, format, tamper);
    if driven.lands(page, page) {
        return Some("a device that passed before");
    }
    let space = driven.space();
    driven.attach(StreamTarget::Space(space.tag));
    driven.map(&space, IOVA, page, 4096);
    driven.map(&space, LARGE, large, 2 << 20);
    if !driven.reaches(IOVA, page) || !driven.reaches(LARGE + 0x3000, large + 0x3000) {
        return Some(NOT_REACHED);
    }
    driven.unmap(&space, IOVA, 4096);
    if driven.lands(IOVA, page) {
        return Some("an unmapped page");
    }
    // Once more: forgetting one page may have made hardware forget others.
    if !driven.reaches(LARGE + 0x3000, large + 0x3000) {
        return Some(NOT_REACHED);
    }
    driven.unmap(&space, LARGE, 2 << 20);
    if driven.lands(LARGE + 0x3000, large + 0x3000) {
        return Some("an unmapped large page");
    }
    driven.map(&space, NEXT, page, 4096);
    if !driven.reaches(NEXT, page) {
        return Some(NOT_REACHED);
    }
    driven.attach(StreamTarget::Blocked);
    if driven.lands(NEXT, page) {
        return Some("a blocked device");
    }
    driven.ops.unbind_space(space.tag).expect("confirmed");
    let next = driven.space();
    assert_eq!(next.tag, space.tag, "one space at a time has one tag");
    driven.attach(StreamTarget::Space(next.tag));
    if driven.lands(NEXT, page) {
        return Some("the space before");
    }
    driven.ops.shutdown().expect("confirmed");
    driven.lands(NEXT, page).then_some("a unit that was shut down")
}

/// One invalidation that the driver issues while it serves, spoilt in one way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Which tables the driver has meanwhile.
    pub format: TableFormat,
    /// What happens to the command.
    pub action: Action,
    /// Why QEMU cannot show it, where that is so.
    pub unseen_on_qemu: Option<&'static str>,
}

/// Runs the driver as it is on every platform, and each mutant on the software machine and on QEMU; `test` is the test's name, for the line that says that QEMU was skipped.
///
/// # Panics
///
/// When the driver as it is slips, when a mutant does not on the software machine, and when QEMU shows a mutant that is said not to be seen there, or the other way round.
pub fn assert_invalidations<F: Family>(
    formats: &[TableFormat],
    more_boards: &[Virt],
    mutants: &[Mutant],
    architecture: Architecture,
    test: &str,
) {
    let software =
        |policy, format, action| slips::<F>(Rc::new(Software::<F>::new(policy)), format, action);
    let qemu = for_test_on(architecture, test);
    for &format in formats {
        for policy in [Policy::like_qemu(), Policy::default()] {
            assert_eq!(software(policy, format, None), None, "{format:?}");
        }
        for board in qemu.iter().flat_map(|_| [F::qemu()].into_iter().chain(more_boards.to_vec())) {
            let machine = Emulated::<F>::on(board, qemu.expect("there is one"));
            assert_eq!(slips::<F>(Rc::new(machine), format, None), None, "{format:?} on QEMU");
        }
    }
    let mut wrong = Vec::new();
    for mutant in mutants {
        let here = software(Policy::like_qemu(), mutant.format, Some(mutant.action));
        let there = qemu.map(|qemu| {
            slips::<F>(Rc::new(Emulated::<F>::start(qemu)), mutant.format, Some(mutant.action))
        });
        println!("{mutant:x?}: software {here:?}, QEMU {there:?}");
        let as_said = there.is_none_or(|slip| slip.is_none() == mutant.unseen_on_qemu.is_some());
        if here.is_none() || !as_said {
            wrong.push((mutant, here, there));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#x?}");
}
