//! `portcullis lab`: is this kernel affected, by which schedule, and what closes it?

mod args;
mod check;
mod compare;
mod confirm;
mod known;
mod list;
mod ours;
mod render;
mod replay;
mod tree;

pub use args::{
    CheckArgs, CompareArgs, LabArgs, LabCommand, ListArgs, OursArgs, OursFamily, OursWorld,
    ReplayArgs, TreeArgs, WorldArgs,
};
pub use confirm::ConfirmArgs;

/// What a verb of the lab has to say, and whether all is well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// No property is violated.
    pub held: bool,
}

/// Runs one verb of the lab. Nothing is printed but progress, to standard error, when that is a terminal.
///
/// # Errors
///
/// What is wrong with the command line, or with a file that cannot be written.
pub fn run(args: &LabArgs) -> Result<Answer, String> {
    match &args.what {
        LabCommand::List(args) => Ok(list::run(args)),
        LabCommand::Check(args) => check::run(args),
        LabCommand::Tree(args) => tree::run(args),
        LabCommand::Compare(args) => compare::run(args),
        LabCommand::Replay(args) => replay::run(args),
        LabCommand::Ours(args) => ours::run(args),
    }
}
