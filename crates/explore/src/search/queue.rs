//! The states waiting to be expanded: a queue that gives memory back as it drains.

use std::collections::VecDeque;

/// A first-in-first-out queue in chunks, so that it never holds a copy twice as large as its content.
#[derive(Debug)]
pub(crate) struct Queue<S> {
    chunks: VecDeque<VecDeque<S>>,
    len: usize,
    peak: usize,
}

const CHUNK: usize = 2048;

impl<S> Queue<S> {
    pub(crate) fn new() -> Self {
        Self { chunks: VecDeque::new(), len: 0, peak: 0 }
    }

    pub(crate) fn push(&mut self, state: S) {
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK => chunk.push_back(state),
            _ => {
                let mut chunk = VecDeque::with_capacity(CHUNK);
                chunk.push_back(state);
                self.chunks.push_back(chunk);
                self.peak = self.peak.max(self.chunks.len());
            }
        }
        self.len += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<S> {
        let chunk = self.chunks.front_mut()?;
        let state = chunk.pop_front()?;
        self.len -= 1;
        if chunk.is_empty() {
            self.chunks.pop_front();
        }
        Some(state)
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The most bytes it ever held.
    pub(crate) fn peak_bytes(&self) -> usize {
        self.peak * CHUNK * size_of::<S>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_across_chunks() {
        let mut queue = Queue::new();
        let mut next = 0;
        for i in 0..10_000 {
            queue.push(i);
            if i % 3 == 0 {
                assert_eq!(queue.pop(), Some(next));
                next += 1;
            }
        }
        assert_eq!(queue.len(), 10_000 - next);
        while let Some(i) = queue.pop() {
            assert_eq!(i, next);
            next += 1;
        }
        assert_eq!((next, queue.len()), (10_000, 0));
    }
}
