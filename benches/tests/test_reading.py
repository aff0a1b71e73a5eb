"""What the harness reads: wrk, perf, /proc, the command line's names."""

import contextlib
import os
import socket
import subprocess
import unittest

from harness import counting, procs, rows
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


class Names(unittest.TestCase):
    def test_a_name_stands_for_a_row_or_a_family(self):
        names = [row.name for row in rows.select(["keepalive-64", "bulk"])]
        bulk = ["bulk-get-1", "bulk-get-16", "bulk-connect-1", "bulk-connect-16"]
        self.assertEqual(names, ["keepalive-64", *bulk])
        self.assertEqual(rows.select(["keep"]), [])

    def test_who_is_not_in_a_row_is_said(self):
        families = {row.name: set(rows.FORWARD) for row in rows.ROWS if "haproxy" in row.proxies}
        for row in rows.ROWS:
            if row.name in families:
                missing = families[row.name] - set(row.proxies)
                self.assertEqual(missing, set(rows.absent(row)), row.name)
