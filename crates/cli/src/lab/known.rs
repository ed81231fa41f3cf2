//! Arguments with known words: completion scripts offer these, help does not list them all.

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use portcullis_lab::linux::{BASES, COMMITS};
use portcullis_lab::ours::{Family, World as OursWorld};
use std::ffi::OsStr;
use std::fmt::Display;
use std::str::FromStr;

/// Parses as `T` does, and knows `words` that can be parsed.
#[derive(Clone, Debug)]
pub(super) struct Known<T> {
    words: fn() -> Vec<String>,
    parsed: std::marker::PhantomData<fn() -> T>,
}

impl<T> Known<T> {
    pub(super) fn new(words: fn() -> Vec<String>) -> Self {
        Self { words, parsed: std::marker::PhantomData }
    }
}

impl<T> TypedValueParser for Known<T>
where
    T: FromStr<Err: Display> + Clone + Send + Sync + 'static,
{
    type Value = T;

    fn parse_ref(
        &self,
        command: &Command,
        argument: Option<&Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let refused = |why: String| {
            let place = argument.map(|it| format!(" for '{it}'")).unwrap_or_default();
            let message = format!("invalid value '{}'{place}: {why}\n", value.display());
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        };
        let word = value.to_str().ok_or_else(|| refused("it is not UTF-8".to_owned()))?;
        word.parse().map_err(|error: T::Err| refused(error.to_string()))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new((self.words)().into_iter().map(PossibleValue::new)))
    }
}

/// Words of a list.
pub(super) fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// Versions by all their names.
pub(super) fn bases() -> Vec<String> {
    let names = BASES.iter().flat_map(|base| base.aliases.iter().copied().chain([base.name]));
    names.map(str::to_owned).collect()
}

/// Commits by their ids.
pub(super) fn commits() -> Vec<String> {
    COMMITS.iter().map(|commit| commit.id.to_owned()).collect()
}

/// Worlds of the shipped core by their keys.
pub(super) fn worlds() -> Vec<String> {
    let all = OursWorld::exhaustive().into_iter().chain(OursWorld::coarse());
    let all = all.chain(OursWorld::revoking()).chain(OursWorld::other_families());
    let keys = all.map(|world| world.key);
    keys.chain(["busiest", "one-queue", "storm"].map(str::to_owned)).collect()
}

/// Hardware by its driver.
pub(super) fn families() -> Vec<String> {
    owned(&Family::ALL.map(Family::word))
}
