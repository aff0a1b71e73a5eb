"""Makes the packages that the tests install: `packages.py wheels|npm DIR ORIGIN`.

Two of each: `upper` needs `lower`, and each has a file of some hundred kilobytes.
"""

import base64
import hashlib
import io
import json
import pathlib
import random
import sys
import tarfile
import zipfile

NEEDS = {"upper": ["lower"], "lower": []}


def data(name):
    return random.Random(name).randbytes(400_000)


def wheels(directory, _):
    """An index in the form of PEP 503: a page of links for each project."""
    for name, needs in NEEDS.items():
        page = directory / "simple" / name
        page.mkdir(parents=True)
        file = f"{name}-1.0-py3-none-any.whl"
        info = f"{name}-1.0.dist-info"
        requires = "".join(f"Requires-Dist: {other} >=1.0\n" for other in needs)
        files = {
            f"{name}/__init__.py": b"",
            f"{name}/data": data(name),
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        }
        record = "".join(f"{path},{record_hash(bytes)},{len(bytes)}\n" for path, bytes in files.items())
        files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
        with zipfile.ZipFile(page / file, "w") as wheel:
            for path, bytes in files.items():
                wheel.writestr(path, bytes)
        digest = hashlib.sha256((page / file).read_bytes()).hexdigest()
        (page / "index.html").write_text(f'<!DOCTYPE html><a href="{file}#sha256={digest}">{file}</a>\n')


def record_hash(bytes):
    digest = base64.urlsafe_b64encode(hashlib.sha256(bytes).digest())
    return "sha256=" + digest.rstrip(b"=").decode()


def npm(directory, origin):
    """A registry of files: the metadata of each package, and its archive."""
    for name, needs in NEEDS.items():
        package = {"name": name, "version": "1.0.0", "dependencies": dict.fromkeys(needs, "^1.0.0")}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, bytes in {"package.json": json.dumps(package).encode(), "data": data(name)}.items():
                entry = tarfile.TarInfo(f"package/{path}")
                entry.size = len(bytes)
                entry.mode = 0o644
                archive.addfile(entry, io.BytesIO(bytes))
        (directory / f"{name}-1.0.0.tgz").write_bytes(packed.getvalue())
        digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
        package["dist"] = {"tarball": f"{origin}/{name}-1.0.0.tgz", "integrity": f"sha512-{digest}"}
        known = {"name": name, "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": package}}
        (directory / name).write_text(json.dumps(known))


if __name__ == "__main__":
    kind, directory, origin = sys.argv[1:]
    {"wheels": wheels, "npm": npm}[kind](pathlib.Path(directory), origin)
    for name in NEEDS:
        (pathlib.Path(directory) / f"{name}.data").write_bytes(data(name))
