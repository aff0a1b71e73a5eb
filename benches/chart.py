#!/usr/bin/env python3
"""Draws the figures of `docs/performance.json` as SVG: a bar for threadgate, a mark for each peer.

`benches/bench.py --write-docs` calls it; `python3 benches/chart.py FILE` draws the figures of another
file on standard output. The scale is logarithmic and begins at HAProxy's own number: a bar to the
left means that threadgate needs less.
"""

from __future__ import annotations

import json
import math
import sys
from html import escape
from typing import Any

Entry = dict[str, Any]

WIDTH = 960
LEFT, RIGHT = 250, 770
"""The ends of the scale. Names are to the left of it, numbers to the right."""
ROW = 26
SECTION = 34
TOP = 104
OURS_AT, BASE_AT = 852, 936
"""Right edges of the two columns of numbers."""

SECTIONS = (
    ("Processor time of a request or tunnel", "cpu_us", "µs", "haproxy"),
    ("Processor time of a gigabyte, HAProxy with splice", "cpu_s_per_gb", "s", "haproxy-splice"),
    ("Memory of an idle client or tunnel", "kib_each", "KiB", "haproxy"),
)
"""Heading, number, its unit, and the proxy whose number is 1."""

NAMES = {
    "keepalive-1": "GET of 1 KB, 1 client",
    "keepalive-64": "GET of 1 KB, 64 clients",
    "keepalive-512": "GET of 1 KB, 512 clients",
    "keepalive-2000": "GET of 1 KB, 2,000 clients",
    "per-connection": "GET, a connection each",
    "connect": "CONNECT, exchange, close",
    "pingpong-256": "tunnel message, 256 tunnels",
    "pingpong-1": "tunnel message, 1 tunnel",
    "bulk-get-1": "GET, 1 at once",
    "bulk-get-16": "GET, 16 at once",
    "bulk-connect-1": "CONNECT, 1 at once",
    "bulk-connect-16": "CONNECT, 16 at once",
    "idle-9000": "9,000 idle clients",
    "idle-tunnels": "2,000 idle tunnels",
}
"""The rows that are drawn, in order, with their names in the chart."""

# Hues of Okabe and Ito, which people with any colour vision can tell apart; every mark also has a
# shape of its own. The first colour is for a light ground, the second for a dark one.
MARKS = {
    "haproxy": ("plus", "#3d3d3d", "#d0d0d0", "HAProxy without splice"),
    "nginx": ("circle", "#007a5a", "#2ec99b", "nginx"),
    "squid": ("square", "#a86f00", "#f0b53c", "Squid"),
    "apache": ("triangle", "#b3467f", "#e79cc4", "Apache"),
    "goproxy": ("diamond", "#1f86bd", "#7fcbf5", "goproxy (Go)"),
    "privoxy": ("wedge", "#c44d00", "#ff8b42", "Privoxy"),
    "tinyproxy": ("cross", "#6a5acd", "#b0a4ff", "tinyproxy"),
}

STYLE = """
 .ground { fill: #ffffff } .band { fill: #f5f6f8 } .text { fill: #1c2024 } .soft { fill: #5b6470 }
 .grid { stroke: #d9dde2 } .one { stroke: #1c2024 } .goal { stroke: #1c2024 }
 .ours { fill: #0072b2 } .rim { stroke: #ffffff }
 text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif }
 .title { font-size: 20px; font-weight: 600 } .head { font-weight: 600 } .small { font-size: 12px }
 .value { font-weight: 600 } .end { text-anchor: end } .mid { text-anchor: middle }
"""
DARK = """
  .ground { fill: #14171b } .band { fill: #1b1f25 } .text { fill: #e9edf1 } .soft { fill: #a3adb8 }
  .grid { stroke: #333a43 } .one { stroke: #e9edf1 } .goal { stroke: #e9edf1 }
  .ours { fill: #3d9be0 } .rim { stroke: #14171b }
"""


def svg(data: Entry) -> str:
    """The whole picture, without the figures that are missing."""
    sections = [(*section, drawn(data, *section[1::2])) for section in SECTIONS]
    sections = [section for section in sections if section[4]]
    ratios = [r for *_, rows in sections for row in rows for r in row["ratios"].values()]
    low, high = scale(ratios)

    def x(ratio: float) -> float:
        share = (math.log2(ratio) - low) / (high - low)
        return LEFT + share * (RIGHT - LEFT)

    height = TOP + sum(SECTION + ROW * len(rows) for *_, rows in sections) + 50
    seen = {name for *_, rows in sections for row in rows for name in row["ratios"]}
    peers = [name for name in MARKS if name in seen]
    parts = [*opening(height, data), *legend(peers)]
    y = TOP
    bottom = height - 44
    powers = range(low, high + 1)
    for heading, _, unit, base, rows in sections:
        parts += head(heading, unit, y)
        y += SECTION
        parts += [band(y + ROW * index) for index in range(0, len(rows), 2)]
        for power in powers:
            at, kind = x(2.0**power), "one" if power == 0 else "grid"
            ends = f'y1="{y}" y2="{y + ROW * len(rows)}"'
            parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" {ends}/>')
        for row in rows:
            parts += drawn_row(row, base, y, x)
            y += ROW
    for power in powers:
        at, words = x(2.0**power), "HAProxy" if power == 0 else f"{2.0**power:g} ×"
        parts.append(f'<text class="soft small mid" x="{at:.1f}" y="{bottom + 14}">{words}</text>')
    parts.append(
        f'<text class="soft small mid" x="{(LEFT + RIGHT) / 2:.0f}" y="{bottom + 34}">'
        "multiple of HAProxy's number in the same run, logarithmic: less is better</text>"
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def drawn(data: Entry, metric: str, base: str) -> list[Entry]:
    """The rows of a section: their numbers as multiples of the base's."""
    entries = {entry["row"]: entry for entry in data["rows"]}
    rows = []
    for name, words in NAMES.items():
        entry = entries.get(name, {"values": {}, "goals": []})
        values = entry["values"].get(metric, {})
        against = values.get(base)
        if not against or not values.get("threadgate"):
            continue
        goals = [goal["limit"] for goal in entry["goals"] if goal_of(goal, metric, base)]
        rows.append(
            {
                "name": words,
                "ratios": {proxy: v / against for proxy, v in values.items() if v and v > 0},
                "own": values["threadgate"],
                "base": against,
                "goal": goals[0] if goals else None,
            }
        )
    return rows


def goal_of(goal: Entry, metric: str, base: str) -> bool:
    return bool(goal["metric"] == metric and goal["peer"] == base)


def scale(ratios: list[float]) -> tuple[int, int]:
    """Powers of two that hold all ratios, and 1 between them."""
    if not ratios:
        return -1, 1
    low = math.floor(math.log2(min(ratios)) - 0.15)
    return min(low, -1), max(math.ceil(math.log2(max(ratios)) + 0.02), 1)


def opening(height: int, data: Entry) -> list[str]:
    machine = data["machine"]
    dates = sorted({entry["date"] for entry in data["rows"]})
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}" if dates else "no date"
    cpu, cores = machine.get("cpu", "unknown processor"), machine.get("cores", "?")
    on = f"{cpu}, {cores} processors, {when}"
    dark = "".join(
        f" .{name} {{ fill: {colours[2]}; stroke: {colours[2]} }}"
        for name, colours in MARKS.items()
    )
    light = "".join(
        f" .{name} {{ fill: {colours[1]}; stroke: {colours[1]} }}"
        for name, colours in MARKS.items()
    )
    text = (
        "What threadgate and other proxies need for the same work, as multiples of what HAProxy "
        "needs: processor time and memory. The numbers stand in docs/performance.md."
    )
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" role="img" aria-labelledby="title about">',
        '<title id="title">threadgate beside other proxies</title>',
        f'<desc id="about">{escape(text)}</desc>',
        f"<style>{STYLE}{light}\n @media (prefers-color-scheme: dark) {{{DARK} {dark} }}\n</style>",
        f'<rect class="ground" width="{WIDTH}" height="{height}"/>',
        '<text class="text title" x="24" y="36">What the same work costs each proxy</text>',
        f'<text class="soft" x="24" y="58">medians of interleaved runs · {escape(on)}</text>',
    ]


def legend(peers: list[str]) -> list[str]:
    parts = [
        '<rect class="ours" x="24" y="74" width="26" height="12" rx="2"/>',
        '<text class="text head small" x="56" y="84">threadgate</text>',
        '<line class="goal" x1="148" x2="148" y1="71" y2="89" stroke-width="2"/>',
        '<text class="text small" x="156" y="84">target</text>',
    ]
    at = 214.0
    for name in peers:
        words = MARKS[name][3]
        parts.append(mark(name, at, 80))
        parts.append(f'<text class="text small" x="{at + 11:.0f}" y="84">{escape(words)}</text>')
        at += 34 + 6.5 * len(words)
    return parts


def head(heading: str, unit: str, y: float) -> list[str]:
    at = y + SECTION - 10
    return [
        f'<text class="text head" x="24" y="{at}">{escape(heading)}</text>',
        f'<text class="soft small end" x="{OURS_AT}" y="{at}">ours, {unit}</text>',
        f'<text class="soft small end" x="{BASE_AT}" y="{at}">HAProxy, {unit}</text>',
    ]


def band(y: float) -> str:
    """A faint ground below every other row."""
    return f'<rect class="band" x="16" y="{y}" width="{WIDTH - 32}" height="{ROW}" rx="3"/>'


def drawn_row(row: Entry, base: str, y: float, x: Any) -> list[str]:
    middle = y + ROW / 2
    parts = [f'<text class="text" x="24" y="{middle + 4.5}">{escape(row["name"])}</text>']
    own, one = x(row["ratios"]["threadgate"]), x(1.0)
    left, width = min(own, one), max(abs(own - one), 1.5)
    parts.append(
        f'<rect class="ours" x="{left:.1f}" y="{middle - 7}" width="{width:.1f}" height="14" '
        'rx="2"/>'
    )
    if row["goal"]:
        parts += target(x(row["goal"]), middle)
    peers = {name: x(row["ratios"][name]) for name in MARKS if name in row["ratios"]}
    peers.pop(base, None)
    parts += [mark(name, at, middle + up) for name, at, up in dodged(peers)]
    ratio = f"{row['ratios']['threadgate']:.2f} ×"
    # To the left of everything, so that no mark covers it.
    goal = x(row["goal"]) if row["goal"] else one
    at = min(own, one, goal, *(at - 3 for at in peers.values())) - 6
    parts.append(f'<text class="text small value end" x="{at:.1f}" y="{middle + 4}">{ratio}</text>')
    for kind, at, value in (("text", OURS_AT, row["own"]), ("soft", BASE_AT, row["base"])):
        place = f'x="{at}" y="{middle + 4.5}"'
        parts.append(f'<text class="{kind} end" {place}>{short(value)}</text>')
    return parts


def dodged(peers: dict[str, float]) -> list[tuple[str, float, float]]:
    """Marks from left to right. Marks that would hide each other move up and down a little."""
    placed: list[tuple[str, float, float]] = []
    order = sorted(peers, key=peers.__getitem__)
    for index, name in enumerate(order):
        at = peers[name]
        near = [abs(at - peers[other]) < 10 for other in order[max(0, index - 1) : index + 2]]
        up = 0.0
        if sum(near) > 1:
            up = 4.0 if placed and placed[-1][2] < 0 else -4.0
        placed.append((name, at, up))
    return placed


def target(x: float, y: float) -> list[str]:
    line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{y - 10}" y2="{y + 10}"'
    return [
        f'<line class="rim" {line} stroke-width="5"/>',
        f'<line class="goal" {line} stroke-width="2"/>',
    ]


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def mark(name: str, x: float, y: float) -> str:
    """A peer's mark, about ten units wide, with a rim that sets it off from anything below it."""
    shape = MARKS[name][0]
    rim = 'class="rim" fill="none" stroke-width="4"'
    if shape in ("plus", "cross"):
        a, b = (5.0, 0.0) if shape == "plus" else (4.0, 4.0)
        path = f"M{x - a:.1f} {y - b:.1f}L{x + a:.1f} {y + b:.1f}M{x - b:.1f} {y + a:.1f}"
        path += f"L{x + b:.1f} {y - a:.1f}"
        return f'<path {rim} d="{path}"/><path class="{name}" stroke-width="2.4" d="{path}"/>'
    points = {
        "circle": None,
        "square": ((-4.2, -4.2), (4.2, -4.2), (4.2, 4.2), (-4.2, 4.2)),
        "triangle": ((0, -5.4), (5.2, 4), (-5.2, 4)),
        "wedge": ((0, 5.4), (5.2, -4), (-5.2, -4)),
        "diamond": ((0, -5.8), (5.8, 0), (0, 5.8), (-5.8, 0)),
    }[shape]
    if points is None:
        drawn_as = f'<circle {{}} cx="{x:.1f}" cy="{y:.1f}" r="4.8"/>'
    else:
        corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
        drawn_as = f'<polygon {{}} points="{corners}"/>'
    return drawn_as.format(rim) + drawn_as.format(f'class="{name}" stroke-width="0.6"')


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: chart.py FILE.json")
    with open(sys.argv[1], encoding="utf-8") as file:
        print(svg(json.load(file)), end="")
