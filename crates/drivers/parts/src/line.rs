//! Who waits for room in the queue: first come, first served.

/// Turns are numbers in the order of arrival. Whoever holds `serving` may place commands as soon as there is room; nobody else, however small
/// the request, so that a large batch is not starved by small ones.
///
/// # Invariants
///
/// `serving <= next <= serving + PLACES`; a bit of `left` is set only for turns in `serving..next`.
#[derive(Debug, Default)]
pub struct Line {
    next: u64,
    serving: u64,
    /// Bit `turn % PLACES`: whoever had that turn has gone.
    left: u64,
}

impl Line {
    /// How many can stand in line; more than that ask again until there is a place.
    const PLACES: u64 = 64;

    /// Whether it is the turn of whoever holds `turn`, or, with `None`, of a newcomer.
    #[inline]
    pub fn is_turn(&self, turn: Option<u64>) -> bool {
        turn.unwrap_or(self.next) == self.serving
    }

    /// A turn at the end of the line; `None` where the line is full.
    pub fn join(&mut self) -> Option<u64> {
        let turn = self.next;
        if turn - self.serving == Self::PLACES {
            return None;
        }
        self.next += 1;
        Some(turn)
    }

    /// Gives a turn back: it was used, or its holder no longer waits.
    #[inline]
    pub fn leave(&mut self, turn: u64) {
        self.left |= Self::bit(turn);
        while self.serving < self.next && self.left & Self::bit(self.serving) != 0 {
            self.left &= !Self::bit(self.serving);
            self.serving += 1;
        }
    }

    fn bit(turn: u64) -> u64 {
        1 << (turn % Self::PLACES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_in_order_and_those_given_up_are_passed_over() {
        let mut line = Line::default();
        assert!(line.is_turn(None), "nobody waits: a newcomer need not either");
        let turns: [u64; 4] = core::array::from_fn(|_| line.join().expect("room in the line"));
        assert!(!line.is_turn(None), "a newcomer does not jump the line");
        assert!(line.is_turn(Some(turns[0])) && !line.is_turn(Some(turns[1])));
        line.leave(turns[2]);
        line.leave(turns[1]);
        assert!(line.is_turn(Some(turns[0])), "others that give up change nothing for the first");
        line.leave(turns[0]);
        assert!(line.is_turn(Some(turns[3])));
        line.leave(turns[3]);
        assert!(line.is_turn(None));
    }

    #[test]
    fn a_full_line_takes_nobody_until_one_has_left() {
        let mut line = Line::default();
        for round in 0..3 {
            let first = line.join().expect("an empty line");
            for _ in 1..Line::PLACES {
                assert!(line.join().is_some(), "round {round}");
            }
            assert_eq!(line.join(), None);
            line.leave(first + 5);
            assert_eq!(line.join(), None, "the places move up only at the front");
            line.leave(first);
            let last = line.join().expect("one has left");
            for turn in first..=last {
                if turn != first && turn != first + 5 {
                    line.leave(turn);
                }
            }
            assert!(line.is_turn(None));
        }
    }
}
