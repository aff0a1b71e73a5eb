"""The bench's messages on standard error while it runs: the plan, then the progress."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

GREEN, RED, DIM, PLAIN = "\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"


class Progress:
    """A bar that is overwritten on a terminal; a line a row anywhere else.

    The time left is the plan's, corrected by how long the rows so far took against it.
    """

    def __init__(self, planned: dict[str, float], out: TextIO = sys.stderr) -> None:
        self.planned = planned
        self.out = out
        self.terminal = out.isatty()
        self.colour = self.terminal and not os.environ.get("NO_COLOR")
        self.done: dict[str, float] = {}
        self.row = ""
        self.began = time.monotonic()

    def begin(self, row: str) -> None:
        self.row = row
        self.began = time.monotonic()
        self.at("starting")

    def at(self, what: str) -> None:
        """The present action within the row."""
        if not self.terminal:
            return
        whole = sum(self.planned.values())
        spent = sum(self.planned[row] for row in self.done)
        present = min(time.monotonic() - self.began, self.planned[self.row])
        share = min(1.0, (spent + present) / whole) if whole else 1.0
        width = 24
        full = int(share * width)
        bar = "━" * full + self.paint("━" * (width - full), DIM)
        text = f"{len(self.done) + 1}/{len(self.planned)} {self.row}: {what}"
        text += f", {clock(self.left())} left"
        room = shutil.get_terminal_size().columns - width - 2
        print(f"\r\x1b[K{bar} {text[:room]}", end="", file=self.out, flush=True)

    def end(self, verdicts: list[tuple[str, bool | None]]) -> None:
        """Ends the present row. `verdicts` have the values reached, and whether they are enough."""
        took = time.monotonic() - self.began
        self.done[self.row] = took
        self.clear()
        colours = {True: GREEN, False: RED, None: DIM}
        said = "; ".join(self.paint(text, colours[met]) for text, met in verdicts) or "measured"
        place = f"[{len(self.done)}/{len(self.planned)}]"
        left = f", {clock(self.left())} left" if len(self.done) < len(self.planned) else ""
        print(f"{place} {self.row}: {said} ({took:.0f} s{left})", file=self.out, flush=True)

    def left(self) -> float:
        planned = sum(self.planned[row] for row in self.done)
        pace = sum(self.done.values()) / planned if planned else 1.0
        rest = sum(s for row, s in self.planned.items() if row not in self.done)
        present = time.monotonic() - self.began if self.row not in self.done else 0.0
        return max(0.0, rest * pace - present)

    def say(self, text: str) -> None:
        self.clear()
        print(text, file=self.out, flush=True)

    def clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", file=self.out, flush=True)

    def paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{PLAIN}" if self.colour else text


def clock(seconds: float) -> str:
    """`75` as `1:15`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02}"
