"""How quick `/stats` is over very many rows, over HTTP, and how long the worker's other visitors wait meanwhile.

    DATABASE_URL=... python -m bench.bulk 1000000 && DATABASE_URL=... python -m bench.stats

Run bench.history before: a search index that is still being filled would be measured too. The service under test is started here,
with one worker, so that the other visitor meets the one that counts. Times are in ms as a client sees them; `busy` is the
processor's time of the service (on PostgreSQL without the server's own).
"""
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import requests

from tests.service import Database, Service
from tests.upstream import Upstream

TIMES = 5
QUERIES = [
    "", "days=7", "days=90", "days=365", "days=all", "days=all&status=failed", "days=all&model=mistral-small",
    "days=all&rating=bad", "days=all&source=chat&status=completed",
    "days=all&owner=jonas", "days=all&tag=refund", "days=all&min_duration_ms=10000",
]  # fmt: skip


def main() -> None:
    with Upstream() as upstream, tempfile.TemporaryDirectory() as folder:
        database = Database(os.environ["DATABASE_URL"])
        settings = {"WEB_CONCURRENCY": 1, "OPENAI_BASE_URL": upstream.base_url, "LLMSTREAM_MODEL": "none"}
        service = Service(Path(folder), database, **settings).wait_ready(60)
        try:
            kind, load = database.engine.dialect.name, os.getloadavg()[0]
            print(f"{database.count():,} answers, {kind}; load {load:.1f} on {os.cpu_count()} processors")
            print(f"{'query':45}{'p50':>8}{'max':>8}{'busy':>8}{'others':>8}  answers")
            for query in QUERIES:
                measure(service, query)
        finally:
            service.stop()


def measure(service: Service, query: str) -> None:
    waits: list[float] = []
    over = threading.Event()
    other = threading.Thread(target=visit, args=(service, over, waits))
    other.start()
    session, took, busy = requests.Session(), [], processor_ms(service)
    for _ in range(TIMES):
        ms, page = timed(session, f"{service.url}/stats?{query}", "text/html")
        assert page.status_code == 200, page.text
        took.append(ms)
    busy = (processor_ms(service) - busy) / TIMES
    over.set()
    other.join()
    found: dict[str, Any] = session.get(f"{service.url}/stats?{query}").json()
    note = "" if found["is_complete"] else f", cut at {found['from']}"
    line = f"{query or '(the last 30 days)':45}{statistics.median(took):8.0f}{max(took):8.0f}{busy:8.0f}{max(waits):8.0f}"
    print(f"{line}  {found['total']['answers']:,}{note}", flush=True)


def visit(service: Service, over: threading.Event, waits: list[float]) -> None:
    """Somebody else, who asks for a small file again and again."""
    session = requests.Session()
    while not over.wait(0.005):
        waits.append(timed(session, f"{service.url}/static/logo.svg", "*/*")[0])


def timed(session: requests.Session, url: str, accept: str) -> tuple[float, requests.Response]:
    started = time.perf_counter()
    response = session.get(url, headers={"Accept": accept}, timeout=60)
    return (time.perf_counter() - started) * 1000, response


def processor_ms(service: Service) -> float:
    ticks = 0
    for pid in service.workers():
        ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))
    return ticks * 1000 / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
