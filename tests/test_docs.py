"""What the documents show is true: their commands and programs run, their links lead somewhere."""
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service import ROOT, Service, one_database

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Commands that are not run here, each by the rule that says where it is: the whole of it, or what it does, is another test's job.
ELSEWHERE = [
    r"git clone .*",  # tests/start: from a fresh clone
    r"([A-Z_]+=\S+ |[A-Z_]+=\"[^\"]*\" )*make (run|test|lint|clean)\b.*",  # tests/start
    r"make backup TO=.*",  # tests/faults/backup.py runs what it runs
    r"\.venv/bin/python -m pytest .*",  # this very run
    r"\.venv/bin/python -m tests\.upstream",  # serves until it is stopped
]


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """(where, code) of each fenced block of this language."""
    for document in DOCUMENTS:
        text = document.read_text()
        for fence in re.finditer(rf"^( *)```{language}\n(.*?)^\1```", text, re.M | re.S):
            line = text[:fence.start()].count("\n") + 1
            code = re.sub(rf"^{fence[1]}", "", fence[2], flags=re.M)
            yield f"{document.relative_to(ROOT)}:{line}", code


def commands() -> list[tuple[str, str]]:
    return [(where, line) for where, code in blocks("sh") for line in code.replace("\\\n", "").splitlines()
            if line and not line.startswith("#")]


CURLS = [(where, line) for where, line in commands() if line.startswith("curl ")]
PROGRAMS = list(blocks("python"))
OTHERS = [(where, code) for where, code in blocks("sh") if ".venv/bin/flask" in code]


def test_there_is_something_to_run() -> None:
    assert any(where.startswith("README.md") for where, _ in CURLS), "the README shows a first call with curl"
    assert any(where.startswith("README.md") for where, _ in PROGRAMS), "the README shows a first call with requests"


@one_database
@pytest.mark.parametrize(("where", "line"), CURLS)
def test_each_curl_command_works(service: Service, where: str, line: str) -> None:
    words = shlex.split(line.replace("http://127.0.0.1:8000", service.url))
    assert words.count("|") == 0, "a pipe needs a rule here"
    words[1:1] = ["--silent", "--show-error", "--fail-with-body"]
    ran = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, f"{where}: {ran.stdout}{ran.stderr}"
    assert ran.stdout


@one_database
@pytest.mark.parametrize(("where", "code"), PROGRAMS)
def test_each_program_works(service: Service, where: str, code: str) -> None:
    assert service.database
    ours = {"http://127.0.0.1:8000": service.url, "instance/llmstream.db": service.database.url.removeprefix("sqlite:///")}
    for shown, real in ours.items():
        code = code.replace(shown, real)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ran.returncode == 0, f"{where}: {ran.stdout}{ran.stderr}"
    assert ran.stdout


@pytest.mark.parametrize(("where", "code"), OTHERS)
def test_each_block_of_flask_commands_works(where: str, code: str, tmp_path: Path) -> None:
    """In a copy of the program, since they write migrations."""
    ours = {".venv/bin/flask": f"{sys.executable} -m flask", "/tmp/try.db": str(tmp_path / "try.db")}
    for shown, real in ours.items():
        code = code.replace(shown, real)
    for part in ("llmstream", "migrations", "templates", "static"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "wsgi.py", tmp_path)
    ran = subprocess.run(["sh", "-e", "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, f"{where}: {ran.stdout}{ran.stderr}"


def test_every_command_is_run_here_or_elsewhere() -> None:
    run_here = {line for _, line in CURLS} | {line for _, code in OTHERS for line in code.splitlines()}
    for where, line in commands():
        known = line in run_here or any(re.fullmatch(rule, line) for rule in ELSEWHERE)
        assert known, f"{where}: nothing runs `{line}`; give it a test or a rule"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_link_to_a_file_leads_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if not target.startswith(("http://", "https://", "mailto:")):
            assert (document.parent / target).exists(), f"{target} is not there"
