"""An origin server: `origin.py DIR CLEAR_PORT TLS_PORT`, the files of its certificate in DIR.

/echo        the content sent to it, in chunks
/ws          a WebSocket that sends everything back
/page/...    the files of DIR/page
/result      writes the content sent to it to DIR/result
"""

import asyncio
import pathlib
import ssl
import sys

from aiohttp import web

DIR = pathlib.Path(sys.argv[1])


async def echo(request):
    response = web.StreamResponse()
    response.enable_chunked_encoding()
    await response.prepare(request)
    async for bytes in request.content.iter_any():
        await response.write(bytes)
    await response.write_eof()
    return response


async def websocket(request):
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type == web.WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket


async def result(request):
    whole = DIR / "result.part"
    whole.write_bytes(await request.read())
    whole.rename(DIR / "result")
    return web.Response(text="thank you")


async def main(clear, tls):
    (DIR / "page").mkdir()
    app = web.Application(client_max_size=100 << 20)
    app.add_routes(
        [
            web.route("*", "/echo", echo),
            web.get("/ws", websocket),
            web.post("/result", result),
            web.static("/page", DIR / "page"),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(DIR / "leaf.pem", DIR / "leaf.key")
    await web.TCPSite(runner, "127.0.0.1", tls, ssl_context=context).start()
    await web.TCPSite(runner, "127.0.0.1", clear).start()
    await asyncio.Event().wait()


asyncio.run(main(int(sys.argv[2]), int(sys.argv[3])))
