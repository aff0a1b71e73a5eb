//! `threadgate serve`: the proxy runs until a signal stops it.

use crate::cli::effective_options::GivenOptions;
use crate::cli::exit::Failure;
use crate::cli::logging;
use crate::cli::run;

/// Runs the proxy until a signal stops it.
pub(crate) fn serve(given: GivenOptions) -> Result<(), Failure> {
    let effective = given.effective()?;
    logging::init(effective.config.verbosity, effective.config.color);
    for warning in &effective.warnings {
        log::warn!("{warning}");
    }
    run::run(given, effective)
}
