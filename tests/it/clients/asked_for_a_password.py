"""A browser whose login prompt is answered over the DevTools protocol: `asked_for_a_password.py DIR USER PASSWORD URL`.

Prints who asked for what, and what the page then says. DIR is the profile of a Chromium that runs."""

import asyncio
import json
import sys
import time
import urllib.request

import websockets

DIR, USER, PASSWORD, URL = sys.argv[1:]


def page():
    for _ in range(200):
        try:
            port = open(f"{DIR}/DevToolsActivePort").readline().strip()
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                return next(p for p in json.load(answer) if p["type"] == "page")["webSocketDebuggerUrl"]
        except (OSError, StopIteration):
            time.sleep(0.1)
    sys.exit("no browser")


async def main():
    async with websockets.connect(page(), max_size=None) as browser:
        numbers = iter(range(1, 10000))

        async def call(method, **params):
            number = next(numbers)
            await browser.send(json.dumps({"id": number, "method": method, "params": params}))
            return number

        await call("Fetch.enable", handleAuthRequests=True)
        enabled = await call("Page.enable")
        # Without this the page may be there before its event is seen.
        while json.loads(await browser.recv()).get("id") != enabled:
            pass
        await call("Page.navigate", url=URL)
        text = None
        asked = 0
        async for message in browser:
            message = json.loads(message)
            params = message.get("params", {})
            match message.get("method"):
                case "Fetch.requestPaused":
                    await call("Fetch.continueRequest", requestId=params["requestId"])
                case "Fetch.authRequired":
                    challenge = params["authChallenge"]
                    print(challenge["source"], challenge["scheme"], challenge["realm"])
                    asked += 1
                    # The first password is wrong.
                    answer = {"response": "ProvideCredentials", "username": USER}
                    answer["password"] = PASSWORD if asked > 1 else "wrong"
                    await call("Fetch.continueWithAuth", requestId=params["requestId"], authChallengeResponse=answer)
                case "Page.loadEventFired":
                    text = await call("Runtime.evaluate", expression="document.body.innerText")
            if text is not None and message.get("id") == text:
                print(message["result"]["result"]["value"])
                return


asyncio.run(asyncio.wait_for(main(), 40))
