"""One measurement of one proxy: runs the load and answers numbers by name.

Every function takes a `Bench` and a running proxy. `errors` counts what went wrong; a row whose
sample has any is not met.
"""

from __future__ import annotations

import socket
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import lists, procs
from harness.lists import NAMED
from harness.load import count_errors, run_load, run_wrk
from harness.peers import THROTTLED, THROTTLED_RATE, Proxy, Setup
from harness.procs import BenchError, BlackHole, Process

Sample = dict[str, float]

WORKERS_OF_CORES = 2
"""Threads or processes of peers without pinning: one for each core of the reference machine."""


@dataclass(frozen=True)
class Bench:
    """The parts that the measurements of a row share."""

    load: Path
    setup: Setup
    seconds: int
    quick: bool
    subject: str
    """The proxy whose numbers the goals of the row are about."""
    where: Path | None = None
    """Directory for backtraces of allocations, if they are wanted."""

    @property
    def origin(self) -> str:
        return f"127.0.0.1:{self.setup.origin_port}"

    def client(self, mode: str, proxy: Proxy, *more: str, steps: Any = None) -> dict[str, Any]:
        """One run of the load client against a proxy."""
        addresses = ["--proxy", f"127.0.0.1:{proxy.http_port}", "--origin", self.origin]
        addresses += ["--echo", f"127.0.0.1:{self.setup.echo_port}"]
        return run_load(self.load, self.setup.core, [mode, *addresses, *more], steps)

    def scaled(self, count: int) -> int:
        return max(1, count // 10) if self.quick else count


def verify(bench: Bench, proxy: Proxy) -> None:
    """Refuses to time a proxy whose responses are not right to the byte."""
    mode = "keepalive" if proxy.persistent else "per-connection"
    said = bench.client(mode, proxy, "--requests", "20", "--clients", "2")
    if said["done"] != 20 or said["errors"]:
        raise BenchError(f"{proxy.name} does not answer right: {said}")
    if proxy.refused:
        verify_refusals(bench, proxy)


def verify_refusals(bench: Bench, proxy: Proxy) -> None:
    """Refuses to time a proxy that lets a listed name through, or refuses another."""
    port = bench.setup.origin_port
    wanted = {f"{host}:{port}": 403 for host in proxy.refused} | {f"{NAMED}:{port}": 200}
    answered = {host: status(proxy.http_port, host, bench.setup.start_seconds) for host in wanted}
    if answered != wanted:
        raise BenchError(f"{proxy.name} does not heed its list: {answered}")


def status(port: int, authority: str, within: float) -> int | None:
    """The status of a proxy's answer to a GET; `None` if it closes the connection."""
    head = f"GET http://{authority}/1024 HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", port), timeout=within) as client:
        client.sendall(head)
        line = client.recv(12, socket.MSG_WAITALL)
    return int(line[9:]) if len(line) == 12 else None


def keepalive(
    bench: Bench,
    proxy: Proxy,
    clients: int,
    credentials: str | None = None,
    host: str | None = None,
) -> Sample:
    """`host` is the origin server's name, if the client asks by name rather than by address."""
    before = procs.cpu_seconds(proxy.process.pid)
    port = proxy.http_port
    origin = f"{host}:{bench.setup.origin_port}" if host else bench.origin
    said = run_wrk(
        bench.setup.core, port, origin, clients, bench.seconds, credentials=credentials
    )
    used = procs.cpu_seconds(proxy.process.pid) - before
    return {
        "cpu_us": used * 1e6 / max(1, said["done"]),
        "rate": said["rate"],
        "p99_ms": said["p99_ms"],
        "errors": said["errors"],
        "done": said["done"],
        "refusals": said["refusals"],
    }


def refusals(bench: Bench, proxy: Proxy, clients: int) -> Sample:
    """Requests that a rule refuses, on kept connections. Every other answer is an error."""
    sample = keepalive(bench, proxy, clients)
    refused = sample["refusals"]
    wrong = sample["errors"] - refused + max(0, sample["done"] - refused)
    return {"cpu_us": sample["cpu_us"], "rate": sample["rate"], "errors": wrong}


def requests(bench: Bench, proxy: Proxy, mode: str, clients: int = 8) -> Sample:
    """Requests by the load client, which asks again as soon as it has read a response.

    It reads all responses that have come before it waits again, so the requests of many clients
    come in bursts.
    """
    arguments = ["--clients", str(clients), "--seconds", str(bench.seconds)]
    if mode == "connect":
        tunnel = proxy.tunnel_arguments(to_echo=False)
        mode = "tcp-relay" if "direct" in tunnel else "connect"
        arguments += tunnel
    before = procs.cpu_seconds(proxy.process.pid)
    said = bench.client(mode, proxy, *arguments)
    used = procs.cpu_seconds(proxy.process.pid) - before
    per_request = used * 1e6 / max(1, said["done"])
    return {"cpu_us": per_request, "rate": said["rate"], "errors": count_errors(said["errors"])}


def pingpong(bench: Bench, proxy: Proxy, tunnels: int) -> Sample:
    clock: list[float] = []
    said = bench.client(
        "pingpong",
        proxy,
        *("--clients", str(tunnels), "--bytes", "64", "--seconds", str(bench.seconds)),
        *proxy.tunnel_arguments(to_echo=True),
        steps=lambda _: clock.append(procs.cpu_seconds(proxy.process.pid)),
    )
    opened, measured = clock
    return {
        "cpu_us": (measured - opened) * 1e6 / max(1, said["done"]),
        "rate": said["rate"],
        "p99_us": said["p99_us"],
        "errors": count_errors([said["errors"], said["opening_errors"]]),
    }


def bulk(
    bench: Bench, proxy: Proxy, via: str, transfers: int, discard: bool = False
) -> Sample:
    """With `discard` the client's kernel throws the content away, at no cost to the client."""
    bytes = bench.scaled(1 << 30) // transfers
    tunnel = ["--via", "get"] if via == "get" else proxy.tunnel_arguments(to_echo=False)
    before = procs.cpu_seconds(proxy.process.pid)
    if discard:
        tunnel = [*tunnel, "--discard"]
    said = bench.client(
        "bulk", proxy, "--clients", str(transfers), "--bytes", str(bytes), *tunnel
    )
    used = procs.cpu_seconds(proxy.process.pid) - before
    return {
        "cpu_s_per_gb": used * 1e9 / max(1, said["bytes"]),
        "mb_per_s": said["mb_per_s"],
        "errors": count_errors(said["errors"]) + said["unfinished"],
    }


def fairness(bench: Bench, proxy: Proxy) -> Sample:
    said = bench.client(
        "fairness",
        proxy,
        *("--clients", "16", "--readers", "8", "--bytes", "64"),
        *("--seconds", str(bench.seconds)),
        *proxy.tunnel_arguments(to_echo=True),
    )
    return {
        "p50_ms": said["p50_us"] / 1e3,
        "p99_ms": said["p99_us"] / 1e3,
        "starved": said["starved"],
        "bulk_mb_per_s": said["bulk_mb_per_s"],
        "bulk_share": said["bulk_mb_per_s"] / max(1e-9, said["bulk_alone_mb_per_s"]),
        "errors": count_errors([said["errors"], said["bulk_errors"]]),
    }


def beside(said: dict[str, Any]) -> Sample:
    """The loss of fast traffic: medians over pairs of measurements without and with load."""
    without, with_ = said["fast_p99_us_without"], said["fast_p99_us_with"]
    rates = zip(said["fast_rate_without"], said["fast_rate_with"], strict=True)
    # At most half more, or at most a millisecond more, whichever is larger.
    allowed = [max(1.5 * own, own + 1000) for own in without]
    return {
        "p99_own_ms": statistics.median(without) / 1e3,
        "p99_beside_ms": statistics.median(with_) / 1e3,
        "p99_of_allowed": statistics.median(
            seen / most for seen, most in zip(with_, allowed, strict=True)
        ),
        "rate_kept": statistics.median(rate / own for own, rate in rates),
    }


def idle(bench: Bench, proxy: Proxy) -> Sample:
    clients = bench.scaled(9000)
    resident: dict[str, int] = {}
    moved: list[int] = []

    def look(step: str) -> None:
        time.sleep(1)
        pid = proxy.process.pid
        resident[step] = procs.rss_bytes(pid)
        if step == "opened":
            before = procs.switches(pid)
            time.sleep(2 if bench.quick else 10)
            after = procs.switches(pid)
            moved.append(sum(after.get(task) != count for task, count in before.items()))

    arguments = ("--clients", str(clients), *pairs(bench, proxy))
    said = bench.client("idle", proxy, *arguments, steps=look)
    return {
        "kib_each": (resident["opened"] - resident["before"]) / 1024 / clients,
        "failed": clients - min(said["first"], said["second"]),
        "threads_moved": moved[0],
        **beside(said),
        "errors": count_errors([said["errors"], said["fast_errors"]]),
    }


def pairs(bench: Bench, proxy: Proxy) -> tuple[str, ...]:
    """The pairs of measurements without and with. Peers have no goal here, so they have fewer."""
    if bench.quick:
        return ("--pairs", "1", "--seconds", "1")
    return ("--pairs", "5" if proxy.name == bench.subject else "2", "--seconds", "2")


def idle_tunnels(bench: Bench, proxy: Proxy) -> Sample:
    tunnels = bench.scaled(2000)
    resident: dict[str, int] = {}

    def look(step: str) -> None:
        time.sleep(1)
        resident[step] = procs.rss_bytes(proxy.process.pid)

    said = bench.client(
        "idle-tunnels",
        proxy,
        *("--clients", str(tunnels), "--bytes", "64"),
        *proxy.tunnel_arguments(to_echo=True),
        steps=look,
    )
    return {
        "kib_each": (resident["opened"] - resident["before"]) / 1024 / tunnels,
        "answered_s": said["answered_seconds"],
        "failed": tunnels - said["answered"],
        "errors": count_errors(said["errors"]),
    }


def inflight(bench: Bench, proxy: Proxy) -> Sample:
    flights = bench.scaled(1000)
    said = bench.client("inflight", proxy, "--clients", str(flights), *pairs(bench, proxy))
    return {
        "done_s": said["done_seconds"],
        "failed": flights - said["done"],
        **beside(said),
        "errors": count_errors([said["errors"], said["fast_errors"]]),
    }


def drip(bench: Bench, proxy: Proxy) -> Sample:
    drippers, readers = bench.scaled(500), bench.scaled(200)
    said = bench.client(
        "drip",
        proxy,
        *("--clients", str(drippers), "--readers", str(readers)),
        *("--head-timeout", str(bench.setup.head_timeout)),
        *pairs(bench, proxy),
    )
    return {
        **beside(said),
        "not_408": drippers - said["statuses"].get("408", 0),
        "refused_s": said["refused_seconds"],
        "readers_behind": readers - said["readers_at_pace"],
        "errors": count_errors([said["errors"], said["fast_errors"]]),
    }


def throttle(bench: Bench, proxy: Proxy, rate: int) -> Sample:
    """One download at a rate, of a size that takes ten seconds."""
    # The burst that a rate lets through at once counts for less in a longer time.
    seconds = 4 if bench.quick else 10
    bytes = str(rate * seconds)
    before = procs.cpu_seconds(proxy.process.pid)
    said = bench.client("bulk", proxy, "--clients", "1", "--bytes", bytes, "--via", "get")
    used = procs.cpu_seconds(proxy.process.pid) - before
    of_rate = said["mb_per_s"] * 1e6 / rate
    return {
        "of_rate": of_rate,
        "off": abs(of_rate - 1),
        "cpu_share": used / max(1e-9, said["seconds"]),
        "errors": count_errors(said["errors"]) + said["unfinished"],
    }


def throttled(bench: Bench, proxy: Proxy) -> Sample:
    downloads = bench.scaled(1000)
    said = bench.client(
        "throttled",
        proxy,
        *("--clients", str(downloads)),
        *("--authority", f"{THROTTLED}:{bench.setup.origin_port}"),
        *pairs(bench, proxy),
    )
    share = said["bytes_per_s"] / downloads
    return {
        **beside(said),
        "off": abs(said["bytes_per_s"] / THROTTLED_RATE - 1),
        "fewest_of_share": said["fewest_per_s"] / share,
        "most_of_share": said["most_per_s"] / share,
        "errors": count_errors([said["errors"], said["fast_errors"]]),
    }


BLACK_HOLE = "127.0.0.66"
TWO_ADDRESSES = "two-addresses.test"


def two_addresses(origin_port: int) -> tuple[str, ...]:
    """`--resolve` for a name: its first address is the black hole, its second the origin's."""
    return tuple(
        f"{TWO_ADDRESSES}:{origin_port}:{address}" for address in (BLACK_HOLE, "127.0.0.1")
    )


def named(origin_port: int) -> tuple[str, ...]:
    """`--resolve` for the origin server's name in rows with lists."""
    return (f"{NAMED}:{origin_port}:127.0.0.1",)


def black_hole(bench: Bench, proxy: Proxy) -> Sample:
    """Simultaneous requests to a name whose first address never answers a SYN."""
    clients = bench.scaled(200)
    port = bench.setup.origin_port
    with BlackHole(BLACK_HOLE, port):
        said = bench.client(
            "once",
            proxy,
            *("--clients", str(clients), "--authority", f"{TWO_ADDRESSES}:{port}"),
            *("--seconds", "20"),
        )
    return {
        "slowest_s": said["slowest_seconds"],
        "failed": clients - said["done"],
        "errors": count_errors(said["errors"]),
    }


def start(bench: Bench, proxy: Proxy) -> Sample:
    """Seconds from the start of the process to its first response, its memory then, its binary."""
    process, took, right = started_again(bench, proxy, bench.origin)
    try:
        time.sleep(0.1)
        resident = procs.rss_bytes(process.pid)
    finally:
        process.stop()
    return {
        "start_ms": took * 1e3,
        "rss_mb": resident / 1e6,
        "binary_mb": Path(process.command[0]).stat().st_size / 1e6,
        "errors": 0 if right else 1,
    }


def started_again(bench: Bench, proxy: Proxy, authority: str) -> tuple[Process, float, bool]:
    """Restarts the proxy. Returns the seconds to its first response, and whether that is right."""
    command, port, within = proxy.process.command, proxy.http_port, bench.setup.start_seconds
    if "--port-file" in command:
        # It chose its port by itself; the second start takes the same.
        command = command[: command.index("--port-file")]
        command[command.index("--listen") + 1] = f"127.0.0.1:{port}"
    proxy.process.stop()
    environment = proxy.process.environment
    began = time.monotonic()
    process = Process(command, bench.setup.core, bench.setup.directory, environment)
    try:
        while True:
            try:
                right = status(port, authority, within) == 200
                return process, time.monotonic() - began, right
            except OSError:
                if process.child.poll() is not None or time.monotonic() - began > within:
                    raise process.fail("does not start") from None
                time.sleep(0.0002)
    except BaseException:
        process.stop()
        raise


def list_load(bench: Bench, proxy: Proxy) -> Sample:
    """The start of the proxy and its memory; with a list, also the list's own cost."""
    setup = bench.setup
    assert setup.listed
    sample = start(bench, proxy)
    if proxy.refused:
        said = lists.compiled(setup.binaries[lists.GENERATOR], setup.listed)
        sample |= {metric: said[metric] for metric in ("load_s", "list_mb", "hit_ns", "miss_ns")}
    return sample


def listed(bench: Bench, proxy: Proxy) -> Sample:
    """With a block list: the start, its memory, and a connection a request to another name."""
    authority = f"{NAMED}:{bench.setup.origin_port}"
    process, took, right = started_again(bench, proxy, authority)
    try:
        resident = procs.rss_bytes(process.pid)
        before = procs.cpu_seconds(process.pid)
        arguments = ("--clients", "8", "--seconds", str(bench.seconds), "--authority", authority)
        said = bench.client("per-connection", proxy, *arguments)
        used = procs.cpu_seconds(process.pid) - before
    finally:
        process.stop()
    return {
        "start_ms": took * 1e3,
        "rss_mb": resident / 1e6,
        "cpu_us": used * 1e6 / max(1, said["done"]),
        "rate": said["rate"],
        "errors": count_errors(said["errors"]) + (0 if right else 1),
    }
