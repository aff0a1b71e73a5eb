//! Merges the command line, the environment and the configuration file into the options in effect,
//! and reports each mistake with its place.
//!
//! ```text
//! flags ──▶ over environment ──▶ over file ──▶ Config
//! ```
//!
//! One run reports every mistake it can find. It checks each value by itself, including values that
//! another one replaces, and then checks the values together.

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::cli::exit::{Exit, Failure};
use crate::cli::logging;
use crate::config::access::{AccessOptions, Unusable};
use crate::config::file::{self, Written, WrittenListener};
use crate::config::no_effect::{self, Whole};
use crate::config::options::{self, FileUse, OptionRow};
use crate::config::rules::WrittenRule;
use crate::config::settings::{Settings, WrittenAt, WrittenValue, WrongSetting};
use crate::config::together::Together;
use crate::config::{Config, OwnListener, listen};
use crate::net::file_error;
use crate::net::hosts::{self, Hosts};
use crate::policy::Access;
use crate::policy::rule_origin::OptionPlace;

/// Variables that begin like ours but are not options.
const OTHER_VARIABLES: [&str; 1] = ["THREADGATE_LOG"];

/// The options given at the start of the process, which a reload does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenOptions {
    flags: Settings,
    environment: Settings,
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Whether a variable sets the level of messages.
    sets_level: bool,
    /// Variables with values that cannot be read.
    wrong: Vec<WrongSetting>,
    /// Variables that look like misspelt options, and a sentence for each.
    unknown: Vec<(String, String)>,
}

/// The options in effect.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    /// Their parsed values.
    pub(crate) config: Config,
    /// The options for all listeners, as written.
    pub(crate) settings: Settings,
    /// The same for each listener that has options of its own, by its number.
    own: Vec<(u16, Settings)>,
    /// The content of the configuration file.
    pub(crate) written: Written,
    /// Sentences about options that have no effect, and the like.
    pub(crate) warnings: Vec<String>,
}

impl Effective {
    /// Reads every file that an option names. Returns what was read, or each wrong one, and whether the reason is
    /// that this process may not read it.
    fn read_files(&self) -> Result<Access, Vec<(WrongSetting, bool)>> {
        let mut wrong = Vec::new();
        for file in &self.config.server.names.hosts_files {
            if let Err(e) = Hosts::read(std::slice::from_ref(file)) {
                let unusable = unusable_hosts(&e, &self.settings);
                wrong.push((self.settings.placed(&unusable), unusable.denied));
            }
        }
        let access = self.config.access(None);
        if let Err(unusable) = &access {
            let before = wrong.len();
            let of_rules = self.all_rules().filter_map(unusable_rule);
            for one in self.all_settings().flat_map(unusable_alone).chain(of_rules) {
                if !wrong.contains(&one) {
                    wrong.push(one);
                }
            }
            if wrong.len() == before {
                let placed = placed(unusable, &self.settings, &self.own);
                wrong.push((placed, unusable.denied));
            }
        }
        match access {
            Ok(access) if wrong.is_empty() => Ok(access),
            _ => Err(wrong),
        }
    }

    /// The failure for a value or a file that cannot be used, with the place where it was given.
    pub(crate) fn unusable(&self, unusable: &Unusable) -> Failure {
        Failure::unusable(unusable, placed(unusable, &self.settings, &self.own))
    }

    /// The options for all listeners, and those of single listeners.
    fn all_settings(&self) -> impl Iterator<Item = &Settings> {
        [&self.settings].into_iter().chain(of_listeners(&self.written))
    }

    /// The files that are read whenever the configuration is.
    pub(crate) fn files_read(&self) -> impl Iterator<Item = PathBuf> {
        let all = self.all_settings().flat_map(|settings| settings.files(FileUse::Read));
        let of_rules = self.all_rules().flat_map(|rule| rule.list_files()).map(PathBuf::from);
        all.map(|(_, _, path)| path.to_owned()).chain(of_rules)
    }

    /// The rules for all listeners, and those of single listeners.
    fn all_rules(&self) -> impl Iterator<Item = &WrittenRule> {
        let own = self.written.listeners.iter().flat_map(|listener| &listener.rules).flatten();
        self.written.rules.iter().chain(own)
    }
}

fn of_listeners(written: &Written) -> impl Iterator<Item = &Settings> {
    written.listeners.iter().map(|listener| &listener.settings)
}

/// The mistakes in each file by itself.
fn unusable_alone(settings: &Settings) -> Vec<(WrongSetting, bool)> {
    let mut wrong = Vec::new();
    let is_read = |row: &OptionRow| matches!(row.file, FileUse::Read | FileUse::Variable);
    let rows = settings.iter().filter(|(row, _)| is_read(row));
    for (row, value) in rows.flat_map(|(row, values)| values.iter().map(move |v| (row, v))) {
        let mut alone = Settings::default();
        alone.set(row, vec![value.clone()]);
        if let Err(unusable) = alone.meaning().0.access(None) {
            wrong.push((alone.placed(&unusable), unusable.denied));
        }
    }
    wrong
}

/// The mistake in the lists of a rule.
fn unusable_rule(rule: &WrittenRule) -> Option<(WrongSetting, bool)> {
    let access = AccessOptions { rules: vec![rule.clone()], ..AccessOptions::default() };
    // Its values were looked at where their line is known.
    access.check().ok()?;
    let unusable = access.build(None).err()?;
    let wrong = Settings::default().placed(&unusable);
    Some((WrongSetting { place: rule.place.clone(), ..wrong }, unusable.denied))
}

/// The failure for a wrong hosts file, with the place where it was named.
pub(crate) fn refused_hosts(wrong: &hosts::WrongHosts, settings: &Settings) -> Failure {
    let unusable = unusable_hosts(wrong, settings);
    Failure::unusable(&unusable, settings.placed(&unusable))
}

fn unusable_hosts(wrong: &hosts::WrongHosts, settings: &Settings) -> Unusable {
    let mut files = settings.files(FileUse::Read).filter(|(row, ..)| row.name == "hosts-file");
    let value = files.position(|(.., path)| path == wrong.file).unwrap_or(0);
    Unusable {
        denied: wrong.is_denied(),
        ..Unusable::of("hosts-file", wrong.why()).value(value).about(wrong.place())
    }
}

/// The place of a mistake: where the listener gives the option, or else where it is given for all.
fn placed(unusable: &Unusable, all: &Settings, own: &[(u16, Settings)]) -> WrongSetting {
    let of_listener = own.iter().find(|(number, _)| Some(*number) == unusable.listener);
    of_listener.map_or(all, |(_, settings)| settings).placed(unusable)
}

impl GivenOptions {
    /// Reads the environment, beside the options of the command line.
    pub(crate) fn read(flags: Settings) -> Self {
        let variables = env::vars_os().filter_map(|(name, text)| {
            let text = text.into_string().map_err(|text| text.to_string_lossy().into_owned());
            Some((name.into_string().ok()?, text))
        });
        Self::of(flags, variables)
    }

    fn of(
        flags: Settings,
        variables: impl Iterator<Item = (String, Result<String, String>)>,
    ) -> Self {
        let variables: Vec<_> = variables.collect();
        let is_level = |name: &str| logging::VARIABLES.contains(&name);
        let sets_level = variables
            .iter()
            .any(|(name, text)| is_level(name) && text.as_ref().is_ok_and(|text| !text.is_empty()));
        let (environment, wrong, unknown) =
            Settings::of_environment(variables.into_iter(), &OTHER_VARIABLES);
        let mut given = Self { flags, environment, file: None, sets_level, wrong, unknown };
        let file =
            given.above().files(FileUse::Configuration).next().map(|(.., path)| path.to_owned());
        given.file = file;
        given
    }

    /// The options that take precedence over the file.
    fn above(&self) -> Settings {
        self.flags.clone().over(&self.environment)
    }

    /// Reads the file, if there is one, and checks every value.
    ///
    /// # Errors
    ///
    /// All mistakes, one a line.
    pub(crate) fn effective(&self) -> Result<Effective, Failure> {
        let (effective, wrong) = self.read_all()?;
        if wrong.is_empty() { Ok(effective) } else { Err(in_order(wrong)) }
    }

    /// Like [`effective`](Self::effective), and also reads all files that options name.
    ///
    /// # Errors
    ///
    /// All mistakes, one a line.
    pub(crate) fn effective_with_files(&self) -> Result<(Effective, Access), Failure> {
        let (effective, mut wrong) = self.read_all()?;
        let mut files = match effective.read_files() {
            Ok(access) if wrong.is_empty() => return Ok((effective, access)),
            Ok(_) => Vec::new(),
            Err(files) => files,
        };
        // A rule of the file was looked at where its line is known.
        let is_file =
            |it: &WrongSetting| it.option.is_some() || matches!(it.place, WrittenAt::File(..));
        files.retain(|(file, _)| is_file(file) || wrong.is_empty());
        let only_files = wrong.is_empty();
        let all_denied = files.iter().all(|(_, denied)| *denied);
        wrong.extend(files.into_iter().map(|(file, _)| file));
        let failure = in_order(wrong);
        // If only files are wrong, the command line that names them is right.
        Err(if only_files { failure.of_files(all_denied) } else { failure })
    }

    /// The options in effect, as far as they can be read, and all mistakes.
    fn read_all(&self) -> Result<(Effective, Vec<WrongSetting>), Failure> {
        let (written, mut wrong) = match &self.file {
            None => (Written::default(), Vec::new()),
            Some(path) => file::read(path).map_err(|e| unreadable(path, &e))?,
        };
        // A file with keys that nobody could read may have what seems to be missing.
        let is_read = !wrong.iter().any(|wrong| wrong.option.is_none());
        wrong.extend(self.wrong.iter().cloned());
        let layers = [&self.flags, &self.environment, &written.settings];
        for layer in layers.into_iter().chain(of_listeners(&written)) {
            wrong.extend(layer.meaning().1);
        }
        let effective = self.together(written, is_read, &mut wrong);
        Ok((effective, wrong))
    }

    /// Combines all values. A contradiction is added to `wrong`, unless it depends on a value that is
    /// wrong by itself.
    fn together(
        &self,
        written: Written,
        is_read: bool,
        wrong: &mut Vec<WrongSetting>,
    ) -> Effective {
        let above = self.above();
        let settings = above.clone().over(&written.settings);
        let mut whole = settings.clone();
        let says_where = ["listen", "port"].iter().any(|name| above.values(name).is_some());
        let has_listeners = !written.listeners.is_empty() && !says_where;
        let mut first = 0;
        if has_listeners {
            first = with_listeners(&mut whole, &written.listeners, wrong);
        }
        let (mut config, all) = read(&whole);
        config.access.rules.clone_from(&written.rules);
        for one in all {
            if !wrong.contains(&one) {
                wrong.push(one);
            }
        }
        let listeners = if has_listeners { written.listeners.as_slice() } else { &[] };
        let mut own = Vec::new();
        for (number, listener) in (first..).zip(listeners) {
            let settings = above.clone().over(&listener.settings).over(&written.settings);
            let Config { server, mut access, .. } = read(&settings).0;
            access.rules.clone_from(listener.rules.as_ref().unwrap_or(&written.rules));
            config.own.push(OwnListener { number, open: server.open, access });
            own.push((number, settings));
        }
        let listeners: Vec<&Settings> = of_listeners(&written).collect();
        let together = Together { config: &config, settings: &settings, own: &listeners };
        let known: BTreeSet<&'static str> = wrong.iter().filter_map(|wrong| wrong.option).collect();
        for unusable in together.contradictions() {
            let mut depends_on = unusable.option.iter().chain(unusable.beside);
            let is_known = depends_on.any(|option| known.contains(option));
            // A rule of a file was looked at where its line is known.
            let is_rule = unusable.option.is_none() && !wrong.is_empty();
            let is_told = is_known || is_rule || (unusable.is_missing && !is_read);
            let placed = placed(&unusable, &settings, &own);
            if !is_told && !wrong.contains(&placed) {
                wrong.push(placed);
            }
        }
        let warnings = self.warnings(&config, &settings, &own, &written, says_where);
        Effective { config, settings, own, written, warnings }
    }

    /// Sentences about settings that have no effect.
    fn warnings(
        &self,
        config: &Config,
        settings: &Settings,
        own: &[(u16, Settings)],
        written: &Written,
        says_where: bool,
    ) -> Vec<String> {
        // A variable that an option names belongs to that option.
        let all = [settings].into_iter().chain(of_listeners(written)).flat_map(Settings::iter);
        let variables = all.filter(|(row, _)| row.file == FileUse::Variable);
        let named: Vec<&str> =
            variables.flat_map(|(_, values)| values).map(|value| value.text.as_str()).collect();
        let unknown = self.unknown.iter().filter(|(name, _)| !named.contains(&name.as_str()));
        let mut warnings: Vec<String> = unknown.map(|(_, sentence)| sentence.clone()).collect();
        if let Some(listener) = written.listeners.first()
            && says_where
        {
            warnings.push(format!(
                "{}: [[listeners]] are ignored, with all their options: the command line or the \
                 environment says where to listen",
                listener.address.place
            ));
        }
        let (has_file, sets_level) = (self.file.is_some(), self.sets_level);
        warnings.extend(no_effect::sentences(Whole {
            config,
            settings,
            own,
            has_file,
            sets_level,
        }));
        warnings
    }
}

/// Adds the addresses of `[[listeners]]` to those of the file's options. Returns the number of the first
/// one added.
fn with_listeners(
    settings: &mut Settings,
    listeners: &[WrittenListener],
    wrong: &mut Vec<WrongSetting>,
) -> u16 {
    let mut values = settings.remove("listen").unwrap_or_default();
    // A port that cannot be read, or stands beside listen, is a mistake of its own.
    for port in settings.remove("port").unwrap_or_default() {
        if values.is_empty() && listen::parse_port(&port.text).is_ok() {
            values.push(WrittenValue { text: format!(":{}", port.text), place: port.place });
        }
    }
    let first = values.len();
    let mut known: Vec<SocketAddr> =
        values.iter().filter_map(|value| listen::parse(&value.text).ok()).collect();
    for WrittenListener { address, .. } in listeners {
        match listen::parse(&address.text) {
            Ok(it) if it.port() != 0 && known.contains(&it) => {
                let why = format!("{it} is given twice; give it once");
                wrong.push(WrongSetting::of_listener(&address.place, &why));
            }
            Ok(it) => {
                known.push(it);
                values.push(address.clone());
            }
            Err(why) => wrong.push(WrongSetting::of_listener(&address.place, &why)),
        }
    }
    if let Some(listen) = options::find("listen") {
        settings.set(listen, values);
    }
    u16::try_from(first).unwrap_or(u16::MAX)
}

/// Parses the settings, and records where the options that are rules were given.
fn read(settings: &Settings) -> (Config, Vec<WrongSetting>) {
    let (mut config, wrong) = settings.meaning();
    let rules = settings.iter().filter(|(row, _)| row.is_of_a_listener());
    config.access.said = rules.filter_map(|(row, values)| said(row, values)).collect();
    (config, wrong)
}

/// Where an option was given, if not on the command line.
fn said(row: &OptionRow, values: &[WrittenValue]) -> Option<OptionPlace> {
    let (at, lines) = match &values.first()?.place {
        WrittenAt::Flag => return None,
        WrittenAt::Variable(name) => (name.clone(), (1..).take(values.len()).collect()),
        WrittenAt::File(path, _) => {
            let lines = values.iter().map(|value| match value.place {
                WrittenAt::File(_, line) => line,
                _ => 0,
            });
            (path.display().to_string(), lines.collect())
        }
    };
    Some(OptionPlace { option: row.name.to_owned(), at, lines })
}

/// Mistakes in the order of their places.
fn in_order(mut wrong: Vec<WrongSetting>) -> Failure {
    let mut seen = BTreeSet::new();
    wrong.retain(|wrong| seen.insert(wrong.message.clone()));
    wrong.sort_by_key(|wrong| match wrong.place {
        WrittenAt::Flag => (0, 0),
        WrittenAt::Variable(_) => (1, 0),
        // Line 0 is the sentence that there are more mistakes; it comes last.
        WrittenAt::File(_, 0) => (3, 0),
        WrittenAt::File(_, line) => (2, line),
    });
    Failure::wrong(&wrong)
}

fn unreadable(path: &Path, e: &io::Error) -> Failure {
    let exit = match e.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Configuration,
    };
    let why = file_error::unreadable(path, e);
    Failure::new(exit, format!("--config {}: {why}", path.display()))
}

#[cfg(test)]
#[path = "effective_options_tests.rs"]
mod tests;
