#!/usr/bin/env python3
"""Measures threadgate against real proxies: `make bench`, or one row with `make bench ROW=connect`.

Every number is a ratio to a peer measured in the same run, in turns (A B C A B C ...). The peers,
wrk, perf and taskset come from Debian's packages; the load client is `benches/load`.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))
# Keeps compiled files out of the source tree.
sys.dont_write_bytecode = True

from harness import build, docs, lists, measure, report  # noqa: E402
from harness.measure import Bench, Sample  # noqa: E402
from harness.peers import (  # noqa: E402
    PROGRAMS,
    STARTERS,
    Proxy,
    Setup,
    start_load_origin,
    start_nginx_origin,
    tool,
)
from harness.procs import START_SECONDS, BenchError  # noqa: E402
from harness.progress import Progress, clock  # noqa: E402
from harness.report import Result  # noqa: E402
from harness.rows import ROWS, Row, select  # noqa: E402

RESULTS = ROOT / "bench-results"


def main() -> int:
    options = parse()
    if options.write_docs:
        docs.write(report.read(RESULTS / "results.json"))
        return 0
    if options.check_docs:
        docs.check()
        return 0
    rows = select(options.row)
    if not rows:
        raise BenchError(f"no row named {' or '.join(options.row)}; --list names them")
    if options.list:
        for row in rows:
            print(f"{row.name:18} {row.about}")
        return 0
    for name in ("wrk", "nginx", "taskset"):
        tool(name)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    missing = missing_peers(options)
    load = build.build_load()
    wanted = {name for row in rows for name in row.proxies} - set(missing)
    if any(row.listed for row in rows):
        wanted.add(lists.GENERATOR)
    built = build.build_proxies(wanted, options.binary, missing)
    # nginx's configuration has the first bytes of the pattern.
    content = subprocess.run(
        [load, "pattern", "--bytes", "1024"], check=True, capture_output=True, text=True
    ).stdout
    results = []
    with tempfile.TemporaryDirectory(prefix="threadgate-lists-") as directory:
        # Squid reads its list as another user.
        Path(directory).chmod(0o755)
        runner = Runner(options, missing, built, load, content, Path(directory))
        planned = {row.name: runner.estimate(row) for row in rows}
        progress = Progress(planned)
        announce(rows, runner, progress)
        try:
            for row in rows:
                progress.begin(row.name)
                result = runner.run(row, progress)
                results.append(result)
                progress.end(verdicts(result))
        finally:
            progress.clear()
            if results:
                finish(results, options)
    missed = any(result.met(goal) is False for result in results for goal in result.row.goals)
    return 1 if missed else 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog="exit status: 0 every goal measured is met, 1 one is not, 2 nothing was measured",
    )
    add = parser.add_argument
    add("--row", action="append", default=[], metavar="NAME", help="only this row (repeatable)")
    add("--list", action="store_true", help="list the rows and end")
    add("--quick", action="store_true", help="short runs with a tenth of the clients: a smoke test")
    add("--runs", type=int, metavar="N", help="samples of each proxy (default: 3, quick: 1)")
    add("--seconds", type=int, metavar="S", help="length of a sample (default: 2, quick: 1)")
    peers = ", ".join(PROGRAMS)
    add("--peers", metavar="A,B", help=f"beside threadgate only these, or `none`: {peers}")
    add("--threads", type=int, default=8, metavar="N", help="workers of threadgate (default: 8)")
    add("--core", type=int, default=1, metavar="N", help="core of the pinned rows (default: 1)")
    add("--binary", type=Path, metavar="PATH", help="threadgate to measure (default: built here)")
    add("--where", action="store_true", help="keep backtraces of the allocations that are counted")
    add("--write-docs", action="store_true", help="bring the last results into docs/, and end")
    add("--check-docs", action="store_true", help="whether docs/ shows its own figures, and end")
    return parser.parse_args()


def missing_peers(options: argparse.Namespace) -> dict[str, str]:
    """Peers that cannot or must not take part, and why."""
    missing: dict[str, str] = {}
    if options.peers is not None:
        named = set() if options.peers == "none" else set(options.peers.split(","))
        if unknown := named - set(PROGRAMS):
            raise BenchError(f"no peer named {', '.join(unknown)}; known: {', '.join(PROGRAMS)}")
        missing = {name: "" for name in PROGRAMS if name not in named}
    for name, program in PROGRAMS.items():
        try:
            tool(program)
        except BenchError as error:
            missing.setdefault(name, str(error))
    return missing


def announce(rows: list[Row], runner: Runner, progress: Progress) -> None:
    """Prints what will be done, before it starts."""
    for row in rows:
        names = [name for name in row.proxies if name not in runner.missing]
        runs = runner.runs(row)
        times, minutes = f"{len(names)} x {runs}", clock(progress.planned[row.name])
        progress.say(f"{row.name:18} {times:>6}  {minutes:>5}  {row.about}")
    for name, why in runner.missing.items():
        if why:
            progress.say(f"left out: {name}: {why}")
    whole = clock(sum(progress.planned.values()))
    progress.say(f"{len(rows)} rows (proxies x samples, minutes), about {whole} in all")


def verdicts(result: Result) -> list[tuple[str, bool | None]]:
    said = []
    for goal in result.row.goals:
        reached = result.reached(goal)
        words = f"{report.UNITS[goal.metric]} {report.number(reached)} ({goal.text()})"
        said.append((words, result.met(goal)))
    said += [(f"{name} failed: {why}", False) for name, why in result.problems.items()]
    return said


def finish(results: list[Result], options: argparse.Namespace) -> None:
    """Keeps the results: a smoke test apart from figures, a row over its last figures."""
    entries = [result.entry() for result in results]
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / ("quick.json" if options.quick else "results.json")
    data = report.merge(report.read(path), machine(), entries, [row.name for row in ROWS])
    path.write_text(report.dump(data))
    path.with_suffix(".md").write_text(docs.page(data))
    print(report.plain(entries))


@dataclass(frozen=True)
class Runner:
    """Takes the samples of rows."""

    options: argparse.Namespace
    missing: dict[str, str]
    built: dict[str, Path]
    load: Path
    content: str
    lists: Path
    """Directory of the block lists, which all rows share."""

    def runs(self, row: Row) -> int:
        if self.options.quick:
            return self.options.runs or 1
        return row.runs or max(self.options.runs or 3, row.least_runs)

    def seconds(self) -> int:
        return self.options.seconds or (1 if self.options.quick else 2)

    def estimate(self, row: Row) -> float:
        """About how many seconds a row takes."""
        names = [name for name in row.proxies if name not in self.missing]
        sample = row.sample_seconds or self.seconds()
        if self.options.quick and row.sample_seconds:
            sample = max(1.0, row.sample_seconds / 4)
        starts = self.runs(row) if row.fresh else 1
        return 0.5 + len(names) * (0.6 * starts + self.runs(row) * (sample + 0.1))

    def run(self, row: Row, progress: Progress) -> Result:
        """Takes all samples of a row. A proxy that fails is left out and named."""
        samples: dict[str, list[Sample]] = {}
        problems: dict[str, str] = {}
        names = [name for name in row.proxies if name not in self.missing]
        with contextlib.ExitStack() as stack:
            bench = self.prepare(row, stack)
            running: dict[str, Proxy] = {}
            slow: set[str] = set()
            for run in range(self.runs(row)):
                for name in names:
                    if name in problems or name in slow:
                        continue
                    progress.at(f"{name}, run {run + 1} of {self.runs(row)}")
                    began = time.monotonic()
                    try:
                        if name not in running:
                            running[name] = start(bench.setup, name, stack)
                            if row.verified:
                                measure.verify(bench, running[name])
                        samples.setdefault(name, []).append(row.sample(bench, running[name]))
                    except (BenchError, FileNotFoundError) as error:
                        problems[name] = " ".join(str(error).split())
                    # One sample of a peer that takes minutes is enough: the others wait for it.
                    expected = row.sample_seconds or self.seconds()
                    if time.monotonic() - began > max(15, 4 * expected):
                        slow.add(name)
                    if row.fresh and name in running:
                        running.pop(name).process.stop()
        return Result(row, samples, problems, self.how(row))

    def block_list(self, row: Row) -> lists.BlockList | None:
        if not row.listed:
            return None
        count = row.listed // (10 if self.options.quick else 1)
        return lists.make(self.built[lists.GENERATOR], self.lists, count)

    def how(self, row: Row) -> dict[str, object]:
        return {
            "date": datetime.date.today().isoformat(),
            "commit": commit(),
            "runs": self.runs(row),
            "seconds": self.seconds(),
            "quick": self.options.quick,
        }

    def prepare(self, row: Row, stack: contextlib.ExitStack) -> Bench:
        """Starts the origin servers of a row; they end with `stack`."""
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadgate-")))
        # nginx's workers run as nobody.
        directory.chmod(0o755)
        core = self.options.core if row.pinned else None
        load_origin, own_port, echo_port = start_load_origin(directory, core, self.load)
        stack.callback(load_origin.stop)
        origin_port = own_port
        if not row.own_origin:
            origin, origin_port = start_nginx_origin(directory, core, self.content)
            stack.callback(origin.stop)
        setup = Setup(
            directory=directory,
            binaries=self.built,
            origin_port=origin_port,
            echo_port=echo_port,
            core=core,
            threads=row.threads or self.options.threads,
            peer_threads=1 if row.pinned else measure.WORKERS_OF_CORES,
            held=row.held,
            head_timeout=row.head_timeout,
            resolve=row.resolve(origin_port) if row.resolve else (),
            listed=self.block_list(row),
            start_seconds=60 if row.listed else START_SECONDS,
        )
        where = RESULTS / "allocations" if self.options.where else None
        quick = self.options.quick
        return Bench(self.load, setup, self.seconds(), quick, row.subject, where)


def start(setup: Setup, name: str, stack: contextlib.ExitStack) -> Proxy:
    # Each start of a fresh proxy has its own directory, so that it meets no leftovers.
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=setup.directory))
    directory.chmod(0o755)
    proxy = STARTERS[name](replace(setup, directory=directory), name)
    stack.callback(proxy.process.stop)
    return proxy


def machine() -> dict[str, str]:
    """The machine and the programs behind the numbers."""
    cpu = re.search(r"^model name\s*: (.*)", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    said = {
        "cpu": cpu[1].strip() if cpu else platform.machine(),
        "cores": str(os.cpu_count() or 0),
        "kernel": platform.release(),
    }
    versions = {
        "haproxy": "-v",
        "nginx": "-v",
        "squid": "-v",
        "apache2": "-v",
        "go": "version",
        "privoxy": "--version",
        "tinyproxy": "-v",
        "wrk": "-v",
    }
    for name, flag in versions.items():
        with contextlib.suppress(BenchError):
            done = subprocess.run([tool(name), flag], capture_output=True, text=True)
            number = re.search(r"\d+\.\d+[.\d]*", done.stdout + done.stderr)
            said[name] = number[0] if number else "?"
    return said


def commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "?"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
