"""What people do with aiohttp, through a proxy: `with_aiohttp.py PROXY CA CLEAR TLS ECHO ECHO_TLS REFUSED FILE`."""

import asyncio
import ssl
import sys

import aiohttp

PROXY, CA, CLEAR, TLS, ECHO, ECHO_TLS, REFUSED, FILE = sys.argv[1:]
CONTENT = open(FILE, "rb").read()


async def pieces():
    for at in range(0, len(CONTENT), 50_000):
        yield CONTENT[at : at + 50_000]


async def read(session, url):
    async with session.get(url, proxy=PROXY) as response:
        assert response.status == 200, url
        return await response.read()


async def works(session, base, echo):
    # Many requests at once over few connections.
    copies = await asyncio.gather(*(read(session, f"{base}/file") for _ in range(40)))
    assert all(copy == CONTENT for copy in copies)
    async with session.get(f"{base}/file", proxy=PROXY) as response:
        streamed = [bytes async for bytes in response.content.iter_chunked(10_000)]
    assert b"".join(streamed) == CONTENT
    async with session.put(f"{base}/up/whole", data=CONTENT, proxy=PROXY) as response:
        assert response.status in (201, 204)
    assert await read(session, f"{base}/up/whole") == CONTENT
    # Chunks both ways; the response begins before the request is complete.
    async with session.post(f"{echo}/echo", data=pieces(), proxy=PROXY) as response:
        assert await response.read() == CONTENT


async def websocket(session, url):
    async with session.ws_connect(url, proxy=PROXY) as socket:
        await socket.send_str("hello")
        assert (await socket.receive_str(timeout=10)) == "hello"
        await socket.send_bytes(CONTENT)
        assert (await socket.receive_bytes(timeout=10)) == CONTENT


async def main():
    context = ssl.create_default_context(cafile=CA)
    connector = aiohttp.TCPConnector(ssl=context, limit=8)
    timeout = aiohttp.ClientTimeout(total=30)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        await works(session, CLEAR, ECHO)
        await works(session, TLS, ECHO_TLS)
        # One WebSocket in a tunnel, and one by a request that upgrades its connection.
        await websocket(session, ECHO_TLS.replace("https", "wss") + "/ws")
        await websocket(session, ECHO.replace("http", "ws") + "/ws")
        async with session.get(REFUSED, proxy=PROXY) as response:
            assert (response.status, "refused" in await response.text()) == (502, True)


asyncio.run(main())
