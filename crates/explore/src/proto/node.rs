//! The local states of a thread, numbered as they are met.

use std::collections::HashMap;
use std::rc::Rc;

use super::equal::Exchange;
use super::learnt::Locks;
use super::log::{Entry, Log};
use super::spec::{Body, Spec};
use super::thread::{Op, Run, Thread};
use crate::search::{Note, PropertySet};

/// A local state: its next operation, and where each observation leads.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) op: Op,
    /// Mutexes held, and the thread's own bit.
    pub(crate) held: Locks,
    /// Children by observation 0 to 3; 0 where not known. [`MARKED`] if the edge carries hits or notes.
    near: [u32; NEAR],
    far: HashMap<u64, u32>,
    pub(crate) functions: Vec<&'static str>,
    pub(crate) why: String,
    pub(crate) ordinal: u16,
    log: Rc<[u8]>,
}

const NEAR: usize = 4;
const MARKED: u32 = 1 << 31;

/// What lies on the way from one local state to the next besides the observation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    pub(crate) hits: PropertySet,
    pub(crate) notes: Vec<Note>,
}

/// All local states of one thread. Number 0 is "not started".
#[derive(Debug)]
pub(crate) struct Nodes {
    all: Vec<Node>,
    index: HashMap<(Rc<[u8]>, Locks), u32>,
    edges: HashMap<(u32, u64), Edge>,
}

/// The number of a thread that was not started.
pub(crate) const DORMANT: u32 = 0;

impl Nodes {
    pub(crate) fn new() -> Self {
        let dormant = Node {
            op: Op::Finished,
            held: 0,
            near: [0; NEAR],
            far: HashMap::new(),
            functions: Vec::new(),
            why: String::new(),
            ordinal: 0,
            log: Rc::from([]),
        };
        Self { all: vec![dormant], index: HashMap::new(), edges: HashMap::new() }
    }

    pub(crate) fn get(&self, node: u32) -> &Node {
        &self.all[node as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Where `observed` leads from `node`, if that is known; with the edge's hits.
    pub(crate) fn child(&self, node: u32, observed: u64) -> Option<(u32, PropertySet)> {
        let from = self.get(node);
        let child = if observed < NEAR as u64 {
            from.near[observed as usize]
        } else {
            from.far.get(&observed).copied().unwrap_or(0)
        };
        match child {
            0 => None,
            marked if marked & MARKED != 0 => {
                let edge = self.edges.get(&(node, observed)).map_or(PropertySet::EMPTY, |e| e.hits);
                Some((marked & !MARKED, edge))
            }
            plain => Some((plain, PropertySet::EMPTY)),
        }
    }

    pub(crate) fn edge(&self, node: u32, observed: u64) -> Option<&Edge> {
        self.edges.get(&(node, observed))
    }

    /// The first local state of a thread that holds `held`, and what lies on the way to it.
    pub(crate) fn first(
        &mut self,
        spec: &Spec,
        body: &Body,
        held: Locks,
    ) -> Result<(u32, Edge), String> {
        let run = Thread::run(spec, Vec::new(), body)?;
        Ok(self.intern(run, held))
    }

    /// Runs the thread's function to find where `observed` leads from `node`, after which it holds `held`.
    pub(crate) fn extend(
        &mut self,
        spec: &Spec,
        body: &Body,
        node: u32,
        observed: u64,
        held: Locks,
    ) -> Result<(), String> {
        let mut log = self.get(node).log.to_vec();
        Log::append(&mut log, Entry::Observed, observed);
        let run = Thread::run(spec, log, body)?;
        let (mut child, edge) = self.intern(run, held);
        if !edge.hits.is_empty() || !edge.notes.is_empty() {
            self.edges.insert((node, observed), edge);
            child |= MARKED;
        }
        let from = &mut self.all[node as usize];
        if observed < NEAR as u64 {
            from.near[observed as usize] = child;
        } else {
            from.far.insert(observed, child);
        }
        Ok(())
    }

    /// Takes in what corresponds to the local state `node` of an equal thread, whose number there is `number`. False if
    /// it does not have that number here, or another operation is next.
    pub(crate) fn adopt(
        &mut self,
        spec: &Spec,
        body: &Body,
        number: u32,
        node: &Node,
        exchange: &Exchange,
    ) -> Result<bool, String> {
        let run = match node.op {
            Op::Finished => Run::finished(),
            _ => Thread::run(spec, node.log.to_vec(), body)?,
        };
        let (here, _) = self.intern(run, exchange.locks(node.held));
        let twin = self.get(here);
        Ok(here == number
            && exchange.agrees(&node.op, &twin.op)
            && (&node.functions, node.ordinal) == (&twin.functions, twin.ordinal))
    }

    fn intern(&mut self, run: Run, held: Locks) -> (u32, Edge) {
        let Run { log, pending, hits, notes } = run;
        let log: Rc<[u8]> = log.into();
        let next = self.all.len() as u32;
        let number = *self.index.entry((Rc::clone(&log), held)).or_insert(next);
        if number == next {
            self.all.push(Node {
                op: pending.op,
                held,
                near: [0; NEAR],
                far: HashMap::new(),
                functions: pending.functions,
                why: pending.why,
                ordinal: pending.ordinal,
                log,
            });
        }
        (number, Edge { hits, notes })
    }
}
