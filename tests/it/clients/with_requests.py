"""What people do with requests, through a proxy: `with_requests.py PROXY CA CLEAR TLS REFUSED FILE`."""

import os
import sys

import requests

PROXY, CA, CLEAR, TLS, REFUSED, FILE = sys.argv[1:]
CONTENT = open(FILE, "rb").read()


def pieces():
    for at in range(0, len(CONTENT), 50_000):
        yield CONTENT[at : at + 50_000]


def works(session, base):
    for _ in range(10):
        assert session.get(f"{base}/file").content == CONTENT
    with session.get(f"{base}/file", stream=True) as response:
        assert b"".join(response.iter_content(10_000)) == CONTENT
    # A range, and HEAD.
    part = session.get(f"{base}/file", headers={"Range": "bytes=1000-1999"})
    assert (part.status_code, part.content) == (206, CONTENT[1000:2000])
    head = session.head(f"{base}/file")
    assert (head.headers["Content-Length"], head.content) == (str(len(CONTENT)), b"")
    # nginx compresses this page, in chunks.
    page = session.get(f"{base}/page.html")
    assert page.headers["Content-Encoding"] == "gzip"
    assert page.content == b"a line of it\n" * 20_000
    # With a length, and in chunks.
    scheme = base.partition(":")[0]
    for name, data in (("whole", CONTENT), ("pieces", pieces())):
        url = f"{base}/up/{name}-{scheme}"
        assert session.put(url, data=data).status_code == 201
        assert session.get(url).content == CONTENT
    assert session.get(f"{base}/gone").text == "gone"
    # A redirect to the other server, and back.
    assert session.get(f"{base}/moved").content == CONTENT


session = requests.Session()
session.trust_env = False
session.proxies = {"http": PROXY, "https": PROXY}
session.verify = CA
works(session, CLEAR)
works(session, TLS)

failed = session.get(REFUSED)
assert (failed.status_code, "refused" in failed.text) == (502, True), failed.text
try:
    session.get(REFUSED.replace("http:", "https:"))
    raise AssertionError("there is nobody")
except requests.exceptions.ProxyError as error:
    assert "502" in str(error), error

# Without a session, with the proxy from the environment.
os.environ["http_proxy"] = PROXY
assert requests.get(f"{CLEAR}/file").content == CONTENT
