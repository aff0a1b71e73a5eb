//! Package installers: pip, apt-get and npm, each with files that nginx serves.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::programs::{
    client_connections, free_port, in_short, logged, logging_proxy, output, run, text,
};
use crate::proxies::Binary;

use super::installed::{Nginx, python, script, tool};

/// Makes packages of a kind in nginx's directory, served at `origin`.
fn make(nginx: &Nginx, kind: &str, origin: &str) -> Option<()> {
    let mut make = tool("python3")?;
    output(make.arg(script("packages.py")).arg(kind).arg(&nginx.root).arg(origin));
    Some(())
}

/// Whether both packages are in `dir`, byte for byte.
#[track_caller]
fn assert_installed(nginx: &Nginx, dir: &Path) {
    for name in ["upper", "lower"] {
        let installed = fs::read(dir.join(name).join("data")).unwrap();
        let made = fs::read(nginx.root.join(format!("{name}.data"))).unwrap();
        assert!(installed == made, "{name} differs");
    }
}

/// Debian's pip, installing `upper` and its dependencies from `index` into `dir`.
fn pip(proxy: &Binary, index: &str, dir: &Path) -> Option<Command> {
    let mut pip = python("pip")?;
    pip.args(["-m", "pip", "--isolated", "--disable-pip-version-check", "--no-input"]);
    pip.args(["--proxy", &proxy.url(), "install", "--quiet", "--no-cache-dir", "--no-compile"]);
    pip.args(["--root-user-action", "ignore", "--retries", "0", "--index-url", index, "--target"]);
    pip.arg(dir).arg("upper").env("PIP_CONFIG_FILE", "/dev/null").env("HOME", dir);
    Some(pip)
}

#[test]
fn pip_installs_from_an_index() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let index = format!("http://{}/simple/", nginx.clear);
    let dir = tempfile::tempdir().unwrap();
    let (Some(mut pip), Some(())) =
        (pip(&proxy, &index, dir.path()), make(&nginx, "wheels", &index))
    else {
        return;
    };
    output(&mut pip);
    assert_installed(&nginx, dir.path());
    let lines = logged(&proxy, |lines| lines.len() >= 4);
    assert_eq!(lines.len(), 4, "two pages, two wheels");
    assert!(lines.iter().all(|line| line["status"] == 200 && line["method"] == "GET"));
    assert_eq!(client_connections(&lines), 1);
}

#[test]
fn pip_installs_over_https() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let index = format!("https://{}/simple/", nginx.tls);
    let dir = tempfile::tempdir().unwrap();
    let (Some(mut pip), Some(())) =
        (pip(&proxy, &index, dir.path()), make(&nginx, "wheels", &index))
    else {
        return;
    };
    output(pip.arg("--cert").arg(&nginx.ca));
    assert_installed(&nginx, dir.path());
    let lines = logged(&proxy, |lines| !lines.is_empty());
    assert!(in_short(&lines[0]).starts_with(&format!("CONNECT {} 200", nginx.tls)), "{lines:?}");
}

/// How many packages the [`repository`] has.
const DEBS: usize = 24;

/// A repository of Debian packages in nginx's directory: `sample-0` and so on.
fn repository(nginx: &Nginx) -> Option<()> {
    for i in 0..DEBS {
        let dir = tempfile::tempdir().unwrap();
        let control = format!(
            "Package: sample-{i}\nVersion: 1.0\nArchitecture: all\nMaintainer: a tester <tester@localhost>\n\
             Description: a package to fetch\n"
        );
        fs::create_dir_all(dir.path().join("DEBIAN")).unwrap();
        fs::write(dir.path().join("DEBIAN/control"), control).unwrap();
        // The first is large enough to be resumed.
        let size = if i == 0 { 700_000 } else { 3_000 * i };
        fs::write(dir.path().join("content"), &nginx.content[i..i + size]).unwrap();
        let mut build = tool("dpkg-deb")?;
        build.args(["--root-owner-group", "-Znone", "--build"]).arg(dir.path());
        output(build.arg(nginx.root.join(format!("sample-{i}.deb"))));
    }
    let packages = output(tool("apt-ftparchive")?.current_dir(&nginx.root).args(["packages", "."]));
    fs::write(nginx.root.join("Packages"), packages).unwrap();
    let release = output(tool("apt-ftparchive")?.current_dir(&nginx.root).args(["release", "."]));
    fs::write(nginx.root.join("Release"), release).unwrap();
    Some(())
}

/// apt-get with a system of its own in `dir`, which knows one repository.
fn apt_get(proxy: &Binary, dir: &Path, repository: &str, args: &[&str]) -> Option<Command> {
    for part in ["etc", "state/lists/partial", "cache/archives/partial"] {
        fs::create_dir_all(dir.join(part)).unwrap();
    }
    fs::write(dir.join("etc/sources"), format!("deb [trusted=yes] {repository} ./\n")).unwrap();
    fs::write(dir.join("state/status"), "").unwrap();
    // A configuration of its own, so that the machine's does not matter.
    let config = format!(
        "Dir::Etc::sourcelist \"{0}/etc/sources\"; Dir::Etc::sourceparts \"-\";
         Dir::Etc::main \"-\"; Dir::Etc::parts \"-\"; Dir::Etc::trusted \"-\"; Dir::Etc::trustedparts \"-\";
         Dir::Etc::preferences \"-\"; Dir::Etc::preferencesparts \"-\";
         Dir::Etc::netrc \"-\"; Dir::Etc::netrcparts \"-\";
         Dir::State \"{0}/state\"; Dir::State::status \"{0}/state/status\"; Dir::Cache \"{0}/cache\";
         Dir::Log \"{0}\"; APT::Sandbox::User \"\"; APT::Architecture \"amd64\";
         Acquire::Languages \"none\"; Acquire::Retries \"0\";
         Acquire::http::Proxy \"{1}\"; Acquire::https::Proxy \"{1}\";\n",
        dir.display(),
        proxy.url()
    );
    let file = dir.join("apt.conf");
    fs::write(&file, config).unwrap();
    let mut apt_get = tool("apt-get")?;
    apt_get.env("APT_CONFIG", &file).env("LC_ALL", "C").args(["-q", "-y"]).args(args);
    Some(apt_get)
}

fn download(proxy: &Binary, dir: &Path, repository: &str, more: &[&str]) -> Option<String> {
    output(apt_get(proxy, dir, repository, &[more, &["update"]].concat())?.arg("-qq"));
    let names: Vec<_> = (0..DEBS).map(|i| format!("sample-{i}")).collect();
    let mut install = apt_get(proxy, dir, repository, more)?;
    Some(text(install.args(["install", "--download-only"]).args(&names)))
}

#[track_caller]
fn assert_downloaded(nginx: &Nginx, dir: &Path) {
    for i in 0..DEBS {
        let here = dir.join(format!("cache/archives/sample-{i}_1.0_all.deb"));
        let there = nginx.root.join(format!("sample-{i}.deb"));
        assert!(fs::read(here).unwrap() == fs::read(there).unwrap(), "sample-{i} differs");
    }
}

/// Requests are pipelined, and an interrupted download is resumed.
#[test]
fn apt_get_updates_and_downloads_packages() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let Some(()) = repository(&nginx) else { return };
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", nginx.clear);
    if apt_get(&proxy, dir.path(), &url, &[]).is_none() {
        return;
    }
    let deb = nginx.root.join("sample-0.deb");
    let part = dir.path().join("cache/archives/partial/sample-0_1.0_all.deb");
    fs::write(&part, &fs::read(&deb).unwrap()[..100_000]).unwrap();
    let of_deb = fs::metadata(&deb).unwrap().modified().unwrap();
    fs::File::options().write(true).open(&part).unwrap().set_modified(of_deb).unwrap();
    download(&proxy, dir.path(), &url, &["-o", "Acquire::http::Pipeline-Depth=10"]).unwrap();
    assert_downloaded(&nginx, dir.path());

    let debs = |lines: &[serde_json::Value]| {
        lines
            .iter()
            .filter(|line| line["target"].as_str().unwrap().ends_with(".deb"))
            .cloned()
            .collect::<Vec<_>>()
    };
    let lines = logged(&proxy, |lines| debs(lines).len() >= DEBS);
    let debs = debs(&lines);
    assert_eq!(debs.len(), DEBS);
    assert_eq!(client_connections(&debs), 1, "one connection, kept");
    let resumed = debs.iter().filter(|line| line["status"] == 206).count();
    assert_eq!(resumed, 1, "{:?}", debs.iter().map(in_short).collect::<Vec<_>>());
    assert!(debs.iter().all(|line| line["error"].is_null()));
}

#[test]
fn apt_get_downloads_over_https() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let Some(()) = repository(&nginx) else { return };
    let dir = tempfile::tempdir().unwrap();
    let url = format!("https://{}/", nginx.tls);
    let ca = format!("Acquire::https::CAInfo={}", nginx.ca.display());
    let Some(_) = download(&proxy, dir.path(), &url, &["-o", &ca]) else { return };
    assert_downloaded(&nginx, dir.path());
    let lines = logged(&proxy, |lines| lines.len() >= 2);
    let tunnel = format!("CONNECT {} 200 ", nginx.tls);
    assert!(lines.iter().all(|line| in_short(line).starts_with(&tunnel)), "{lines:?}");
}

/// apt reports the proxy's status when the server is not there.
#[test]
fn apt_get_reports_the_status_of_the_proxy() {
    let proxy = Binary::start(&[]);
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{}/", free_port());
    let Some(mut update) = apt_get(&proxy, dir.path(), &url, &["update"]) else { return };
    let said = run(&mut update);
    assert!((said.text() + &said.stderr).contains("502  Bad Gateway"), "{}", said.stderr);
}

/// npm in a directory with a package to work on, and a home of its own.
fn npm(proxy: &Binary, registry: &str) -> Option<(Command, TempDir)> {
    let mut npm = tool("npm")?;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("package.json"), r#"{"name": "works-on-it", "version": "0.0.0"}"#)
        .unwrap();
    // The settings of the user who runs the tests come from files and from variables.
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().to_lowercase().starts_with("npm_config_") {
            npm.env_remove(name);
        }
    }
    let cache = dir.path().join("cache");
    npm.current_dir(dir.path()).env("HOME", dir.path());
    npm.args(["install", "upper", "--userconfig=/dev/null", "--globalconfig=/dev/null/none"]);
    npm.args(["--no-audit", "--no-fund", "--no-update-notifier", "--fetch-retries=0"]);
    npm.args(["--noproxy=", &format!("--cache={}", cache.display())]);
    npm.args([&format!("--registry={registry}"), &format!("--proxy={}", proxy.url())]);
    npm.arg(format!("--https-proxy={}", proxy.url()));
    Some((npm, dir))
}

#[test]
fn npm_installs_from_a_registry() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let registry = format!("http://{}", nginx.clear);
    let (Some((mut npm, dir)), Some(())) = (npm(&proxy, &registry), make(&nginx, "npm", &registry))
    else {
        return;
    };
    output(&mut npm);
    assert_installed(&nginx, &dir.path().join("node_modules"));
    let lines = logged(&proxy, |lines| lines.len() >= 4);
    assert_eq!(lines.len(), 4, "{:?}", lines.iter().map(in_short).collect::<Vec<_>>());
    assert!(lines.iter().all(|line| line["status"] == 200 && line["method"] == "GET"));
}

#[test]
fn npm_installs_over_https() {
    let proxy = logging_proxy(&[]);
    let Some(nginx) = Nginx::start() else { return };
    let registry = format!("https://{}", nginx.tls);
    let (Some((mut npm, dir)), Some(())) = (npm(&proxy, &registry), make(&nginx, "npm", &registry))
    else {
        return;
    };
    output(npm.arg(format!("--cafile={}", nginx.ca.display())));
    assert_installed(&nginx, &dir.path().join("node_modules"));
    let lines = logged(&proxy, |lines| !lines.is_empty());
    let tunnel = format!("CONNECT {} 200 ", nginx.tls);
    assert!(lines.iter().all(|line| in_short(line).starts_with(&tunnel)), "{lines:?}");
}
