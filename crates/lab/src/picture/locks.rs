//! A letter for each lock of a run.

use super::Ladder;

/// The locks of a run, in the order in which they were first taken, each with its letter.
#[derive(Debug)]
pub(crate) struct Locks {
    pub(crate) letters: Vec<(char, String)>,
}

impl Locks {
    pub(crate) fn of(ladder: &Ladder) -> Self {
        let mut letters: Vec<(char, String)> = Vec::new();
        for lock in ladder.rungs.iter().flat_map(|rung| rung.held.iter().flatten()) {
            if letters.iter().all(|(_, known)| known != lock) {
                letters.push((letter(lock, &letters), lock.clone()));
            }
        }
        Self { letters }
    }

    /// Which of them a thread ever holds, by place in [`Self::letters`].
    pub(crate) fn of_thread(&self, ladder: &Ladder, thread: usize) -> Vec<usize> {
        let holds = |lock: &String| {
            ladder
                .rungs
                .iter()
                .any(|rung| rung.held.get(thread).is_some_and(|held| held.contains(lock)))
        };
        (0..self.letters.len()).filter(|at| holds(&self.letters[*at].1)).collect()
    }
}

/// A free letter that reminds of the lock.
fn letter(lock: &str, taken: &[(char, String)]) -> char {
    let free = |letter: &char| taken.iter().all(|(known, _)| known != letter);
    let wanted = if lock.contains("probe_device_lock") {
        "P"
    } else if lock.starts_with("device_lock") {
        "DEF"
    } else if lock.contains("group") {
        "GHK"
    } else {
        ""
    };
    let own =
        lock.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_uppercase());
    wanted.chars().chain(own).chain('A'..='Z').chain('a'..='z').find(free).unwrap_or('*')
}
