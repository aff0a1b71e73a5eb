"""Counts the proxy's work for a request, rather than timing it: system calls and allocations."""

from __future__ import annotations

import json
import re
from pathlib import Path

from harness import procs
from harness.load import count_errors, run_wrk
from harness.measure import Bench, Sample
from harness.peers import Proxy, tool
from harness.procs import BenchError

EVENT = "raw_syscalls:sys_enter"

WARM = 200
"""Exchanges on each connection before the counting starts: every free list is filled by then."""


def syscalls(bench: Bench, proxy: Proxy, clients: int) -> Sample:
    """System calls a request, counted by the kernel while wrk runs, without stopping it."""
    said_to = bench.setup.directory / f"{proxy.name}.perf"
    pids = ",".join(map(str, procs.tree(proxy.process.pid)))
    # With -p and a command, perf counts in the processes while the command runs.
    perf = (tool("perf"), "stat", "-x,", "-e", EVENT, "-p", pids, "-o", str(said_to), "--")
    port = proxy.http_port
    try:
        said = run_wrk(bench.setup.core, port, bench.origin, clients, bench.seconds, around=perf)
    except BenchError:
        raise BenchError(f"perf cannot count {EVENT} here; root may be needed") from None
    calls = read_perf(said_to.read_text())
    return {"syscalls": calls / max(1, said["done"]), "errors": said["errors"]}


def read_perf(said: str) -> int:
    """The count in the output of `perf stat -x,`."""
    found = re.search(rf"^(\d+),.*{EVENT}", said, re.MULTILINE)
    if not found:
        raise BenchError(f"perf counted nothing: {said.strip()}")
    return int(found[1])


def allocations(bench: Bench, proxy: Proxy) -> Sample:
    """Allocations and reallocations an exchange, of the whole process, by kind of exchange."""
    sample: Sample = {"errors": 0}
    requests = 100 * bench.scaled(200)
    kinds = {
        "allocs_get": ("warm", 1, ()),
        "allocs_get_64": ("warm", 64, ()),
        "allocs_post": ("warm", 1, ("--post", "1024")),
        "allocs_connect": ("connect", 1, ()),
    }
    for metric, (mode, clients, more) in kinds.items():
        count = bench.scaled(2000) if mode == "connect" else requests // clients * clients
        arguments = ("--clients", str(clients), "--requests", str(count), *more)
        sample[metric], errors = counted(bench, proxy, mode, count, arguments)
        sample["errors"] += errors
    if bench.where:
        write_traces(bench, proxy, bench.where)
    return sample


def counted(
    bench: Bench, proxy: Proxy, mode: str, requests: int, arguments: tuple[str, ...]
) -> tuple[float, int]:
    """Allocations an exchange in one run of the load client, and its errors."""
    counts: list[int] = []

    def look(_: str = "") -> None:
        counts.append(read_counts(proxy.process.ask("counts")))

    # The first answers fill buffers of their own.
    look()
    counts.clear()
    if mode == "warm":
        said = bench.client(mode, proxy, *arguments, "--warm", str(WARM), steps=look)
    else:
        bench.client(mode, proxy, *arguments)
        look()
        said = bench.client(mode, proxy, *arguments)
        look()
    before, after = counts
    missing = requests - said["done"]
    return (after - before) / requests, count_errors(said["errors"]) + missing


def read_counts(said: str) -> int:
    """Allocations plus reallocations, from an answer of benches/counting."""
    allocations, reallocations, _, _ = map(int, said.split())
    return allocations + reallocations


def write_traces(bench: Bench, proxy: Proxy, to: Path) -> None:
    """Where allocations come from, for each kind of exchange, most frequent first."""
    runs = {
        "GET": ("warm", "--requests", "500", "--warm", str(WARM)),
        "GET-64": ("warm", "--requests", "6400", "--clients", "64", "--warm", str(WARM)),
        "POST": ("warm", "--requests", "500", "--warm", str(WARM), "--post", "1024"),
        "CONNECT": ("connect", "--requests", "100"),
    }
    to.mkdir(parents=True, exist_ok=True)
    for kind, (mode, *arguments) in runs.items():
        steps = None
        if mode == "warm":
            ask = iter(("trace", "counts"))
            steps = lambda _, ask=ask: proxy.process.ask(next(ask))  # noqa: E731
        else:
            proxy.process.ask("trace")
        bench.client(mode, proxy, *arguments, steps=steps)
        traces = json.loads(proxy.process.ask("where"))
        text = "\n".join(f"{trace['times']} times, {trace['frames']}" for trace in traces)
        (to / f"{proxy.name}-{kind}.txt").write_text(text + "\n")
