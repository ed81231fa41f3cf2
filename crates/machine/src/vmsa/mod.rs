//! What Arm's SMMUs of versions 2 and 3 share: the tables that they walk and the TLB that keeps what they found.

mod tlb;
mod walk;

pub(crate) use tlb::{Leaf, Regime, Scope, Span, Tag, Translations};
pub(crate) use walk::{Page, Permissions, Stage, Table, TableEntry, WalkFault, Walker};
