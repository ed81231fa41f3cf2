//! The groups of devices that nothing isolates from each other, although their streams differ.

use crate::description::IsolationSet;
use hashbrown::HashMap;

/// By set, the group (`G`) of its devices, and how many there are.
#[derive(Debug)]
pub(crate) struct Neighbours<G>(HashMap<IsolationSet, (G, usize)>);

impl<G: Clone> Neighbours<G> {
    pub(crate) fn new() -> Self {
        Self(HashMap::new())
    }

    /// The group of those that are there.
    pub(crate) fn group(&self, set: IsolationSet) -> Option<&G> {
        self.0.get(&set).map(|(group, _)| group)
    }

    /// Notes one more device. A set that is known keeps its group, which the device joins.
    pub(crate) fn add(&mut self, set: IsolationSet, group: &G) {
        self.0.entry(set).or_insert_with(|| (group.clone(), 0)).1 += 1;
    }

    /// Forgets one of a set's devices, and with the last one the set.
    pub(crate) fn remove(&mut self, set: IsolationSet) {
        if let Some((_, devices)) = self.0.get_mut(&set) {
            *devices -= 1;
            if *devices == 0 {
                self.0.remove(&set);
            }
        }
    }
}
