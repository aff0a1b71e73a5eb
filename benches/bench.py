#!/usr/bin/env python3
"""Measures threadgate against real proxies: `make bench`, or one row with `make bench ROW=connect`.

Every number is a ratio to a peer measured in the same run, in turns (A B C A B C ...). The proxies,
wrk and taskset come from Debian's packages; the load client is `benches/load`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).resolve().parent))
# The source tree stays as it is in git.
sys.dont_write_bytecode = True

from harness import measure, report  # noqa: E402
from harness.measure import Bench, Sample  # noqa: E402
from harness.peers import (  # noqa: E402
    STARTERS,
    Proxy,
    Setup,
    start_load_origin,
    start_nginx_origin,
    tool,
)
from harness.procs import BenchError  # noqa: E402
from harness.report import Result  # noqa: E402
from harness.rows import Row, select  # noqa: E402


def main() -> int:
    options = parse()
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
    wanted = options.proxies.split(",") if options.proxies else list(STARTERS)
    if unknown := set(wanted) - set(STARTERS):
        raise BenchError(f"no proxy named {', '.join(unknown)}; known: {', '.join(STARTERS)}")
    load = build_load()
    binary = options.binary
    if binary is None and any(name.startswith("threadgate") for name in wanted):
        binary = build("--bin", "threadgate")
    results = []
    # The first octets of the pattern stand in nginx's configuration.
    content = subprocess.run(
        [load, "pattern", "--octets", "1024"], check=True, capture_output=True, text=True
    ).stdout
    try:
        for index, row in enumerate(rows):
            progress = Progress(f"[{index + 1}/{len(rows)}] {row.name}")
            results.append(run_row(row, options, wanted, load, binary, content, progress))
    finally:
        Progress.clear()
        if results:
            report.write(results, machine(options), ROOT / "bench-results")
            print(report.plain(results))
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
    add("--runs", type=int, metavar="N", help="samples of each proxy (default: 5, quick: 1)")
    add("--seconds", type=int, metavar="S", help="length of a sample (default: 4, quick: 1)")
    add("--proxies", metavar="A,B", help=f"only these of {', '.join(STARTERS)}")
    add("--threads", type=int, default=8, metavar="N", help="workers of threadgate (default: 8)")
    add("--core", type=int, default=1, metavar="N", help="core of the pinned rows (default: 1)")
    add("--binary", type=Path, metavar="PATH", help="threadgate to measure (default: built here)")
    return parser.parse_args()


def build_load() -> Path:
    return build("--bench", "load")


def build(kind: str, name: str) -> Path:
    """Builds a target of the crate and answers where cargo put it."""
    command = ["cargo", "build", "--release", kind, name]
    command.append("--message-format=json-render-diagnostics")
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"`{' '.join(command[:-1])}` failed")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    raise BenchError(f"cargo built no executable {name}")


class Progress:
    """One line on standard error that is overwritten, if that is a terminal."""

    def __init__(self, row: str) -> None:
        self.row = row

    def at(self, what: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{self.row}: {what}", end="", file=sys.stderr, flush=True)

    @staticmethod
    def clear() -> None:
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def run_row(
    row: Row,
    options: argparse.Namespace,
    wanted: list[str],
    load: Path,
    binary: Path | None,
    content: str,
    progress: Progress,
) -> Result:
    """All samples of a row; a proxy that fails is left out and named, the others go on."""
    runs = row.runs or options.runs or 5
    seconds = options.seconds or 4
    if options.quick:
        runs, seconds = options.runs or 1, options.seconds or 1
    samples: dict[str, list[Sample]] = {}
    problems: dict[str, str] = {}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="threadgate-")))
        # nginx's workers run as nobody.
        directory.chmod(0o755)
        core = options.core if row.pinned else None
        load_origin, own_port, echo_port = start_load_origin(directory, core, load)
        stack.callback(load_origin.stop)
        origin_port = own_port
        if not row.own_origin:
            origin, origin_port = start_nginx_origin(directory, core, content)
            stack.callback(origin.stop)
        setup = Setup(
            directory=directory,
            binary=(binary or Path("threadgate")).resolve(),
            origin_port=origin_port,
            echo_port=echo_port,
            core=core,
            threads=row.threads or options.threads,
            peer_threads=1 if row.pinned else measure.WORKERS_OF_CORES,
            head_timeout=row.head_timeout,
        )
        bench = Bench(load, setup, seconds, options.quick)
        names = [name for name in row.proxies if name in wanted]
        running: dict[str, Proxy] = {}
        for run in range(runs):
            for name in names:
                if name in problems:
                    continue
                progress.at(f"{name}, run {run + 1} of {runs}")
                try:
                    if name not in running:
                        running[name] = start(setup, name, stack)
                        measure.verify(bench, running[name])
                    samples.setdefault(name, []).append(row.sample(bench, running[name]))
                except (BenchError, FileNotFoundError) as error:
                    problems[name] = str(error)
                if row.fresh and name in running:
                    running.pop(name).process.stop()
    return Result(row, samples, problems)


def start(setup: Setup, name: str, stack: contextlib.ExitStack) -> Proxy:
    # Each start of a fresh proxy has a directory of its own: no leftovers are met.
    directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=setup.directory))
    directory.chmod(0o755)
    proxy = measure.start_proxy(replace(setup, directory=directory), name)
    stack.callback(proxy.process.stop)
    return proxy


def machine(options: argparse.Namespace) -> dict[str, str]:
    """What the numbers were measured on and with."""
    cores = os.cpu_count() or 0
    versions = {"wrk": "-v", "haproxy": "-v", "nginx": "-v", "tinyproxy": "-v"}
    said = {"kernel": platform.release(), "cores": str(cores), "quick": str(options.quick)}
    for name, flag in versions.items():
        with contextlib.suppress(BenchError):
            done = subprocess.run([tool(name), flag], capture_output=True, text=True)
            said[name] = (done.stdout + done.stderr).partition("\n")[0]
    return said


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
