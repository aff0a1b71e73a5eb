"""Processes: starting and stopping them, and what they cost as /proc and their CPU clock tell."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

START_SECONDS = 5.0
STOP_SECONDS = 5.0


class BenchError(Exception):
    """Something the person at the keyboard can act on; printed without a traceback."""


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on now; all are chosen before any is given back."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Process:
    """A child that is stopped with its `with` block, and the tree below it."""

    def __init__(self, command: list[str], core: int | None, cwd: Path) -> None:
        self.name = Path(command[0]).name
        # taskset replaces itself by the command, so the pid is the command's.
        pinned = ["taskset", "-c", str(core), *command] if core is not None else command
        self.output = cwd / f"{self.name}-{time.monotonic_ns()}.out"
        with self.output.open("wb") as output:
            self.child = subprocess.Popen(
                pinned, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def fail(self, what: str) -> BenchError:
        said = self.output.read_text(errors="replace").strip()[-600:]
        return BenchError(f"{self.name} {what}" + (f"; it said: {said}" if said else ""))

    def wait_listening(self, ports: Iterable[int]) -> None:
        """Returns when every port takes connections."""
        end = time.monotonic() + START_SECONDS
        for port in ports:
            while True:
                if self.child.poll() is not None:
                    raise self.fail(f"ended with status {self.child.returncode}")
                try:
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise self.fail(f"does not listen on port {port}") from None
                    time.sleep(0.01)

    def wait_file(self, path: Path) -> list[int]:
        """The numbers in a file the child writes when it is ready."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise self.fail(f"ended with status {self.child.returncode}")
            if path.exists() and (text := path.read_text()).strip():
                return [int(word.rpartition(":")[2]) for word in text.split()]
            time.sleep(0.005)
        raise self.fail(f"did not write {path.name}")

    def stop(self) -> None:
        # tinyproxy waits for its clients on SIGTERM, so a second signal follows.
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is None:
                self.child.send_signal(how)
            try:
                self.child.wait(STOP_SECONDS)
                return
            except subprocess.TimeoutExpired:
                continue


def tree(root: int) -> list[int]:
    """A process and all below it."""
    pids, seen = [root], 0
    while seen < len(pids):
        for task in task_ids(pids[seen]):
            try:
                children = Path(f"/proc/{pids[seen]}/task/{task}/children").read_text()
            except OSError:
                continue
            pids.extend(int(child) for child in children.split())
        seen += 1
    return pids


def task_ids(pid: int) -> list[int]:
    try:
        return [int(task) for task in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """User and system time of a process tree.

    The process CPU clock counts nanoseconds and includes threads that have ended; the ticks of
    /proc/PID/stat are 10 ms each and schedstat forgets a thread when it ends.
    """
    total = 0.0
    for pid in tree(root):
        try:
            # The clock id of another process: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
            total += time.clock_gettime_ns((~pid << 3) | 2) / 1e9
        except OSError:
            continue
    return total


def rss_octets(root: int) -> int:
    """Resident memory of a process tree."""
    total = 0
    for pid in tree(root):
        total += int(status_fields(f"/proc/{pid}/status").get("VmRSS", "0 kB").split()[0]) * 1024
    return total


def switches(root: int) -> dict[int, int]:
    """Context switches of every thread of a process tree."""
    counts: dict[int, int] = {}
    for pid in tree(root):
        for task in task_ids(pid):
            fields = status_fields(f"/proc/{pid}/task/{task}/status")
            counts[task] = int(fields.get("voluntary_ctxt_switches", "0")) + int(
                fields.get("nonvoluntary_ctxt_switches", "0")
            )
    return counts


def status_fields(path: str) -> dict[str, str]:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
