"""How an export of very many rows goes: rows a second, the worker's memory, and how long its hub is held meanwhile.

    DATABASE_URL=... python -m bench.bulk 1000000 && DATABASE_URL=... python -m bench.export [upto=<id>] [format ...]

One worker, whole exports over HTTP, as a fast reader takes them.
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import requests

from tests.client import eventually
from tests.service import ROOT, Database, free_port

FORMATS = ["history.csv", "history.jsonl", "history.chat.jsonl", "history.preferences.jsonl"]


def watched(url: str) -> dict[str, Any]:
    return requests.get(f"{url}/watched", timeout=30).json()


def export(url: str, name: str, upto: str, rows: int) -> None:
    before, most, gaps, cpu = watched(url)["memory_mb"], 0, 0.0, 0.0
    began, size, looked = time.monotonic(), 0, time.monotonic()
    with requests.get(f"{url}/{name}?{upto}", stream=True, timeout=60) as response:
        for piece in response.iter_content(1 << 20):
            size += len(piece)
            if time.monotonic() - looked > 1:
                seen = watched(url)
                most, gaps, cpu = max(most, seen["memory_mb"]), max(gaps, seen["wall_ms"]), max(cpu, seen["cpu_ms"])
                looked = time.monotonic()
    took = time.monotonic() - began
    print(f"{name:<26} {rows / took:8,.0f} rows/s  {size / 1e6:7,.0f} MB  memory {before} -> at most {most} MB  "
          f"longest gap {gaps:.0f} ms, of it the hub's own work {cpu:.0f} ms  load {os.getloadavg()[0]:.1f}", flush=True)


def main(names: list[str]) -> None:
    database, port = Database(os.environ["DATABASE_URL"]), free_port()
    upto = next((name for name in names if name.startswith("upto=")), "")
    rows, url = int(upto[5:] or database.count()), f"http://127.0.0.1:{port}"
    print(f"{database.kind}, {rows:,} rows")
    settings = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none", "PORT": str(port), "WEB_CONCURRENCY": "1"}
    with (Path(tempfile.mkdtemp()) / "log").open("wb") as log:
        command = [sys.executable, "-m", "gunicorn", "-c", "gunicorn.conf.py", "bench.watched:app"]
        service = subprocess.Popen(command, cwd=ROOT, env=os.environ | settings, stdout=log, stderr=log)
        try:
            eventually(lambda: is_there(url), 60, "readiness")
            for name in [name for name in names if name != upto] or FORMATS:
                export(url, name, upto, rows)
        finally:
            service.terminate()
            service.wait()


def is_there(url: str) -> bool:
    try:
        return bool(watched(url))
    except requests.RequestException:
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
