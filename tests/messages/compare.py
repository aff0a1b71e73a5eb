#!/usr/bin/env python3
"""What clients and proxies make of odd messages, as a table.

    compare.py --threadgate PATH [--write docs/responses.md] [--only WORD] [--check]

An origin server on loopback answers /NAME with the bytes of NAME.resp and closes, or keeps the
connection open if there is a NAME.hold. Each is fetched by curl directly, by Chromium directly, and by
curl through Squid, tinyproxy, HAProxy and threadgate. Where there is a NAME.req, that is sent as it stands
instead, through the proxies only. In both `@O@` stands for the origin server's HOST:PORT, `@P@` for its
port, `@M@` for NAME. INDEX says what each is about, whether threadgate is to deliver it (`any` leaves
that open), and which status and content are whole. `--check` asks threadgate alone, and ends with 1 if it
does otherwise.

Programs that are not there have empty columns. Nothing leaves loopback.
"""

import argparse
import concurrent.futures
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PROXIES = ["squid", "tinyproxy", "haproxy", "threadgate"]
COLUMNS = ["curl", "Chromium", "Squid", "tinyproxy", "HAProxy", "threadgate"]
LIMIT = 4.0
BEGIN, END = "<!-- the table begins -->\n", "<!-- the table ends -->\n"


class Message:
    def __init__(self, line, section):
        fields = [field.strip() for field in line.split(" | ")]
        self.name, self.verdict, status, self.content, self.what = fields
        self.status, self.section = int(status), section
        self.response = self.read(".resp")
        self.request = self.read(".req") if os.path.exists(self.path(".req")) else None
        self.holds = os.path.exists(self.path(".hold"))
        self.cells = {}

    def path(self, end):
        return os.path.join(HERE, self.name + end)

    def read(self, end):
        with open(self.path(end), "rb") as file:
            return file.read()

    def filled(self, bytes, port):
        for mark, value in ((b"@O@", "127.0.0.1:%d" % port), (b"@P@", str(port)), (b"@M@", self.name)):
            bytes = bytes.replace(mark, value.encode())
        return bytes


def messages(only):
    found, section = [], ""
    with open(os.path.join(HERE, "INDEX"), encoding="utf-8") as index:
        for line in index:
            if line.startswith("# "):
                section = line[2:].strip()
            elif line.strip() and only in line:
                found.append(Message(line, section))
    return found


class Origin:
    """Answers with the messages, and takes what Chromium found out."""

    def __init__(self, all_messages):
        self.messages = {message.name: message for message in all_messages}
        self.results, self.done = {}, threading.Event()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=500)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        try:
            connection.settimeout(4 * LIMIT)
            while self.answer(connection):
                pass
        except OSError:
            pass
        connection.close()

    def answer(self, connection):
        """Answers one request. Whether another may come on the connection."""
        bytes = b""
        while b"\r\n\r\n" not in bytes:
            received = connection.recv(65536)
            if not received:
                return False
            bytes += received
        head, _, content = bytes.partition(b"\r\n\r\n")
        name = re.match(rb"\S+ (?:http://[^/]*)?/([^ ?]*)", head)
        name = name.group(1).decode("latin-1") if name else ""
        if name in ("", "results"):
            return self.page(connection, name, head, content)
        message = self.messages.get(name)
        if message is None:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return True
        connection.sendall(message.filled(message.response, self.port))
        if not message.holds:
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass
        return message.holds

    def page(self, connection, name, head, content):
        if name == "results":
            length = int(re.search(rb"(?i)content-length: *(\d+)", head).group(1))
            while len(content) < length:
                content += connection.recv(65536)
            self.results = json.loads(content)
            body, kind = b"", b"text/plain"
        else:
            names = [m.name for m in self.messages.values() if m.request is None]
            body, kind = PAGE.replace("NAMES", json.dumps(names)).encode(), b"text/html"
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        connection.sendall(answer % (kind, len(body)) + body)
        if name == "results":
            self.done.set()
        return False


PAGE = """<!doctype html><title>messages</title><script>
const names = NAMES, results = {};
async function one(name) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), 4000);
  let status = 0, text = "";
  try {
    const options = {signal: stop.signal, redirect: "manual", cache: "no-store"};
    const response = await fetch("/" + name, options);
    status = response.type == "opaqueredirect" ? 302 : response.status;
    const reader = response.body ? response.body.getReader() : null;
    const decoder = new TextDecoder();
    for (;;) {
      const {done, value} = reader ? await reader.read() : {done: true};
      if (done) break;
      text += decoder.decode(value, {stream: true});
    }
    results[name] = [status, text, ""];
  } catch (error) {
    results[name] = [status, text, stop.signal.aborted ? "waits" : "fails"];
  }
  clearTimeout(timer);
}
(async () => {
  const left = names.slice();
  const lane = async () => { while (left.length) await one(left.shift()); };
  await Promise.all([lane(), lane(), lane(), lane()]);
  await fetch("/results", {method: "POST", body: JSON.stringify(results)});
})();
</script>"""


def cell(message, status, content, wrong):
    """What came of it, in a few words."""
    whole = content == message.content
    if status == message.status and whole:
        return "whole" if not wrong else "whole, then " + wrong
    if status == message.status and not wrong and content:
        return "`%s`" % content if re.fullmatch(r"\w{1,12}", content) else "other content"
    if status == message.status and wrong and content:
        return "part, then " + wrong
    if status == message.status and not wrong:
        return "no content"
    if status and status != message.status:
        return str(status)
    return wrong or "nothing"


def by_curl(message, origin, proxy):
    command = ["curl", "-q", "-s", "-S", "--max-time", str(LIMIT), "--noproxy", "" if proxy else "*"]
    command += ["-w", "\\n%{http_code} %{exitcode}", "-o", "-"]
    if proxy:
        command += ["-x", "http://127.0.0.1:%d" % proxy]
    command.append("http://127.0.0.1:%d/%s" % (origin.port, message.name))
    ended = subprocess.run(command, capture_output=True, env={"PATH": os.environ["PATH"]})
    content, _, said = ended.stdout.decode("latin-1").rpartition("\n")
    status, code = (int(word) for word in said.split())
    wrong = "" if code == 0 else "waits" if code == 28 else "curl: (%d)" % code
    return cell(message, status, content, wrong)


def by_hand(message, origin, proxy):
    bytes, wrong = b"", ""
    try:
        with socket.create_connection(("127.0.0.1", proxy), LIMIT) as client:
            client.settimeout(LIMIT / 2)
            client.sendall(message.filled(message.request, origin.port))
            while received := client.recv(65536):
                bytes += received
    except TimeoutError:
        wrong = "" if bytes else "waits"
    except OSError:
        wrong = "ends"
    head, _, content = bytes.decode("latin-1").partition("\r\n\r\n")
    status = re.match(r"HTTP/1\.\d (\d+)", head)
    return cell(message, int(status.group(1)) if status else 0, content, wrong)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def start_proxies(directory, origin, threadgate, others):
    """Starts threadgate, and those of the others that are there. Answers their ports and processes."""
    ports, processes = {}, []
    configurations = {
        "squid": "http_port 127.0.0.1:{port}\nacl here src 127.0.0.1/32\nhttp_access allow here\n"
        "cache deny all\npid_filename {dir}/squid.pid\ncache_log {dir}/squid.log\naccess_log none\n"
        "coredump_dir {dir}\nshutdown_lifetime 0 seconds\npinger_enable off\nvisible_hostname squid\n",
        "tinyproxy": "Port {port}\nListen 127.0.0.1\nAllow 127.0.0.1\nTimeout 30\nMaxClients 200\n"
        "LogFile \"{dir}/tinyproxy.log\"\n",
        "haproxy": "defaults\n mode http\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n"
        "frontend in\n bind 127.0.0.1:{port}\n default_backend out\n"
        "backend out\n server origin 127.0.0.1:{origin}\n",
    }
    commands = {
        # Its shared memory goes by this name, and outlives a squid that was killed.
        "squid": ["squid", "-N", "-n", "gate%d" % os.getpid(), "-f"],
        "tinyproxy": ["tinyproxy", "-d", "-c"],
        "haproxy": ["haproxy", "-db", "-q", "-f"],
    }
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    for name, command in commands.items():
        program = shutil.which(command[0], path=path)
        if not program or not others:
            continue
        ports[name] = free_port()
        file = os.path.join(directory, name + ".conf")
        with open(file, "w", encoding="utf-8") as out:
            out.write(configurations[name].format(port=ports[name], dir=directory, origin=origin.port))
        processes.append(start([program, *command[1:], file]))
    if threadgate:
        ports["threadgate"] = free_port()
        processes.append(start([threadgate, "-q", "-p", str(ports["threadgate"])]))
    for name, port in ports.items():
        await_port(name, port)
    return ports, processes


def start(command):
    nowhere = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere)


def await_port(name, port):
    deadline = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > deadline:
                sys.exit("%s does not listen" % name)
            time.sleep(0.05)


def by_chromium(all_messages, origin, directory):
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        return
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync".split()
    flags += ["--disable-background-networking", "--disable-component-update", "--no-proxy-server"]
    flags += ["--user-data-dir=" + os.path.join(directory, "chromium"), "--remote-debugging-port=0"]
    browser = start([program, *flags, "http://127.0.0.1:%d/" % origin.port])
    if not origin.done.wait(60 + LIMIT * len(all_messages)):
        print("Chromium said nothing", file=sys.stderr)
    browser.terminate()
    browser.wait()
    for message in all_messages:
        if found := origin.results.get(message.name):
            status, content, wrong = found
            message.cells["Chromium"] = cell(message, status, content, wrong)


def versions(threadgate):
    said = []
    for name, command in (
        ("curl", ["curl", "--version"]),
        ("Chromium", ["chromium", "--version"]),
        ("Squid", ["/usr/sbin/squid", "-v"]),
        ("tinyproxy", ["tinyproxy", "-v"]),
        ("HAProxy", ["/usr/sbin/haproxy", "-v"]),
    ):
        try:
            output = subprocess.run(command, capture_output=True, text=True).stdout
        except OSError:
            continue
        number = re.search(r"\d+\.\d+(\.\d+)*", output)
        said.append("%s %s" % (name, number.group(0) if number else "?"))
    return ", ".join(said) + (" and threadgate" if threadgate else "")


def table(all_messages, threadgate):
    lines = ["Made with %s.\n\n" % versions(threadgate)]
    section = None
    for message in all_messages:
        if message.section != section:
            section = message.section
            lines.append("\n| %s | %s |\n" % (section, " | ".join(COLUMNS)))
            lines.append("|%s\n" % ("---|" * (len(COLUMNS) + 1)))
        cells = [message.cells.get(column, "") for column in COLUMNS]
        lines.append("| %s | %s |\n" % (message.what, " | ".join(cells)))
    return "".join(lines)


def differs(message):
    """What threadgate was to do and did not, or nothing."""
    got = message.cells.get("threadgate", "")
    if message.verdict == "delivered" and got != "whole":
        return "is to be delivered"
    if message.verdict == "refused" and got != "502":
        return "is to be refused"
    return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threadgate", help="path of the binary")
    parser.add_argument("--write", help="a Markdown file with the two marker lines")
    parser.add_argument("--only", default="", help="messages with this word in their line of INDEX")
    parser.add_argument("--check", action="store_true", help="end with 1 if threadgate does not do as INDEX says")
    given = parser.parse_args()
    all_messages = messages(given.only)
    origin = Origin(all_messages)
    names = dict(zip(PROXIES, COLUMNS[2:]))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o777)
        ports, processes = start_proxies(directory, origin, given.threadgate, not given.check)
        try:
            jobs = {}
            with concurrent.futures.ThreadPoolExecutor(4) as pool:
                for message in all_messages:
                    ask = by_hand if message.request else by_curl
                    if not message.request and not given.check:
                        jobs[pool.submit(ask, message, origin, None)] = (message, "curl")
                    for name, port in ports.items():
                        jobs[pool.submit(ask, message, origin, port)] = (message, names[name])
                for job in concurrent.futures.as_completed(jobs):
                    message, column = jobs[job]
                    message.cells[column] = job.result()
            if not given.check:
                by_chromium(all_messages, origin, directory)
        finally:
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait()
    if given.write:
        with open(given.write, encoding="utf-8") as file:
            before, rest = file.read().split(BEGIN)
        after = rest.split(END)[1]
        with open(given.write, "w", encoding="utf-8") as file:
            file.write(before + BEGIN + table(all_messages, given.threadgate) + END + after)
    elif not given.check:
        print(table(all_messages, given.threadgate))
    wrong = [message for message in all_messages if given.threadgate and differs(message)]
    for message in wrong:
        print("%s %s: %s" % (message.name, differs(message), message.cells.get("threadgate")), file=sys.stderr)
    if given.check and wrong:
        sys.exit(1)


if __name__ == "__main__":
    main()
