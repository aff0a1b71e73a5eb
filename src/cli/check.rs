//! `threadgate check`: whether a proxy would start with these options.

use argh::{ArgsInfo, FromArgs};

use crate::cli::exit::Failure;
use crate::config::Config;

/// validate options and the files they name
#[derive(ArgsInfo, Debug, FromArgs)]
#[argh(subcommand, name = "check")]
pub(crate) struct CheckArgs {}

/// Reads every file that the options name.
pub(crate) fn check(config: &Config) -> Result<(), Failure> {
    config.options().map(drop).map_err(Failure::unusable)
}
