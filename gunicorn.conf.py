"""How gunicorn runs llmstream: checks first, then the model and the tables, then the workers, and an orderly end."""

from gevent import monkey

monkey.patch_all()  # before all other imports: psycopg decides on import whether its waits give way to other greenlets

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not on a reload, when the signals are gunicorn's
    # Ctrl-C while it starts. Not sys.exit(): an exception that is raised while fork() tidies up is lost. The model ends with us.
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

import gc
import importlib
import logging
import resource
import secrets
import socket
import subprocess
import sys
from contextlib import suppress
from typing import Any

import gevent
from gunicorn.http.errors import InvalidHeader, UnsupportedTransferCoding  # type: ignore[import-untyped]
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from llmstream import local_model, logs
from llmstream.config import ConfigError, describe_database, load

DRAIN_S = 25.0  # what still runs then is finalised; graceful_timeout ends in a SIGKILL, which finalises nothing
MODEL_START_S = 60.0
LIBRARIES = ("apispec", "flask_login", "flask_migrate", "flask_sqlalchemy", "flask_wtf", "marshmallow", "requests",
             "sqlalchemy.dialects.postgresql.psycopg", "sqlalchemy.dialects.sqlite.pysqlite")
drainer: gevent.Greenlet | None = None  # in each worker: finishes its answers once it is told to stop


def fail(sentence: object) -> None:
    sys.exit(f"llmstream: {sentence}")


def say(words: str) -> None:
    print(f"llmstream: {words}", flush=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Worker(GeventWorker):
    """Refuses a request in an unknown transfer coding as every other that is not framed rightly: with 400, not 501."""

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        is_unknown = isinstance(exc, UnsupportedTransferCoding)
        super().handle_error(req, client, addr, InvalidHeader(exc.hdr) if is_unknown else exc)


gc.disable()  # until a worker is ready: imports make no garbage, and looking for it takes a tenth of the start
try:
    settings = load(os.environ)
except ConfigError as error:
    fail(error)
ipv6 = ":" in settings["HOST"]
address = f"[{settings['HOST']}]:{settings['PORT']}" if ipv6 else f"{settings['HOST']}:{settings['PORT']}"

wsgi_app = "wsgi:app"
bind = address
workers = settings["WEB_CONCURRENCY"]
worker_class = Worker
worker_connections = 10_000
keepalive = 2  # s, for headers too (0 would lift that limit); an idle connection holds up a stop for so long
timeout = 30  # a worker whose hub is blocked for so long is killed; streams may last longer
graceful_timeout = 30
limit_request_line = 8190  # a filter with every field at its longest is an address of more than the usual 4,094 bytes
forwarded_allow_ips = ""  # nobody's X-Forwarded-Proto or SCRIPT_NAME is believed
control_socket_disable = True
loglevel = "warning"  # the lines that people should read are our own
logconfig_dict = logs.CONFIG

hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
descriptors = 65536 if hard_limit == resource.RLIM_INFINITY else min(65536, hard_limit)
resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, hard_limit))  # each stream needs one, each live answer another


def on_starting(server: Any) -> None:
    """Before the first worker: whatever can be wrong is found here and said in one sentence."""
    refuse_taken_port()
    if settings["BUNDLED"]:
        say(f"starting the model {settings['LLMSTREAM_MODEL']}")
        port, key = free_port(), secrets.token_urlsafe()
        os.environ.update(LLMSTREAM_LOCAL_MODEL_PORT=str(port), LLMSTREAM_LOCAL_MODEL_KEY=key)  # for the workers
        local_model.start(settings["LLMSTREAM_MODEL"], port, key)
    say("preparing the database")
    prepare = [sys.executable, "-m", "flask", "--app", "wsgi", "prepare"]
    preparing = subprocess.Popen(prepare, start_new_session=True)
    load_libraries()
    if preparing.wait() or (settings["BUNDLED"] and not local_model.wait_until_ready(MODEL_START_S)):
        sys.exit(1)  # whoever failed has said why; the model ends with this process


def load_libraries() -> None:
    """What the workers then need not load each: a new one is there in half the time. Our own modules they do load, so that a
    reload takes over what was changed in them."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.freeze()  # the collectors of the workers leave it alone, so that its memory stays shared


def refuse_taken_port() -> None:
    try:
        family = socket.AF_INET6 if ipv6 else socket.AF_INET
        socket.create_server((settings["HOST"], settings["PORT"]), family=family).close()
    except OSError as error:
        why = os.strerror(error.errno or 0)
        fail(f"{address} cannot be used ({why}): set PORT to a free one (make run PORT=8001) or correct HOST.")


def post_worker_init(worker: Any) -> None:
    global drainer
    widen_descriptor_table(worker.sockets[0].fileno())
    waiting = sys.modules.get("psycopg.waiting")
    assert not waiting or waiting.wait is not getattr(waiting, "wait_c", 0), "psycopg was imported before patch_all()"
    gc.collect()
    gc.freeze()  # what is there by now stays: to look through it again and again would hold the hub for 70 ms each time
    gc.enable()
    worker.wsgi.extensions["generation"].begin_work()
    for part in ("indexer", "meter", "retention", "watch"):
        worker.wsgi.extensions[part].start()
    worker.log.error_log.addFilter(lambda record: not is_stopped_reader(record))
    drainer = gevent.spawn(drain_when_told, worker)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the master, too, and it tells us
    if worker.age == workers:  # the last one of the first set
        say_ready()


def widen_descriptor_table(some: int) -> None:
    """To its final size, by using its last place. To widen it as it fills (at 64, 256, 512 ...) the kernel would hold the hub for
    6 to 23 ms each time: in a process with threads it waits until every core has seen the new one (RCU)."""
    with suppress(OSError):  # somebody has lowered the limit of the running service: then it does grow
        os.close(os.dup2(some, descriptors - 1))


def is_stopped_reader(record: logging.LogRecord) -> bool:
    """A client that takes nothing is let go by a timeout; gunicorn would log forty lines of traceback for each."""
    return record.exc_info is not None and isinstance(record.exc_info[1], TimeoutError)


def say_ready() -> None:
    where = "on this machine" if settings["BUNDLED"] else f"at {settings['OPENAI_BASE_URL']}"
    print(
        f"\n  Chat page  http://{address}/"
        f"\n  Model      {settings['LLMSTREAM_MODEL']}, {where}"
        f"\n  Data       {describe_database(settings['SQLALCHEMY_DATABASE_URI'])}"
        "\n\n  Ctrl-C stops it.\n",
        flush=True,
    )


def drain_when_told(worker: Any) -> None:
    while worker.alive:
        gevent.sleep(0.1)
    drain(worker, DRAIN_S)


def drain(worker: Any, seconds: float) -> None:
    worker.wsgi.extensions["generation"].drain(seconds)


def worker_int(worker: Any) -> None:
    """Ctrl-C: what runs is finalised at once."""
    if drainer:
        drain(worker, 1)


def worker_exit(server: Any, worker: Any) -> None:
    """Greenlets do not keep a worker alive, so wait for this one. A worker whose master is gone leaves in a hurry."""
    if drainer and worker.alive:
        drain(worker, 1)
    elif drainer:
        drainer.join(DRAIN_S + 5)


def on_exit(server: Any) -> None:
    """After the last worker, since answers that are being finished still need the model."""
    local_model.stop()
