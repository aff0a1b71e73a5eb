"""Runs wrk and the project's load client, and reads what they print."""

from __future__ import annotations

import base64
import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.peers import TEMPLATES, tool
from harness.procs import BenchError

LIMIT_SECONDS = 300


def count_errors(value: Any) -> int:
    """Sums the counts of `{"kind": count}` at any depth of lists."""
    if isinstance(value, dict):
        return sum(value.values())
    return sum(count_errors(item) for item in value)


def run_load(
    load: Path,
    core: int | None,
    arguments: list[str],
    on_step: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """One run of the load client. `on_step` is called at each step, while the client waits."""
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    command = [*pinned, str(load), *arguments, *(["--steps"] if on_step else [])]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout and child.stderr
        try:
            for line in child.stdout:
                said = json.loads(line)
                if "mode" in said:
                    return said
                assert on_step
                on_step(said["step"])
                child.stdin.write("\n")
                child.stdin.flush()
            raise BenchError(child.stderr.read().strip() or "the load client ended without a word")
        finally:
            child.kill()


def run_wrk(
    core: int | None,
    port: int,
    origin: str,
    clients: int,
    seconds: int,
    around: tuple[str, ...] = (),
    credentials: str | None = None,
) -> dict[str, Any]:
    """Keep-alive requests in absolute-form: requests, requests/s, p99 in ms, errors, refusals.

    `around` is a command that runs the one given to it, as `perf stat` does. `credentials` go out as
    `Proxy-Authorization`.
    """
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    script = str(TEMPLATES / "absolute.lua")
    command = [*around, *pinned, tool("wrk"), "-t1", f"-c{clients}", f"-d{seconds}s", "--latency"]
    command += ["-s", script, f"http://127.0.0.1:{port}/", "--", origin]
    if credentials is not None:
        command.append(base64.b64encode(credentials.encode()).decode())
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS)
    try:
        return read_wrk(done.stdout)
    except ValueError:
        raise BenchError(f"wrk: {done.stdout} {done.stderr}") from None


def read_wrk(said: str) -> dict[str, Any]:
    """The numbers in wrk's output; a ValueError if they are missing."""
    requests = re.search(r"(\d+) requests in", said)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", said)
    p99 = re.search(r"^\s+99%\s+([\d.]+)(us|ms|s|m|h)$", said, re.MULTILINE)
    if not requests or not rate or not p99:
        raise ValueError(said)
    errors = refusals = 0
    if refused := re.search(r"Non-2xx or 3xx responses: (\d+)", said):
        refusals = int(refused[1])
        errors += refusals
    if failed := re.search(r"Socket errors: (.*)", said):
        errors += sum(int(count) for count in re.findall(r"\d+", failed[1]))
    return {
        "done": int(requests[1]),
        "rate": float(rate[1]),
        "p99_ms": float(p99[1]) * MILLISECONDS[p99[2]],
        "errors": errors,
        "refusals": refusals,
    }


MILLISECONDS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4, "h": 3.6e6}
