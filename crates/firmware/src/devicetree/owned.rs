//! A tree that owns its names and values, and can be changed: read from a directory, or a base with overlays applied on top.

use super::tree::{Node, Tree, TreeBuilder, TreeError, cells};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

/// A node with all that is below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnedNode {
    /// Its name with unit address; empty for the root.
    pub name: String,
    /// Its properties. Of several with one name, the first counts.
    pub properties: Vec<(String, Vec<u8>)>,
    /// Its children, in order.
    pub children: Vec<OwnedNode>,
}

/// Why an overlay cannot be applied. Paths and labels are those of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OverlayError {
    /// It has no fragment with an `__overlay__`.
    NoFragments,
    /// A fragment names no target, or one that the base does not have.
    Target {
        /// The fragment's name.
        fragment: String,
    },
    /// `__fixups__` names a label that the base's `__symbols__` do not have, or whose node has no phandle.
    Label {
        /// The label.
        label: String,
    },
    /// An entry of `__fixups__` or `__local_fixups__` points to no cell of the overlay.
    Fixup {
        /// Where it stands.
        at: String,
    },
    /// The base's and the overlay's phandles together do not fit 32 bits.
    Phandles,
}

impl fmt::Display for OverlayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the overlay cannot be applied: ")?;
        match self {
            Self::NoFragments => f.write_str("it has no fragment; is it an overlay?"),
            Self::Target { fragment } => {
                write!(f, "{fragment} names no target that the base has")
            }
            Self::Label { label } => write!(
                f,
                "the base has no symbol \"{label}\" with a phandle; compile it with `dtc -@`"
            ),
            Self::Fixup { at } => write!(f, "the fixup {at} points to no cell"),
            Self::Phandles => f.write_str("phandles beyond 32 bits"),
        }
    }
}

impl core::error::Error for OverlayError {}

impl OwnedNode {
    /// A copy of `tree`.
    pub fn of(tree: &Tree<'_>) -> Self {
        tree.nodes().next().map(Self::copy).unwrap_or_default()
    }

    /// As deep as the tree, which `TreeLimits::DEPTH` bounds.
    fn copy(node: Node<'_, '_>) -> Self {
        Self {
            name: node.name().to_owned(),
            properties: node
                .properties()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            children: node.children().map(Self::copy).collect(),
        }
    }

    /// The tree with this node as its root, to be lowered.
    ///
    /// # Errors
    ///
    /// It exceeds [`super::TreeLimits`], or a name is malformed.
    pub fn tree(&self) -> Result<Tree<'_>, TreeError> {
        let mut builder = TreeBuilder::new();
        self.build(&mut builder)?;
        builder.finish()
    }

    /// The builder refuses what is too deep before the next level is entered.
    fn build<'a>(&'a self, builder: &mut TreeBuilder<'a>) -> Result<(), TreeError> {
        builder.begin_node(&self.name)?;
        for (name, value) in &self.properties {
            builder.property(name, value)?;
        }
        self.children.iter().try_for_each(|child| child.build(builder))?;
        builder.end_node()
    }

    fn property(&self, name: &str) -> Option<&[u8]> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_slice())
    }

    fn property_mut(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        self.properties.iter_mut().find(|(known, _)| known == name).map(|(_, value)| value)
    }

    fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    fn descend(&self, path: &str) -> Option<&Self> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(self, |node, part| node.child(part))
    }

    fn descend_mut(&mut self, path: &str) -> Option<&mut Self> {
        path.split('/')
            .filter(|part| !part.is_empty())
            .try_fold(self, |node, part| node.children.iter_mut().find(|child| child.name == part))
    }

    fn phandle(&self) -> Option<u32> {
        let value = self.property("phandle").or_else(|| self.property("linux,phandle"))?;
        Some(u32::from_be_bytes(value.try_into().ok()?))
    }

    fn largest_phandle(&self) -> u32 {
        let below = self.children.iter().map(Self::largest_phandle);
        below.chain(self.phandle().filter(|it| *it != u32::MAX)).max().unwrap_or(0)
    }

    /// The path of the node with this phandle.
    fn path_of(&self, phandle: u32, path: &str) -> Option<String> {
        if self.phandle() == Some(phandle) {
            return Some(path.to_string());
        }
        self.children
            .iter()
            .find_map(|child| child.path_of(phandle, &format!("{path}/{}", child.name)))
    }

    /// Applies `overlay` on top of this base, as the overlay format has it (dtc, Documentation/dt-object-internal.txt): its phandles are moved behind
    /// the base's, its references to labels are resolved against `__symbols__`, and each fragment's `__overlay__` is merged into its target.
    ///
    /// # Errors
    ///
    /// What does not fit; the base may have been changed in part.
    pub fn apply(&mut self, overlay: &Tree<'_>) -> Result<(), OverlayError> {
        let mut overlay = Self::of(overlay);
        let by = self.largest_phandle();
        if let Some(local) = overlay.take("__local_fixups__") {
            overlay.move_references(&local, by, "")?;
        }
        overlay.move_phandles(by)?;
        if let Some(fixups) = overlay.take("__fixups__") {
            for (label, places) in &fixups.properties {
                let phandle = self
                    .labelled(label)
                    .ok_or_else(|| OverlayError::Label { label: label.clone() })?;
                overlay.resolve(places, phandle)?;
            }
        }
        let symbols = overlay.take("__symbols__");
        let mut applied = 0u32;
        for mut fragment in overlay.children {
            let Some(changes) = fragment.take("__overlay__") else { continue };
            let missing = || OverlayError::Target { fragment: fragment.name.clone() };
            let path = self.target(&fragment).ok_or_else(missing)?;
            self.descend_mut(&path).ok_or_else(missing)?.merge(changes);
            if let Some(symbols) = &symbols {
                self.add_symbols(symbols, &format!("/{}/__overlay__", fragment.name), &path);
            }
            applied = applied.saturating_add(1);
        }
        if applied == 0 { Err(OverlayError::NoFragments) } else { Ok(()) }
    }

    fn take(&mut self, name: &str) -> Option<Self> {
        let at = self.children.iter().position(|child| child.name == name)?;
        Some(self.children.remove(at))
    }

    fn labelled(&self, label: &str) -> Option<u32> {
        let path = text(self.child("__symbols__")?.property(label)?)?;
        self.descend(path)?.phandle()
    }

    fn target(&self, fragment: &Self) -> Option<String> {
        if let Some(path) = fragment.property("target-path") {
            return Some(text(path)?.to_string());
        }
        let phandle = fragment.property("target")?.try_into().ok()?;
        self.path_of(u32::from_be_bytes(phandle), "")
    }

    fn move_phandles(&mut self, by: u32) -> Result<(), OverlayError> {
        for name in ["phandle", "linux,phandle"] {
            if let Some(value) = self.property_mut(name) {
                add_at(value, 0, by).ok_or(OverlayError::Phandles)?;
            }
        }
        self.children.iter_mut().try_for_each(|child| child.move_phandles(by))
    }

    /// `local` has the shape of the overlay; each of its properties lists the offsets of the cells in the property of the same name that hold
    /// phandles of the overlay itself.
    fn move_references(&mut self, local: &Self, by: u32, path: &str) -> Result<(), OverlayError> {
        for (name, offsets) in &local.properties {
            let bad = || OverlayError::Fixup { at: format!("{path}:{name}") };
            let value = self.property_mut(name).ok_or_else(bad)?;
            for offset in cells(offsets).ok_or_else(bad)? {
                add_at(value, offset as usize, by).ok_or_else(bad)?;
            }
        }
        for child in &local.children {
            let path = format!("{path}/{}", child.name);
            let own = self.children.iter_mut().find(|own| own.name == child.name);
            let own = own.ok_or_else(|| OverlayError::Fixup { at: path.clone() })?;
            own.move_references(child, by, &path)?;
        }
        Ok(())
    }

    /// Writes `phandle` to each of the `path:property:offset` places.
    fn resolve(&mut self, places: &[u8], phandle: u32) -> Result<(), OverlayError> {
        for place in places.split(|byte| *byte == 0).filter(|place| !place.is_empty()) {
            let bad = || OverlayError::Fixup { at: String::from_utf8_lossy(place).into_owned() };
            let place = core::str::from_utf8(place).map_err(|_| bad())?;
            let (rest, offset) = place.rsplit_once(':').ok_or_else(bad)?;
            let (path, property) = rest.rsplit_once(':').ok_or_else(bad)?;
            let offset: usize = offset.parse().map_err(|_| bad())?;
            let value = self.descend_mut(path).and_then(|node| node.property_mut(property));
            let cell = value.and_then(|value| value.get_mut(offset..)?.first_chunk_mut::<4>());
            *cell.ok_or_else(bad)? = phandle.to_be_bytes();
        }
        Ok(())
    }

    fn merge(&mut self, changes: Self) {
        for (name, value) in changes.properties {
            match self.property_mut(&name) {
                Some(own) => *own = value,
                None => self.properties.push((name, value)),
            }
        }
        for child in changes.children {
            match self.children.iter_mut().find(|own| own.name == child.name) {
                Some(own) => own.merge(child),
                None => self.children.push(child),
            }
        }
    }

    /// Labels of the overlay, for overlays on top of it.
    fn add_symbols(&mut self, symbols: &Self, from: &str, to: &str) {
        let moved = symbols.properties.iter().filter_map(|(label, path)| {
            let rest = text(path)?.strip_prefix(from)?;
            let rest = Some(rest).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            Some((label.clone(), format!("{}{rest}\0", to.trim_end_matches('/')).into_bytes()))
        });
        let moved = Self { name: String::new(), properties: moved.collect(), children: Vec::new() };
        match self.children.iter_mut().find(|child| child.name == "__symbols__") {
            Some(own) => own.merge(moved),
            None => self.children.push(Self { name: "__symbols__".into(), ..moved }),
        }
    }
}

fn text(value: &[u8]) -> Option<&str> {
    core::str::from_utf8(value.strip_suffix(b"\0")?).ok()
}

/// Adds `by` to the cell at `offset`; `None` where there is none or the sum does not fit.
fn add_at(value: &mut [u8], offset: usize, by: u32) -> Option<()> {
    let cell = value.get_mut(offset..)?.first_chunk_mut::<4>()?;
    *cell = u32::from_be_bytes(*cell).checked_add(by)?.to_be_bytes();
    Some(())
}
