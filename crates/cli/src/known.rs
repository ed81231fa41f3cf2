//! Arguments with known words: completion scripts offer these, help does not list them all.

use clap::builder::{PossibleValue, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Arg, Command};
use portcullis_firmware::rule;
use std::ffi::OsStr;
use std::fmt::Display;
use std::str::FromStr;

/// Parses as `T` does, and knows `words` that can be parsed.
#[derive(Clone, Debug)]
pub struct Known<T> {
    words: fn() -> Vec<String>,
    parsed: std::marker::PhantomData<fn() -> T>,
}

impl<T> Known<T> {
    /// With these words.
    pub fn new(words: fn() -> Vec<String>) -> Self {
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
pub fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The ids of the rules of findings, and the words for all of a severity.
pub fn rules() -> Vec<String> {
    let ids = rule::ALL.iter().map(|rule| rule.id);
    ids.chain(["errors", "warnings", "notes"]).map(str::to_owned).collect()
}
