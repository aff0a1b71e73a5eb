"""The rows of the table: what each measures, on whom, and what threadgate must reach.

The goals are those of the design's table of numbers, as ratios to a peer in the same run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from harness import measure
from harness.measure import Bench, Sample
from harness.peers import Proxy

HTTP = ("threadgate", "haproxy", "nginx")
"""tinyproxy ends every connection after one response: it is not in the keep-alive rows."""
ALL = (*HTTP, "tinyproxy")
TUNNELS = ("threadgate", "haproxy", "tinyproxy")
"""nginx has no CONNECT; HAProxy relays TCP without one."""


@dataclass(frozen=True)
class Goal:
    """A bound on one number, or on its ratio to a peer's."""

    metric: str
    limit: float
    peer: str | None = None
    """A proxy's name, `best` for the best of the peers, `None` for the number itself."""
    at_least: bool = False

    def text(self) -> str:
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
    """Numbers that have a line in the table; those with a goal have one anyway."""
    goals: tuple[Goal, ...] = ()
    pinned: bool = True
    """Load, origin server and proxy share one core, so that CPU a unit repeats."""
    own_origin: bool = False
    """The load client's origin server in the place of nginx."""
    fresh: bool = False
    """Each sample has a proxy of its own: memory is not what another sample left."""
    runs: int | None = None
    """Samples of each proxy, where the number is not the command line's to choose."""
    best: bool = False
    """The best sample counts, not the median."""
    threads: int | None = None
    """threadgate's workers, where the command line has no say."""
    head_timeout: int = 60
    subject: str = field(default="threadgate")
    """Whose numbers the goals are about."""


NO_FAILURE = Goal("failed", 0)
P99_BESIDE = Goal("p99_of_allowed", 1.0)


def keepalive_row(clients: int, limit: float) -> Row:
    return Row(
        f"keepalive-{clients}",
        f"keep-alive GET of 1 KB, {clients} client{'s' if clients > 1 else ''}",
        HTTP,
        partial(measure.keepalive, clients=clients),
        ("cpu_us", "rate"),
        (Goal("cpu_us", limit, "haproxy"),),
    )


def bulk_row(via: str, transfers: int) -> Row:
    proxies = ("threadgate", "haproxy", "haproxy-splice")
    return Row(
        f"bulk-{via}-{transfers}",
        f"1 GiB by {via.upper()}, {transfers} at once",
        (*proxies, "nginx", "tinyproxy") if via == "get" else (*proxies, "tinyproxy"),
        partial(measure.bulk, via=via, transfers=transfers),
        ("cpu_s_per_gb", "mb_per_s"),
        (
            Goal("cpu_s_per_gb", 1.1, "haproxy-splice"),
            Goal("mb_per_s", 1.0, "best", at_least=True),
        ),
        pinned=False,
        own_origin=True,
    )


def sweep_row(threads: int) -> Row:
    return Row(
        f"threads-sweep-{threads}",
        f"keepalive-64 with --threads {threads}",
        ("threadgate", "haproxy"),
        partial(measure.keepalive, clients=64),
        ("cpu_us", "rate"),
        threads=threads,
    )


ROWS: tuple[Row, ...] = (
    keepalive_row(1, 0.7),
    keepalive_row(64, 0.9),
    keepalive_row(512, 0.9),
    keepalive_row(2000, 0.9),
    Row(
        "unpinned",
        "keep-alive GET of 1 KB, 64 clients, no pinning, best run",
        HTTP,
        partial(measure.keepalive, clients=64),
        ("rate",),
        (Goal("rate", 0.95, "haproxy", at_least=True),),
        pinned=False,
        runs=5,
        best=True,
    ),
    Row(
        "per-connection",
        "a connection a request, 8 clients",
        ALL,
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
        (Goal("cpu_us", 1.0, "haproxy"), Goal("cpu_us", 0.6, "tinyproxy")),
    ),
    Row(
        "pingpong-256",
        "256 tunnels exchanging messages of 64 octets",
        TUNNELS,
        partial(measure.pingpong, tunnels=256),
        ("cpu_us", "rate", "p99_us"),
        (Goal("cpu_us", 1.1, "haproxy"),),
    ),
    Row(
        "pingpong-1",
        "one tunnel exchanging messages of 64 octets",
        TUNNELS,
        partial(measure.pingpong, tunnels=1),
        ("cpu_us", "rate", "p99_us"),
        (Goal("cpu_us", 0.7, "haproxy"),),
    ),
    bulk_row("get", 1),
    bulk_row("get", 16),
    bulk_row("connect", 1),
    bulk_row("connect", 16),
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
    ),
    Row(
        "idle-9000",
        "9,000 idle clients after one exchange each, fast traffic beside them",
        HTTP,
        measure.idle,
        ("p99_own_ms", "p99_beside_ms"),
        (Goal("kib_each", 1.5), NO_FAILURE, Goal("threads_moved", 0), P99_BESIDE),
        pinned=False,
        fresh=True,
        runs=1,
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
        threads=8,
    ),
    Row(
        "inflight-1000",
        "1,000 requests in flight to an origin server that takes 1 s",
        HTTP,
        measure.inflight,
        ("p99_own_ms", "p99_beside_ms"),
        (Goal("done_s", 1.5), NO_FAILURE, P99_BESIDE),
        pinned=False,
        own_origin=True,
        fresh=True,
        runs=1,
        threads=8,
    ),
    Row(
        "drip",
        "500 dripping heads and 200 slow readers, fast traffic beside them",
        HTTP,
        measure.drip,
        ("refused_s",),
        (Goal("rate_kept", 0.9, at_least=True), Goal("not_408", 0), Goal("readers_behind", 0)),
        pinned=False,
        own_origin=True,
        fresh=True,
        runs=1,
        threads=8,
        head_timeout=5,
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
        "start",
        "start of the process to the first response",
        ALL,
        measure.start,
        (),
        (Goal("start_ms", 15), Goal("rss_mb", 6), Goal("binary_mb", 10)),
        pinned=False,
        fresh=True,
    ),
    *(sweep_row(threads) for threads in (2, 4, 8, 16, 64)),
)


def select(names: list[str]) -> list[Row]:
    """Rows of these names; `bulk` stands for all that start with `bulk-`. All without names."""
    if not names:
        return list(ROWS)
    return [
        row
        for row in ROWS
        if any(row.name == name or row.name.startswith(f"{name}-") for name in names)
    ]
