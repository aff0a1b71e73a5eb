"""Tests of the inputs: wrk, perf, /proc, the command line's names."""

import contextlib
import os
import socket
import subprocess
import tempfile
import threading
import unittest
from dataclasses import dataclass
from pathlib import Path

from harness import counting, measure, peers, procs, rows
from harness.lists import NAMED, BlockList
from harness.load import count_errors, read_wrk
from harness.procs import BenchError, BlackHole

WRK = """Running 2s test @ http://127.0.0.1:4000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.20ms  411.00us   9.12ms   91.20%
  Latency Distribution
     50%    1.10ms
     99%  {p99}
  105210 requests in 2.00s, 120.31MB read
{errors}Requests/sec:  52604.61
Transfer/sec:     60.15MB
"""


class Wrk(unittest.TestCase):
    def test_numbers_are_found(self):
        said = read_wrk(WRK.format(p99="2.50ms", errors=""))
        self.assertEqual(said, {"done": 105210, "rate": 52604.61, "p99_ms": 2.5, "errors": 0, "refusals": 0})

    def test_a_percentile_has_any_unit(self):
        for text, milliseconds in (("630.00us", 0.63), ("1.25s", 1250), ("0.50m", 30000)):
            p99 = read_wrk(WRK.format(p99=text, errors=""))["p99_ms"]
            self.assertAlmostEqual(p99, milliseconds, msg=text)

    def test_errors_of_both_kinds_count(self):
        errors = "  Socket errors: connect 1, read 2, write 0, timeout 4\n"
        errors += "  Non-2xx or 3xx responses: 10\n"
        self.assertEqual(read_wrk(WRK.format(p99="1.00ms", errors=errors))["errors"], 17)

    def test_something_else_is_no_result(self):
        with self.assertRaises(ValueError):
            read_wrk("unable to connect to 127.0.0.1:1 Connection refused\n")


class Counts(unittest.TestCase):
    def test_perf(self):
        said = "# started on Sat\n\n471234,,raw_syscalls:sys_enter,2001234567,100.00,,\n"
        self.assertEqual(counting.read_perf(said), 471234)
        with self.assertRaises(BenchError):
            counting.read_perf("<not counted>,,raw_syscalls:sys_enter,0,0.00,,\n")

    def test_allocations_are_those_and_reallocations(self):
        self.assertEqual(counting.read_counts("100 23 90 4096\n"), 123)

    def test_errors_at_any_depth(self):
        self.assertEqual(count_errors([{"reset": 2}, [{}, {"status-502": 1, "head": 3}]]), 6)


class Processes(unittest.TestCase):
    def test_children_that_have_ended_still_count(self):
        pid = os.getpid()
        before = procs.cpu_seconds(pid)
        burn = "import time\nend = time.process_time() + 0.1\nwhile time.process_time() < end: pass"
        subprocess.run(["python3", "-c", burn], check=True)
        self.assertGreater(procs.cpu_seconds(pid) - before, 0.09)

    def test_a_black_hole_answers_nothing(self):
        (port,) = procs.free_ports(1)
        with BlackHole("127.0.0.66", port), socket.socket() as client:
            client.settimeout(0.1)
            with self.assertRaises(TimeoutError):
                client.connect(("127.0.0.66", port))
        with socket.socket() as client, contextlib.suppress(ConnectionRefusedError):
            client.connect(("127.0.0.66", port))
            self.fail("still listening")


class BlockLists(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.at = Path(directory.name)
        path = self.at / "names.txt"
        path.write_text("a.example\nb-1.example\nc.example\n")
        self.listed = BlockList(path, 3)

    def test_each_proxy_has_the_list_as_it_wants_it(self):
        squid, privoxy = self.listed.for_squid(), self.listed.for_privoxy()
        self.assertEqual(squid.read_text(), ".a.example\n.b-1.example\n.c.example\n")
        head = "{+block{listed}}\n"
        self.assertEqual(privoxy.read_text(), head + squid.read_text())
        expressions = self.listed.for_tinyproxy().read_text().split()
        self.assertEqual(expressions[1], r"(^|\.)b-1[.]example$")

    def test_of_the_list_its_ends_are_tried(self):
        some = self.listed.some()
        self.assertEqual(some, ("a.example", "b-1.example", "c.example", "www.c.example"))

    def test_what_refuses_comes_before_what_allows(self):
        text = (peers.TEMPLATES / "squid.conf").read_text()
        self.assertLess(text.index("{{listed}}"), text.index("http_access allow"))

    def test_a_proxy_that_does_not_heed_its_list_is_not_timed(self):
        refused = self.listed.some()
        with Refusing({*refused}) as port:
            measure.verify_refusals(bench(self.listed), proxy(port, refused))
        for answers in ({*refused[:-1]}, {*refused, NAMED}):
            with Refusing(answers) as port, self.assertRaisesRegex(BenchError, "heed"):
                measure.verify_refusals(bench(self.listed), proxy(port, refused))

    def test_rows_that_have_a_list_are_those_with_the_proxy_that_reads_one(self):
        for row in rows.ROWS:
            self.assertEqual(bool(row.listed), "threadgate-list" in row.proxies, row.name)


def bench(listed=None):
    setup = peers.Setup(Path(), {}, origin_port=80, echo_port=0, listed=listed)
    return measure.Bench(Path(), setup, seconds=1, quick=True, subject="threadgate")


def proxy(port, refused=()):
    return peers.Proxy("threadgate", None, port, refused=refused)


class Refusing:
    """A proxy that answers 403 for some hosts and 200 for all others."""

    def __init__(self, hosts):
        self.hosts = hosts
        self.listener = socket.create_server(("127.0.0.1", 0))

    def __enter__(self):
        threading.Thread(target=self.serve, daemon=True).start()
        return self.listener.getsockname()[1]

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                with client:
                    host = client.recv(4096).split(b"Host: ")[1].split(b":")[0].decode()
                    status = "403 No" if host in self.hosts else "200 OK"
                    client.sendall(f"HTTP/1.1 {status}\r\n\r\n".encode())

    def __exit__(self, *_):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


@dataclass(frozen=True)
class Said(measure.Bench):
    """A load client that has already printed something."""

    said: dict = None

    def client(self, mode, proxy, *more, steps=None):
        return self.said


class Rates(unittest.TestCase):
    def said(self, **said):
        plain = bench()
        setup = plain.setup
        return Said(plain.load, setup, 1, False, plain.subject, said=said)

    def test_a_download_is_off_its_rate_either_way(self):
        ours = peers.Proxy("threadgate", subprocess.Popen(["true"]), 0)
        self.addCleanup(ours.process.wait)
        for megabytes, off in ((0.97, 0.03), (1.04, 0.04)):
            said = {"mb_per_s": megabytes, "seconds": 10, "errors": {}, "unfinished": 0}
            sample = measure.throttle(self.said(**said), ours, 1_000_000)
            self.assertAlmostEqual(sample["off"], off)
            self.assertAlmostEqual(sample["of_rate"], megabytes)
        said = self.said(**{**said, "unfinished": 1})
        self.assertEqual(measure.throttle(said, ours, 1_000_000)["errors"], 1)

    def test_downloads_that_share_a_rate_are_held_to_it_and_to_their_share(self):
        kinds = [f"{what}_{how}" for what in ("p99_us", "rate") for how in ("without", "with")]
        fast = {f"fast_{kind}": [1.0] for kind in kinds}
        said = self.said(
            **fast,
            bytes_per_s=9_000_000,
            fewest_per_s=4_500,
            most_per_s=18_000,
            errors={},
            fast_errors=[{"reset": 1}],
        )
        sample = measure.throttled(said, proxy(0))
        self.assertAlmostEqual(sample["off"], 0.1)
        shares = (sample["fewest_of_share"], sample["most_of_share"])
        self.assertEqual((shares, sample["errors"]), ((0.5, 2.0), 1))


class Names(unittest.TestCase):
    def test_a_name_stands_for_a_row_or_a_family(self):
        names = [row.name for row in rows.select(["keepalive-64", "bulk"])]
        bulk = ["bulk-get-1", "bulk-get-16", "bulk-connect-1", "bulk-connect-16"]
        self.assertEqual(names, ["keepalive-64", *bulk])
        self.assertEqual(rows.select(["keep"]), [])

    def test_who_is_not_in_a_row_is_said(self):
        others = set(peers.PROGRAMS)
        families = {row.name: set(rows.FORWARD) for row in rows.ROWS if others & set(row.proxies)}
        for row in rows.ROWS:
            if row.name in families:
                missing = families[row.name] - {"threadgate", *row.proxies}
                self.assertEqual(missing, set(rows.absent(row)), row.name)
