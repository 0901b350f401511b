"""The service with a watch on its hub: `/watched` gives the longest gaps since the last look, and the memory of the worker.

`cpu_ms` is what the hub's own thread worked between two ticks of 2 ms, so other processes of a busy machine do not count in it.
"""
import json
import time
from pathlib import Path
from typing import Any

import gevent

from wsgi import app

longest = {"wall_ms": 0.0, "cpu_ms": 0.0}
inner = app.wsgi_app


def tick() -> None:
    wall, cpu = time.monotonic(), time.thread_time()
    while True:
        gevent.sleep(0.002)
        wall_now, cpu_now = time.monotonic(), time.thread_time()
        longest["wall_ms"] = max(longest["wall_ms"], (wall_now - wall) * 1000 - 2)
        longest["cpu_ms"] = max(longest["cpu_ms"], (cpu_now - cpu) * 1000)
        wall, cpu = wall_now, cpu_now


def watched(environ: dict[str, Any], start_response: Any) -> Any:
    global ticking
    ticking = ticking or gevent.spawn(tick)
    if environ["PATH_INFO"] != "/watched":
        return inner(environ, start_response)
    status = Path("/proc/self/status").read_text()
    memory = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    body = json.dumps({**longest, "memory_mb": memory // 1024}).encode()
    longest.update(wall_ms=0.0, cpu_ms=0.0)
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


ticking: gevent.Greenlet | None = None
app.wsgi_app = watched  # type: ignore[method-assign]
