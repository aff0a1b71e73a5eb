"""Brings measured figures into the documents, and holds the documents to them.

`docs/performance.json` is what they are made from: the tables between the markers in
`docs/performance.md` and in the README, and the chart. `check` makes them once more and compares.
"""

from __future__ import annotations

import re
from pathlib import Path

import chart
from harness import report
from harness.procs import BenchError
from harness.report import Entry, number

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"
FIGURES = DOCS / "performance.json"
PAGE = DOCS / "performance.md"
CHART = DOCS / "performance.svg"
README = DOCS.parent / "README.md"

HINT = "`python3 benches/bench.py --write-docs`"

LABELS = {
    "haproxy": "HAProxy",
    "haproxy-splice": "HAProxy with splice",
    "apache": "Apache",
    "squid": "Squid",
    "privoxy": "Privoxy",
    "best": "the best peer",
    "threadgate-impatient": "no patience",
}
"""Names of peers in a sentence, where they differ from the program's."""

WITHOUT = {
    "threadgate-log": "the log off",
    "threadgate-access": "neither",
    "threadgate-list": "no list",
}
"""The name of threadgate itself beside a variant."""

HEADINGS = {
    "haproxy": "HAProxy",
    "haproxy-splice": "HAProxy, splice",
    "apache": "Apache",
    "squid": "Squid",
    "privoxy": "Privoxy",
}
"""Names of peers above a column."""

COSTS = (
    ("keepalive-64", "cpu_us", "a GET, 64 clients that keep their connections"),
    ("per-connection", "cpu_us", "a GET on a connection of its own"),
    ("listed-1m", "cpu_us", "the same beside a block list of a million names"),
    ("connect", "cpu_us", "a tunnel: CONNECT, one exchange, close"),
    ("bulk-get-1", "cpu_s_per_gb", "a gigabyte by GET"),
    ("idle-tunnels", "kib_each", "an idle tunnel (memory)"),
)
"""What the README shows: the row, the number, and what it is there."""

COST_COLUMNS = ("haproxy", "squid", "tinyproxy", "privoxy", "apache", "goproxy")

GOALS = {
    "cpu_us": "CPU",
    "rate": "requests/s",
    "p99_ms": "p99",
    "cpu_s_per_gb": "CPU/GB",
    "mb_per_s": "MB/s",
    "starved": "tunnels starved",
    "bulk_share": "bulk against alone",
    "kib_each": "memory each",
    "failed": "failed",
    "threads_moved": "threads that ran in 10 s",
    "p99_of_allowed": "fast p99",
    "answered_s": "all answered",
    "done_s": "all done",
    "slowest_s": "the slowest",
    "rate_kept": "fast rate against alone",
    "not_408": "drippers without a 408",
    "readers_behind": "readers behind their pace",
    "start_ms": "first response",
    "rss_mb": "resident",
    "binary_mb": "binary",
    "syscalls": "system calls",
    "allocs_get": "GET",
    "allocs_get_64": "GET, 64 clients",
    "allocs_post": "POST",
    "off": "rate off by",
    "miss_ns": "lookup",
}
"""The quantity that a goal limits, in words."""

SUFFIXES = {
    "cpu_us": " µs",
    "rate": "/s",
    "p99_ms": " ms",
    "cpu_s_per_gb": " s",
    "mb_per_s": " MB/s",
    "kib_each": " KiB",
    "answered_s": " s",
    "done_s": " s",
    "slowest_s": " s",
    "start_ms": " ms",
    "rss_mb": " MB",
    "binary_mb": " MB",
    "load_s": " s",
    "list_mb": " MB",
    "hit_ns": " ns",
    "miss_ns": " ns",
}
"""The unit behind a number."""


def write(data: Entry) -> None:
    """Writes measured figures into the documents."""
    if not data["rows"]:
        raise BenchError("nothing is measured yet: run `make bench`")
    if quick := [entry["row"] for entry in data["rows"] if entry["quick"]]:
        raise BenchError(f"measured with --quick, which is no figure: {', '.join(quick)}")
    FIGURES.write_text(report.dump(data))
    for path, tables in pages(data):
        path.write_text(page_with(path, tables))
    CHART.write_text(chart.svg(data))


def check() -> None:
    """Checks that the tables and the chart are the ones the figures make."""
    data = report.read(FIGURES)
    stale = [
        path.name for path, tables in pages(data) if page_with(path, tables) != path.read_text()
    ]
    if not CHART.exists() or chart.svg(data) != CHART.read_text():
        stale.append(CHART.name)
    if stale:
        raise BenchError(
            f"{' and '.join(stale)} differ from docs/{FIGURES.name}: {HINT} makes them anew, "
            "from the last results"
        )


def pages(data: Entry) -> list[tuple[Path, dict[str, str]]]:
    """The pages, and the tables of each."""
    return [
        (PAGE, {"targets": targets(data), "figures": figures(data)}),
        (README, {"costs": costs(data)}),
    ]


def page_with(path: Path, tables: dict[str, str]) -> str:
    """The page with what stands between its markers made from the figures."""
    text = path.read_text()
    for name, made in tables.items():
        begin, end = f"<!-- {name}: made by benches/bench.py -->", f"<!-- end of {name} -->"
        pattern = re.compile(f"(?<={re.escape(begin)}\n).*?(?={re.escape(end)})", re.DOTALL)
        if not pattern.search(text):
            raise BenchError(f"{path.name} has no markers {begin} and {end}")
        text = pattern.sub(lambda _, made=made: f"\n{made}\n", text)
    return text


def page(data: Entry) -> str:
    """Both tables, as a separate page."""
    return targets(data) + "\n" + figures(data)


def targets(data: Entry) -> str:
    """Each row with its goals, the values reached, and the way it was measured."""
    text = ["| row | work | target | measured |", "|---|---|---|---|"]
    for entry in data["rows"]:
        goals = entry["goals"]
        bounds = ", ".join(bound(entry, goal) for goal in goals) or "none"
        reached = "; ".join(outcome(entry, goal) for goal in goals) or plain_figures(entry)
        text.append(f"| `{entry['row']}` | {entry['about']} | {bounds} | {reached} |")
    return "\n".join([*text, "", how(data)]) + "\n"


def bound(entry: Entry, goal: Entry) -> str:
    metric = goal["metric"]
    suffix = "" if goal["peer"] else SUFFIXES.get(metric, "")
    sign = "≥" if goal["at_least"] else "≤"
    if goal["limit"] == 0:
        return f"{GOALS[metric]}: none" if metric in COUNTS else f"{GOALS[metric]} 0"
    if metric == "p99_of_allowed":
        return "fast p99 ≤ max(1.5 × its own, its own + 1 ms)"
    text = f"{GOALS[metric]} {sign} {goal['limit']:g}{suffix}"
    return text + (f" × {label(goal['peer'], entry)}" if goal["peer"] else "")


COUNTS = ("failed", "starved", "threads_moved", "not_408", "readers_behind")


def outcome(entry: Entry, goal: Entry) -> str:
    metric, suffix = goal["metric"], SUFFIXES.get(goal["metric"], "")
    if goal["reached"] is None:
        return f"{GOALS[metric]} not measured"
    reached = number(goal["reached"]) + ("" if goal["peer"] else suffix)
    if metric == "p99_of_allowed":
        own, beside = (entry["values"][f"p99_{m}_ms"][entry["subject"]] for m in ("own", "beside"))
        reached = f"{number(beside)} ms, its own {number(own)} ms"
    text = f"**{reached}**" if goal["met"] else f"**not met**: {reached}"
    if not goal["peer"]:
        return f"{GOALS[metric]} {text}" if len(entry["goals"]) > 1 else text
    values = entry["values"][metric]
    own = number(values.get(entry["subject"]))
    peer = goal["peer"]
    if peer == "best":
        pick = max if goal["at_least"] else min
        peer = pick((name for name in values if name != entry["subject"]), key=values.__getitem__)
    return f"{text} ({own}{suffix}; {label(peer, entry)} {number(values.get(peer))})"


def plain_figures(entry: Entry) -> str:
    """The figures of a row without goals."""
    own = ((metric, values.get(entry["subject"])) for metric, values in entry["values"].items())
    return ", ".join(
        f"{number(value)}{SUFFIXES.get(metric, '')}" for metric, value in own if value is not None
    )


def label(proxy: str, entry: Entry) -> str:
    if proxy == report.OURS:
        return WITHOUT[entry["subject"]]
    return LABELS.get(proxy, proxy)


def costs(data: Entry) -> str:
    """The few numbers of the README; a proxy that is not in a row has a dash there."""
    entries = {entry["row"]: entry for entry in data["rows"]}
    names = " | ".join(LABELS.get(peer, peer) for peer in COST_COLUMNS)
    text = [f"| processor time of | threadgate | {names} |", "|---|" + "--:|" * (1 + len(COST_COLUMNS))]
    for row, metric, words in COSTS:
        if row not in entries:
            continue
        values = entries[row]["values"].get(metric, {})
        own = values.get(entries[row]["subject"])
        cells = [cost(own, metric), *(cost(of_peer(values, peer), metric) for peer in COST_COLUMNS)]
        text.append(f"| {words} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def of_peer(values: dict[str, float], peer: str) -> float | None:
    """A peer's number; the better one of a peer that was measured in two ways."""
    return min((values[name] for name in (peer, f"{peer}-splice") if name in values), default=None)


def cost(value: float | None, metric: str) -> str:
    return "–" if value is None else f"{number(value)}{SUFFIXES[metric]}"


def how(data: Entry) -> str:
    """The time, the means and the machine of the measurements."""
    samples: dict[str, list[str]] = {}
    for entry in data["rows"]:
        kind = f"{entry['date']}, commit {entry['commit']}, {entry['runs']} × {entry['seconds']} s"
        samples.setdefault(kind, []).append(entry["row"])
    most = max(samples, key=lambda kind: len(samples[kind]), default="")
    said = [f"Measured {most} each; the median counts."] if most else []
    for kind, rows in samples.items():
        if kind != most:
            said.append(f"{kind}: {', '.join(f'`{row}`' for row in rows)}.")
    machine = data["machine"]
    on = f"On {machine.get('cpu', '?')}, {machine.get('cores', '?')} processors"
    kernel = f", Linux {machine['kernel']}" if "kernel" in machine else ""
    with_ = [f"{name} {v}" for name, v in machine.items() if name not in ("cpu", "cores", "kernel")]
    said.append(f"{on}{kernel}" + (f"; with {', '.join(with_)}." if with_ else "."))
    return " ".join(said)


def figures(data: Entry) -> str:
    """Every number of every proxy."""
    heading, *cells = report.lines(data["rows"])
    drop = len(report.TAIL)
    cells = [cell for cell in cells if any(value != "-" for value in cell[2:-drop])]
    text = ["| " + " | ".join(HEADINGS.get(name, name) for name in heading[:-drop]) + " |"]
    text.append("|---|---|" + "--:|" * (len(heading) - drop - 2))
    # A row's second number is often the same metric with another goal, so it is shown once.
    told = dict.fromkeys(" | ".join([f"`{line[0]}`", *line[1:-drop]]) for line in cells)
    text += [f"| {line} |" for line in told]
    if notes := report.notes(data["rows"]):
        text += ["", "What failed:", "", *(f"- {note}" for note in notes)]
    if absences := report.absences(data["rows"]):
        text += ["", "Who is not in which row:", "", *(f"- {note}" for note in absences)]
    return "\n".join(text) + "\n"
