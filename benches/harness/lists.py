"""Makes a long block list in each proxy's format, from the plausible names of `benches/lists`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.procs import BenchError

GENERATOR = "lists"
"""The target name of the program that makes lists."""
NAMED = "www.bench.example.com"
"""The name that the rows with lists ask for: plausible, and on no list."""


@dataclass(frozen=True)
class BlockList:
    """A file of names, one a line. No two are the same, and none is below another."""

    path: Path
    count: int

    def some(self) -> tuple[str, ...]:
        """Names that the list refuses: its first, a middle one and its last, and one below that."""
        names = self.path.read_text().split()
        return names[0], names[len(names) // 2], names[-1], f"www.{names[-1]}"

    def for_squid(self) -> Path:
        """For `dstdomain`: a dot before a name covers all names below it."""
        return self.converted("squid", "", lambda name: f".{name}")

    def for_privoxy(self) -> Path:
        """An actions file: a dot before a pattern covers all names below it."""
        return self.converted("action", "{+block{listed}}\n", lambda name: f".{name}")

    def for_tinyproxy(self) -> Path:
        """Regular expressions over the host."""
        return self.converted("regex", "", lambda name: rf"(^|\.){name.replace('.', '[.]')}$")

    def converted(self, kind: str, head: str, each: Callable[[str], str]) -> Path:
        path = self.path.with_suffix(f".{kind}")
        if not path.exists():
            lines = (each(name) + "\n" for name in self.path.read_text().split())
            path.write_text(head + "".join(lines))
        return path


def make(generator: Path, directory: Path, count: int) -> BlockList:
    """The list of `count` names, made once for all rows."""
    path = directory / f"names-{count}.txt"
    if not path.exists():
        run(generator, "--names", str(count), "--plain", "--write", str(path))
    return BlockList(path, count)


def compiled(generator: Path, plain: BlockList) -> dict[str, Any]:
    """The cost in time, memory and lookups of the same names, written as published lists are."""
    path = plain.path.with_suffix(".published")
    if not path.exists():
        run(generator, "--names", str(plain.count), "--write", str(path))
    said: dict[str, Any] = json.loads(run(generator, "--read", str(path), "--json"))
    return said


def run(generator: Path, *arguments: str) -> str:
    done = subprocess.run([str(generator), *arguments], capture_output=True, text=True)
    if done.returncode:
        raise BenchError(f"no list: {done.stderr.strip()}")
    return done.stdout
