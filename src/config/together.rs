//! Finds contradictions between options whose values are each valid.

use std::path::{Path, PathBuf};

use super::options::{FileUse, OptionRow};
use super::settings::Settings;
use super::unusable::Unusable;
use super::values::Config;
use crate::net::listener::ListenPlace;
use crate::policy::decide::Mode;

/// A file that can be read and written by many.
pub const NOTHING: &str = "/dev/null";

/// The options to check together: their parsed values, and the settings as written.
#[derive(Clone, Copy, Debug)]
pub struct Together<'a> {
    /// The parsed values.
    pub config: &'a Config,
    /// The settings for all listeners.
    pub settings: &'a Settings,
    /// The settings of single listeners.
    pub own: &'a [&'a Settings],
}

impl Together<'_> {
    /// All contradictions.
    pub fn contradictions(&self) -> Vec<Unusable> {
        let single = [
            self.port_beside_listen(),
            self.admin_where_the_proxy_listens(),
            learning(self.config).err(),
        ];
        let mut found: Vec<Unusable> = single.into_iter().flatten().collect();
        found.extend(self.files_written_twice());
        found.extend(self.files_read_and_written());
        found.extend(self.wrong_access());
        found
    }

    /// The mistakes in the access options of all listeners, and of single ones. An option that all
    /// listeners inherit needs the options beside it on one of them only.
    fn wrong_access(&self) -> Vec<Unusable> {
        let common = (None, self.config.access.wrong());
        let own = self.config.own.iter().map(|own| (Some(own.number), own.access.wrong()));
        let all: Vec<_> = [common].into_iter().chain(own).collect();
        let lacks = |wrong: &[Unusable], option: &str| {
            wrong.iter().any(|it| it.is_missing && it.option == Some(option))
        };
        let is_own = |option: &str| self.own.iter().any(|own| own.values(option).is_some());
        let is_used_elsewhere = |it: &Unusable| {
            let Some(option) = it.option.filter(|option| it.is_missing && !is_own(option)) else {
                return false;
            };
            all.iter().any(|(_, wrong)| !lacks(wrong, option))
        };
        let of = |(number, wrong): &(Option<u16>, Vec<Unusable>)| {
            let wrong = wrong.iter().filter(|it| !is_used_elsewhere(it)).cloned();
            let placed = wrong.map(|it| Unusable { listener: number.or(it.listener), ..it });
            placed.collect::<Vec<_>>()
        };
        all.iter().flat_map(of).collect()
    }

    fn port_beside_listen(&self) -> Option<Unusable> {
        let port = self.settings.values("port")?.first()?;
        self.settings.values("listen")?.first()?;
        let why = format!(
            "cannot be combined with --listen; write --listen 127.0.0.1:{} for that port too",
            port.text
        );
        Some(Unusable::of("port", why).beside(&["listen"]))
    }

    fn admin_where_the_proxy_listens(&self) -> Option<Unusable> {
        let Some(ListenPlace::Tcp(address)) = self.config.server.admin else { return None };
        let taken = address.port() != 0 && self.config.listen().contains(&address);
        let why = format!("the proxy listens on {address}; give another port, such as :9127");
        taken.then(|| Unusable::of("admin", why).beside(&["listen", "port"]))
    }

    /// One option would destroy what the other wrote.
    fn files_written_twice(&self) -> Vec<Unusable> {
        let files: Vec<_> = self.files(FileUse::Written).collect();
        let twice = files.iter().enumerate().filter_map(|(at, (row, path))| {
            let (other, _) = files.iter().take(at).find(|(_, before)| before == path)?;
            Some(same_file(row, path, other))
        });
        twice.collect()
    }

    fn files_read_and_written(&self) -> Vec<Unusable> {
        let read: Vec<_> =
            self.files(FileUse::Configuration).chain(self.files(FileUse::Read)).collect();
        let both = self.files(FileUse::Written).filter_map(|(row, path)| {
            // What was learnt may hold at once.
            let learnt = |of: &OptionRow| (of.name, row.name) == ("allow-list", "learn-file");
            let same = |(of, file): &&(&OptionRow, PathBuf)| {
                *file == path && path != Path::new(NOTHING) && !learnt(of)
            };
            Some(same_file(row, &path, read.iter().find(same)?.0))
        });
        both.collect()
    }

    fn files(&self, uses: FileUse) -> impl Iterator<Item = (&'static OptionRow, PathBuf)> {
        let all = [self.settings].into_iter().chain(self.own.iter().copied());
        all.flat_map(move |settings| settings.files(uses))
            .filter_map(|(row, _, path)| Some((row, std::path::absolute(path).ok()?)))
    }
}

fn same_file(row: &OptionRow, path: &Path, other: &OptionRow) -> Unusable {
    let why = format!("{} is the file of --{}; give another one", path.display(), other.name);
    Unusable::of(row.name, why)
}

/// Checks that `--policy learn` and `--learn-file` are given together.
///
/// # Errors
///
/// The one that is missing.
pub fn learning(config: &Config) -> Result<(), Unusable> {
    let all = (config.access.policy == Mode::Learn).then_some(None);
    let own = config.own.iter().find(|own| own.access.policy == Mode::Learn);
    match (all.or(own.map(|own| Some(own.number))), &config.learn_file) {
        (Some(listener), None) => {
            let why = "learn needs a file for the domains that are reached; give --learn-file FILE";
            Err(Unusable { listener, ..Unusable::of("policy", why).without(&["learn-file"]) })
        }
        (None, Some(_)) => {
            let why = "only --policy learn learns anything; give both";
            Err(Unusable::of("learn-file", why).without(&["policy"]))
        }
        _ => Ok(()),
    }
}
