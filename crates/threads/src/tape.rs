//! The values that [`choose`](crate::choose) returns.

use crate::random::Rng;

/// A script to follow, what to do after its end, and a log of what was returned.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    script: Vec<u8>,
    next: usize,
    random: Option<Rng>,
    /// (number of alternatives, the one taken), in order.
    pub(crate) log: Vec<(u8, u8)>,
}

impl Tape {
    /// Rewinds, with the first values given; later ones are 0, or drawn where `random` is given.
    pub(crate) fn load(&mut self, script: impl Iterator<Item = u8>, random: Option<Rng>) {
        self.script.clear();
        self.script.extend(script);
        self.next = 0;
        self.random = random;
        self.log.clear();
    }

    /// One of `0..n`.
    pub(crate) fn choose(&mut self, n: u8) -> u8 {
        let scripted = self.script.get(self.next).copied();
        self.next += 1;
        let value = match (scripted, &mut self.random) {
            (Some(value), _) => value.min(n - 1),
            (None, Some(random)) => random.below(u32::from(n)) as u8,
            (None, None) => 0,
        };
        self.log.push((n, value));
        value
    }
}
