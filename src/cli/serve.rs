//! `threadgate serve`: runs the proxy until a signal stops it.

use std::sync::LazyLock;

use argh::{
    ArgsInfo, CommandInfo, CommandInfoWithArgs, EarlyExit, FlagInfo, FlagInfoKind, FromArgs,
    Optionality, SubCommand,
};

use crate::cli::effective_options::GivenOptions;
use crate::cli::exit::Failure;
use crate::cli::logging;
use crate::cli::run;
use crate::config::options::{self, OptionKind, OptionRow};

/// The options of `serve` for argh, made from the rows of the table.
#[derive(Debug)]
pub(crate) struct ServeArgs;

impl FromArgs for ServeArgs {
    fn from_args(_command: &[&str], _words: &[&str]) -> Result<Self, EarlyExit> {
        Ok(Self)
    }
}

impl SubCommand for ServeArgs {
    const COMMAND: &'static CommandInfo =
        &CommandInfo { name: "serve", short: &'\0', description: "start the proxy" };
}

impl ArgsInfo for ServeArgs {
    fn get_args_info() -> CommandInfoWithArgs {
        let CommandInfo { name, short, description } = *Self::COMMAND;
        CommandInfoWithArgs { name, short, description, flags: &FLAGS, ..Default::default() }
    }
}

static NAMES: LazyLock<Vec<String>> =
    LazyLock::new(|| options::all().map(|row| format!("--{}", row.name)).collect());

static FLAGS: LazyLock<Vec<FlagInfo<'static>>> =
    LazyLock::new(|| options::all().zip(NAMES.iter()).map(|(row, long)| flag(row, long)).collect());

fn flag(row: &'static OptionRow, long: &'static str) -> FlagInfo<'static> {
    FlagInfo {
        kind: match row.has_value() {
            true => FlagInfoKind::Option { arg_name: row.hint },
            false => FlagInfoKind::Switch,
        },
        optionality: match row.kind {
            OptionKind::Repeated => Optionality::Repeating,
            _ => Optionality::Optional,
        },
        long,
        short: row.letter,
        description: row.brief,
        hidden: false,
    }
}

/// Runs the proxy until a signal stops it.
pub(crate) fn serve(given: GivenOptions) -> Result<(), Failure> {
    let effective = given.effective()?;
    logging::init(effective.config.verbosity, effective.config.color);
    for warning in &effective.warnings {
        log::warn!("{warning}");
    }
    run::run(given, effective)
}
