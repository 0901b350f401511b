"""Processes of a service, found by a mark in their environment: also those that left its group or lost their parent."""
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import psutil

from tests.client import eventually
from tests.service import OURS, ROOT


def environ(**settings: object) -> dict[str, str]:
    """Our own environment without anybody's settings, and these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith((*OURS, "MAKE", "MFLAGS"))}
    return clean | {name: str(value) for name, value in settings.items()}


def marked(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass  # it has just ended, or is somebody else's
    return found


def models(mark: str) -> list[psutil.Process]:
    """The processes that hold the model; a moment after a kill there may be none."""
    found = []
    for process in marked(mark):
        try:
            if process.cmdline()[-1:] == ["serve"]:
                found.append(process)
        except psutil.Error:
            pass
    return found


def the_model(mark: str) -> psutil.Process:
    (model,) = models(mark)
    return model


def wait_until_none_is_left(mark: str, within: float = 5.0) -> None:
    eventually(lambda: not marked(mark), within, "the end of all its processes")


def ctrl_c(group: int) -> None:
    """What a terminal does: every process of the foreground group gets the signal."""
    os.killpg(group, signal.SIGINT)


def refusal(command: list[str] | None = None, cwd: Path = ROOT, environ: Mapping[str, str] | None = None) -> list[str]:
    """Run something that must not start: with exit status 1 and one sentence. Returns all lines, the sentence last."""
    gunicorn = [sys.executable, "-m", "gunicorn"]
    ended = subprocess.run(command or gunicorn, cwd=cwd, env=environ, capture_output=True, text=True, timeout=30)
    expected = 2 if command and command[0] == "make" else 1  # 2 is make's own, whatever the status of its command
    assert ended.returncode == expected, ended.stdout + ended.stderr
    said = [line for line in ended.stderr.splitlines() if not line.startswith("make")]
    assert len(said) == 1, ended.stderr
    assert said[0].startswith("llmstream: ") and said[0].endswith("."), said[0]
    return [*ended.stdout.splitlines(), said[0]]
