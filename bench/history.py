"""How quick `/history` is over very many rows: pages, filters and search over HTTP, and what the index costs those who write.

    DATABASE_URL=... python -m bench.bulk 1000000 && DATABASE_URL=... python -m bench.history

The service under test is started here, with one worker for reading and two for writing; it first indexes what is not indexed yet
(minutes for a million rows).
Times are in ms, as a client sees them, on one connection that is kept open.
"""
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import requests

from tests.service import Database, Service
from tests.upstream import Upstream

PAGES, TIMES, ROUNDS = 200, 30, 5
FILTERS = [
    "status=failed", "status=failed&status=incomplete&status=cancelled", "model=mistral-small", "source=api", "rating=bad",
    "rating=good&rating=none", "reviewed=no&status=completed", "tag=refund", "reason=made up", "owner=jonas",
    "min_duration_ms=10000", "source=chat&rating=bad&reviewed=yes&model=gpt-4.1", "status=in_progress", "owner=nobody",
    "min_duration_ms=99999999",
]  # fmt: skip
SEARCHES = [
    "the", "order", "the order", '"the order"', "ord*", "t*", "refund lamp", "quokka", "axolotl", "pangolin", "quokka the",
    "pangolin axolotl", '"order the"', "nowhereatall", "quok*", "😀", "the&status=failed", "pangolin&rating=bad",
]  # fmt: skip


class Reader:
    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()

    def get(self, query: str) -> tuple[float, dict[str, Any]]:
        started = time.perf_counter()
        response = self.session.get(f"{self.url}/history?{query}", timeout=30)
        took = (time.perf_counter() - started) * 1000
        if response.status_code != 200:
            print(f"{response.status_code} after {took:.0f} ms: {query}", flush=True)
            return took, {"data": [], "next_before": None}
        return took, response.json()

    def html(self, query: str) -> float:
        started = time.perf_counter()
        response = self.session.get(f"{self.url}/history?{query}", timeout=30, headers={"Accept": "text/html"})
        assert response.status_code == 200, response.text
        return (time.perf_counter() - started) * 1000


def line(name: str, times: list[float], more: str = "") -> None:
    times.sort()
    p50, p99, worst = times[len(times) // 2], times[min(len(times) - 1, int(len(times) * 0.99))], times[-1]
    print(f"{name:<58} p50 {p50:7.1f}  p99 {p99:7.1f}  max {worst:7.1f}  {more}", flush=True)


def pages(reader: Reader, newest: int) -> None:
    chance = random.Random(1)
    deep = [chance.randrange(21, newest) for _ in range(PAGES)]
    line("any page, JSON, 20 rows", [reader.get(f"limit=20&before={before}")[0] for before in deep])
    line("any page, JSON, 100 rows", [reader.get(f"limit=100&before={before}")[0] for before in deep])
    line("any page, HTML, 20 rows", [reader.html(f"limit=20&before={before}") for before in deep])


def queries(reader: Reader, newest: int, kind: str, asked: list[str]) -> None:
    """Each query for the first page, and from random places; then page by page as far as its end or for 10 pages."""
    chance = random.Random(2)
    for query in asked:
        query = f"q={query}" if kind == "search" else query
        first, starts = [], [""] + [f"&before={chance.randrange(2, newest)}" for _ in range(TIMES // 2)]
        for start in starts:
            for _ in range(TIMES // 2 if not start else 1):
                took, page = reader.get(query + start)
                first.append(took)
        looked, found, before = 0, 0, None
        while looked == 0 or (before and looked < 10):
            took, page = reader.get(query + (f"&before={before}" if before else ""))
            first.append(took)
            before, looked, found = page["next_before"], looked + 1, found + len(page["data"])
        line(f"{kind}: {query}", first, f"{found} rows on {looked} pages{'' if before else ', then the end'}")


def writes(service: Service, upstream: Upstream, seconds: float, clients: int = 8) -> tuple[float, list[float]]:
    """Prompts a second, and the time of each from the request to its clean end, with so many clients at once."""
    times: list[float] = []
    until = time.monotonic() + seconds

    def ask() -> None:
        while time.monotonic() < until:
            started = time.perf_counter()
            service.client.stream_text("The order has not come. Where is the refund?").text()
            times.append((time.perf_counter() - started) * 1000)

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(times) / seconds, sorted(times)


@contextmanager
def nobody_indexes(database: Database) -> Iterator[None]:
    """A made-up worker, the first by name: the first one fills the index, and this one does not."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.5):
            database.execute("UPDATE workers SET beat = beat + 1 WHERE id = '!'")

    database.execute("INSERT INTO workers (id, epoch, beat) VALUES ('!', 1, 0)")
    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        database.execute("DELETE FROM workers WHERE id = '!'")


def cost_of_writing(service: Service, upstream: Upstream, database: Database) -> None:
    """What the index costs those who write: with and without it by turns, so that noise meets both alike."""
    taken: dict[str, list[float]] = {"with the index": [], "without": []}
    rates: dict[str, list[float]] = {name: [] for name in taken}
    for _ in range(ROUNDS):
        for name, surroundings in (("with the index", nullcontext()), ("without", nobody_indexes(database))):
            with surroundings:
                rate, times = writes(service, upstream, 10)
                rates[name].append(rate)
                taken[name] += times
    for name, times in taken.items():
        line(f"asking, 8 clients, {name}", times, f"{statistics.median(rates[name]):.1f} answers a second")
    ratio = [a / b for a, b in zip(rates["with the index"], rates["without"], strict=True)]
    print(f"rate with the index / without: {', '.join(f'{r:.2f}' for r in ratio)}; median {statistics.median(ratio):.2f}")


def beside(reader: Reader, work: Callable[[], Any]) -> None:
    """While `work` runs: how long a worker needs for a request that asks no database, which shows whether its hub is held.

    A hundred a second: asked flat out, they took half of the worker's time from what they are to measure.
    """
    gaps: list[float] = []
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.01):
            started = time.perf_counter()
            reader.session.get(f"{reader.url}/static/logo.svg", timeout=30)
            gaps.append((time.perf_counter() - started) * 1000)

    thread = threading.Thread(target=look)
    thread.start()
    work()
    over.set()
    thread.join()
    line("a static file meanwhile", gaps)


@contextmanager
def served(database: Database, workers: int) -> Iterator[tuple[Service, Upstream]]:
    with Upstream() as upstream, tempfile.TemporaryDirectory() as folder:
        settings = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "x", "LLMSTREAM_MODEL": "scripted-model"}
        service = Service(Path(folder), database, WEB_CONCURRENCY=workers, **settings).wait_ready(60)
        try:
            yield service, upstream
        finally:
            service.stop()


def reading(database: Database, parts: list[str]) -> None:
    """By one worker: so what it is asked beside a search is answered by the very hub that might be held."""
    newest = database.value("SELECT max(id) FROM completions")
    with served(database, 1) as (service, _):
        reader = Reader(service.url)
        while (left := database.value("SELECT count(*) FROM completions_fts_queue")) > 10_000:
            print(f"{left:,} rows to index", flush=True)
            time.sleep(10)
        if "pages" in parts:
            pages(reader, newest)
        if "filters" in parts:
            beside(Reader(service.url), lambda: queries(reader, newest, "filter", FILTERS))
        if "search" in parts:
            beside(Reader(service.url), lambda: queries(reader, newest, "search", SEARCHES))


def main(parts: list[str]) -> None:
    gc.disable()  # the scripted model keeps what it was asked, and a look through that holds up all clients for 0.2 s
    database = Database(os.environ["DATABASE_URL"])
    print(f"{database.kind}, {database.count():,} rows, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    if set(parts) & {"pages", "filters", "search"}:
        reading(database, parts)
    if "writes" in parts:
        with served(database, 2) as (service, upstream):
            cost_of_writing(service, upstream, database)
    print(json.dumps({"load": os.getloadavg()}))


if __name__ == "__main__":
    main(sys.argv[1:] or ["pages", "filters", "search", "writes"])
