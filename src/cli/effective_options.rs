//! Merges the command line, the environment and the configuration file into the options that count,
//! and reports mistakes with their place.
//!
//! ```text
//! flags ──▶ over environment ──▶ over file ──▶ words of a command line ──▶ ServeArgs ──▶ Config
//! ```
//!
//! What options there are is told by argh, and what a value means by [`ServeArgs`]: every option is a
//! key and a variable by being there. A sentence about an option gets the place it was said at.

use std::env;
use std::io;
use std::path::{Path, PathBuf};

use argh::{ArgsInfo, FlagInfoKind, FromArgs, Optionality};

use crate::cli::exit::{Exit, Failure};
use crate::cli::options::{self, ServeArgs};
use crate::config::access::Unusable;
use crate::config::file::{self, OF_A_LISTENER, Unread, Written, WrittenListener};
use crate::config::settings::{
    KnownOption, OptionKind, Settings, WrittenAt, WrittenValue, WrongSetting,
};
use crate::config::{Config, OwnListener, listen};
use crate::net::hosts::{self, Hosts};
use crate::net::listener;
use crate::policy::rule_origin::OptionPlace;

/// A file that can be read and written by many.
pub(crate) const NOTHING: &str = "/dev/null";

/// Options whose files are read, and watched.
pub(crate) const READ: [&str; 4] = ["allow-list", "auth-file", "block-list", "hosts-file"];

/// Options that only a command line and the environment can have.
const NOT_IN_A_FILE: [&str; 1] = ["config"];

/// Values that are wrong by themselves and tried beside one another: there are few, or many mistakes.
const MOST_PAIRS: usize = 20;

/// Switches that count; argh does not tell them from others.
const COUNTERS: [&str; 2] = ["--quiet", "--verbose"];

/// Variables that begin like ours and are no options.
const OTHER_VARIABLES: [&str; 1] = ["THREADGATE_LOG"];

/// What was said where the process was started, and stays as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenOptions {
    flags: Settings,
    environment: Settings,
    /// The configuration file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// Variables that seem to be meant for us, and a sentence for each.
    unknown: Vec<(String, String)>,
}

/// What counts.
#[derive(Clone, Debug)]
pub(crate) struct Effective {
    /// What it means.
    pub(crate) config: Config,
    /// What was said of options, for all listeners.
    pub(crate) settings: Settings,
    /// What the file says.
    pub(crate) written: Written,
    /// What somebody should look at.
    pub(crate) warnings: Vec<String>,
}

impl Effective {
    /// Reads every file that is named and can be wrong.
    ///
    /// # Errors
    ///
    /// All files that are wrong, a line for each.
    pub(crate) fn read_files(&self) -> Result<(), Failure> {
        let mut wrong = Vec::new();
        for file in &self.config.names.hosts_files {
            if let Err(e) = Hosts::read(std::slice::from_ref(file)) {
                wrong.push(refused_hosts(&e, &self.settings));
            }
        }
        if let Err(e) = self.config.access(None) {
            let before = wrong.len();
            let own = self.written.listeners.iter().map(|listener| &listener.settings);
            for settings in [&self.settings].into_iter().chain(own) {
                wrong.extend(unusable_alone(settings));
            }
            if wrong.len() == before {
                wrong.push(self.unusable(e));
            }
        }
        let mut wrong = wrong.into_iter();
        let Some(first) = wrong.next() else { return Ok(()) };
        let add = |all: Failure, one: Failure| Failure {
            message: format!("{}\n{}", all.message, one.message),
            ..all
        };
        Err(wrong.fold(first, add))
    }

    /// Why no policy can be made of a file, with the place where that was named.
    pub(crate) fn unusable(&self, unusable: Unusable) -> Failure {
        let message = placed_anywhere(&unusable.message, &self.settings, &self.written).message;
        Failure { message, ..Failure::unusable(unusable) }
    }
}

/// The files that are read whenever the configuration is, and the options that name them.
pub(crate) fn files_read<'a>(
    settings: &'a Settings,
    written: &'a Written,
) -> impl Iterator<Item = (&'static str, PathBuf)> + 'a {
    let own = written.listeners.iter().map(|listener| &listener.settings);
    [settings].into_iter().chain(own).flat_map(|settings| {
        READ.into_iter().flat_map(|name| {
            let values = settings.values(name).unwrap_or_default().iter();
            values.map(move |value| (name, PathBuf::from(&value.text)))
        })
    })
}

/// What is wrong with each file by itself.
fn unusable_alone(settings: &Settings) -> Vec<Failure> {
    let mut wrong = Vec::new();
    for (known, values) in settings.iter().filter(|(known, _)| known.is_file()) {
        for value in values {
            let mut alone = Settings::default();
            alone.set(*known, vec![value.clone()]);
            let config = args(&alone).and_then(ServeArgs::into_config);
            if let Some(unusable) = config.ok().and_then(|config| config.access(None).err()) {
                let message = placed(&unusable.message, &alone).message;
                wrong.push(Failure { message, ..Failure::unusable(unusable) });
            }
        }
    }
    wrong
}

/// A hosts file that is wrong, with the place where it was named.
pub(crate) fn refused_hosts(wrong: &hosts::WrongHosts, settings: &Settings) -> Failure {
    let exit = if wrong.is_denied() { Exit::NoPermission } else { Exit::Configuration };
    Failure { exit, message: placed(&format!("--hosts-file {wrong}"), settings).message }
}

/// The options there are, as settings know them.
pub(crate) fn known() -> Vec<KnownOption> {
    let described = ServeArgs::get_args_info();
    let options = described.flags.iter().filter(|flag| flag.long != "--help");
    let known = options.map(|flag| {
        let (value, repeats) = match flag.kind {
            FlagInfoKind::Switch => ("", false),
            FlagInfoKind::Option { arg_name } => {
                (arg_name, flag.optionality == Optionality::Repeating)
            }
        };
        let kind = match flag.kind {
            FlagInfoKind::Switch if COUNTERS.contains(&flag.long) => OptionKind::Counter,
            FlagInfoKind::Switch => OptionKind::Switch,
            FlagInfoKind::Option { .. } if repeats => OptionKind::Repeated,
            FlagInfoKind::Option { .. } => OptionKind::Once,
        };
        KnownOption { name: flag.long.trim_start_matches("--"), kind, value }
    });
    known.collect()
}

impl GivenOptions {
    /// What the words of the command line and the environment say.
    ///
    /// # Errors
    ///
    /// All that is wrong with a variable.
    pub(crate) fn read(words: &[String]) -> Result<Self, Failure> {
        let variables = env::vars_os().filter_map(|(name, text)| {
            let text = text.into_string().map_err(|text| text.to_string_lossy().into_owned());
            Some((name.into_string().ok()?, text))
        });
        Self::of(words, variables)
    }

    fn of(
        words: &[String],
        variables: impl Iterator<Item = (String, Result<String, String>)>,
    ) -> Result<Self, Failure> {
        let known = known();
        let flags = Settings::of_words(words, &known);
        let (environment, wrong, unknown) =
            Settings::of_environment(variables, &known, &OTHER_VARIABLES);
        if !wrong.is_empty() {
            return Err(Failure::wrong(&wrong));
        }
        let mut given = Self { flags, environment, file: None, unknown };
        let above = given.above();
        let file = above.values("config").and_then(<[WrittenValue]>::first);
        given.file = file.map(|value| PathBuf::from(&value.text));
        Ok(given)
    }

    /// What stands above the file.
    fn above(&self) -> Settings {
        self.flags.clone().over(&self.environment)
    }

    /// Reads the file, if there is one, and checks every value.
    ///
    /// # Errors
    ///
    /// All that is wrong, a line for each.
    pub(crate) fn effective(&self) -> Result<Effective, Failure> {
        let mut known = known();
        known.retain(|known| !NOT_IN_A_FILE.contains(&known.name));
        let written = match &self.file {
            None => Written::default(),
            Some(path) if path.as_os_str().is_empty() => {
                return Err(Failure::wrong(&self.each_alone(&Written::default())));
            }
            Some(path) => file::read(path, &known).map_err(|unread| match unread {
                Unread::File(e) => unreadable(path, &e),
                Unread::Wrong(wrong) => Failure::wrong(&wrong),
            })?,
        };
        let wrong = self.each_alone(&written);
        if !wrong.is_empty() {
            return Err(Failure::wrong(&wrong));
        }
        self.together(written).map_err(|wrong| Failure::wrong(&[wrong]))
    }

    /// What is wrong with single values, also with those that others stand above.
    fn each_alone(&self, written: &Written) -> Vec<WrongSetting> {
        let whole = self.above().over(&written.settings);
        let layers = [&self.flags, &self.environment, &written.settings];
        let mut alone: Vec<Alone<'_>> =
            layers.into_iter().flat_map(|layer| wrong_alone(layer, None)).collect();
        for WrittenListener { settings, .. } in &written.listeners {
            alone.extend(wrong_alone(settings, Some(settings)));
        }
        // One may only miss another option, which is there.
        let names: Vec<&str> = alone.iter().map(|(known, ..)| known.name).collect();
        let still = |(known, one, own): &Alone<'_>| {
            let mut rest = own.cloned().unwrap_or_default().over(&whole);
            names.iter().for_each(|name| drop(rest.remove(name)));
            let sentence = about(&one.clone().over(&rest), known)?;
            // Or another one that only misses this.
            let beside = |(other, it, _): &Alone<'_>| {
                let both = one.clone().over(it).over(&rest);
                let sentence = args(&both).and_then(ServeArgs::into_config).err();
                let named = sentence.as_deref().and_then(option_of);
                let is_right = sentence.is_none()
                    || named.is_none_or(|name| name != known.name && name != other.name);
                other.name != known.name && is_right
            };
            match alone.iter().take(MOST_PAIRS).any(beside) {
                true => None,
                false => Some(placed(&sentence, one)),
            }
        };
        let mut wrong: Vec<WrongSetting> = alone.iter().filter_map(still).collect();
        for listener in &written.listeners {
            let text = &listener.address.text;
            if let Err(why) = listen::parse(text) {
                wrong.push(WrongSetting::value(&listener.address.place, "address", &why));
            }
        }
        wrong.sort_by_key(|wrong| match wrong.place {
            WrittenAt::Flag => (0, 0),
            WrittenAt::Variable(_) => (1, 0),
            WrittenAt::File(_, line) => (2, line),
        });
        wrong
    }

    /// What it all means together.
    fn together(&self, written: Written) -> Result<Effective, WrongSetting> {
        let above = self.above();
        let settings = above.clone().over(&written.settings);
        let mut whole = settings.clone();
        let mut first = None;
        let says_where = ["listen", "port"].iter().any(|name| above.values(name).is_some());
        if !written.listeners.is_empty() && !says_where {
            first = Some(with_listeners(&mut whole, &written.listeners)?);
        }
        let mut config = config(&whole)?;
        config.access.rules.clone_from(&written.rules);
        let listeners = first.map_or(&[][..], |_| written.listeners.as_slice());
        for (number, listener) in (first.unwrap_or(0)..).zip(listeners) {
            let own = above.clone().over(&listener.settings).over(&written.settings);
            let own = self::config(&own)?;
            let mut access = own.access;
            access.rules.clone_from(listener.rules.as_ref().unwrap_or(&written.rules));
            config.own.push(OwnListener { number, open: own.open, access });
        }
        options::learns(&config)
            .and_then(|()| self.read_or_written(&config, &settings, &written))
            .map_err(|sentence| placed_anywhere(&sentence, &settings, &written))?;
        let mut warnings = self.warnings(&settings, &written);
        if !config.admin_names.is_empty()
            && !matches!(config.admin, Some(listener::ListenPlace::Tcp(_)))
        {
            let why = "--admin-name has no effect: there is no --admin with an address";
            warnings.push(why.to_owned());
        }
        if let Some(listener) = written.listeners.first()
            && says_where
        {
            warnings.push(format!(
                "{}: [[listeners]] are left out, with all they have of their own: the command line or \
                 the environment says where to listen",
                listener.address.place
            ));
        }
        Ok(Effective { config, settings, written, warnings })
    }
}

impl GivenOptions {
    /// No file that is read may be one that is written.
    fn read_or_written(
        &self,
        config: &Config,
        settings: &Settings,
        written: &Written,
    ) -> Result<(), String> {
        let read = files_read(settings, written);
        let read = read.map(|(option, file)| (option, std::path::absolute(file)));
        let own = self.file.iter().map(|file| ("config", std::path::absolute(file)));
        for (other, file) in own.chain(read) {
            // What was learnt may hold at once.
            let learnt = |option| other == "allow-list" && option == "--learn-file";
            let same = |(option, path): &&(_, PathBuf)| {
                file.as_ref().ok() == Some(path) && path != Path::new(NOTHING) && !learnt(*option)
            };
            if let Some((option, path)) = options::files_written(config).iter().find(same) {
                let path = path.display();
                return Err(format!("{option}: {path} is the file of --{other}; give another one"));
            }
        }
        Ok(())
    }

    /// The variables that seem to be meant for us, but for those that an option names.
    fn warnings(&self, settings: &Settings, written: &Written) -> Vec<String> {
        let own = written.listeners.iter().map(|listener| &listener.settings);
        let all = [settings].into_iter().chain(own).flat_map(Settings::iter);
        let variables = all.filter(|(known, _)| known.value == "VAR");
        let named: Vec<&str> =
            variables.flat_map(|(_, values)| values).map(|value| value.text.as_str()).collect();
        let unknown = self.unknown.iter().filter(|(name, _)| !named.contains(&name.as_str()));
        unknown.map(|(_, sentence)| sentence.clone()).collect()
    }
}

/// Adds the addresses of listeners to those that are said in the file; answers the first's number.
fn with_listeners(
    settings: &mut Settings,
    listeners: &[WrittenListener],
) -> Result<u16, WrongSetting> {
    let mut values = settings.remove("listen").unwrap_or_default();
    for port in settings.remove("port").unwrap_or_default() {
        if !values.is_empty() {
            let why = "cannot be combined with listen; give the address of each in listen";
            return Err(WrongSetting::value(&port.place, "port", why));
        }
        values.push(WrittenValue { text: format!(":{}", port.text), place: port.place });
    }
    let first = values.len();
    values.extend(listeners.iter().map(|listener| listener.address.clone()));
    if let Some(listen) = known().into_iter().find(|known| known.name == "listen") {
        settings.set(listen, values);
    }
    Ok(u16::try_from(first).unwrap_or(u16::MAX))
}

/// What the settings mean.
fn config(settings: &Settings) -> Result<Config, WrongSetting> {
    let mut config = args(settings)
        .and_then(ServeArgs::into_config)
        .map_err(|sentence| placed(&sentence, settings))?;
    let rules = settings.iter().filter(|(known, _)| OF_A_LISTENER.contains(&known.name));
    config.access.said = rules.filter_map(|(known, values)| said(known, values)).collect();
    Ok(config)
}

/// Where an option was said, if not on the command line.
fn said(known: &KnownOption, values: &[WrittenValue]) -> Option<OptionPlace> {
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
    Some(OptionPlace { option: format!("--{}", known.name), at, lines })
}

fn args(settings: &Settings) -> Result<ServeArgs, String> {
    let words = settings.words();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    ServeArgs::from_args(&["threadgate", "serve"], &words)
        .map_err(|early| early.output.trim_end().to_owned())
}

/// A value that is wrong by itself, and what is said beside it of a listener.
type Alone<'a> = (&'a KnownOption, Settings, Option<&'a Settings>);

/// The values that are wrong if nothing else is said.
fn wrong_alone<'a>(settings: &'a Settings, own: Option<&'a Settings>) -> Vec<Alone<'a>> {
    let mut alone = Vec::new();
    for (known, values) in settings.iter() {
        for value in values {
            let mut one = Settings::default();
            one.set(*known, vec![value.clone()]);
            if about(&one, known).is_some() {
                alone.push((known, one, own));
            }
        }
    }
    alone
}

/// The sentence that refuses these settings, if it is about this option.
fn about(settings: &Settings, known: &KnownOption) -> Option<String> {
    let sentence = args(settings).and_then(ServeArgs::into_config).err();
    sentence.filter(|sentence| option_of(sentence) == Some(known.name))
}

/// The option that a sentence begins with.
fn option_of(sentence: &str) -> Option<&str> {
    let rest = sentence.strip_prefix("--")?;
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-')?;
    rest.get(..end)
}

/// A sentence about an option, with the place where that was said instead of its name alone.
fn placed(sentence: &str, settings: &Settings) -> WrongSetting {
    let as_it_is = || WrongSetting { place: WrittenAt::Flag, message: sentence.to_owned() };
    let Some(name) = option_of(sentence) else { return as_it_is() };
    let Some(values) = settings.values(name) else { return as_it_is() };
    let named = values.iter().rev().find(|value| sentence.contains(&value.text));
    let Some(value) = named.or_else(|| values.last()) else { return as_it_is() };
    let rest = sentence.get(2 + name.len()..).unwrap_or_default();
    WrongSetting {
        place: value.place.clone(),
        message: format!("{}{rest}", value.place.before(name)),
    }
}

/// The same, of an option of all listeners or of one.
fn placed_anywhere(sentence: &str, settings: &Settings, written: &Written) -> WrongSetting {
    let Some(name) = option_of(sentence) else { return placed(sentence, settings) };
    let own = written.listeners.iter().map(|listener| &listener.settings);
    let all: Vec<&Settings> = [settings].into_iter().chain(own).collect();
    let values = |settings: &Settings| settings.values(name).unwrap_or_default().to_vec();
    let is_named = |value: &WrittenValue| sentence.contains(&value.text);
    let named = all.iter().find(|settings| values(settings).iter().any(is_named));
    let said = named.or_else(|| all.iter().find(|settings| settings.values(name).is_some()));
    placed(sentence, said.copied().unwrap_or(settings))
}

fn unreadable(path: &Path, e: &io::Error) -> Failure {
    let exit = match e.kind() {
        io::ErrorKind::PermissionDenied => Exit::NoPermission,
        _ => Exit::Configuration,
    };
    let path = path.display();
    let message = format!("--config {path}: cannot read it: {e}; give a file this user can read");
    Failure { exit, message }
}

#[cfg(test)]
#[path = "effective_options_tests.rs"]
mod tests;
