//! `threadgate completions SHELL`: prints a shell script that completes commands, options, values and
//! files. The script is made from the table of options and argh's list of commands.

use std::fmt::Write as _;

use argh::{ArgsInfo, FlagInfoKind, FromArgs, SubCommandInfo};

use crate::cli::exit::Failure;
use crate::cli::help::Page;
use crate::cli::help::commands::{COMMANDS, CommandText};
use crate::cli::stdout::print;
use crate::config::options::{self, FileUse, OptionKind, OptionRow};

/// print completions for a shell
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "completions")]
pub(crate) struct CompletionsArgs {
    /// the shell
    #[argh(positional)]
    shell: Vec<String>,
}

/// Prints the script. `described` is what argh says of the commands.
pub(crate) fn completions(
    args: &CompletionsArgs,
    described: &[SubCommandInfo],
) -> Result<(), Failure> {
    let script = match args.shell.as_slice() {
        [shell] => match shell.as_str() {
            "bash" => bash(described),
            "zsh" => zsh(described),
            "fish" => fish(described),
            other => {
                let says = format!(
                    "completions: '{other}' is not a shell we know; give bash, zsh or fish"
                );
                return Err(Failure::usage(says));
            }
        },
        [] => return Err(Failure::usage("completions: needs a shell; give bash, zsh or fish")),
        [_, more, ..] => {
            return Err(Failure::usage(format!(
                "completions: '{more}' is one word too many; give one shell"
            )));
        }
    };
    print(&script)
}

/// An option, as far as a shell needs to know it.
struct Completed {
    long: String,
    letter: Option<char>,
    /// The form of its value, if it takes one.
    hint: Option<&'static str>,
    /// Words that its value can be.
    words: Vec<&'static str>,
    is_file: bool,
    is_repeated: bool,
    brief: &'static str,
}

impl Completed {
    fn of_row(row: &'static OptionRow) -> Self {
        Self {
            long: row.name.to_owned(),
            letter: row.letter,
            hint: row.has_value().then_some(row.hint),
            words: row.words().collect(),
            // A path behind unix: is no file of a name that can be completed.
            is_file: matches!(row.file, FileUse::Configuration | FileUse::Read | FileUse::Written)
                && !row.hint.contains("unix:"),
            is_repeated: matches!(row.kind, OptionKind::Repeated | OptionKind::Counter),
            brief: row.brief,
        }
    }

    /// Its spellings: `--port`, `-p`.
    fn names(&self) -> Vec<String> {
        let letter = self.letter.map(|letter| format!("-{letter}"));
        [format!("--{}", self.long)].into_iter().chain(letter).collect()
    }
}

/// The options of a command, its own first.
fn options_of(command: &CommandText, described: &[SubCommandInfo]) -> Vec<Completed> {
    let own = described.iter().find(|it| it.name == command.name && it.name != "serve");
    let own = own.map(|it| it.command.flags).unwrap_or_default();
    let own = own.iter().filter(|flag| flag.long != "--help").map(|flag| {
        let hint = match flag.kind {
            FlagInfoKind::Option { arg_name } => Some(arg_name),
            FlagInfoKind::Switch => None,
        };
        let words = hint.filter(|hint| hint.contains('|')).map(|hint| hint.split('|').collect());
        Completed {
            long: flag.long.trim_start_matches('-').to_owned(),
            letter: flag.short,
            hint,
            words: words.unwrap_or_default(),
            is_file: hint == Some("FILE"),
            is_repeated: flag.optionality == argh::Optionality::Repeating,
            brief: flag.description,
        }
    });
    // `help --deny` shows an option, which has no value there.
    let is_help = command.name == "help";
    let shared = options::all().filter(|_| command.is_about_a_proxy || is_help);
    let shared = shared.map(Completed::of_row).map(|option| match is_help {
        true => Completed { letter: None, hint: None, ..option },
        false => option,
    });
    let always =
        [("help", 'h', "print help and exit"), ("version", 'V', "print the version and exit")];
    let always = always.into_iter().map(|(long, letter, brief)| Completed {
        long: long.to_owned(),
        letter: Some(letter),
        hint: None,
        words: Vec::new(),
        is_file: false,
        is_repeated: false,
        brief,
    });
    own.chain(shared).chain(always).collect()
}

/// The words that can follow a command.
fn words_of(command: &CommandText) -> Vec<&'static str> {
    match command.name {
        "help" => Page::words().collect(),
        _ => command.words.to_vec(),
    }
}

/// Whether the first word after a command is a file.
fn takes_a_file(command: &CommandText) -> bool {
    command.usage.contains("FILE")
}

fn bash(described: &[SubCommandInfo]) -> String {
    let names: Vec<&str> = COMMANDS.iter().map(|command| command.name).collect();
    let mut script = format!(
        "# bash completion of threadgate, printed by 'threadgate completions bash'\n\
         _threadgate() {{\n\
         \x20   local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}\n\
         \x20   local command=serve words= word\n\
         \x20   # --option=value is three words to bash.\n\
         \x20   if [[ $cur == '=' ]]; then\n\
         \x20       cur=\n\
         \x20   elif [[ $prev == '=' ]]; then\n\
         \x20       prev=${{COMP_WORDS[COMP_CWORD - 2]}}\n\
         \x20   fi\n\
         \x20   COMPREPLY=()\n\
         \x20   if ((COMP_CWORD == 1)) && [[ $cur != -* ]]; then\n\
         \x20       COMPREPLY=($(compgen -W '{}' -- \"$cur\"))\n\
         \x20       return\n\
         \x20   fi\n\
         \x20   case ${{COMP_WORDS[1]}} in\n\
         \x20       {}) command=${{COMP_WORDS[1]}} ;;\n\
         \x20   esac\n\
         \x20   case $prev in\n",
        names.join(" "),
        names.join(" | "),
    );
    let mut seen: Vec<String> = Vec::new();
    let mut silent: Vec<String> = Vec::new();
    for option in COMMANDS
        .iter()
        .flat_map(|it| options_of(it, described))
        .filter(|option| option.hint.is_some())
    {
        if seen.contains(&option.long) {
            continue;
        }
        match option.words.is_empty() && !option.is_file {
            true => silent.extend(option.names()),
            false => {
                let _ = writeln!(script, "        {})", option.names().join(" | "));
                script.push_str(&bash_values(&option.words, option.is_file));
                script.push_str("            return\n            ;;\n");
            }
        }
        seen.push(option.long);
    }
    // A value of which nothing is known.
    let _ = writeln!(script, "        {}) return ;;", silent.join(" | "));
    script.push_str("    esac\n    case $command in\n");
    for command in &COMMANDS {
        let names: Vec<String> =
            options_of(command, described).iter().map(|it| format!("--{}", it.long)).collect();
        let _ = writeln!(script, "        {})", command.name);
        let _ = writeln!(script, "            words='{}'", names.join(" "));
        if takes_a_file(command) || !words_of(command).is_empty() {
            script.push_str("            if [[ $cur != -* ]]; then\n");
            script.push_str(&bash_only_once(&words_of(command)));
            script.push_str(&bash_values(&words_of(command), takes_a_file(command)));
            script.push_str("                return\n            fi\n");
        }
        script.push_str("            ;;\n");
    }
    script.push_str(
        "    esac\n\
         \x20   COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n\
         }\n\
         complete -F _threadgate threadgate\n",
    );
    script
}

/// Lines that offer nothing if one of the words stands there already.
fn bash_only_once(words: &[&str]) -> String {
    let words = words.join(" ");
    format!(
        "            for word in \"${{COMP_WORDS[@]:2:COMP_CWORD - 2}}\"; do\n\
         \x20               [[ ' {words} ' == *\" $word \"* ]] && return\n\
         \x20           done\n"
    )
}

/// Lines that offer words and files.
fn bash_values(words: &[&str], is_file: bool) -> String {
    let mut lines = String::new();
    if is_file {
        lines.push_str("            compopt -o filenames\n");
        lines.push_str("            mapfile -t COMPREPLY < <(compgen -f -- \"$cur\")\n");
    }
    if !words.is_empty() {
        let words = words.join(" ");
        let _ = writeln!(lines, "            COMPREPLY+=($(compgen -W '{words}' -- \"$cur\"))");
    }
    lines
}

fn zsh(described: &[SubCommandInfo]) -> String {
    let mut script = String::from(
        "#compdef threadgate\n\
         # zsh completion of threadgate, printed by 'threadgate completions zsh'\n\
         _threadgate_files() {\n\
         \x20   compadd -- \"$@\"\n\
         \x20   _files\n\
         }\n\
         _threadgate() {\n\
         \x20   local -a commands options\n\
         \x20   commands=(\n",
    );
    for CommandText { name, brief, .. } in &COMMANDS {
        let _ = writeln!(script, "        {}", quoted(&format!("{name}:{brief}")));
    }
    script.push_str(
        "    )\n\
         \x20   if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n\
         \x20       _describe -t commands command commands\n\
         \x20       return\n\
         \x20   fi\n\
         \x20   local command=serve\n\
         \x20   if (( ${commands[(I)${words[2]}:*]} )); then\n\
         \x20       command=$words[2]\n\
         \x20       shift words\n\
         \x20       (( CURRENT-- ))\n\
         \x20   fi\n\
         \x20   case $command in\n",
    );
    for command in &COMMANDS {
        let _ = writeln!(script, "        ({})\n            options=(", command.name);
        for option in options_of(command, described) {
            let _ = writeln!(script, "                {}", zsh_option(&option));
        }
        let words = words_of(command).join(" ");
        let _ = match (takes_a_file(command), words.is_empty()) {
            (true, _) => writeln!(script, "                '1:file:_files'"),
            (false, false) => writeln!(script, "                '1:word:({words})'"),
            (false, true) => Ok(()),
        };
        script.push_str("            )\n            ;;\n");
    }
    script.push_str("    esac\n    _arguments -s $options\n}\n_threadgate \"$@\"\n");
    script
}

fn zsh_option(option: &Completed) -> String {
    let text = option.brief.replace('[', "\\[").replace(']', "\\]");
    let value = option.hint.map(|hint| {
        let what = match (option.is_file, option.words.is_empty()) {
            (true, true) => "_files".to_owned(),
            // A blank before a function keeps its arguments as they are.
            (true, false) => format!(" _threadgate_files {}", option.words.join(" ")),
            (false, false) => format!("({})", option.words.join(" ")),
            (false, true) => " ".to_owned(),
        };
        format!(":{}:{what}", hint.replace(':', "\\:"))
    });
    let end = quoted(&format!("[{text}]{}", value.as_deref().unwrap_or_default()));
    let (equals, plus) = if value.is_some() { ("=", "+") } else { ("", "") };
    let names = option.names();
    let before = match (option.is_repeated, names.len()) {
        (true, _) => "'*'".to_owned(),
        (false, 1) => String::new(),
        (false, _) => format!("'({})'", names.join(" ")),
    };
    match option.letter {
        Some(letter) => format!("{before}{{-{letter}{plus},--{}{equals}}}{end}", option.long),
        None => format!("{before}--{}{equals}{end}", option.long),
    }
}

fn fish(described: &[SubCommandInfo]) -> String {
    let mut script = String::from(
        "# fish completion of threadgate, printed by 'threadgate completions fish'\n\
         complete -c threadgate -f\n",
    );
    for CommandText { name, brief, .. } in &COMMANDS {
        let brief = quoted_in_fish(brief);
        let _ = writeln!(
            script,
            "complete -c threadgate -n __fish_use_subcommand -a {name} -d {brief}"
        );
    }
    let others: Vec<&str> =
        COMMANDS.iter().map(|command| command.name).filter(|it| *it != "serve").collect();
    for command in &COMMANDS {
        let seen = match command.name {
            "serve" => format!("not __fish_seen_subcommand_from {}", others.join(" ")),
            name => format!("__fish_seen_subcommand_from {name}"),
        };
        for option in options_of(command, described) {
            let letter = option.letter.map(|letter| format!(" -s {letter}")).unwrap_or_default();
            let value = match (option.hint, option.is_file) {
                (None, _) => "",
                (Some(_), true) => " -r -F",
                (Some(_), false) => " -x",
            };
            let words = match option.words.is_empty() {
                true => String::new(),
                false => format!(" -a {}", quoted_in_fish(&option.words.join(" "))),
            };
            let (long, brief) = (&option.long, quoted_in_fish(option.brief));
            let _ = writeln!(
                script,
                "complete -c threadgate -n '{seen}' -l {long}{letter}{value}{words} -d {brief}"
            );
        }
        let words = words_of(command).join(" ");
        // The name of the command itself always stands there.
        let others: Vec<&str> =
            words_of(command).into_iter().filter(|word| *word != command.name).collect();
        let others = others.join(" ");
        let _ = match (takes_a_file(command), words.is_empty()) {
            (true, _) => writeln!(script, "complete -c threadgate -n '{seen}' -F"),
            (false, false) => writeln!(
                script,
                "complete -c threadgate -n '{seen}; and not __fish_seen_subcommand_from {others}' -a '{words}'"
            ),
            (false, true) => Ok(()),
        };
    }
    script
}

/// A word for bash and zsh.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// A word for fish, where a backslash quotes inside quotes.
fn quoted_in_fish(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Threadgate;

    #[test]
    fn every_script_has_every_option_and_every_command() {
        let described = Threadgate::get_args_info().commands;
        for (script, option, value) in [
            (bash(&described), "--", "text json common combined"),
            (zsh(&described), "--", "(text json common combined)"),
            (fish(&described), " -l ", "'text json common combined'"),
        ] {
            for row in options::all() {
                assert!(script.contains(&format!("{option}{}", row.name)), "{}", row.name);
            }
            for command in &COMMANDS {
                assert!(script.contains(command.name), "{}", command.name);
            }
            assert!(script.contains(value), "{script}");
        }
    }
}
