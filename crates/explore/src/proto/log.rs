//! The log of a thread: what it has observed, with finished calls collapsed to what they returned.

/// What stands at one place of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A step observed this.
    Observed,
    /// A call began here and has not returned.
    Enter,
    /// A call that began here returned this.
    Returned,
    /// A loop is at this state, at the start of an iteration.
    Loop,
}

/// A packed sequence of entries with their values, and how far it has been read.
///
/// An entry is a byte with the kind in its low two bits and the value above; a value of 63 or more follows as
/// eight bytes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log {
    bytes: Vec<u8>,
    at: usize,
}

const LONG: u8 = 63;

impl Log {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    pub(crate) fn append(bytes: &mut Vec<u8>, entry: Entry, value: u64) {
        let short = if value < u64::from(LONG) { value as u8 } else { LONG };
        bytes.push(short << 2 | entry as u8);
        if short == LONG {
            bytes.extend(value.to_le_bytes());
        }
    }

    /// Whether everything has been read: what happens now, happens for the first time.
    pub(crate) fn is_live(&self) -> bool {
        self.at == self.bytes.len()
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The next entry, if there is one; it counts as read.
    pub(crate) fn next(&mut self) -> Option<(Entry, u64)> {
        let first = *self.bytes.get(self.at)?;
        self.at += 1;
        let entry = match first & 3 {
            0 => Entry::Observed,
            1 => Entry::Enter,
            2 => Entry::Returned,
            _ => Entry::Loop,
        };
        if first >> 2 < LONG {
            return Some((entry, u64::from(first >> 2)));
        }
        let mut word = [0; 8];
        word.copy_from_slice(&self.bytes[self.at..self.at + 8]);
        self.at += 8;
        Some((entry, u64::from_le_bytes(word)))
    }

    /// Adds an entry at the end, read at once.
    pub(crate) fn push(&mut self, entry: Entry, value: u64) {
        Self::append(&mut self.bytes, entry, value);
        self.at = self.bytes.len();
    }

    /// Replaces everything from `start` on by one entry.
    pub(crate) fn collapse(&mut self, start: usize, entry: Entry, value: u64) {
        self.bytes.truncate(start);
        self.push(entry, value);
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_and_collapse() {
        let mut log = Log::default();
        let all = [
            (Entry::Observed, 0),
            (Entry::Enter, 0),
            (Entry::Returned, 62),
            (Entry::Loop, 63),
            (Entry::Observed, u64::MAX),
        ];
        for (entry, value) in all {
            log.push(entry, value);
        }
        let mut again = Log::new(log.clone().into_bytes());
        for expected in all {
            assert!(!again.is_live());
            assert_eq!(again.next(), Some(expected));
        }
        assert!(again.is_live());
        log.collapse(1, Entry::Returned, 7);
        let mut again = Log::new(log.into_bytes());
        assert_eq!(again.next(), Some(all[0]));
        assert_eq!(again.next(), Some((Entry::Returned, 7)));
        assert_eq!(again.next(), None);
    }
}
