"""The rows of the table: the work each measures, the proxies in it, and threadgate's goals.

The goals are those of the design's table of numbers, as ratios to a peer in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from harness import counting, measure
from harness.lists import NAMED
from harness.measure import Bench, Sample
from harness.peers import CREDENTIALS, RATES, Proxy

KEPT = ("threadgate", "haproxy", "nginx", "squid", "apache", "goproxy", "privoxy")
"""Proxies that take a second request on a connection: all but tinyproxy."""
FORWARD = (*KEPT, "tinyproxy")
TUNNELS = ("threadgate", "haproxy", "squid", "apache", "goproxy", "privoxy", "tinyproxy")
"""Proxies with tunnels: nginx has no CONNECT, and HAProxy relays TCP without one."""

NO_LIST = "no block list of domains"
ABSENT = {
    "listed": {"haproxy": NO_LIST, "nginx": NO_LIST, "apache": NO_LIST, "goproxy": NO_LIST},
    "listed-1m": {"tinyproxy": "10 kB of memory a name"},
    "keepalive": {"tinyproxy": "ends each connection after one response"},
    "burst": {"tinyproxy": "ends each connection after one response"},
    "unpinned": {"tinyproxy": "ends each connection after one response"},
    "syscalls": {"tinyproxy": "ends each connection after one response"},
    "connect": {"nginx": "no CONNECT"},
    "pingpong": {"nginx": "no CONNECT"},
    "bulk-connect": {"nginx": "no CONNECT"},
    "discard": dict.fromkeys(
        ("haproxy", "nginx", "squid", "apache", "goproxy", "privoxy", "tinyproxy"),
        "about splicing, which HAProxy does best: the others are in `bulk`",
    ),
    "fairness": {"nginx": "no CONNECT"},
    "idle-tunnels": {"nginx": "no CONNECT"},
    "idle-9000": {
        "tinyproxy": "ends each connection after one response",
        "privoxy": "a thread for each of the 9,000 connections",
    },
    "inflight": {"tinyproxy": "a response a connection", "privoxy": "a thread a connection"},
    "drip": {
        "tinyproxy": "no time limit for a head of its own",
        "privoxy": "no time limit for a head of its own",
    },
    "black-hole": {
        "haproxy": "asks one configured server",
        "nginx": "asks one configured server",
        "squid": "names only from DNS and the system's hosts file",
        "apache": "names only from the system's resolver",
        "goproxy": "names only from the system's resolver",
        "privoxy": "names only from the system's resolver",
        "tinyproxy": "names only from the system's resolver",
    },
}
"""Why a peer is not in a row, by the row's name or the beginning of it."""


@dataclass(frozen=True)
class Goal:
    """A bound on one number, or on its ratio to a peer's."""

    metric: str
    limit: float
    peer: str | None = None
    """A proxy's name, `best` for the best of the peers, `None` for the number itself."""
    at_least: bool = False

    def text(self) -> str:
        """The bound in words: a sign, a number, and whose number it is a multiple of."""
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.limit:g}" + (f" × {self.peer}" if self.peer else "")


@dataclass(frozen=True)
class Row:
    """One kind of work."""

    name: str
    about: str
    proxies: tuple[str, ...]
    sample: Callable[[Bench, Proxy], Sample]
    shown: tuple[str, ...]
    """Numbers with a line in the table; numbers with a goal always have one."""
    goals: tuple[Goal, ...] = ()
    pinned: bool = True
    """Load, origin server and proxy share one core, so that the CPU of a unit repeats."""
    own_origin: bool = False
    """The load client's origin server takes the place of nginx."""
    fresh: bool = False
    """Each sample has a proxy of its own, so no memory is left over from another sample."""
    runs: int | None = None
    """Samples of each proxy, if the command line may not choose the number."""
    least_runs: int = 1
    """The least samples of each proxy."""
    sample_seconds: float | None = None
    """About how long a sample takes; by default as long as the command line says."""
    best: bool = False
    """The best sample counts, not the median."""
    threads: int | None = None
    """threadgate's workers, if the command line may not choose the number."""
    held: int = 512
    """Exchanges and tunnels under way at once."""
    head_timeout: int = 60
    resolve: Callable[[int], tuple[str, ...]] | None = None
    """The names that threadgate is given with addresses, made from the origin server's port."""
    listed: int = 0
    """The number of names on the block list, for proxies that have one."""
    subject: str = field(default="threadgate")
    """The proxy whose numbers the goals are about."""
    verified: bool = True
    """The load client checks responses first; it cannot if they need credentials."""


NO_FAILURE = Goal("failed", 0)
P99_BESIDE = Goal("p99_of_allowed", 1.0)


def keepalive_row(clients: int, limit: float) -> Row:
    return Row(
        f"keepalive-{clients}",
        f"keep-alive GET of 1 KB, {clients:,} client{'s' if clients > 1 else ''}",
        KEPT,
        partial(measure.keepalive, clients=clients),
        ("cpu_us", "rate"),
        (Goal("cpu_us", limit, "haproxy"),),
        held=max(512, clients),
    )


def burst_row(clients: int, limit: float) -> Row:
    return Row(
        f"burst-{clients}",
        f"keep-alive GET of 1 KB, {clients} clients that ask in bursts",
        KEPT,
        partial(measure.requests, mode="keepalive", clients=clients),
        ("cpu_us", "rate"),
        (Goal("cpu_us", limit, "haproxy"),),
        # How many requests come together differs from run to run, and so does the cost of each.
        least_runs=5,
    )


def bulk_row(via: str, transfers: int) -> Row:
    peers = FORWARD if via == "get" else TUNNELS
    return Row(
        f"bulk-{via}-{transfers}",
        f"1 GiB by {via.upper()}, {transfers} at once",
        (*peers[:2], "haproxy-splice", *peers[2:]),
        partial(measure.bulk, via=via, transfers=transfers),
        ("cpu_s_per_gb", "mb_per_s"),
        (
            Goal("cpu_s_per_gb", 1.1, "haproxy-splice"),
            Goal("mb_per_s", 1.0, "best", at_least=True),
        ),
        pinned=False,
        own_origin=True,
        sample_seconds=1.5,
    )


def discard_row(via: str, transfers: int) -> Row:
    return Row(
        f"discard-{via}-{transfers}",
        f"1 GiB by {via.upper()}, {transfers} at once, thrown away by the client's kernel",
        ("threadgate", "haproxy-splice"),
        partial(measure.bulk, via=via, transfers=transfers, discard=True),
        ("cpu_s_per_gb", "mb_per_s"),
        (Goal("cpu_s_per_gb", 0.8, "haproxy-splice"),),
        pinned=False,
        own_origin=True,
        # One transfer takes less than half a second, so its cost depends on where its threads run.
        least_runs=5,
        sample_seconds=1,
    )


def throttle_row(rate: str) -> Row:
    name = f"threadgate-throttling-{rate}"
    return Row(
        f"throttle-{rate}",
        f"one download at {rate}/s for ten seconds, and how far it is from that rate",
        (name,),
        partial(measure.throttle, rate=RATES[rate]),
        ("of_rate", "cpu_share"),
        (Goal("off", 0.05),),
        # A rate that takes much of the machine is missed if anything else runs there.
        runs=3 if RATES[rate] >= RATES["1GB"] else 1,
        pinned=False,
        own_origin=True,
        sample_seconds=10,
        subject=name,
        verified=False,
    )


def patience_row(clients: int) -> Row:
    return Row(
        f"patience-{clients}",
        f"keep-alive GET of 1 KB, {clients} clients, no pinning, beside a build without patience",
        ("threadgate", "threadgate-impatient"),
        partial(measure.keepalive, clients=clients),
        ("p99_ms", "rate"),
        (Goal("p99_ms", 1.5, "threadgate-impatient"),),
        pinned=False,
        least_runs=5,
    )


def syscalls_row(clients: int, goals: tuple[Goal, ...]) -> Row:
    return Row(
        f"syscalls-{clients}",
        f"system calls of a keep-alive GET of 1 KB, {clients} client{'s' if clients > 1 else ''}",
        KEPT,
        partial(counting.syscalls, clients=clients),
        ("syscalls",),
        goals,
        held=max(512, clients),
    )


def allocations_row(name: str, subject: str, about: str) -> Row:
    kinds = ("allocs_get", "allocs_get_64", "allocs_post")
    return Row(
        name,
        about,
        (subject,),
        counting.allocations,
        ("allocs_connect",),
        tuple(Goal(kind, 0) for kind in kinds),
        runs=1,
        sample_seconds=10,
        subject=subject,
    )


def listed_row(name: str, count: int, peers: tuple[str, ...], sample_seconds: float) -> Row:
    return Row(
        f"listed-{name}",
        f"one connection for each request, a block list of {count:,} names, 8 clients",
        ("threadgate-list", *peers),
        measure.listed,
        ("rate", "start_ms", "rss_mb"),
        (Goal("cpu_us", 0.9, "best"),),
        resolve=measure.named,
        listed=count,
        runs=1,
        sample_seconds=sample_seconds,
        subject="threadgate-list",
    )


def sweep_row(threads: int) -> Row:
    return Row(
        f"threads-sweep-{threads}",
        f"keepalive-64 with --threads {threads}",
        ("threadgate",),
        partial(measure.keepalive, clients=64),
        ("cpu_us", "rate"),
        threads=threads,
    )


ROWS: tuple[Row, ...] = (
    keepalive_row(1, 0.7),
    keepalive_row(64, 0.9),
    keepalive_row(512, 0.9),
    keepalive_row(2000, 0.9),
    burst_row(64, 0.75),
    Row(
        "unpinned",
        "keep-alive GET of 1 KB, 64 clients, no pinning, best run",
        KEPT,
        partial(measure.keepalive, clients=64),
        ("rate",),
        (Goal("rate", 0.95, "haproxy", at_least=True),),
        pinned=False,
        least_runs=5,
        best=True,
    ),
    Row(
        "per-connection",
        "one connection for each request, 8 clients",
        FORWARD,
        partial(measure.requests, mode="per-connection"),
        ("cpu_us", "rate"),
        (Goal("cpu_us", 0.9, "haproxy"),),
    ),
    Row(
        "connect",
        "CONNECT, one exchange, close (HAProxy: TCP relay), 8 clients",
        TUNNELS,
        partial(measure.requests, mode="connect"),
        ("cpu_us", "rate"),
        (Goal("cpu_us", 0.95, "haproxy"), Goal("cpu_us", 0.65, "tinyproxy")),
    ),
    Row(
        "pingpong-256",
        "256 tunnels exchanging messages of 64 bytes",
        TUNNELS,
        partial(measure.pingpong, tunnels=256),
        ("cpu_us", "rate", "p99_us"),
        (Goal("cpu_us", 1.1, "haproxy"),),
    ),
    Row(
        "pingpong-1",
        "one tunnel exchanging messages of 64 bytes",
        TUNNELS,
        partial(measure.pingpong, tunnels=1),
        ("cpu_us", "rate", "p99_us"),
        (Goal("cpu_us", 0.7, "haproxy"),),
    ),
    bulk_row("get", 1),
    bulk_row("get", 16),
    bulk_row("connect", 1),
    bulk_row("connect", 16),
    discard_row("get", 1),
    discard_row("get", 16),
    discard_row("connect", 1),
    discard_row("connect", 16),
    Row(
        "fairness",
        "16 small tunnels beside 8 bulk flows, 4 workers",
        TUNNELS,
        measure.fairness,
        ("p50_ms", "bulk_mb_per_s"),
        (
            Goal("p99_ms", 10),
            Goal("starved", 0),
            Goal("bulk_share", 0.7, at_least=True),
        ),
        pinned=False,
        own_origin=True,
        threads=4,
        sample_seconds=5,
    ),
    Row(
        "idle-9000",
        "9,000 idle clients after one exchange each, fast traffic beside them",
        ("threadgate", "haproxy", "nginx", "squid", "apache", "goproxy"),
        measure.idle,
        ("p99_own_ms", "p99_beside_ms"),
        (Goal("kib_each", 1.5), NO_FAILURE, Goal("threads_moved", 0), P99_BESIDE),
        pinned=False,
        fresh=True,
        runs=1,
        sample_seconds=35,
        threads=8,
    ),
    Row(
        "idle-tunnels",
        "2,000 idle tunnels, then all speak at once",
        TUNNELS,
        measure.idle_tunnels,
        (),
        (Goal("kib_each", 3), Goal("answered_s", 0.1), NO_FAILURE),
        pinned=False,
        fresh=True,
        sample_seconds=3,
        threads=8,
        held=2200,
    ),
    Row(
        "inflight-1000",
        "1,000 requests in flight to an origin server that takes 1 s",
        ("threadgate", "haproxy", "nginx", "squid", "apache", "goproxy"),
        measure.inflight,
        ("p99_own_ms", "p99_beside_ms"),
        (Goal("done_s", 1.5), NO_FAILURE, P99_BESIDE),
        pinned=False,
        own_origin=True,
        fresh=True,
        runs=1,
        sample_seconds=15,
        threads=8,
        held=1100,
    ),
    Row(
        "drip",
        "500 dripping heads and 200 slow readers, fast traffic beside them",
        ("threadgate", "haproxy", "nginx", "squid", "apache", "goproxy"),
        measure.drip,
        ("refused_s",),
        (Goal("rate_kept", 0.9, at_least=True), Goal("not_408", 0), Goal("readers_behind", 0)),
        pinned=False,
        own_origin=True,
        fresh=True,
        runs=1,
        sample_seconds=28,
        threads=8,
        head_timeout=5,
        held=1024,
    ),
    Row(
        "black-hole",
        "200 requests at once to a name whose first address drops every SYN, 1 worker",
        ("threadgate",),
        measure.black_hole,
        (),
        (Goal("slowest_s", 0.5), NO_FAILURE),
        pinned=False,
        fresh=True,
        sample_seconds=1,
        threads=1,
        resolve=measure.two_addresses,
    ),
    Row(
        "log-cost",
        "keepalive-64 with the access log on, against off",
        ("threadgate", "threadgate-log"),
        partial(measure.keepalive, clients=64),
        ("cpu_us",),
        (Goal("cpu_us", 1.1, "threadgate"),),
        subject="threadgate-log",
    ),
    Row(
        "access-cost",
        "keepalive-64 with credentials and a client network to check, against neither",
        ("threadgate", "threadgate-access"),
        partial(measure.keepalive, clients=64, credentials=CREDENTIALS),
        ("cpu_us",),
        (Goal("cpu_us", 1.05, "threadgate"),),
        subject="threadgate-access",
        verified=False,
    ),
    Row(
        "denied",
        "requests that a rule refuses, 64 clients on kept connections",
        ("threadgate-denying",),
        partial(measure.refusals, clients=64),
        ("rate", "cpu_us"),
        subject="threadgate-denying",
        verified=False,
    ),
    *(throttle_row(rate) for rate in RATES),
    Row(
        "throttled",
        "fast traffic beside 1,000 downloads that share a rate of 10 MB/s, 8 workers",
        ("threadgate-throttling",),
        measure.throttled,
        ("p99_own_ms", "p99_beside_ms", "fewest_of_share", "most_of_share"),
        (P99_BESIDE, Goal("off", 0.05)),
        pinned=False,
        own_origin=True,
        runs=1,
        threads=8,
        held=1100,
        sample_seconds=35,
        subject="threadgate-throttling",
    ),
    Row(
        "list-cost",
        "keepalive-64 with a block list of a million names, against none",
        ("threadgate", "threadgate-list"),
        partial(measure.keepalive, clients=64, host=NAMED),
        ("cpu_us",),
        (Goal("cpu_us", 1.02, "threadgate"),),
        resolve=measure.named,
        listed=1_000_000,
        # Two runs differ by more than two percent.
        least_runs=9,
        subject="threadgate-list",
    ),
    Row(
        "list-load",
        "a block list of a million names: start, memory, and lookup",
        ("threadgate", "threadgate-list"),
        measure.list_load,
        # Finding a name costs two fetches from memory, and the second waits for the first. That
        # measures the machine: 190 ns each for 28 MB on a virtual one with neighbours.
        ("load_s", "list_mb", "hit_ns"),
        (Goal("start_ms", 1000), Goal("rss_mb", 40), Goal("miss_ns", 200)),
        pinned=False,
        resolve=measure.named,
        listed=1_000_000,
        sample_seconds=3,
        subject="threadgate-list",
    ),
    listed_row("10k", 10_000, ("squid", "privoxy", "tinyproxy"), 3),
    listed_row("100k", 100_000, ("squid", "privoxy", "tinyproxy"), 5),
    listed_row("1m", 1_000_000, ("squid", "privoxy"), 16),
    Row(
        "start",
        "start of the process to the first response",
        FORWARD,
        measure.start,
        (),
        (Goal("start_ms", 15), Goal("rss_mb", 6), Goal("binary_mb", 10)),
        pinned=False,
        fresh=True,
        sample_seconds=1,
        held=64,
    ),
    patience_row(16),
    patience_row(64),
    syscalls_row(1, ()),
    syscalls_row(64, (Goal("syscalls", 4.4), Goal("syscalls", 1.0, "haproxy"))),
    allocations_row(
        "allocations", "threadgate-counting", "allocations of an exchange on a warm connection"
    ),
    allocations_row(
        "allocations-log",
        "threadgate-counting-log",
        "allocations of an exchange on a warm connection, with the access log on",
    ),
    *(sweep_row(threads) for threads in (2, 4, 8, 16, 64)),
)


def select(names: list[str]) -> list[Row]:
    """The rows of these names, or all; `bulk` stands for all that start with `bulk-`."""
    if not names:
        return list(ROWS)
    return [row for row in ROWS if any(belongs(row.name, name) for name in names)]


def belongs(row: str, name: str) -> bool:
    return row == name or row.startswith(f"{name}-")


def absent(row: Row) -> dict[str, str]:
    """Why peers are not in a row."""
    return {
        peer: why
        for name, reasons in ABSENT.items()
        if belongs(row.name, name)
        for peer, why in reasons.items()
    }
