//! A devicetree as an index over borrowed bytes: the seam between whatever reads the bytes and the lowering.
//!
//! Any parser can feed a [`TreeBuilder`]; [`super::flat`] does. The builder enforces [`TreeLimits`], so the lowering may assume them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use portcullis::FwNode;

/// How large a tree may be. Real ones of 2026 stay below 10 levels, 5,000 nodes and paths of 200 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TreeLimits;

impl TreeLimits {
    /// Levels, the root counted as one.
    pub const DEPTH: usize = 64;
    /// Nodes.
    pub const NODES: usize = 1_000_000;
    /// Properties of all nodes together.
    pub const PROPERTIES: usize = 4_000_000;
    /// Bytes of a node's or property's name. (The specification says 31; devicetrees in the field do not keep to it.)
    pub const NAME: usize = 255;
    /// Bytes of a node's full path.
    pub const PATH: usize = 1024;
}

/// Why a sequence of nodes and properties is no tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TreeError {
    /// More levels than [`TreeLimits::DEPTH`].
    TooDeep,
    /// More nodes than [`TreeLimits::NODES`].
    TooManyNodes,
    /// More properties than [`TreeLimits::PROPERTIES`].
    TooManyProperties,
    /// A name of this many bytes, more than [`TreeLimits::NAME`].
    NameTooLong(usize),
    /// A path of this many bytes, more than [`TreeLimits::PATH`].
    PathTooLong(usize),
    /// A name with this byte in it, which is no printable ASCII character or a `/`.
    NameByte(u8),
    /// A node other than the root without a name, the root with one, or a property without one.
    NameEmpty,
    /// A property outside of all nodes, or after a child node.
    StrayProperty,
    /// A node is closed that was not opened.
    StrayEnd,
    /// A second root.
    SecondRoot,
    /// The input ended inside a node.
    Unclosed {
        /// How many levels were open.
        levels: usize,
    },
    /// There is no node at all.
    NoRoot,
}

impl fmt::Display for TreeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooDeep => write!(f, "more than {} levels of nodes", TreeLimits::DEPTH),
            Self::TooManyNodes => write!(f, "more than {} nodes", TreeLimits::NODES),
            Self::TooManyProperties => write!(f, "more than {} properties", TreeLimits::PROPERTIES),
            Self::NameTooLong(n) => {
                write!(f, "a name of {n} bytes; {} are allowed", TreeLimits::NAME)
            }
            Self::PathTooLong(n) => {
                write!(f, "a path of {n} bytes; {} are allowed", TreeLimits::PATH)
            }
            Self::NameByte(byte) => write!(f, "byte {byte:#04x} in a name"),
            Self::NameEmpty => f.write_str("a missing name, or a root node with one"),
            Self::StrayProperty => {
                f.write_str("a property outside of a node or after a child node")
            }
            Self::StrayEnd => f.write_str("the end of a node that was not opened"),
            Self::SecondRoot => f.write_str("a second root node"),
            Self::Unclosed { levels } => write!(f, "the end of the tree with {levels} nodes open"),
            Self::NoRoot => f.write_str("no root node"),
        }
    }
}

impl core::error::Error for TreeError {}

#[derive(Clone, Copy, Debug)]
struct Property<'a> {
    name: &'a str,
    value: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct NodeRecord<'a> {
    name: &'a str,
    parent: u32,
    /// Index just behind the last node of its subtree.
    end: u32,
    first_property: u32,
    properties: u32,
    path_len: u16,
    enabled: bool,
    /// The cell counts that it prescribes for its children's addresses; its ancestors' where it prescribes none.
    child_cells: AddressCells,
}

/// `#address-cells` and `#size-cells`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AddressCells {
    pub(crate) address: u32,
    pub(crate) size: u32,
}

/// What a phandle leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PhandleError {
    Dangling,
    Ambiguous,
}

/// Takes a tree in document order and makes a [`Tree`] of it.
#[derive(Debug, Default)]
pub struct TreeBuilder<'a> {
    nodes: Vec<NodeRecord<'a>>,
    properties: Vec<Property<'a>>,
    open: Vec<u32>,
    /// Whether the innermost open node has had a child.
    has_child: bool,
}

impl<'a> TreeBuilder<'a> {
    /// A builder that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a node; the root's `name` is empty.
    ///
    /// # Errors
    ///
    /// A limit is exceeded, the name is malformed, or the root has been closed.
    pub fn begin_node(&mut self, name: &'a str) -> Result<(), TreeError> {
        let parent = self.open.last().copied();
        if parent.is_none() && !self.nodes.is_empty() {
            return Err(TreeError::SecondRoot);
        }
        if self.open.len() >= TreeLimits::DEPTH {
            return Err(TreeError::TooDeep);
        }
        if self.nodes.len() >= TreeLimits::NODES {
            return Err(TreeError::TooManyNodes);
        }
        check_name(name, parent.is_none())?;
        if !self.has_child {
            self.seal_properties(parent);
        }
        let above = parent.and_then(|at| self.nodes.get(at as usize));
        let path_len = above.map_or(0, |above| {
            usize::from(above.path_len).saturating_add(name.len()).saturating_add(1)
        });
        if path_len > TreeLimits::PATH {
            return Err(TreeError::PathTooLong(path_len));
        }
        let index = index(self.nodes.len());
        let child_cells = above.map_or(AddressCells { address: 2, size: 1 }, |a| a.child_cells);
        self.nodes.push(NodeRecord {
            name,
            parent: parent.unwrap_or(0),
            end: index,
            first_property: self::index(self.properties.len()),
            properties: 0,
            path_len: u16::try_from(path_len).map_err(|_| TreeError::PathTooLong(path_len))?,
            enabled: above.is_none_or(|above| above.enabled),
            child_cells,
        });
        self.open.push(index);
        self.has_child = false;
        Ok(())
    }

    /// Adds a property to the innermost open node. Of several with one name, the first counts.
    ///
    /// # Errors
    ///
    /// A limit is exceeded, the name is malformed, no node is open, or the node already has a child.
    pub fn property(&mut self, name: &'a str, value: &'a [u8]) -> Result<(), TreeError> {
        if self.properties.len() >= TreeLimits::PROPERTIES {
            return Err(TreeError::TooManyProperties);
        }
        check_name(name, false)?;
        let node = self.open.last().and_then(|at| self.nodes.get_mut(*at as usize));
        let node = node.filter(|_| !self.has_child).ok_or(TreeError::StrayProperty)?;
        node.properties = node.properties.saturating_add(1);
        self.properties.push(Property { name, value });
        Ok(())
    }

    /// Closes the innermost open node.
    ///
    /// # Errors
    ///
    /// No node is open.
    pub fn end_node(&mut self) -> Result<(), TreeError> {
        let at = self.open.pop().ok_or(TreeError::StrayEnd)?;
        if !self.has_child {
            self.seal_properties(Some(at));
        }
        let end = index(self.nodes.len());
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.end = end;
        }
        self.has_child = true;
        Ok(())
    }

    /// The finished tree.
    ///
    /// # Errors
    ///
    /// A node is still open, or there is none.
    pub fn finish(self) -> Result<Tree<'a>, TreeError> {
        if !self.open.is_empty() {
            return Err(TreeError::Unclosed { levels: self.open.len() });
        }
        if self.nodes.is_empty() {
            return Err(TreeError::NoRoot);
        }
        let mut tree =
            Tree { nodes: self.nodes, properties: self.properties, phandles: Vec::new() };
        let mut phandles: Vec<_> =
            tree.nodes().filter_map(|node| Some((node.phandle()?, node.id().0))).collect();
        phandles.sort_unstable();
        tree.phandles = phandles;
        Ok(tree)
    }

    /// All properties of `node` are there: sort them for look-up and take what its children inherit. Once per node.
    fn seal_properties(&mut self, node: Option<u32>) {
        let Some(node) = node.and_then(|at| self.nodes.get_mut(at as usize)) else { return };
        let first = node.first_property as usize;
        let range = first..first.saturating_add(node.properties as usize);
        let Some(properties) = self.properties.get_mut(range) else { return };
        // Stable, so that of equal names the first stays first.
        properties.sort_by_key(|property| property.name);
        node.enabled = node.enabled && status_enables(lookup(properties, "status"));
        let cell = |name| lookup(properties, name).and_then(single_cell);
        node.child_cells = AddressCells {
            address: cell("#address-cells").unwrap_or(node.child_cells.address),
            size: cell("#size-cells").unwrap_or(node.child_cells.size),
        };
    }
}

/// Indices fit: [`TreeLimits`] keeps both tables far below 2^32.
fn index(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

fn check_name(name: &str, root: bool) -> Result<(), TreeError> {
    if name.is_empty() != root {
        return Err(TreeError::NameEmpty);
    }
    if name.len() > TreeLimits::NAME {
        return Err(TreeError::NameTooLong(name.len()));
    }
    match name.bytes().find(|byte| !byte.is_ascii_graphic() || *byte == b'/') {
        Some(byte) => Err(TreeError::NameByte(byte)),
        None => Ok(()),
    }
}

/// No `status`, `okay` and its older spelling enable; `disabled`, `reserved`, `fail`, `fail-*` and anything unknown do not.
fn status_enables(status: Option<&[u8]>) -> bool {
    let text = status.map(|value| value.strip_suffix(b"\0").unwrap_or(value));
    matches!(text, None | Some(b"okay" | b"ok"))
}

fn single_cell(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(value.try_into().ok()?))
}

/// The first of `properties` (sorted by name) with that name.
fn lookup<'a>(properties: &[Property<'a>], name: &str) -> Option<&'a [u8]> {
    let at = properties.partition_point(|property| property.name < name);
    properties.get(at).filter(|property| property.name == name).map(|property| property.value)
}

/// A devicetree whose names and values lie in a buffer of lifetime `'a`.
///
/// A kernel finds its console, interrupt controller and timers in the same parse as its IOMMUs: [`lower`](super::lower) makes the description, and
/// [`nodes`](Self::nodes), [`at`](Self::at) and [`node`](Self::node) read the rest. The [`FwNode`] of a description is the node's number here.
///
/// ```
/// use portcullis_firmware::devicetree::{FlatTree, lower};
///
/// let blob = include_bytes!("../../../../boards/portcullis-default.dtb");
/// let flat = FlatTree::new(blob)?;
/// let tree = flat.tree()?;
/// let machine = lower(&tree, &flat.reservations()?, "portcullis-default");
///
/// // The same node, as what the core is told of and as what the devicetree says.
/// let smmu = &machine.iommus[0];
/// let node = tree.node(smmu.node).expect("it was read from this tree");
/// assert_eq!(node.path(), smmu.path);
/// assert!(node.is_compatible("arm,smmu-v3"));
/// assert_eq!(node.registers().first().copied(), smmu.registers);
///
/// // Whatever else the kernel needs.
/// let memory = tree.nodes().find(|node| node.name().starts_with("memory@")).expect("RAM");
/// assert_eq!(memory.registers(), machine.memory);
/// assert!(tree.at("/soc").is_some() && tree.at("/soc/nothing").is_none());
/// # Ok::<(), portcullis_firmware::ReadError>(())
/// ```
#[derive(Debug)]
pub struct Tree<'a> {
    nodes: Vec<NodeRecord<'a>>,
    /// Sorted by name within each node.
    properties: Vec<Property<'a>>,
    /// (phandle, node), sorted.
    phandles: Vec<(u32, u32)>,
}

impl<'a> Tree<'a> {
    /// Number of nodes, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a tree is never empty")]
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether it is an overlay, as `dtc` writes one: references to be resolved against a base tree, or fragments with an `__overlay__`.
    pub fn is_overlay(&self) -> bool {
        let fragment = |node: Node<'_, '_>| node.children().any(|it| it.name() == "__overlay__");
        let mut children = self.nodes().next().into_iter().flat_map(Node::children);
        children.any(|child| child.name() == "__fixups__" || fragment(child))
    }

    /// All nodes in document order, the root first.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_, 'a>> {
        self.nodes.iter().zip(0u32..).map(|(record, index)| Node {
            tree: self,
            record,
            id: FwNode(index),
        })
    }

    /// The node with that number; `None` where there are not so many.
    pub fn node(&self, id: FwNode) -> Option<Node<'_, 'a>> {
        let record = self.nodes.get(id.0 as usize)?;
        Some(Node { tree: self, record, id })
    }

    /// The node at `path`, whose names are given whole, unit addresses included: `/soc/pcie@40000000`. `/` is the root. No aliases.
    #[doc(alias = "of_find_node_by_path")]
    pub fn at(&self, path: &str) -> Option<Node<'_, 'a>> {
        let mut names = path.strip_prefix('/')?.split('/').filter(|name| !name.is_empty());
        names.try_fold(self.node(FwNode(0))?, |above, name| {
            above.children().find(|child| child.name() == name)
        })
    }

    /// The node that `phandle` refers to; `None` where no node has that phandle, or more than one.
    #[doc(alias = "of_find_node_by_phandle")]
    pub fn with_phandle(&self, phandle: u32) -> Option<Node<'_, 'a>> {
        self.by_phandle(phandle).ok()
    }

    pub(crate) fn by_phandle(&self, phandle: u32) -> Result<Node<'_, 'a>, PhandleError> {
        let at = self.phandles.partition_point(|(known, _)| *known < phandle);
        let mut found =
            self.phandles.iter().skip(at).take_while(|(known, _)| *known == phandle).take(2);
        match (found.next(), found.next()) {
            (Some((_, node)), None) => self.node(FwNode(*node)).ok_or(PhandleError::Dangling),
            (Some(_), Some(_)) => Err(PhandleError::Ambiguous),
            (None, _) => Err(PhandleError::Dangling),
        }
    }
}

/// One node of a [`Tree`]. A copy of it costs nothing.
#[derive(Clone, Copy, Debug)]
#[doc(alias = "device_node")]
pub struct Node<'t, 'a> {
    tree: &'t Tree<'a>,
    record: &'t NodeRecord<'a>,
    id: FwNode,
}

impl<'t, 'a> Node<'t, 'a> {
    pub(super) fn tree(self) -> &'t Tree<'a> {
        self.tree
    }

    /// Its number in the tree, which descriptions use.
    pub fn id(self) -> FwNode {
        self.id
    }

    /// Its name with the unit address, such as `serial@9000000`; empty for the root.
    pub fn name(self) -> &'a str {
        self.record.name
    }

    /// Whether it and all nodes above it are enabled (`status` is missing, `okay` or `ok`).
    pub fn enabled(self) -> bool {
        self.record.enabled
    }

    /// The node above it; `None` for the root.
    pub fn parent(self) -> Option<Node<'t, 'a>> {
        if self.id.0 == 0 { None } else { self.tree.node(FwNode(self.record.parent)) }
    }

    /// It and all nodes above it, up to the root.
    pub(crate) fn up(self) -> impl Iterator<Item = Node<'t, 'a>> {
        core::iter::successors(Some(self), |node| node.parent())
    }

    /// The nodes right below it, in document order.
    pub fn children(self) -> impl Iterator<Item = Node<'t, 'a>> {
        let end = self.record.end;
        let at = move |index| (index < end).then(|| self.tree.node(FwNode(index))).flatten();
        core::iter::successors(at(self.id.0.saturating_add(1)), move |child| at(child.record.end))
    }

    /// Its full path.
    pub fn path(self) -> String {
        if self.id.0 == 0 {
            return String::from("/");
        }
        let mut names: Vec<_> = self.up().map(Node::name).collect();
        names.pop(); // the root's, empty
        let mut path = String::with_capacity(usize::from(self.record.path_len));
        for name in names.iter().rev() {
            path.push('/');
            path.push_str(name);
        }
        path
    }

    /// The bytes of a property; `None` where it is missing. Of several with one name, the first counts.
    #[doc(alias = "of_get_property")]
    pub fn property(self, name: &str) -> Option<&'a [u8]> {
        let first = self.record.first_property as usize;
        let end = first.saturating_add(self.record.properties as usize);
        lookup(self.tree.properties.get(first..end)?, name)
    }

    /// All properties with their bytes, sorted by name.
    pub fn properties(self) -> impl Iterator<Item = (&'a str, &'a [u8])> {
        let first = self.record.first_property as usize;
        let end = first.saturating_add(self.record.properties as usize);
        let own = self.tree.properties.get(first..end).unwrap_or_default();
        own.iter().map(|property| (property.name, property.value))
    }

    pub(crate) fn has(self, name: &str) -> bool {
        self.property(name).is_some()
    }

    /// A property of exactly one cell; `None` where it is missing or of another length.
    #[doc(alias = "of_property_read_u32")]
    pub fn cell(self, name: &str) -> Option<u32> {
        self.property(name).and_then(single_cell)
    }

    /// The entries of a string list that are valid UTF-8, not empty and without control characters.
    pub fn strings(self, name: &str) -> impl Iterator<Item = &'a str> {
        let value = self.property(name).unwrap_or_default();
        let value = value.strip_suffix(b"\0").unwrap_or(value);
        value.split(|byte| *byte == 0).filter_map(|text| core::str::from_utf8(text).ok()).filter(
            // Names reach terminals.
            |text| !text.is_empty() && !text.contains(char::is_control),
        )
    }

    /// Whether its `compatible` names `what`.
    #[doc(alias = "of_device_is_compatible")]
    pub fn is_compatible(self, what: &str) -> bool {
        self.strings("compatible").any(|known| known == what)
    }

    pub(crate) fn owned_strings(self, name: &str) -> Vec<String> {
        self.strings(name).map(String::from).collect()
    }

    /// The cell counts of the addresses in its children's `reg`.
    pub(crate) fn child_cells(self) -> AddressCells {
        self.record.child_cells
    }

    /// The cell counts of the addresses in its own `reg`.
    pub(crate) fn own_cells(self) -> AddressCells {
        self.parent().unwrap_or(self).child_cells()
    }

    /// The number by which other nodes refer to it; `None` where it has none.
    pub fn phandle(self) -> Option<u32> {
        let phandle = self.cell("phandle").or_else(|| self.cell("linux,phandle"))?;
        (phandle != 0 && phandle != u32::MAX).then_some(phandle)
    }
}

/// A property's value as cells; `None` where it is not a whole number of them.
pub(crate) fn cells(value: &[u8]) -> Option<Vec<u32>> {
    let (chunks, rest) = value.as_chunks::<4>();
    rest.is_empty().then(|| chunks.iter().map(|chunk| u32::from_be_bytes(*chunk)).collect())
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
