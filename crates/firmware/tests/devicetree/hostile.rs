//! Bytes made to hurt: bounded time, bounded memory, typed errors.

use crate::made::{Dt, bridge, client, dt, root, smmu};
use portcullis_firmware::devicetree::{TreeError, TreeLimits};
use portcullis_firmware::{ReadError, read_devicetree};
use std::time::Duration;

/// Of processor time, generous for a debug build; a quadratic reader needs minutes.
const BOUND: Duration = Duration::from_secs(20);

const BEGIN: u32 = 1;
const END: u32 = 2;
const PROP: u32 = 3;

/// A structure block written word by word, without the checks of a real writer.
struct Raw {
    structure: Vec<u8>,
    strings: Vec<u8>,
}

impl Raw {
    fn new() -> Self {
        Self { structure: vec![], strings: b"a\0iommus\0phandle\0ranges\0compatible\0".to_vec() }
    }

    fn word(&mut self, word: u32) -> &mut Self {
        self.structure.extend(word.to_be_bytes());
        self
    }

    fn begin(&mut self, name: &[u8]) -> &mut Self {
        self.word(BEGIN);
        self.structure.extend(name);
        self.structure.push(0);
        self.pad()
    }

    fn pad(&mut self) -> &mut Self {
        while !self.structure.len().is_multiple_of(4) {
            self.structure.push(0);
        }
        self
    }

    fn property(&mut self, name: u32, value: &[u8]) -> &mut Self {
        let len = u32::try_from(value.len()).expect("short");
        self.word(PROP).word(len).word(name);
        self.structure.extend(value);
        self.pad()
    }

    fn blob(&self) -> Vec<u8> {
        let structure = [self.structure.as_slice(), &9u32.to_be_bytes()].concat();
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).expect("short");
        let (at, strings) = (56, 56 + len(&structure));
        let total = strings + len(&self.strings);
        let header =
            [0xd00d_feed, total, at, strings, 40, 17, 16, 0, len(&self.strings), len(&structure)];
        let mut blob: Vec<u8> = header.iter().flat_map(|word| u32::to_be_bytes(*word)).collect();
        blob.extend([0; 16]);
        blob.extend(structure);
        blob.extend(&self.strings);
        blob
    }
}

fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = processor_time();
    let result = work();
    let took = processor_time().saturating_sub(start);
    assert!(took < BOUND, "{what}: {took:?}");
    result
}

/// What this thread has computed so far, whatever else the machine does (Linux: `Documentation/scheduler/sched-stats.rst`, the first number).
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = stat.split_whitespace().next().and_then(|word| word.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn tree_error(raw: &Raw) -> Option<TreeError> {
    match timed("reading", || read_devicetree(&raw.blob(), "raw")) {
        Err(ReadError::Tree { error, .. }) => Some(error),
        _ => None,
    }
}

#[test]
fn depth_is_bounded() {
    let nest = |levels: usize| {
        let mut raw = Raw::new();
        raw.begin(b"");
        (1..levels).for_each(|_| {
            raw.begin(b"n");
        });
        (0..levels).for_each(|_| {
            raw.word(END);
        });
        raw
    };
    assert_eq!(tree_error(&nest(TreeLimits::DEPTH)), None);
    assert_eq!(tree_error(&nest(TreeLimits::DEPTH + 1)), Some(TreeError::TooDeep));
    assert_eq!(tree_error(&nest(500_000)), Some(TreeError::TooDeep));
}

#[test]
fn nodes_are_bounded() {
    let mut raw = Raw::new();
    raw.begin(b"");
    (0..TreeLimits::NODES).for_each(|_| {
        raw.begin(b"n").word(END);
    });
    raw.word(END);
    assert_eq!(tree_error(&raw), Some(TreeError::TooManyNodes));
}

#[test]
fn names_are_bounded_and_printable() {
    let named = |name: &[u8]| {
        let mut raw = Raw::new();
        raw.begin(b"").begin(name).word(END).word(END);
        tree_error(&raw)
    };
    assert_eq!(named(&[b'x'; 255]), None);
    assert_eq!(named(&[b'x'; 256]), Some(TreeError::NameTooLong(256)));
    assert_eq!(named(b"a\x1b[2J"), Some(TreeError::NameByte(0x1b)));
    assert_eq!(named(b"a/b"), Some(TreeError::NameByte(b'/')));
    assert_eq!(named(b""), Some(TreeError::NameEmpty));
    let mut raw = Raw::new();
    raw.begin(b"");
    (0..5).for_each(|_| {
        raw.begin(&[b'x'; 255]);
    });
    assert_eq!(tree_error(&raw), Some(TreeError::PathTooLong(5 * 256)));
}

#[test]
fn order_is_kept() {
    let mut late = Raw::new();
    late.begin(b"").begin(b"n").word(END).property(0, &[]).word(END);
    assert_eq!(tree_error(&late), Some(TreeError::StrayProperty));
    let mut outside = Raw::new();
    outside.property(0, &[]);
    assert_eq!(tree_error(&outside), Some(TreeError::StrayProperty));
    let mut two = Raw::new();
    two.begin(b"").word(END).begin(b"").word(END);
    assert_eq!(tree_error(&two), Some(TreeError::SecondRoot));
    let mut closed = Raw::new();
    closed.begin(b"").word(END).word(END);
    assert_eq!(tree_error(&closed), Some(TreeError::StrayEnd));
    let mut open = Raw::new();
    open.begin(b"").begin(b"n").word(END);
    assert_eq!(tree_error(&open), Some(TreeError::Unclosed { levels: 1 }));
    assert_eq!(tree_error(&Raw::new()), Some(TreeError::NoRoot));
}

/// One huge property on a parent, many children that look at it: what is worked out once must not be worked out again.
#[test]
fn shared_properties_are_read_once() {
    let many = 20_000;
    let pairs: Vec<u32> = (0..50_000).flat_map(|at| [at * 16, at * 16, 16]).collect();
    let huge = |name: &str| {
        dt("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells(name, &pairs)
    };
    let clients = |parent: Dt| {
        (0..many).fold(parent, |parent, at| parent.with(client(&format!("c@{at:x}"), &[1, at])))
    };
    let tree = root().with(smmu(1)).with(clients(huge("dma-ranges")));
    let machine = timed("dma-ranges", || tree.read());
    assert_eq!(machine.devices[0].description.address_bits, 20);
    let iommus = (0..2_000).fold(huge("ranges"), |parent, at| {
        parent.with(smmu(1).cells("reg", &[at * 16, 16]).cells("phandle", &[100 + at]))
    });
    let machine = timed("ranges", || root().with(iommus).read());
    // Past the budget an IOMMU has no registers; it is refused, not trusted.
    assert!(machine.iommus.iter().any(|it| it.registers.is_some()));
    assert!(machine.iommus.iter().all(|it| it.registers.is_some() == it.unusable.is_none()));

    let names: Vec<u8> = (0..200_000).flat_map(|_| *b"x\0").chain(*b"dma-mem\0").collect();
    let links: Vec<u32> = (0..200_001).flat_map(|_| [30, 0]).collect();
    let soc = dt("soc").bytes("interconnect-names", &names).cells("interconnects", &links);
    let hub =
        dt("hub").cells("phandle", &[30]).cells("#interconnect-cells", &[1]).flag("dma-coherent");
    let machine = timed("links", || root().with(smmu(1)).with(hub).with(clients(soc)).read());
    assert!(machine.devices.iter().all(|it| it.description.coherent));

    let addresses: Vec<u32> = (0..many).flat_map(|at| [1000 + at, at * 0x1000, 0x1000]).collect();
    let region = dt("fb").cells("phandle", &[20]).cells("iommu-addresses", &addresses);
    let clients = (0..many).fold(root().with(smmu(1)), |parent, at| {
        let client = client(&format!("c@{at:x}"), &[1, at]).cells("phandle", &[1000 + at]);
        parent.with(client.cells("memory-region", &[20]))
    });
    let machine =
        timed("iommu-addresses", || clients.with(dt("reserved-memory").with(region)).read());
    assert!(machine.devices.iter().all(|it| it.description.reserved.len() == 1));
}

#[test]
fn many_iommus_many_masks_and_many_ranges_stay_linear() {
    let many = 20_000;
    // A chain of IOMMUs, each behind the next; the last is broken, so all are.
    let chain =
        (1..many).fold(root(), |parent, at| parent.with(smmu(at).cells("iommus", &[at + 1, 0])));
    let machine = timed("chain", || chain.with(smmu(many).without("reg")).read());
    assert!(machine.iommus.iter().all(|it| it.unusable.is_some()));
    // A ring of them.
    let ring = (1..=many)
        .fold(root(), |parent, at| parent.with(smmu(at).cells("iommus", &[at % many + 1, 0])));
    let machine = timed("ring", || ring.read());
    assert!(machine.iommus.iter().all(|it| it.unusable.is_some()));
    let masks = (0..many).fold(root().with(crate::made::mmu500(1, 2)), |parent, at| {
        parent.with(client(&format!("c@{at:x}"), &[1, at & 0xffff, (at * 7) & 0xffff]))
    });
    timed("masks", || masks.read());
    let ranges: Vec<u32> = (0..100_000).rev().flat_map(|at| [at * 2, 1, at, 1]).collect();
    let machine = timed("ranges", || root().with(smmu(1)).with(bridge(&ranges)).read());
    assert!(machine.devices[0].bus.is_some());
}
