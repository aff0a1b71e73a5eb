"""The results as values: medians, ratios, goals met; as a table for a terminal and as JSON."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.measure import Sample
from harness.peers import STARTERS
from harness.rows import Goal, Row, absent

Entry = dict[str, Any]
"""A row in the form of the JSON file, from which the documents are made."""

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
    "slowest_s": "slowest s",
    "rate_kept": "rate kept",
    "not_408": "not 408",
    "refused_s": "refused after s",
    "readers_behind": "readers behind",
    "start_ms": "start ms",
    "rss_mb": "resident MB",
    "binary_mb": "binary MB",
    "load_s": "load s",
    "list_mb": "list MB",
    "hit_ns": "lookup ns, listed",
    "miss_ns": "lookup ns, not listed",
    "syscalls": "system calls",
    "allocs_get": "GET",
    "allocs_get_64": "GET, 64 clients",
    "allocs_post": "POST of 1 KB",
    "allocs_connect": "CONNECT and close",
    "off": "off by, of the rate",
    "of_rate": "of the rate",
    "cpu_share": "CPU, of a core",
    "fewest_of_share": "slowest, of its share",
    "most_of_share": "fastest, of its share",
}
"""The meaning of each number, for a table's cell."""


@dataclass(frozen=True)
class Result:
    """A row's samples by proxy, and the reasons why a proxy has none."""

    row: Row
    samples: dict[str, list[Sample]]
    problems: dict[str, str]
    how: dict[str, Any] = field(default_factory=dict)
    """The circumstances: date, commit, runs, seconds, whether it was quick."""

    def value(self, proxy: str, metric: str) -> float | None:
        """The median over the samples, or the best if the row wants that."""
        values = [sample[metric] for sample in self.samples.get(proxy, []) if metric in sample]
        if not values:
            return None
        return max(values) if self.row.best else statistics.median(values)

    def errors(self, proxy: str) -> int:
        return int(sum(sample["errors"] for sample in self.samples.get(proxy, [])))

    def reached(self, goal: Goal) -> float | None:
        """The number that the goal limits; `None` if the subject or the peer is missing."""
        own = self.value(self.row.subject, goal.metric)
        if own is None or goal.peer is None:
            return own
        against = self.against(goal)
        return own / against if against else None

    def against(self, goal: Goal) -> float | None:
        """The peer's number a goal compares with."""
        if goal.peer is None:
            return None
        if goal.peer != "best":
            return self.value(goal.peer, goal.metric)
        peers = [name for name in self.samples if name != self.row.subject]
        values = [v for name in peers if (v := self.value(name, goal.metric)) is not None]
        return (max if goal.at_least else min)(values, default=None)

    def met(self, goal: Goal) -> bool | None:
        reached = self.reached(goal)
        if reached is None:
            return None
        right = reached >= goal.limit if goal.at_least else reached <= goal.limit
        return right and not self.errors(self.row.subject)

    def entry(self) -> Entry:
        """The form of the row in the JSON file."""
        metrics = dict.fromkeys(
            [*(goal.metric for goal in self.row.goals), *self.row.shown]
        )
        return {
            "row": self.row.name,
            "about": self.row.about,
            **self.how,
            "pinned": self.row.pinned,
            "of": "best" if self.row.best else "median",
            "subject": self.row.subject,
            "proxies": list(self.row.proxies),
            "values": {
                metric: {
                    proxy: figure(value)
                    for proxy in self.row.proxies
                    if (value := self.value(proxy, metric)) is not None
                }
                for metric in metrics
            },
            "goals": [
                {
                    "metric": goal.metric,
                    "limit": goal.limit,
                    "peer": goal.peer,
                    "at_least": goal.at_least,
                    "goal": goal.text(),
                    "reached": figure(self.reached(goal)),
                    "met": self.met(goal),
                }
                for goal in self.row.goals
            ],
            "errors": {
                proxy: count for proxy in self.samples if (count := self.errors(proxy))
            },
            "problems": self.problems,
            "absent": absent(self.row),
            "samples": {
                proxy: [
                    {metric: figure(value) for metric, value in sample.items()}
                    for sample in samples
                ]
                for proxy, samples in self.samples.items()
            },
        }


def figure(value: float | None) -> float | None:
    """Five significant digits, because no more were measured."""
    return None if value is None else float(f"{value:.5g}")


def number(value: float | None) -> str:
    if value is None:
        return "-"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


OURS = "threadgate"


def columns(entries: list[Entry]) -> list[str]:
    """The proxies of the rows, with threadgate's variants under its own name."""
    named = {name for entry in entries for name in entry["proxies"]}
    variants = any(name.startswith(f"{OURS}-") for name in named)
    return [name for name in STARTERS if name in named or (name == OURS and variants)]


def lines(entries: list[Entry]) -> list[list[str]]:
    """The table's cells: a line a number and goal, and one more for each variant of threadgate."""
    proxies = [name for name in columns(entries) if not name.startswith(f"{OURS}-")]
    cells = [[*HEADINGS, *proxies, *TAIL]]
    for entry in entries:
        wanted: list[tuple[str, Entry | None]] = [(goal["metric"], goal) for goal in entry["goals"]]
        bounded = {metric for metric, _ in wanted}
        wanted += [(metric, None) for metric in entry["values"] if metric not in bounded]
        for metric, goal in wanted:
            values = entry["values"].get(metric, {})
            tail = ["", "", ""]
            if goal:
                verdict = {True: "yes", False: "NO", None: "-"}[goal["met"]]
                tail = [goal["goal"], number(goal["reached"]), verdict]
            subject = entry["subject"]
            told = [number(values.get(subject if name == OURS else name)) for name in proxies]
            cells.append([entry["row"], UNITS[metric], *told, *tail])
            for variant in entry["proxies"]:
                if variant.startswith(OURS) and variant != subject and variant in values:
                    other = ["-"] * len(proxies)
                    other[proxies.index(OURS)] = number(values.get(variant))
                    kind = variant.removeprefix(OURS).removeprefix("-") or "without"
                    cells.append([entry["row"], f"{UNITS[metric]}, {kind}", *other, "", "", ""])
    return cells


def notes(entries: list[Entry]) -> list[str]:
    """Errors, and proxies that failed, a line each."""
    said = []
    for entry in entries:
        row = entry["row"]
        said += [f"{row}: {proxy}: {count} errors" for proxy, count in entry["errors"].items()]
        said += [f"{row}: {proxy}: {why}" for proxy, why in entry["problems"].items()]
    return said


def absences(entries: list[Entry]) -> list[str]:
    """Why peers are not in rows, a line a reason."""
    rows: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for peer, why in entry["absent"].items():
            rows.setdefault((peer, why), []).append(entry["row"])
    return [f"{peer}: {why} ({', '.join(names)})" for (peer, why), names in rows.items()]


def plain(entries: list[Entry]) -> str:
    """The table for a terminal, with the failures below it."""
    cells = lines(entries)
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    numeric = range(len(HEADINGS), len(widths) - len(TAIL))
    text = []
    for line in cells:
        padded = [
            cell.rjust(width) if i in numeric else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        text.append("  ".join(padded).rstrip())
    for heading, said in (("Failed:", notes(entries)), ("Not in a row:", absences(entries))):
        if said:
            text += ["", heading, *said]
    return "\n".join(text)


def read(path: Path) -> Entry:
    """The JSON file, or one without rows if there is none."""
    if not path.exists():
        return {"machine": {}, "rows": []}
    data: Entry = json.loads(path.read_text())
    return data


def merge(data: Entry, machine: dict[str, str], entries: list[Entry], order: list[str]) -> Entry:
    """Replaces rows by new ones of the same name; another machine starts anew."""
    same = all(data["machine"].get(name) == machine.get(name) for name in ("cpu", "cores"))
    rows = {entry["row"]: entry for entry in data["rows"]} if same else {}
    rows |= {entry["row"]: entry for entry in entries}
    names = [name for name in order if name in rows]
    return {"machine": machine, "rows": [rows[name] for name in names]}


def dump(data: Entry) -> str:
    """JSON with a line a sample: it is small, and its differences are readable."""
    text = ['{', f'"machine": {compact(data["machine"])},', '"rows": [']
    for index, entry in enumerate(data["rows"]):
        fields = [(name, value) for name, value in entry.items() if name != "samples"]
        text.append("{")
        text += [f" {compact(name)}: {compact(value)}," for name, value in fields]
        samples = [
            f"  {compact(proxy)}: [\n"
            + ",\n".join(f"   {compact(sample)}" for sample in taken)
            + "\n  ]"
            for proxy, taken in entry["samples"].items()
        ]
        text.append(' "samples": {' + ("\n" + ",\n".join(samples) + "\n }" if samples else "}"))
        text.append("}" if index + 1 == len(data["rows"]) else "},")
    return "\n".join([*text, "]", "}"]) + "\n"


def compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
