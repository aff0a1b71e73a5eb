"""A WebSocket server and a client that reaches it through an HTTP proxy by a plain request.

usage: websocket.py PROXY_HOST PROXY_PORT

The library does both handshakes and all frames; only the request-target is changed on its way, from
origin-form to the absolute-form that a proxy wants (RFC 9112 section 3.2.2). Prints "ok" at the end.
"""

import asyncio
import dataclasses
import os
import socket
import sys

import websockets
from websockets.client import ClientConnection
from websockets.connection import State
from websockets.frames import Opcode
from websockets.uri import parse_uri

SIZES = [0, 1, 125, 126, 65535, 65536, 1 << 20]


async def echo(connection):
    await connection.send("welcome")
    async for message in connection:
        await connection.send(message)


class Client:
    """The library's sans-I/O client on a socket to the proxy."""

    def __init__(self, proxy, uri):
        uri = parse_uri(uri)
        absolute = f"http://{uri.host}:{uri.port}{uri.path}"
        self.protocol = ClientConnection(dataclasses.replace(uri, path=absolute))
        self.socket = socket.create_connection(proxy, timeout=10)
        self.events = []

    def flush(self):
        for bytes in self.protocol.data_to_send():
            if bytes:
                self.socket.sendall(bytes)
            else:
                self.socket.shutdown(socket.SHUT_WR)

    def receive(self):
        while not self.events:
            bytes = self.socket.recv(65536)
            if bytes:
                self.protocol.receive_data(bytes)
            else:
                self.protocol.receive_eof()
            self.flush()
            self.events += self.protocol.events_received()
            if not bytes and not self.events:
                return None
        return self.events.pop(0)

    def run(self):
        request = self.protocol.connect()
        request.headers["Connection"] = "Upgrade"
        self.protocol.send_request(request)
        self.flush()
        response = self.receive()
        assert response.status_code == 101, response
        assert self.protocol.state is State.OPEN, self.protocol.handshake_exc
        assert self.receive().data == b"welcome"
        for size in SIZES:
            message = os.urandom(size)
            self.protocol.send_binary(message)
            self.flush()
            answer = b""
            while True:
                frame = self.receive()
                assert frame.opcode in (Opcode.BINARY, Opcode.CONT), frame
                answer += frame.data
                if frame.fin:
                    break
            assert answer == message, f"{size} bytes differ"
        self.protocol.send_close(1000, "done")
        self.flush()
        assert self.receive().opcode is Opcode.CLOSE
        assert self.receive() is None
        assert self.protocol.close_code == 1000


async def main():
    proxy = (sys.argv[1], int(sys.argv[2]))
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=None, compression=None) as server:
        port = server.sockets[0].getsockname()[1]
        client = Client(proxy, f"ws://127.0.0.1:{port}/chat")
        client.protocol.max_size = None
        await asyncio.get_running_loop().run_in_executor(None, client.run)
    print("ok")


asyncio.run(main())
