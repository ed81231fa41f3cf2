//! Completion scripts.

use clap::Command;
use clap_complete::Shell;

/// The script for `shell`. `clap_complete` offers the known words of arguments without a name in those for bash and zsh; here they are added to that for fish.
pub(crate) fn script(mut root: Command, shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut root, "portcullis", &mut script);
    if shell == Shell::Fish {
        words_for_fish(&root, &mut Vec::new(), &mut script);
    }
    script
}

fn words_for_fish(command: &Command, verbs: &mut Vec<String>, script: &mut Vec<u8>) {
    for argument in command.get_positionals() {
        let words: Vec<String> =
            argument.get_possible_values().iter().map(|word| word.get_name().to_owned()).collect();
        if !words.is_empty() && !verbs.is_empty() {
            let seen = verbs.iter().map(|verb| format!("__fish_seen_subcommand_from {verb}"));
            let place = seen.collect::<Vec<_>>().join("; and ");
            let words = words.join(" ");
            let line = format!("complete -c portcullis -n \"{place}\" -f -a \"{words}\"\n");
            script.extend(line.into_bytes());
        }
    }
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        verbs.push(verb.get_name().to_owned());
        words_for_fish(verb, verbs, script);
        verbs.pop();
    }
}
