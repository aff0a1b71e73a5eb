"""Builds the programs of the bench: threadgate, its variants, the load client, goproxy."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from harness.lists import GENERATOR
from harness.peers import RATES, tool
from harness.procs import BenchError

ROOT = Path(__file__).resolve().parent.parent.parent

GOPATH = "/usr/share/gocode"
"""Where Debian's packages put the sources of Go libraries."""

IMPATIENT = "--cfg threadgate_impatient"
"""The compiler's switch that removes a worker's patience (see src/server/turns.rs)."""


PLAIN = {
    *("threadgate", "threadgate-log", "threadgate-access", "threadgate-denying"),
    "threadgate-list",
    *("threadgate-throttling", *(f"threadgate-throttling-{rate}" for rate in RATES)),
}
"""The same program with other options."""


def build_load() -> Path:
    return cargo("--bench", "load")


def build_proxies(
    wanted: set[str], given: Path | None, missing: dict[str, str]
) -> dict[str, Path]:
    """The proxies that are built here, by name; `given` takes the place of threadgate itself.

    A peer that does not build is added to `missing`; threadgate has to.
    """
    built: dict[str, Path] = {}
    if wanted & PLAIN:
        plain = given.resolve() if given else cargo("--bin", "threadgate")
        built |= dict.fromkeys(PLAIN, plain)
    if GENERATOR in wanted:
        built[GENERATOR] = cargo("--bench", GENERATOR)
    if "threadgate-impatient" in wanted:
        # A separate directory, because otherwise each kind would make cargo rebuild the other.
        target = target_directory() / "impatient"
        flags = f"{os.environ.get('RUSTFLAGS', '')} {IMPATIENT}".strip()
        environment = {"RUSTFLAGS": flags, "CARGO_TARGET_DIR": str(target)}
        built["threadgate-impatient"] = cargo("--bin", "threadgate", environment)
    if wanted & {"threadgate-counting", "threadgate-counting-log"}:
        counting = cargo("--bench", "counting")
        built |= dict.fromkeys(("threadgate-counting", "threadgate-counting-log"), counting)
    if "goproxy" in wanted:
        try:
            built["goproxy"] = build_goproxy()
        except BenchError as error:
            missing["goproxy"] = str(error)
    return built


def cargo(kind: str, name: str, environment: dict[str, str] | None = None) -> Path:
    """Builds a target of the crate and returns the path where cargo put it."""
    command = ["cargo", "build", "--release", "--locked", kind, name]
    command.append("--message-format=json-render-diagnostics")
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise BenchError(f"`{' '.join(command[:-1])}` failed")
    for line in done.stdout.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == name:
            return Path(message["executable"])
    raise BenchError(f"cargo built no executable {name}")


def target_directory() -> Path:
    command = ["cargo", "metadata", "--locked", "--no-deps", "--format-version=1"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise BenchError(f"`{' '.join(command)}` failed")
    return Path(json.loads(done.stdout)["target_directory"])


def build_goproxy() -> Path:
    """Compiles the Go proxy against Debian's copy of the library; downloads nothing."""
    to = target_directory() / "tools" / "bin" / "goproxy"
    source = ROOT / "benches" / "peers" / "goproxy" / "main.go"
    to.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [tool("go"), "build", "-o", str(to), str(source)],
        env={**os.environ, "GO111MODULE": "off", "GOPATH": GOPATH, "GOFLAGS": ""},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BenchError(
            "goproxy does not build (golang-github-elazarl-goproxy-dev installed?): "
            + done.stderr.strip()[-300:]
        )
    return to
