"""python -m tests.security [--minutes 10] [--only NAME,...]

The long pass: each tool against a service of its own on this machine, one after the other, and a table of what it counted. It
ends with 1 if something was found. Schemathesis, Hypothesis and bandit come with requirements-dev.txt; what else is not installed
(wapiti3 and pip-audit from PyPI; sqlmap and slowhttptest from Debian) is left out, and the table says so.
"""

import argparse
import random
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.client import Client
from tests.people import Team, command
from tests.security.naughty import CASES, EVERYTHING, send
from tests.security.smuggling import PROBES
from tests.security.smuggling import send as send_probe
from tests.service import ROOT, Database, Service
from tests.upstream import Upstream

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
MODES = {
    "slow headers": ["-H"],
    "slow body": ["-B", "-t", "POST"],
    "slow read": ["-X", "-w", "10", "-y", "20", "-z", "5", "-k", "3"],
}


class Left(Exception):
    """A tool that this machine lacks."""


class Found(NamedTuple):
    """What a tool counted; `wrong` is how much of it must not be."""

    words: str
    wrong: int


class Ground:
    """A service without and one with a login, both with a made-up history, in front of the scripted upstream."""

    def __init__(self, folder: Path, upstream: Upstream, minutes: float) -> None:
        self.minutes = minutes
        self.open, closed = (self._service(folder / name, upstream) for name in ("open", "login"))
        self.team = Team(closed)

    def _service(self, folder: Path, upstream: Upstream) -> Service:
        folder.mkdir()
        database = Database(f"sqlite:///{folder / 'llmstream.db'}")
        command(database, "prepare")
        command(database, "demo", "--count", "400")
        limits = {"LLMSTREAM_REQUESTS_PER_MINUTE": 1_000_000, "LLMSTREAM_STREAMS_AT_ONCE": 10_000}
        model = {"OPENAI_BASE_URL": upstream.base_url, "LLMSTREAM_MODEL": "scripted-model"}
        return Service(folder, database, **limits, **model).wait_ready()


def tool(name: str, *words: str, timeout: float = 3600) -> str:
    """Run a tool, at low priority; what it said."""
    path = shutil.which(name) or shutil.which(str(Path(sys.executable).parent / name))
    if not path:
        raise Left(f"{name} is not installed")
    try:
        ran = subprocess.run(
            ["nice", "-n", "19", path, *words],
            cwd=tempfile.gettempdir(),
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        return ran.stdout + ran.stderr
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace")


def schemathesis(ground: Ground) -> Found:
    """Without a login, and as user, reviewer and admin. A failed answer, which is cut, is an error to it, none to us."""
    keys = [ground.team.keys[name] for name in ("bob", "rita", "ana")]
    calls = wrong = 0
    for seed, (url, headers) in enumerate(
        [(ground.open.url, []), *((ground.team.service.url, ["-H", f"Authorization: Bearer {key}"]) for key in keys)]
    ):
        bounds = [
            "--phases",
            "coverage,fuzzing",
            "--max-examples",
            "250",
            "--seed",
            str(seed),
            "--continue-on-failure",
        ]
        said = tool("st", "run", f"{url}/openapi.json", *headers, "--checks", CHECKS, *bounds)
        calls += int((re.search(r"(\d+) generated", said) or ["", "0"])[1])
        wrong += len(re.findall(r"^- ST\d+", said, re.M)) - len(re.findall(r'"error_type"', said))
    return Found(f"{calls} calls", max(0, wrong))


def naughty(ground: Ground) -> Found:
    """All strings through all fields; names that fail to log in would lock this address out, so of those there are few."""
    cases = [(name, text) for name in CASES for text in (EVERYTHING if name != "login" else EVERYTHING[::20])]
    counts, wrong = send(ground.team, cases)
    print("\n".join(wrong[:20]))
    return Found(f"{len(cases)} strings, {counts['taken']} taken, {counts['refused']} refused", len(wrong))


def smuggling(ground: Ground) -> Found:
    answers = {name: send_probe(ground.open.port, probe) for name, probe in PROBES.items()}
    wrong = [name for name, answer in answers.items() if answer.status not in (400, 501) or answer.responses != 1]
    return Found(f"{len(answers)} probes", len(wrong))


def events(ground: Ground) -> Found:
    """The parser of event streams, split at random, for the given minutes."""
    from tests.security.test_events import read

    end, runs, first = time.monotonic() + ground.minutes * 60, 0, 0
    seeds = [
        b"data: x\r\n\r\n",
        b"id: 1\nevent: y\ndata: z\n\n",
        b":\r\r\n",
        b"\xef\xbb\xbfdata\n\n",
        "data: é😀\n".encode(),
        b"\xff\0",
    ]
    while time.monotonic() < end:
        stream = b"".join(random.choices(seeds, k=random.randrange(20))) + random.randbytes(random.randrange(40))
        cut = sorted(random.choices(range(len(stream) + 1), k=8))
        pieces = [stream[a:b] for a, b in zip([0, *cut], [*cut, len(stream)], strict=True)]
        assert read(pieces) == read([stream]), (stream, cut)
        runs += 1
        first = first or (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if runs > 10_000 else 0)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - first
    return Found(f"{runs} streams in {ground.minutes:g} min, {grown} KiB of growth", int(grown > 20_000))


def wapiti(ground: Ground) -> Found:
    bounds = [
        "--scope",
        "folder",
        "--max-scan-time",
        str(int(ground.minutes * 60)),
        "-d",
        "2",
        "--flush-session",
        "--no-bugreport",
    ]
    with tempfile.NamedTemporaryFile(suffix=".txt") as report:
        tool(
            "wapiti",
            "-u",
            ground.open.url + "/",
            *bounds,
            "-x",
            ground.open.url + "/delete",
            "-f",
            "txt",
            "-o",
            report.name,
        )
        written = Path(report.name).read_text()
    counts = re.findall(r"^(.+?)\s*:\s+(\d+)$", written, re.M)
    return Found(
        ", ".join(f"{name} {count}" for name, count in counts if count != "0") or "nothing", len(written) == 0
    )


def sqlmap(ground: Ground) -> Found:
    query = "/history?q=cat&tag=a&model=m&owner=o&conversation_id=1&from=2026-01-01&status=failed&limit=20&before=9"
    bounds = ["--batch", "--level", "2", "--flush-session", "--output-dir", tempfile.mkdtemp()]
    said = tool("sqlmap", "-u", ground.open.url + query, *bounds, timeout=ground.minutes * 60)
    return Found(
        f"{len(re.findall('does not seem to be injectable', said))} parameters tried",
        len(re.findall("is vulnerable", said)),
    )


def slowhttptest(ground: Ground) -> Found:
    """500 slow connections of each kind, while others' time to first token is measured."""
    client, words, wrong = ground.open.client, [], 0
    alone = first_token_ms(client)
    for name, mode in MODES.items():
        path = "/stream" if name == "slow body" else "/history?limit=100"
        where = ["-c", "500", "-r", "100", "-i", "5", "-l", "30", "-p", "3", *mode, "-u", ground.open.url + path]
        if not shutil.which("slowhttptest"):
            raise Left("slowhttptest is not installed")
        with subprocess.Popen(
            ["slowhttptest", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as attack:
            time.sleep(6)
            beside = first_token_ms(client)
            attack.wait()
        words.append(f"{name} {beside:.0f} ms")
        wrong += beside > 2 * alone
    return Found(f"first token {alone:.0f} ms; with {', '.join(words)}", wrong)


def first_token_ms(client: Client) -> float:
    taken = []
    for _ in range(20):
        began = time.monotonic()
        stream = client.stream_text("hello")
        stream.more()
        taken.append((time.monotonic() - began) * 1000)
        stream.rest()
    return statistics.median(taken)


def bandit(_: Ground) -> Found:
    said = tool("bandit", "-q", "-ll", "-r", str(ROOT / "llmstream"))
    return Found("llmstream/", said.count(">> Issue"))


def pip_audit(_: Ground) -> Found:
    said = tool("pip-audit", "--no-deps", "--disable-pip", "-r", str(ROOT / "requirements.txt"))
    if "not found on PyPI" in said or "Error" in said:
        raise Left("its database of vulnerabilities cannot be reached from here")
    return Found("requirements.txt", said.count("GHSA-") + said.count("PYSEC-"))


TOOLS: list[Callable[[Ground], Found]] = [
    bandit,
    pip_audit,
    smuggling,
    slowhttptest,
    naughty,
    schemathesis,
    events,
    wapiti,
    sqlmap,
]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.security", description="Attack the service with well-known tools."
    )
    parser.add_argument("--minutes", type=float, default=10, help="for each of the tools that could go on for ever")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(one.__name__ for one in TOOLS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever was started ends with us
    rows, wrong = [], 0
    with Upstream() as upstream, tempfile.TemporaryDirectory(prefix="security-") as folder:
        try:
            ground = Ground(Path(folder), upstream, options.minutes)
            for one in TOOLS:
                if options.only and one.__name__ not in options.only.split(","):
                    continue
                began = time.monotonic()
                try:
                    found = one(ground)
                    row = f"| {one.__name__} | {found.words} | {found.wrong} |"
                    wrong += found.wrong
                except Left as left:
                    row = f"| {one.__name__} | left out: {left} | - |"
                rows.append(row)
                print(f"{row} ({time.monotonic() - began:.0f} s)", flush=True)
        finally:
            for service in list(Service.live):
                service.kill()
    print("\n| tool | what | wrong |\n|---|---|---|\n" + "\n".join(rows))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
