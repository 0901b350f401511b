"""`make run` on a machine where something is missing; with scripts in place of Python, since the real one is there."""
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.service import ROOT
from tests.start.processes import environ, refusal

NO_VENV = """#!/bin/sh
case "$*" in *"-m venv"*) echo "ensurepip is not available"; exit 1;; esac
"""
NO_NETWORK = """#!/bin/sh
case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
*"pip install"*) echo "ERROR: Could not find a version"; exit 1;; *"pip --version"*) exit 1;; esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def python_like(script: str, project: Path) -> str:
    path = project / "python"
    path.write_text(script)
    path.chmod(0o755)
    return f"PYTHON={path}"


@pytest.mark.parametrize("script, says", [
    ("#!/bin/sh\nexit 1\n", "Python 3.11 or newer is needed"),
    (NO_VENV, "apt install python3-venv"),
    (NO_NETWORK, "The packages could not be installed"),
])
def test_what_is_missing_is_said_in_one_sentence(script: str, says: str, project: Path) -> None:
    said = refusal(["make", "run", python_like(script, project)], cwd=project, environ=environ())
    assert says in said[-1]


def test_no_python_at_all(project: Path) -> None:
    assert "Python 3.11 or newer" in refusal(["make", "run", "PYTHON=python9"], cwd=project, environ=environ())[-1]


def test_what_is_installed_is_not_installed_again_until_the_requirements_change(project: Path) -> None:
    """Make itself says what it would do."""
    def would_do() -> str:
        return subprocess.run(["make", "-n", "run"], cwd=project, env=environ(), capture_output=True, text=True).stdout
    (project / ".venv").mkdir()
    (project / ".venv" / "installed").touch()
    assert would_do() == "exec .venv/bin/python -m gunicorn\n"
    newer = (project / ".venv" / "installed").stat().st_mtime + 10
    (project / "requirements.txt").write_text("")
    os.utime(project / "requirements.txt", (newer, newer))
    assert "pip install" in would_do()
