"""Tests of the results: medians, goals, tables, the documents and the chart."""

import io
import tempfile
import unittest
import xml.dom.minidom
from pathlib import Path
from unittest import mock

import chart
from harness import docs, report, rows
from harness.peers import STARTERS
from harness.procs import BenchError
from harness.progress import Progress, clock
from harness.report import Result
from harness.rows import Goal, Row

HOW = {"date": "2026-01-02", "commit": "abc", "runs": 3, "seconds": 2, "quick": False}
MACHINE = {"cpu": "a processor", "cores": "2"}


def row(**more):
    given = {
        "name": "keepalive-64",
        "about": "work",
        "proxies": ("threadgate", "haproxy", "nginx"),
        "sample": None,
        "shown": ("cpu_us",),
        "goals": (Goal("cpu_us", 0.9, "haproxy"),),
    }
    return Row(**{**given, **more})


def result(values, **more):
    samples = {
        proxy: [{"cpu_us": value, "errors": 0} for value in taken]
        for proxy, taken in values.items()
    }
    return Result(row(**more), samples, {}, HOW)


class Values(unittest.TestCase):
    def test_the_median_counts_and_the_best_where_the_row_says_so(self):
        values = {"threadgate": [3.0, 1.0, 8.0]}
        self.assertEqual(result(values).value("threadgate", "cpu_us"), 3.0)
        self.assertEqual(result(values, best=True).value("threadgate", "cpu_us"), 8.0)
        self.assertIsNone(result(values).value("nginx", "cpu_us"))

    def test_a_goal_is_a_ratio_to_its_peer(self):
        measured = result({"threadgate": [8.0], "haproxy": [10.0], "nginx": [4.0]})
        self.assertAlmostEqual(measured.reached(Goal("cpu_us", 0.9, "haproxy")), 0.8)
        self.assertTrue(measured.met(Goal("cpu_us", 0.8, "haproxy")))
        self.assertFalse(measured.met(Goal("cpu_us", 0.79, "haproxy")))
        self.assertAlmostEqual(measured.reached(Goal("cpu_us", 1, "best")), 2.0)
        best_of_most = Goal("cpu_us", 1, "best", at_least=True)
        self.assertAlmostEqual(measured.reached(best_of_most), 0.8)
        self.assertIsNone(measured.met(Goal("cpu_us", 1, "squid")))

    def test_a_row_with_an_error_is_not_met(self):
        measured = result({"threadgate": [8.0], "haproxy": [10.0]})
        measured.samples["threadgate"][0]["errors"] = 1
        self.assertIs(measured.met(Goal("cpu_us", 0.9, "haproxy")), False)

    def test_variants_of_threadgate_have_lines_not_columns(self):
        variants = ("threadgate", "threadgate-log")
        values = {"threadgate": [13.0], "threadgate-log": [14.0]}
        goals = (Goal("cpu_us", 1.1, "threadgate"),)
        measured = result(values, proxies=variants, subject="threadgate-log", goals=goals)
        cells = report.lines([measured.entry()])
        self.assertEqual(cells[0], ["row", "number", "threadgate", "goal", "reached", "met"])
        self.assertEqual(cells[1][2], "14")
        self.assertEqual(cells[2][1:3], ["µs CPU, without", "13"])


class File(unittest.TestCase):
    def test_a_new_row_takes_the_place_of_its_last_figures(self):
        old = result({"threadgate": [1.0]}).entry()
        other = result({"threadgate": [2.0]}, name="connect").entry()
        new = result({"threadgate": [3.0]}).entry()
        order = ["keepalive-64", "connect"]
        data = {"machine": MACHINE, "rows": [other, old]}
        merged = report.merge(data, MACHINE, [new], order)
        self.assertEqual([entry["row"] for entry in merged["rows"]], order)
        self.assertEqual(merged["rows"][0]["values"]["cpu_us"]["threadgate"], 3.0)
        elsewhere = report.merge(data, {**MACHINE, "cpu": "another"}, [new], order)
        self.assertEqual(len(elsewhere["rows"]), 1)

    def test_what_is_written_is_read_again(self):
        entries = [result({"threadgate": [1.0, 2.0], "nginx": [3.14159265]}).entry()]
        data = {"machine": MACHINE, "rows": entries}
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "results.json"
            path.write_text(report.dump(data))
            self.assertEqual(report.read(path), data)
        empty = {"machine": {}, "rows": []}
        self.assertEqual(report.read(Path("/nonexistent")), empty)


class Documents(unittest.TestCase):
    def setUp(self):
        taken = {"threadgate": [8.0], "haproxy": [10.0], "nginx": [11.0]}
        self.data = {"machine": MACHINE, "rows": [result(taken).entry()]}

    def test_each_row_has_its_target_and_what_was_reached(self):
        table = docs.targets(self.data)
        self.assertIn("| CPU ≤ 0.9 × HAProxy | **0.8** (8 µs; HAProxy 10) |", table)
        self.data["rows"][0]["goals"][0]["met"] = False
        self.assertIn("| **not met**: 0.8 (8 µs; HAProxy 10) |", docs.targets(self.data))

    def test_a_variant_is_compared_with_what_it_is_not(self):
        taken = {"threadgate": [10.0], "threadgate-list": [10.1]}
        goals = (Goal("cpu_us", 1.02, "threadgate"),)
        subject = "threadgate-list"
        measured = result(taken, proxies=tuple(taken), subject=subject, goals=goals)
        table = docs.targets({"machine": MACHINE, "rows": [measured.entry()]})
        self.assertIn("| CPU ≤ 1.02 × no list | **1.01** (10.1 µs; no list 10) |", table)

    def test_a_smoke_test_does_not_get_into_the_documents(self):
        self.data["rows"][0]["quick"] = True
        with self.assertRaisesRegex(BenchError, "--quick"):
            docs.write(self.data)

    def test_a_changed_figure_or_a_changed_table_is_found(self):
        markers = "<!-- {0}: made by benches/bench.py -->\n<!-- end of {0} -->\n"
        with tempfile.TemporaryDirectory() as directory:
            at = Path(directory)
            figures, page, drawn = at / "f.json", at / "p.md", at / "c.svg"
            readme = at / "r.md"
            page.write_text("before\n" + markers.format("targets") + markers.format("figures"))
            readme.write_text(markers.format("costs"))
            places = {"FIGURES": figures, "PAGE": page, "CHART": drawn, "README": readme}
            with mock.patch.multiple(docs, **places):
                docs.write(self.data)
                docs.check()
                self.assertIn("before\n", page.read_text())
                for path, old, new in (
                    (page, "8 µs", "7 µs"),
                    (readme, "8 µs", "7 µs"),
                    (drawn, "0.80 ×", "0.70 ×"),
                    (figures, '"threadgate": 8.0', '"threadgate": 7.0'),
                ):
                    text = path.read_text()
                    self.assertIn(old, text)
                    path.write_text(text.replace(old, new))
                    with self.assertRaisesRegex(BenchError, "differ"):
                        docs.check()
                    path.write_text(text)
                docs.check()

    def test_the_readme_has_the_better_number_of_a_peer_and_a_dash_for_who_is_missing(self):
        self.data["rows"][0]["values"]["cpu_us"]["haproxy-splice"] = 9.0
        *_, line = docs.costs(self.data).splitlines()
        self.assertTrue(line.endswith("| 8 µs | 9 µs | – | – | – | – | – |"), line)

    def test_every_cost_is_a_number_of_its_row(self):
        known = {row.name: row for row in rows.ROWS}
        for name, metric, _ in docs.COSTS:
            goals = {goal.metric for goal in known[name].goals}
            self.assertIn(metric, goals | set(known[name].shown), name)
            self.assertIn(metric, docs.SUFFIXES, name)
        self.assertLessEqual(set(docs.COST_COLUMNS), set(STARTERS))

    def test_every_number_has_its_words(self):
        for each in rows.ROWS:
            for metric in (*each.shown, *(goal.metric for goal in each.goals)):
                self.assertIn(metric, report.UNITS, each.name)
            for goal in each.goals:
                self.assertIn(goal.metric, docs.GOALS, each.name)
                if goal.peer == report.OURS:
                    self.assertIn(each.subject, docs.WITHOUT, each.name)
                if goal.peer not in (None, "best"):
                    self.assertIn(goal.peer, each.proxies, each.name)
            self.assertLessEqual(set(each.proxies), set(STARTERS), each.name)
            self.assertIn(each.subject, each.proxies, each.name)


class Chart(unittest.TestCase):
    def test_it_is_well_formed_and_has_a_mark_for_each_peer(self):
        taken = {"threadgate": [8.0], "haproxy": [10.0], "nginx": [11.0]}
        drawn = chart.svg({"machine": MACHINE, "rows": [result(taken).entry()]})
        xml.dom.minidom.parseString(drawn)
        self.assertIn("0.80 ×", drawn)
        # One in the legend, one in the row.
        self.assertEqual(drawn.count('class="nginx"'), 2)

    def test_the_rows_it_knows_exist(self):
        self.assertLessEqual(set(chart.NAMES), {row.name for row in rows.ROWS})
        self.assertEqual({s[3] for s in chart.SECTIONS} - set(STARTERS), set())

    def test_the_scale_holds_every_ratio(self):
        self.assertEqual(chart.scale([0.3, 1.0, 15.0]), (-2, 4))
        self.assertEqual(chart.scale([]), (-1, 1))

    def test_marks_that_would_hide_each_other_part(self):
        placed = chart.dodged({"nginx": 100.0, "squid": 104.0, "apache": 200.0})
        self.assertEqual([up for _, _, up in placed], [-4.0, 4.0, 0.0])


class Said(unittest.TestCase):
    def test_a_line_a_row_where_there_is_no_terminal(self):
        out = io.StringIO()
        progress = Progress({"one": 10.0, "two": 10.0}, out)
        progress.begin("one")
        progress.at("haproxy, run 1 of 3")
        progress.end([("µs CPU 0.8 (≤ 0.9 × haproxy)", True)])
        progress.begin("two")
        progress.end([])
        first, second = out.getvalue().splitlines()
        self.assertTrue(first.startswith("[1/2] one: µs CPU 0.8 (≤ 0.9 × haproxy) (0 s, "))
        self.assertEqual(second, "[2/2] two: measured (0 s)")
        self.assertNotIn("\x1b", out.getvalue())

    def test_no_color(self):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        for environment, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
            with mock.patch.dict("os.environ", environment, clear=True):
                progress = Progress({"one": 1.0}, Terminal())
                self.assertEqual("\x1b" in progress.paint("text", "\x1b[31m"), coloured)

    def test_time_left(self):
        self.assertEqual([clock(5), clock(75), clock(1500)], ["0:05", "1:15", "25:00"])
