"""An origin server to be stopped and killed: `faults_origin.py ADDR PORT`, the address to listen on.

/length /chunked /close   a head, the beginning of the content, and nothing more
/big                      16 MiB
/upload                   whether the content of the request is /big, so many times as it has its length
any other path            the path

Its receive buffers are small and do not grow. It ends with its standard input, because its parent is gone then.
"""

import os
import socket
import sys
import threading

BIG = 16 << 20
HALF = {
    "/length": "Content-Length: 1000\r\n\r\n",
    "/chunked": "Transfer-Encoding: chunked\r\n\r\nfff\r\n",
    "/close": "Connection: close\r\n\r\n",
}
_, address, port = sys.argv


def pattern():
    """The bytes of `peers::pattern`: each block of 64 KiB is the same, except for one mask."""
    low = [bytes(i * 31 & 255 ^ high for i in range(256)) for high in range(256)]
    block = b"".join(low)
    masks = (bytes(byte ^ mask for byte in range(256)) for mask in range(BIG >> 16))
    return b"".join(block.translate(mask) for mask in masks)


def read_head(connection):
    """Reads no further than the head, so that content stays in the kernel."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            return None
        head += byte
    return head.decode()


def read_exactly(connection, bytes):
    parts, left = [], bytes
    while left:
        part = connection.recv(min(left, 1 << 20))
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def answer(content):
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content


def serve(connection):
    while head := read_head(connection):
        path = head.split(" ")[1]
        if path in HALF:
            connection.sendall(f"HTTP/1.1 200 OK\r\n{HALF[path]}the beginning".encode())
            # Waits until it is killed.
            threading.Event().wait()
        elif path == "/big":
            connection.sendall(answer(PATTERN))
        elif path == "/upload":
            length = int(head.lower().split("content-length: ")[1].split("\r\n")[0])
            same = all([read_exactly(connection, BIG) == PATTERN for _ in range(length // BIG)])
            connection.sendall(answer(b"whole" if same else b"spoilt"))
        else:
            connection.sendall(answer(path.encode()))


def serve_until_gone(connection):
    try:
        serve(connection)
    except OSError:
        connection.close()


def accept(listener):
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=serve_until_gone, args=[connection], daemon=True).start()


PATTERN = pattern()
listener = socket.create_server((address, int(port)), backlog=128)
# Accepted connections inherit it.
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
print("listens on {}:{}".format(*listener.getsockname()), flush=True)
threading.Thread(target=accept, args=[listener], daemon=True).start()
os.read(0, 1)
