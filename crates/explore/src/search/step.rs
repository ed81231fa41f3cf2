//! A step as a value: which operation, at which place of the code, what it saw and changed.

use std::fmt;

/// A field or a lock, as a trace names it: `dev->iommu_group` of `aa00000.video-codec`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Object {
    /// Whose it is; empty where there is only one.
    pub owner: String,
    /// Its name, the same for every owner.
    pub name: String,
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.owner.is_empty() {
            write!(f, "{}: ", self.owner)?;
        }
        f.write_str(&self.name)
    }
}

impl<S: Into<String>> From<S> for Object {
    /// An object that has no owner.
    fn from(name: S) -> Self {
        Self { owner: String::new(), name: name.into() }
    }
}

impl Object {
    /// An object of `owner`.
    #[must_use]
    pub fn of(owner: impl Into<String>, name: impl Into<String>) -> Self {
        Self { owner: owner.into(), name: name.into() }
    }
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Operation {
    /// Reads a field.
    Read(Object),
    /// Writes a field: which, and the value in words.
    Write(Object, String),
    /// Takes a lock, waiting for it.
    Lock(Object),
    /// Takes a lock if it is free.
    TryLock(Object),
    /// Gives a lock back.
    Unlock(Object),
    /// Several accesses in one step; [`Label::why`] says what they do together.
    Update,
    /// Waits for a condition, which [`Label::why`] tells.
    Wait,
    /// One of that many outcomes, which the environment chooses.
    Choose(u16),
    /// Starts the thread of this name.
    Start(String),
    /// The thread has not been started.
    Dormant,
    /// The thread has returned, or died.
    #[default]
    Finished,
}

impl Operation {
    /// The verb, without the object.
    #[must_use]
    pub fn action(&self) -> Action {
        match self {
            Self::Read(_) => Action::Read,
            Self::Write(..) => Action::Write,
            Self::Lock(_) => Action::Lock,
            Self::TryLock(_) => Action::TryLock,
            Self::Unlock(_) => Action::Unlock,
            Self::Update => Action::Update,
            Self::Wait => Action::Wait,
            Self::Choose(_) => Action::Choose,
            Self::Start(_) => Action::Start,
            Self::Dormant | Self::Finished => Action::Rest,
        }
    }

    /// The field or lock it is about, where it is one.
    #[must_use]
    pub fn object(&self) -> Option<&Object> {
        match self {
            Self::Read(object)
            | Self::Write(object, _)
            | Self::Lock(object)
            | Self::TryLock(object)
            | Self::Unlock(object) => Some(object),
            _ => None,
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(field) => write!(f, "read {field}"),
            Self::Write(field, value) => write!(f, "{field} = {value}"),
            Self::Lock(lock) => write!(f, "lock {lock}"),
            Self::TryLock(lock) => write!(f, "try to lock {lock}"),
            Self::Unlock(lock) => write!(f, "unlock {lock}"),
            Self::Update => f.write_str("update"),
            Self::Wait => f.write_str("wait"),
            Self::Choose(n) => write!(f, "one of {n}"),
            Self::Start(thread) => write!(f, "start {thread}"),
            Self::Dormant => f.write_str("not started"),
            Self::Finished => f.write_str("finished"),
        }
    }
}

/// The verb of an [`Operation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Action {
    /// Reads a field.
    Read,
    /// Writes a field.
    Write,
    /// Takes a lock.
    Lock,
    /// Takes a lock if it is free.
    TryLock,
    /// Gives a lock back.
    Unlock,
    /// Several accesses in one step.
    Update,
    /// Waits for a condition.
    Wait,
    /// The environment chooses.
    Choose,
    /// Starts a thread.
    Start,
    /// No step follows.
    #[default]
    Rest,
}

impl Action {
    /// The word of it in the text of a [`Site`].
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Lock => "lock",
            Self::TryLock => "trylock",
            Self::Unlock => "unlock",
            Self::Update => "update",
            Self::Wait => "wait",
            Self::Choose => "choose",
            Self::Start => "start",
            Self::Rest => "rest",
        }
    }
}

/// The place of a step in the code that the protocol stands for.
///
/// It names the step for as long as the function exists: neither the device it happens to work on, nor the
/// words that explain it, nor other steps that come or go in the same function change it. Its text is
/// `function:action(object)`, with `#1`, `#2`, ... where one call of the function does the same to the same
/// object again: `iommu_device_use_default_domain:lock(mutex)`, `really_probe:write(dev->driver)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Site {
    /// The innermost function, as the protocol names it; empty outside of any.
    pub function: &'static str,
    /// What is done there.
    pub action: Action,
    /// To which field or lock, whoever owns it; empty where the action has no single object.
    pub object: String,
    /// Its number, from 0, among the steps of this call with the same action on the same object.
    pub ordinal: u16,
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.function, self.action.word())?;
        if !self.object.is_empty() {
            write!(f, "({})", self.object)?;
        }
        if self.ordinal > 0 { write!(f, "#{}", self.ordinal) } else { Ok(()) }
    }
}

/// A step in words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Label {
    /// The thread's name.
    pub thread: String,
    /// The functions it is in, outermost first.
    pub functions: Vec<&'static str>,
    /// What the step does.
    pub operation: Operation,
    /// Why, in the protocol's words: "group already set?". May be empty.
    pub why: String,
    /// The place in the code.
    pub site: Site,
}

impl Label {
    /// What the step does, in words: "read dev->iommu_group", or what an update or a wait is for.
    #[must_use]
    pub fn what(&self) -> String {
        match &self.operation {
            Operation::Update => self.why.clone(),
            operation @ (Operation::Wait | Operation::Choose(_)) => {
                format!("{operation}: {}", self.why)
            }
            operation => operation.to_string(),
        }
    }

    /// Why, where [`what`](Self::what) does not say it already.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self.operation {
            Operation::Update | Operation::Wait | Operation::Choose(_) => "",
            _ => &self.why,
        }
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.thread)?;
        if let Some(function) = self.functions.last() {
            write!(f, "{function}: ")?;
        }
        f.write_str(&self.what())?;
        if self.reason().is_empty() { Ok(()) } else { write!(f, " ({})", self.reason()) }
    }
}

/// A remark on a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// For the reader of a trace.
    Remark(String),
    /// A line that the modelled system leaves in its log.
    Log(String),
}

impl Note {
    /// The line, if it is one of the log.
    #[must_use]
    pub fn logged(&self) -> Option<&str> {
        match self {
            Self::Log(line) => Some(line),
            Self::Remark(_) => None,
        }
    }

    /// The remark, if it is one.
    #[must_use]
    pub fn remark(&self) -> Option<&str> {
        match self {
            Self::Remark(text) => Some(text),
            Self::Log(_) => None,
        }
    }
}

/// What changed in one step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StepReport {
    /// What the step observed, where it observed something: a value read, a choice.
    pub observed: Option<String>,
    /// Fields whose value changed.
    pub changes: Vec<Change>,
    /// The protocol's remarks at this step.
    pub notes: Vec<Note>,
    /// The locks that each thread holds after the step, by thread.
    pub held: Vec<Vec<Object>>,
}

/// A field that changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// Which.
    pub field: Object,
    /// Its value before, in words.
    pub before: String,
    /// Its value after, in words.
    pub after: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_told_by_function_action_object_and_ordinal() {
        let site = Site {
            function: "really_probe",
            action: Action::Write,
            object: "dev->driver".into(),
            ordinal: 0,
        };
        assert_eq!(site.to_string(), "really_probe:write(dev->driver)");
        assert_eq!(Site { ordinal: 2, ..site }.to_string(), "really_probe:write(dev->driver)#2");
        let update = Site { function: "f", action: Action::Update, ..Site::default() };
        assert_eq!(update.to_string(), "f:update");
    }

    #[test]
    fn an_owner_stands_before_its_object() {
        assert_eq!(Object::of("a.codec", "fwspec").to_string(), "a.codec: fwspec");
        assert_eq!(Object::from("oops").to_string(), "oops");
    }
}
