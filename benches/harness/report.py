"""The results as a table for people, Markdown for documents and JSON for programs."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from pathlib import Path

from harness.measure import Sample
from harness.rows import Goal, Row

HEADINGS = ("row", "number")
TAIL = ("goal", "reached", "met")

UNITS = {
    "cpu_us": "µs CPU",
    "rate": "per second",
    "p99_us": "p99 µs",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
    "cpu_s_per_gb": "s CPU/GB",
    "mb_per_s": "MB/s",
    "starved": "starved",
    "bulk_mb_per_s": "bulk MB/s",
    "bulk_share": "bulk of alone",
    "kib_each": "KiB each",
    "failed": "failed",
    "threads_moved": "threads moved",
    "p99_own_ms": "p99 ms alone",
    "p99_beside_ms": "p99 ms beside",
    "p99_of_allowed": "p99 of allowed",
    "answered_s": "answered s",
    "done_s": "done s",
    "rate_kept": "rate kept",
    "not_408": "not 408",
    "refused_s": "refused after s",
    "readers_behind": "readers behind",
    "start_ms": "start ms",
    "rss_mb": "resident MB",
    "binary_mb": "binary MB",
}


@dataclass(frozen=True)
class Result:
    """A row's samples by proxy, and what kept a proxy from having any."""

    row: Row
    samples: dict[str, list[Sample]]
    problems: dict[str, str]

    def value(self, proxy: str, metric: str) -> float | None:
        values = [sample[metric] for sample in self.samples.get(proxy, []) if metric in sample]
        if not values:
            return None
        return max(values) if self.row.best else statistics.median(values)

    def errors(self, proxy: str) -> int:
        return int(sum(sample["errors"] for sample in self.samples.get(proxy, [])))

    def reached(self, goal: Goal) -> float | None:
        """The number the goal bounds, `None` if the subject or the peer is missing."""
        own = self.value(self.row.subject, goal.metric)
        if own is None or goal.peer is None:
            return own
        if goal.peer == "best":
            peers = [name for name in self.samples if name != self.row.subject]
            values = [v for name in peers if (v := self.value(name, goal.metric)) is not None]
            against = (max if goal.at_least else min)(values, default=None)
        else:
            against = self.value(goal.peer, goal.metric)
        return own / against if against else None

    def met(self, goal: Goal) -> bool | None:
        reached = self.reached(goal)
        if reached is None:
            return None
        right = reached >= goal.limit if goal.at_least else reached <= goal.limit
        return right and not self.errors(self.row.subject)


def columns(results: list[Result]) -> list[str]:
    """Proxies in the order the rows first name them."""
    return list(dict.fromkeys(name for result in results for name in result.row.proxies))


def lines(results: list[Result]) -> list[list[str]]:
    """The table's cells: a line a number and goal."""
    proxies = columns(results)
    cells = [[*HEADINGS, *proxies, *TAIL]]
    for result in results:
        wanted: list[tuple[str, Goal | None]] = [(goal.metric, goal) for goal in result.row.goals]
        bounded = {goal.metric for goal in result.row.goals}
        wanted += [(metric, None) for metric in result.row.shown if metric not in bounded]
        for metric, goal in wanted:
            values = [number(result.value(proxy, metric)) for proxy in proxies]
            tail = ["", "", ""]
            if goal:
                verdict = {True: "yes", False: "NO", None: "-"}[result.met(goal)]
                tail = [goal.text(), number(result.reached(goal)), verdict]
            cells.append([result.row.name, UNITS[metric], *values, *tail])
    return cells


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def notes(results: list[Result]) -> list[str]:
    """Errors and absent proxies, a line each."""
    said = []
    for result in results:
        for proxy in result.samples:
            if count := result.errors(proxy):
                said.append(f"{result.row.name}: {proxy}: {count} errors")
        said += [f"{result.row.name}: {name}: {why}" for name, why in result.problems.items()]
    return said


def plain(results: list[Result]) -> str:
    cells = lines(results)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    numeric = range(len(HEADINGS), len(widths) - len(TAIL))
    text = []
    for line in cells:
        padded = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(padded).rstrip())
    return "\n".join([*text, *(["", *said] if (said := notes(results)) else [])])


def markdown(results: list[Result]) -> str:
    heading, *cells = lines(results)
    text = ["| " + " | ".join(heading) + " |", "|" + "---|" * len(heading)]
    text += ["| " + " | ".join(line) + " |" for line in cells]
    return "\n".join([*text, "", *(f"- {note}" for note in notes(results))]).rstrip() + "\n"


def write(results: list[Result], machine: dict[str, str], directory: Path) -> None:
    """Leaves `results.json` and `results.md` in a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "row": result.row.name,
            "about": result.row.about,
            "samples": result.samples,
            "problems": result.problems,
            "goals": [
                {
                    "metric": goal.metric,
                    "goal": goal.text(),
                    "reached": result.reached(goal),
                    "met": result.met(goal),
                }
                for goal in result.row.goals
            ],
        }
        for result in results
    ]
    text = json.dumps({"machine": machine, "rows": rows}, indent=1, ensure_ascii=False)
    (directory / "results.json").write_text(text + "\n")
    about = "".join(f"- {name}: {value}\n" for name, value in machine.items())
    (directory / "results.md").write_text(about + "\n" + markdown(results))
