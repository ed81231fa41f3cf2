//! The index that the lowering reads from.

use super::*;
use alloc::string::ToString;

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
