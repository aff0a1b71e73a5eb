"""The proxies under test and their origin servers: how to start each, and how to use it."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from harness.lists import NAMED, BlockList
from harness.procs import START_SECONDS, BenchError, Process, free_ports

TEMPLATES = Path(__file__).resolve().parent.parent / "peers"

PACKAGES = {
    "wrk": "wrk",
    "nginx": "nginx",
    "haproxy": "haproxy",
    "tinyproxy": "tinyproxy",
    "taskset": "util-linux",
    "squid": "squid",
    "privoxy": "privoxy",
    "apache2": "apache2",
    "go": "golang-go golang-github-elazarl-goproxy-dev",
    "perf": "linux-perf",
}

APACHE_MODULES = Path("/usr/lib/apache2/modules")


def tool(name: str) -> str:
    """The path of a program, or an error that names its package."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        raise BenchError(
            f"{name} is missing: `apt-get install {PACKAGES[name]}` or `.ci/tools bench-packages`"
        )
    return path


@dataclass(frozen=True)
class Setup:
    """The inputs of a proxy's start, the same for all proxies of a row."""

    directory: Path
    binaries: dict[str, Path]
    """The programs built here, by the name of the proxy."""
    origin_port: int
    echo_port: int
    core: int | None = None
    threads: int = 8
    """Workers of threadgate."""
    peer_threads: int = 1
    """Threads or worker processes of HAProxy and nginx: one for each core they may use."""
    held: int = 512
    """Exchanges and tunnels under way at once, and threads of peers with one each."""
    head_timeout: int = 60
    resolve: tuple[str, ...] = ()
    """Names with given addresses for threadgate: `HOST:PORT:ADDRESS`, in the order of trying."""
    listed: BlockList | None = None
    """The block list, for proxies that have one."""
    start_seconds: float = START_SECONDS
    """Limit on the time of a start."""


@dataclass(frozen=True)
class Proxy:
    """A running proxy, and its ports."""

    name: str
    process: Process
    http_port: int
    relay_origin_port: int | None = None
    """The port of a TCP relay to the origin server, if the proxy has no CONNECT."""
    relay_echo_port: int | None = None
    persistent: bool = True
    """Whether it accepts a second request on a connection."""
    refused: tuple[str, ...] = ()
    """Hosts that it must refuse to every client."""

    def tunnel_arguments(self, to_echo: bool) -> list[str]:
        """The load client's arguments for a tunnel through this proxy."""
        port = self.relay_echo_port if to_echo else self.relay_origin_port
        if port is None:
            return ["--via", "connect"]
        return ["--via", "direct", "--relay", f"127.0.0.1:{port}"]


def fill(template: str, to: Path, values: dict[str, object]) -> Path:
    """Writes a configuration from its template. A name without a value is a KeyError."""
    text = (TEMPLATES / template).read_text()
    to.write_text(re.sub(r"\{\{(\w+)\}\}", lambda match: str(values[match[1]]), text))
    return to


CREDENTIALS = "bench:of threadgate"
"""User and password, in rows that have them."""


def start_threadgate(setup: Setup, name: str, extra: tuple[str, ...] = ()) -> Proxy:
    port_file = setup.directory / f"{name}.port"
    port_file.unlink(missing_ok=True)
    command = threadgate_command(setup, name, "127.0.0.1:0", extra)
    command += ["--port-file", str(port_file)]
    process = Process(command, setup.core, setup.directory, asked=name in COUNTING)
    try:
        return Proxy(name, process, process.wait_file(port_file, setup.start_seconds)[0])
    except BenchError:
        process.stop()
        raise


def threadgate_command(
    setup: Setup, name: str, listen: str, extra: tuple[str, ...] = ()
) -> list[str]:
    """The command line; `extra` replaces `--access-log off`."""
    names = [word for name in setup.resolve for word in ("--resolve", name)]
    return [
        str(setup.binaries[name]),
        *("--listen", listen),
        *("--threads", str(setup.threads)),
        *("--timeout-head", f"{setup.head_timeout}s"),
        *("--timeout-idle", "10m"),
        *("--timeout-tunnel", "10m"),
        # The default would leave three descriptors for each client, too few for 9,000 idle ones.
        *("--max-connections", "9500"),
        *(extra or ("--access-log", "off")),
        *names,
    ]


def start_threadgate_logging(setup: Setup, name: str) -> Proxy:
    return start_threadgate(setup, name, ("--access-log", str(setup.directory / "access.log")))


def start_threadgate_access(setup: Setup, name: str) -> Proxy:
    access = ("--auth", CREDENTIALS, "--allow-client", "127.0.0.0/8")
    return start_threadgate(setup, name, ("--access-log", "off", *access))


def start_threadgate_denying(setup: Setup, name: str) -> Proxy:
    return start_threadgate(setup, name, ("--access-log", "off", "--deny", "127.0.0.0/8"))


RATES = {"10kB": 10_000, "1MB": 1_000_000, "100MB": 100_000_000, "1GB": 1_000_000_000}
"""Rates that downloads are slowed to, in bytes a second, as they are written."""
THROTTLED = "throttled.test"
THROTTLED_RATE = 10_000_000
"""A name whose downloads together are slowed to this many bytes a second."""


def start_threadgate_throttling(setup: Setup, name: str) -> Proxy:
    """Slowed to the rate in the name, or the downloads from one host together."""
    limit = name.removeprefix("threadgate-throttling-")
    rate = f"down={limit}/s" if limit != name else f"destination={THROTTLED}:10MB/s"
    arguments = ("--limit", rate, "--resolve", f"{THROTTLED}:127.0.0.1")
    return start_threadgate(setup, name, ("--access-log", "off", *arguments))


def start_threadgate_list(setup: Setup, name: str) -> Proxy:
    assert setup.listed
    listed = ("--block-list", str(setup.listed.path))
    proxy = start_threadgate(setup, name, ("--access-log", "off", *listed))
    return replace(proxy, refused=refused(setup))


def start_haproxy(setup: Setup, name: str, splice: bool = False) -> Proxy:
    http, relay_origin, relay_echo = free_ports(3)
    config = fill(
        "haproxy.cfg",
        setup.directory / f"{name}.cfg",
        {
            "threads": setup.peer_threads,
            "head_timeout": setup.head_timeout,
            "splice": "" if splice else "no ",
            "http_port": http,
            "relay_origin_port": relay_origin,
            "relay_echo_port": relay_echo,
            "origin_port": setup.origin_port,
            "echo_port": setup.echo_port,
        },
    )
    command = [tool("haproxy"), "-db", "-f", str(config)]
    process = Process(command, setup.core, setup.directory)
    process.wait_listening([http, relay_origin, relay_echo])
    return Proxy(name, process, http, relay_origin, relay_echo)


def start_haproxy_splice(setup: Setup, name: str) -> Proxy:
    return start_haproxy(setup, name, splice=True)


def start_nginx(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    values = {
        "threads": setup.peer_threads,
        "head_timeout": setup.head_timeout,
        "http_port": http,
        "origin_port": setup.origin_port,
    }
    config = fill("nginx-proxy.conf", setup.directory / f"{name}.conf", values)
    process = Process(nginx_command(config), setup.core, setup.directory)
    process.wait_listening([http])
    return Proxy(name, process, http)


def refused(setup: Setup) -> tuple[str, ...]:
    return setup.listed.some() if setup.listed else ()


def start_tinyproxy(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    listed = ""
    if setup.listed:
        # This proxy takes no address for the name, so the origin server is its upstream for it.
        listed = f'''Filter "{setup.listed.for_tinyproxy()}"
FilterType ere
FilterDefaultDeny No
Upstream http 127.0.0.1:{setup.origin_port} "{NAMED}"'''
    values = {"http_port": http, "head_timeout": setup.head_timeout, "listed": listed}
    config = fill("tinyproxy.conf", setup.directory / f"{name}.conf", values)
    command = [tool("tinyproxy"), "-d", "-c", str(config)]
    process = Process(command, setup.core, setup.directory)
    process.wait_listening([http], setup.start_seconds)
    return Proxy(name, process, http, persistent=False, refused=refused(setup))


def start_squid(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    values: dict[str, object] = {
        "http_port": http,
        "head_timeout": setup.head_timeout,
        "directory": setup.directory,
        "listed": "",
    }
    if setup.listed:
        hosts = setup.directory / "hosts"
        hosts.write_text(f"127.0.0.1 {NAMED}\n")
        values["listed"] = f'''hosts_file {hosts}
acl listed dstdomain -n "{setup.listed.for_squid()}"
http_access deny listed'''
    config = fill("squid.conf", setup.directory / f"{name}.conf", values)
    command = [tool("squid"), "-N", "-n", f"bench{os.getpid()}", "-f", str(config)]
    process = Process(command, setup.core, setup.directory)
    process.wait_listening([http], setup.start_seconds)
    return Proxy(name, process, http, refused=refused(setup))


def start_privoxy(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    values: dict[str, object] = {"http_port": http, "directory": setup.directory}
    values |= {"toggle": 0, "listed": ""}
    if setup.listed:
        values["toggle"] = 1
        # This proxy takes no address for the name, so the origin server is its upstream for it.
        values["listed"] = f'''actionsfile {setup.listed.for_privoxy()}
forward {NAMED} 127.0.0.1:{setup.origin_port}'''
    config = fill("privoxy.conf", setup.directory / f"{name}.conf", values)
    process = Process([tool("privoxy"), "--no-daemon", str(config)], setup.core, setup.directory)
    process.wait_listening([http], setup.start_seconds)
    return Proxy(name, process, http, refused=refused(setup))


def start_apache(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    each = -(-setup.held // setup.peer_threads)
    values = {
        "http_port": http,
        "origin_port": setup.origin_port,
        "head_timeout": setup.head_timeout,
        "directory": setup.directory,
        "modules": APACHE_MODULES,
        "processes": setup.peer_threads,
        "threads_each": each,
        "threads": each * setup.peer_threads,
    }
    config = fill("apache.conf", setup.directory / f"{name}.conf", values)
    command = [tool("apache2"), "-D", "FOREGROUND", "-f", str(config)]
    process = Process(command, setup.core, setup.directory)
    process.wait_listening([http])
    return Proxy(name, process, http)


def start_goproxy(setup: Setup, name: str) -> Proxy:
    (http,) = free_ports(1)
    command = [str(setup.binaries[name]), "-listen", f"127.0.0.1:{http}"]
    command += ["-head-timeout", f"{setup.head_timeout}s"]
    process = Process(
        command, setup.core, setup.directory, {"GOMAXPROCS": str(setup.peer_threads)}
    )
    process.wait_listening([http])
    return Proxy(name, process, http)


def nginx_command(config: Path) -> list[str]:
    return [tool("nginx"), "-p", str(config.parent), "-e", "stderr", "-c", str(config)]


STARTERS: dict[str, Callable[[Setup, str], Proxy]] = {
    "threadgate": start_threadgate,
    "threadgate-log": start_threadgate_logging,
    "threadgate-access": start_threadgate_access,
    "threadgate-denying": start_threadgate_denying,
    "threadgate-throttling": start_threadgate_throttling,
    **{f"threadgate-throttling-{rate}": start_threadgate_throttling for rate in RATES},
    "threadgate-list": start_threadgate_list,
    "threadgate-impatient": start_threadgate,
    "threadgate-counting": start_threadgate,
    "threadgate-counting-log": start_threadgate_logging,
    "haproxy": start_haproxy,
    "haproxy-splice": start_haproxy_splice,
    "nginx": start_nginx,
    "squid": start_squid,
    "apache": start_apache,
    "goproxy": start_goproxy,
    "privoxy": start_privoxy,
    "tinyproxy": start_tinyproxy,
}
"""Every proxy a row can name."""

PROGRAMS = {
    "haproxy": "haproxy",
    "haproxy-splice": "haproxy",
    "nginx": "nginx",
    "squid": "squid",
    "apache": "apache2",
    "goproxy": "go",
    "privoxy": "privoxy",
    "tinyproxy": "tinyproxy",
}
"""The options that a peer is started or built with."""

COUNTING = ("threadgate-counting", "threadgate-counting-log")
"""Variants with a counting allocator, which report its counts on standard output."""


def start_nginx_origin(directory: Path, core: int | None, content: str) -> tuple[Process, int]:
    """The origin server of the small responses."""
    (port,) = free_ports(1)
    values = {"origin_port": port, "content": content}
    config = fill("nginx-origin.conf", directory / "origin.conf", values)
    process = Process(nginx_command(config), core, directory)
    process.wait_listening([port])
    return process, port


def start_load_origin(directory: Path, core: int | None, load: Path) -> tuple[Process, int, int]:
    """The load client's own origin server: content of any size, slow responses, echo."""
    port_file = directory / "load-origin.ports"
    port_file.unlink(missing_ok=True)
    listen = ["--origin", "127.0.0.1:0", "--echo", "127.0.0.1:0"]
    command = [str(load), "origin", *listen, "--port-file", str(port_file)]
    process = Process(command, core, directory)
    http, echo = process.wait_file(port_file)
    return process, http, echo
