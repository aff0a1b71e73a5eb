"""Processes: starts and stops them, and reads their cost from /proc and their CPU clock."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

START_SECONDS = 5.0
STOP_SECONDS = 2.0


class BenchError(Exception):
    """Something the person at the keyboard can act on; printed without a traceback."""


def free_ports(count: int) -> list[int]:
    """Free ports. All are chosen before any is released."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class BlackHole:
    """An address of loopback that drops every SYN, until its `with` block ends.

    A listener whose accept queue is full: with a backlog of 0 one connection fills it, and the
    kernel drops what comes then, without an answer. That needs no packet filter and no privilege.
    """

    def __init__(self, host: str, port: int) -> None:
        self.sockets = [socket.socket(), socket.socket()]
        listener, filler = self.sockets
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        filler.settimeout(1)
        filler.connect((host, port))
        with socket.socket() as probe, contextlib.suppress(TimeoutError):
            probe.settimeout(0.2)
            probe.connect((host, port))
            raise BenchError(f"{host}:{port} does not drop SYNs")

    def __enter__(self) -> BlackHole:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.sockets:
            one.close()


class Process:
    """A child that stops with its `with` block, and the tree below it."""

    def __init__(
        self,
        command: list[str],
        core: int | None,
        cwd: Path,
        environment: dict[str, str] | None = None,
        asked: bool = False,
    ) -> None:
        """`asked` reserves its standard input and output for `ask`."""
        self.name = Path(command[0]).name
        self.command = command
        self.environment = environment
        # taskset replaces itself with the command, so the pid is the command's.
        pinned = ["taskset", "-c", str(core), *command] if core is not None else command
        self.output = cwd / f"{self.name}-{time.monotonic_ns()}.out"
        with self.output.open("wb") as output:
            self.child = subprocess.Popen(
                pinned,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.PIPE if asked else subprocess.DEVNULL,
                stdout=subprocess.PIPE if asked else output,
                stderr=output,
                text=True,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def ask(self, question: str) -> str:
        """Writes a line to the child and returns the line it answers."""
        assert self.child.stdin and self.child.stdout
        try:
            self.child.stdin.write(question + "\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            raise self.fail("takes no questions") from None
        return self.child.stdout.readline()

    def fail(self, what: str) -> BenchError:
        said = self.output.read_text(errors="replace").strip()[-600:]
        return BenchError(f"{self.name} {what}" + (f"; it said: {said}" if said else ""))

    def wait_listening(self, ports: Iterable[int], within: float = START_SECONDS) -> None:
        """Waits until every port accepts connections."""
        end = time.monotonic() + within
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

    def wait_file(self, path: Path, within: float = START_SECONDS) -> list[int]:
        """The numbers in a file the child writes when it is ready."""
        end = time.monotonic() + within
        while time.monotonic() < end:
            if self.child.poll() is not None:
                raise self.fail(f"ended with status {self.child.returncode}")
            if path.exists() and (text := path.read_text()).strip():
                return [int(word.rpartition(":")[2]) for word in text.split()]
            time.sleep(0.005)
        raise self.fail(f"did not write {path.name}")

    def stop(self) -> None:
        """Ends the child, and the rest of the tree below it."""
        below = tree(self.pid)
        # tinyproxy waits for its clients on SIGTERM, so a second signal follows.
        for how in (signal.SIGTERM, signal.SIGKILL):
            if self.child.poll() is None:
                self.child.send_signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(STOP_SECONDS)
                break
        for pid in below[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def tree(root: int) -> list[int]:
    """A process and all processes below it."""
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
    /proc/PID/stat are 10 ms each and schedstat forgets a thread when it ends. Processes that have
    ended are only in those ticks, of the process that waited for them.
    """
    total = 0.0
    tick = os.sysconf("SC_CLK_TCK")
    for pid in tree(root):
        total += ended_ticks(pid) / tick
        try:
            # The clock id of another process: MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED).
            total += time.clock_gettime_ns((~pid << 3) | 2) / 1e9
        except OSError:
            continue
    return total


def ended_ticks(pid: int) -> int:
    """User and system time of the children of a process that have ended and were waited for."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name may have spaces and parentheses, so the fields are read from behind the last one.
    fields = said.rpartition(")")[2].split()
    return int(fields[13]) + int(fields[14])


def rss_bytes(root: int) -> int:
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
