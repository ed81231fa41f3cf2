//! Who waits at a node: each once, in order of arrival, and removed in constant time.

use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

/// A place in a [`WaitList`], good until the list is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seat {
    round: u64,
    index: usize,
}

/// Those who wait.
#[derive(Debug)]
pub(crate) struct WaitList<D> {
    /// How often the list was taken.
    round: u64,
    seats: Vec<Option<Weak<D>>>,
    free: Vec<usize>,
}

impl<D> WaitList<D> {
    pub(crate) const fn new() -> Self {
        Self { round: 0, seats: Vec::new(), free: Vec::new() }
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.seats.len() - self.free.len()
    }

    /// Takes `who` in. `before` is the seat that it got here last, and keeps if it still has it.
    pub(crate) fn enter(&mut self, who: &Arc<D>, before: Option<Seat>) -> Seat {
        if let Some(seat) = before.filter(|seat| self.sits(who, *seat)) {
            return seat;
        }
        let index = self.free.pop().unwrap_or(self.seats.len());
        let entry = Some(Arc::downgrade(who));
        match self.seats.get_mut(index) {
            Some(seat) => *seat = entry,
            None => self.seats.push(entry),
        }
        Seat { round: self.round, index }
    }

    /// Lets `who` go, unless the list was taken meanwhile.
    pub(crate) fn leave(&mut self, who: &Arc<D>, seat: Seat) {
        if self.sits(who, seat) {
            self.seats[seat.index] = None;
            self.free.push(seat.index);
        }
    }

    /// Takes everybody off the list.
    pub(crate) fn take(&mut self) -> Vec<Weak<D>> {
        self.round += 1;
        self.free.clear();
        core::mem::take(&mut self.seats).into_iter().flatten().collect()
    }

    /// Returns everybody and leaves them on the list, where nobody can remove them any more: what [`Safeguard::WokenLeave`](crate::Safeguard::WokenLeave) prevents.
    pub(crate) fn leave_behind(&mut self) -> Vec<Weak<D>> {
        self.round += 1;
        self.seats.iter().flatten().cloned().collect()
    }

    fn sits(&self, who: &Arc<D>, seat: Seat) -> bool {
        let entry = self.seats.get(seat.index).and_then(Option::as_ref);
        // An address cannot be another's while a weak reference to it is in the list.
        seat.round == self.round
            && entry.is_some_and(|entry| core::ptr::eq(entry.as_ptr(), Arc::as_ptr(who)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_sits_once_and_seats_are_used_again() {
        let people: Vec<_> = (0..100).map(Arc::new).collect();
        let mut list = WaitList::new();
        let seats: Vec<_> = people.iter().map(|who| list.enter(who, None)).collect();
        for (who, seat) in people.iter().zip(&seats) {
            assert_eq!(list.enter(who, Some(*seat)), *seat);
        }
        assert_eq!(list.len(), 100);
        for round in 0..1000 {
            let who = &people[round % 100];
            list.leave(who, seats[round % 100]);
            list.leave(who, seats[round % 100]);
            assert_eq!(list.len(), 99);
            assert_eq!(list.enter(who, None), seats[round % 100]);
        }
        assert_eq!(list.take().len(), 100);
        list.leave(&people[3], seats[3]);
        let seat = list.enter(&people[4], Some(seats[4]));
        assert_ne!(seat, seats[4], "of an earlier round");
        assert_eq!(list.len(), 1);
    }
}
