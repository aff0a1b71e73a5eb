//! Reloads the whole configuration while the proxy runs: on a signal, or with `--watch` when a file
//! changes.
//!
//! A separate thread does this, so that neither a worker nor a signal to stop waits for a disk. The
//! thread reads the configuration file and all files it names before it changes anything, so a mistake
//! changes nothing. Options that need a restart are named in the log, and the others take effect.
//!
//! Files are checked by name once a second: a file that an editor replaced, or a link that now leads
//! elsewhere, has another inode. A changed file is read once it has stopped changing for a moment; a
//! missing file is waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use parking_lot::Mutex;

use crate::cli::effective_options::{Effective, GivenOptions, refused_hosts};
use crate::cli::exit::{Exit, Failure};
use crate::cli::readiness::Readiness;
use crate::config::options::{self, OptionScope};
use crate::config::settings::{Settings, WrittenValue};
use crate::config::together::{NOTHING, learning};
use crate::config::{Config, OwnListener};
use crate::server::control::Control;

/// How often files are checked.
const LOOK: Duration = Duration::from_secs(1);
/// How long a file that has changed must stay as it is before it is read.
const SETTLED: Duration = Duration::from_millis(200);
/// How long to wait for a missing file before the reload fails.
const RETURN: Duration = Duration::from_secs(5);

/// A handle that asks for a reload.
pub(crate) struct Reloading(Sender<()>);

impl Reloading {
    /// Starts the thread that reloads. It is never joined.
    pub(crate) fn begin(
        given: GivenOptions,
        effective: Effective,
        control: Control,
        readiness: Arc<Mutex<Readiness>>,
        listening: String,
        (files, loaded): (Vec<PathBuf>, Prints),
    ) -> Result<Self, Failure> {
        // One request may wait while a reload runs; further ones would add nothing.
        let (ask, asked) = bounded(1);
        let reload = Reload {
            given,
            running: effective.clone(),
            own: effective.config.own.clone(),
            last: effective,
            control,
            readiness,
            listening,
            files,
            taken: loaded.clone(),
            loaded,
        };
        thread::Builder::new()
            .name("reload".into())
            .spawn(move || reload.run(&asked))
            .map_err(|e| Failure::failed(format!("cannot start a thread: {e}")))?;
        Ok(Self(ask))
    }

    /// The files to read, and their state before they are read.
    pub(crate) fn before(given: &GivenOptions, effective: &Effective) -> (Vec<PathBuf>, Prints) {
        let files = files(given, effective);
        let loaded = look(&files);
        (files, loaded)
    }

    /// Asks for everything to be read again.
    pub(crate) fn ask(&self) {
        match self.0.try_send(()) {
            // If the channel is full, a reload is already waiting.
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => {
                log::error!("cannot reload: the thread that reloads was ended by a bug");
            }
        }
    }
}

/// The state of a file, for noticing changes: device, inode, length, and the times of the last change of
/// content and inode.
pub(crate) type Print = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;
pub(crate) type Prints = BTreeMap<PathBuf, Print>;

struct Reload {
    given: GivenOptions,
    /// The options that the proxy was started with.
    running: Effective,
    /// The options that were read last.
    last: Effective,
    /// The current options of single listeners.
    own: Vec<OwnListener>,
    control: Control,
    readiness: Arc<Mutex<Readiness>>,
    listening: String,
    /// The files to read, including those of a configuration that was refused because of one of them.
    files: Vec<PathBuf>,
    /// The state of the files just before they were read.
    loaded: Prints,
    /// The state of the files when the configuration in use was read.
    taken: Prints,
}

impl Reload {
    fn run(mut self, asked: &Receiver<()>) {
        let mut changed: Option<Change> = None;
        loop {
            let wait = if changed.is_some() { SETTLED } else { LOOK };
            let is_asked = match self.last.config.watch {
                true => asked.recv_timeout(wait),
                false => asked.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match is_asked {
                Ok(()) => {
                    changed = None;
                    self.reload();
                }
                Err(RecvTimeoutError::Timeout) => {
                    let now = look(&self.files);
                    changed = Change::next(changed, now, &self.loaded, Instant::now());
                    if changed.as_ref().is_some_and(|change| change.is_over(Instant::now())) {
                        changed = None;
                        self.reload();
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn reload(&mut self) {
        self.readiness.lock().reloading();
        // Look before reading, so that a change during the reload counts as another change.
        self.loaded = look(&self.files);
        let taken = self.take();
        self.control.count_reload(taken.is_ok());
        if let Err(failure) = taken {
            for line in failure.message.lines() {
                log::error!("not reloaded: {line}");
            }
            log::warn!("the reload changed nothing; the configuration in use stays");
        }
        self.readiness.lock().ready(&self.listening);
    }

    /// Refuses a file that has become empty, because a program is probably still writing it.
    fn refuse_empty(&self, new: &Effective) -> Result<(), Failure> {
        let length =
            |prints: &Prints, file: &PathBuf| prints.get(file).copied().flatten().map(|it| it.2);
        let emptied = |file: &&PathBuf| {
            length(&self.loaded, file) == Some(0)
                && length(&self.taken, file) > Some(0)
                // A file that is not regular, or cannot be read, does not count as emptied.
                && fs::metadata(file).is_ok_and(|it| it.is_file())
                && fs::read(file).is_ok_and(|bytes| bytes.is_empty())
        };
        let blank = new.written.is_blank && !self.last.written.is_blank;
        let own = self.given.file.as_ref().filter(|_| blank);
        let Some(file) = own.or_else(|| self.files.iter().find(emptied)) else { return Ok(()) };
        let message = format!(
            "{}: it is empty; to clear it on purpose, write one line, such as a comment",
            file.display()
        );
        Err(Failure::new(Exit::Configuration, message))
    }

    /// Reads everything, and then applies the options that can change.
    fn take(&mut self) -> Result<(), Failure> {
        self.can_be_read_again()?;
        let new = self.given.effective()?;
        let config = for_running(&self.running.config, &self.own, &new.config);
        self.files = files(&self.given, &new);
        // A listener that the configuration no longer mentions keeps its options, so its files are read too.
        self.files.extend(config.own.iter().flat_map(|own| own.access.files()));
        let known = std::mem::take(&mut self.loaded);
        self.loaded = look(&self.files);
        self.loaded.iter_mut().for_each(|(file, print)| {
            *print = known.get(file).copied().unwrap_or(*print);
        });
        let learns = |of: &Effective| learning(&Config { learn_file: None, ..of.config.clone() });
        if let (Err(missing), None) = (learns(&new), &self.running.config.learn_file) {
            let mut failure = new.unusable(&missing);
            failure.message.push_str(", and start again");
            return Err(failure);
        }
        let before = self.control.policy();
        let access = config.access(Some(&before)).map_err(|e| new.unusable(&e))?;
        drop(before);
        self.refuse_empty(&new)?;
        if let Some(read) = self.control.reread_hosts() {
            match read {
                Ok(count) => log::info!("the hosts files were read again: {count} names"),
                Err(wrong) => {
                    let mut failure = refused_hosts(&wrong, &self.running.settings);
                    failure.message.push_str("; the names read before stay in use");
                    return Err(failure);
                }
            }
        }
        self.control.set_access(&access, config.server.open);
        self.own.clone_from(&config.own);
        self.taken.clone_from(&self.loaded);
        if let Some(users) = access.auth.as_ref().filter(|_| !config.access.users.files.is_empty())
        {
            log::info!("the files of users were read again: {} users", users.users());
        }
        for warning in new.warnings.iter().filter(|it| !self.last.warnings.contains(it)) {
            log::warn!("{warning}");
        }
        for what in needing_restart(&self.running, &self.last, &new) {
            log::warn!("{what}: needs a restart; until then the earlier value holds");
        }
        if let Some(file) = &self.given.file {
            log::info!("{} was read again", file.display());
        }
        self.last = new;
        Ok(())
    }
}

impl Reload {
    /// Checks that the configuration file is still a regular file. A pipe could be read only once, at the
    /// start, and reading it again would block.
    fn can_be_read_again(&self) -> Result<(), Failure> {
        let Some(path) = &self.given.file else { return Ok(()) };
        let is_file = fs::metadata(path).is_ok_and(|it| it.is_file() || it.is_dir());
        if !is_file && path.exists() && path != Path::new(NOTHING) {
            let path = path.display();
            let message = format!(
                "{path}: it is not a regular file, so it cannot be read again; give a regular file"
            );
            return Err(Failure::new(Exit::Configuration, message));
        }
        Ok(())
    }
}

/// The new configuration for the running listeners. Each listener gets the options that are now given for
/// its address, or keeps its own if there are none.
fn for_running(running: &Config, own: &[OwnListener], new: &Config) -> Config {
    let mut config = new.clone();
    config.own.clear();
    let mut taken = BTreeSet::new();
    for (number, address) in (0..).zip(running.listen()) {
        let there = (0u16..).zip(new.listen());
        let same = there.filter(|(_, it)| *it == address).map(|(number, _)| number);
        let of = |all: &[OwnListener], number| all.iter().find(|own| own.number == number).cloned();
        let own = match same.into_iter().find(|number| !taken.contains(number)) {
            Some(there) => {
                taken.insert(there);
                of(&new.own, there)
            }
            None => of(own, number),
        };
        config.own.extend(own.map(|own| OwnListener { number, ..own }));
    }
    config
}

/// The options that differ from those at the start, need a restart, and were not reported before.
fn needing_restart(running: &Effective, last: &Effective, new: &Effective) -> Vec<String> {
    let texts = |settings: &Settings, name: &str| {
        let values = settings.values(name).unwrap_or_default();
        values.iter().map(|value: &WrittenValue| value.text.clone()).collect::<Vec<_>>()
    };
    let said = |of: &Effective, name: &str| texts(&of.settings, name);
    let all = [running, last, new].map(|it| it.settings.iter().map(|(known, _)| known.name));
    let names: BTreeSet<&str> = all.into_iter().flatten().collect();
    let is_other = |name: &&str| {
        let now = said(new, name);
        now != said(running, name) && now != said(last, name)
    };
    let options = names.into_iter().filter(|name| !is_taken(name));
    let options = options.filter(|name| !["listen", "port"].contains(name));
    let mut needing: Vec<String> = options.filter(is_other).map(str::to_owned).collect();
    // The order of the addresses does not matter.
    let addresses = |of: &Effective| of.config.listen().iter().copied().collect::<BTreeSet<_>>();
    let listen = addresses(new);
    if listen != addresses(running) && listen != addresses(last) {
        needing.push("listen".to_owned());
    }
    needing
}

fn is_taken(name: &str) -> bool {
    options::find(name).is_some_and(|row| row.scope != OptionScope::Process)
}

/// The files that are read.
fn files(given: &GivenOptions, effective: &Effective) -> Vec<PathBuf> {
    given.file.iter().cloned().chain(effective.files_read()).collect()
}

fn look(files: &[PathBuf]) -> Prints {
    let print = |file: &PathBuf| {
        let it = fs::metadata(file).ok()?;
        let modified = (it.mtime(), it.mtime_nsec());
        Some((it.dev(), it.ino(), it.len(), modified, (it.ctime(), it.ctime_nsec())))
    };
    files.iter().map(|file| (file.clone(), print(file))).collect()
}

/// A change that may not be over yet.
#[derive(Debug)]
struct Change {
    /// The state of the files at the last check.
    seen: Prints,
    /// When they were first seen in that state.
    since: Instant,
}

impl Change {
    /// The change after another check, if there is one.
    fn next(before: Option<Self>, now: Prints, loaded: &Prints, at: Instant) -> Option<Self> {
        match before {
            _ if now == *loaded => None,
            Some(before) if before.seen == now => Some(before),
            _ => Some(Self { seen: now, since: at }),
        }
    }

    /// Whether it is time to read the files.
    fn is_over(&self, now: Instant) -> bool {
        let missing = self.seen.values().any(Option::is_none);
        now.duration_since(self.since) >= if missing { RETURN } else { SETTLED }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The manual states this for all options of these topics except the few that it names.
    #[test]
    fn options_of_access_and_traffic_are_taken_and_can_be_a_listeners_own() {
        const NOT_TAKEN: [&str; 2] = ["fail-on-deny", "learn-file"];
        const OF_THE_RUN: [&str; 1] = ["max-bytes"];
        let topics = ["access", "users", "content", "traffic"];
        for topic in options::TOPICS.iter().filter(|topic| topics.contains(&topic.name)) {
            for row in topic.rows {
                let name = row.name;
                assert_eq!(is_taken(name), !NOT_TAKEN.contains(&name), "taken: {name}");
                let own = is_taken(name) && !OF_THE_RUN.contains(&name);
                assert_eq!(row.is_of_a_listener(), own, "of a listener: {name}");
            }
        }
    }

    #[test]
    fn a_change_is_read_when_it_is_over_and_a_file_that_is_gone_is_waited_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let prints = |length: Option<u64>| {
            let print = length.map(|length| (1, 1, length, (0, 0), (0, 0)));
            Prints::from([(PathBuf::from("a"), print)])
        };
        let loaded = prints(Some(1));
        assert!(Change::next(None, prints(Some(1)), &loaded, at(0)).is_none());
        let mut change = None;
        // The file is half written, missing, back and growing, and finally complete.
        for (ms, length, over) in [
            (0, Some(0), false),
            (200, Some(5), false),
            (400, None, false),
            (600, None, false),
            (800, Some(7), false),
            (1000, Some(9), false),
            (1200, Some(9), true),
        ] {
            change = Change::next(change, prints(length), &loaded, at(ms));
            assert_eq!(change.as_ref().unwrap().is_over(at(ms)), over, "{ms}");
        }
        let gone = Change::next(None, prints(None), &loaded, at(0)).unwrap();
        assert!(!gone.is_over(at(4900)) && gone.is_over(at(5000)));
        // A change that was undone is no change.
        assert!(Change::next(Some(gone), prints(Some(1)), &loaded, at(0)).is_none());
    }
}
