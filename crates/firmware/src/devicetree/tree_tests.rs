//! The index that the lowering reads from.

use super::*;
use alloc::string::ToString;
use portcullis_addr::PhysRange;

/// Root { a { b { } } c { } }, with a few properties.
fn sample() -> Tree<'static> {
    let mut builder = TreeBuilder::new();
    let cells = 1u32.to_be_bytes();
    let one: &'static [u8] = std::boxed::Box::leak(std::boxed::Box::new(cells));
    builder.begin_node("").expect("root");
    builder.property("z", &[1]).expect("z");
    builder.property("compatible", b"x,y\0\0bad\x1b[m\0ok\0").expect("compatible");
    builder.property("#address-cells", one).expect("cells");
    builder.begin_node("a@1").expect("a");
    builder.property("status", b"fail-x\0").expect("status");
    builder.property("phandle", &[0, 0, 0, 5]).expect("phandle");
    builder.begin_node("b").expect("b");
    builder.property("phandle", &[0, 0, 0, 6]).expect("phandle");
    builder.property("#size-cells", one).expect("cells");
    builder.end_node().expect("b");
    builder.end_node().expect("a");
    builder.begin_node("c").expect("c");
    builder.property("p", &[1]).expect("p");
    builder.property("p", &[2]).expect("p again");
    builder.property("linux,phandle", &[0, 0, 0, 6]).expect("phandle");
    builder.end_node().expect("c");
    builder.end_node().expect("root");
    builder.finish().expect("a tree")
}

#[test]
fn paths_parents_and_children() {
    let tree = sample();
    let paths: Vec<_> = tree.nodes().map(Node::path).collect();
    assert_eq!(paths, ["/", "/a@1", "/a@1/b", "/c"]);
    let root = tree.nodes().next().expect("root");
    assert_eq!(root.children().map(Node::name).collect::<Vec<_>>(), ["a@1", "c"]);
    let b = tree.node(FwNode(2)).expect("b");
    assert_eq!(b.up().map(|node| node.id().0).collect::<Vec<_>>(), [2, 1, 0]);
    assert_eq!(b.parent().map(Node::path), Some("/a@1".to_string()));
    assert_eq!(b.children().count(), 0);
}

#[test]
fn a_disabled_node_disables_what_is_below() {
    let enabled: Vec<_> = sample().nodes().map(Node::enabled).collect();
    assert_eq!(enabled, [true, false, false, true]);
}

#[test]
fn the_first_of_equal_properties_counts() {
    let tree = sample();
    assert_eq!(tree.node(FwNode(3)).and_then(|c| c.property("p")), Some(&[1][..]));
    assert_eq!(tree.node(FwNode(3)).and_then(|c| c.property("q")), None);
}

#[test]
fn phandles_lead_to_one_node_or_none() {
    let tree = sample();
    assert_eq!(tree.by_phandle(5).map(|node| node.id()), Ok(FwNode(1)));
    assert_eq!(tree.by_phandle(6).map(|node| node.id()), Err(PhandleError::Ambiguous));
    assert_eq!(tree.by_phandle(7).map(|node| node.id()), Err(PhandleError::Dangling));
}

#[test]
fn cell_counts_are_inherited() {
    let tree = sample();
    let b = tree.node(FwNode(2)).expect("b");
    assert_eq!(b.own_cells(), AddressCells { address: 1, size: 1 });
    assert_eq!(b.child_cells(), AddressCells { address: 1, size: 1 });
    let mut builder = TreeBuilder::new();
    builder.begin_node("").and_then(|()| builder.end_node()).expect("root");
    let tree = builder.finish().expect("a tree");
    let root = tree.nodes().next().expect("root");
    assert_eq!(root.child_cells(), AddressCells { address: 2, size: 1 });
}

#[test]
fn texts_that_could_hurt_a_terminal_are_left_out() {
    let tree = sample();
    let root = tree.nodes().next().expect("root");
    assert_eq!(root.owned_strings("compatible"), ["x,y", "ok"]);
}

#[test]
fn cells_come_whole() {
    assert_eq!(cells(&[0, 0, 0, 1, 0, 0, 0, 2]), Some(alloc::vec![1, 2]));
    assert_eq!(cells(&[0, 0, 0]), None);
    assert_eq!(cells(&[]), Some(Vec::new()));
}

#[test]
fn a_kernel_finds_its_own_nodes_by_path_phandle_and_compatible() {
    let tree = sample();
    let number = |node: Option<Node<'_, '_>>| node.map(|node| node.id().0);
    assert_eq!(number(tree.at("/")), Some(0));
    assert_eq!(number(tree.at("/a@1/b")), Some(2));
    // Names are whole, and a path begins at the root.
    for nowhere in ["/a", "/a@1/c", "/b", "a@1", ""] {
        assert_eq!(number(tree.at(nowhere)), None, "{nowhere}");
    }
    assert_eq!(number(tree.with_phandle(5)), Some(1));
    assert_eq!(number(tree.with_phandle(6)), None, "two nodes have it");
    let root = tree.at("/").expect("root");
    assert!(root.is_compatible("ok") && !root.is_compatible("x"));
}

/// Devicetree Specification v0.4, 2.3.8: `ranges` are (child address, parent address, length).
#[test]
fn registers_are_what_the_cpu_addresses() {
    let mut builder = TreeBuilder::new();
    builder.begin_node("").expect("root");
    builder.begin_node("soc").expect("soc");
    builder.property("#address-cells", &[0, 0, 0, 1]).expect("cells");
    // The bus' 0x1000 to 0x1fff are the CPU's 0x9000_0000 on (two cells, as the root's default says).
    let ranges = [0, 0, 0x10, 0, 0, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 0x10, 0];
    builder.property("ranges", &ranges).expect("ranges");
    for (name, reg) in [
        ("uart@1100", [0, 0, 0x11, 0, 0, 0, 1, 0]),
        ("beyond@1f80", [0, 0, 0x1f, 0x80, 0, 0, 1, 0]),
    ] {
        builder.begin_node(name).expect("device");
        builder.property("reg", Vec::leak(reg.to_vec())).expect("reg");
        builder.end_node().expect("device");
    }
    builder.end_node().expect("soc");
    builder.end_node().expect("root");
    let tree = builder.finish().expect("a tree");
    let windows = |path| tree.at(path).expect("it is there").registers();
    let start = portcullis_addr::PhysAddr::new(0x9000_0100);
    assert_eq!(windows("/soc/uart@1100"), [PhysRange::new(start, 0x100).expect("no wrap")]);
    assert_eq!(windows("/soc/beyond@1f80"), [], "only half of it is on the bus");
    assert_eq!(windows("/soc"), [], "a bus without reg");
}
