//! How a scheduler sees the machine's steps, and decides which comes next.

use std::fmt;
use std::sync::Arc;

/// Told of every step that the machine takes and that another thread could observe: a register access, a DMA access, a
/// command taken from a queue, a chunk of a configuration entry read.
///
/// The schedule explorer makes each of them a scheduling point. The machine holds no lock of its own during the call, so the hook may switch to another
/// coroutine, or use the machine itself.
pub trait StepHook: Send + Sync {
    /// The machine is about to do `what` to `object` number `index` (`"smmu"`, `"iommu"`: instance; `"device"`: device; `"clock"`: 0).
    fn step(&self, object: &'static str, index: u64, what: &'static str, write: bool);
}

/// The hook that does nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHook;

impl StepHook for NoHook {
    fn step(&self, _object: &'static str, _index: u64, _what: &'static str, _write: bool) {}
}

/// A shared hook; absent by default, which costs one branch a step.
#[derive(Clone, Default)]
pub(crate) struct Hook(Option<Arc<dyn StepHook>>);

impl Hook {
    pub(crate) fn new(hook: Arc<dyn StepHook>) -> Self {
        Self(Some(hook))
    }

    pub(crate) fn step(&self, object: &'static str, index: u64, what: &'static str, write: bool) {
        self.step_named(object, index, || what, write);
    }

    /// As [`step`](Self::step), with a name that is looked up only when somebody listens.
    pub(crate) fn step_named(
        &self,
        object: &'static str,
        index: u64,
        what: impl FnOnce() -> &'static str,
        write: bool,
    ) {
        if let Some(hook) = &self.0 {
            hook.step(object, index, what(), write);
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Hook(set)" } else { "Hook(none)" })
    }
}
