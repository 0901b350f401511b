"""What keeps the service from starting ends in one plain sentence: no traceback, nothing left running, no secret."""
import socket
import sqlite3
from pathlib import Path

import pytest

from tests.service import free_port
from tests.start.processes import environ, marked, refusal

ELSEWHERE = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "any"}  # so that no model is started


def test_a_wrong_setting() -> None:
    assert refusal(environ=environ(PORT="eighty")) == [
        "llmstream: PORT must be a whole number from 1 to 65535, not 'eighty'."]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_taken_port_is_found_before_anything_is_started(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (sentence,) = refusal(environ=environ(HOST=host, PORT=port))
    assert f"{host}:{port}" in sentence and "set PORT" in sentence


def test_an_unreachable_database_is_named_without_its_password() -> None:
    url = f"postgresql://anna:pa55word@127.0.0.1:{free_port()}/llm"
    said = refusal(environ=environ(DATABASE_URL=url, PORT=free_port(), **ELSEWHERE))
    assert "PostgreSQL database llm on 127.0.0.1" in said[-1] and "DATABASE_URL" in said[-1]
    assert "pa55word" not in "".join(said)


def test_a_place_where_no_file_can_be() -> None:
    said = refusal(environ=environ(DATABASE_URL="sqlite:////dev/null/a.db", PORT=free_port(), **ELSEWHERE))
    assert "/dev/null/a.db cannot be opened" in said[-1]


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("once upon a time " * 100)
    said = refusal(environ=environ(DATABASE_URL=f"sqlite:///{tmp_path}/a.db", PORT=free_port(), **ELSEWHERE))
    assert "file is not a database" in said[-1]


def test_a_database_of_a_newer_version(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "a.db")
    database.executescript("CREATE TABLE alembic_version (version_num); INSERT INTO alembic_version VALUES ('9999')")
    database.close()
    said = refusal(environ=environ(DATABASE_URL=f"sqlite:///{tmp_path}/a.db", PORT=free_port(), **ELSEWHERE))
    assert "another version of llmstream" in said[-1]


@pytest.mark.parametrize("fault, reason", [
    ("raise RuntimeError('no such file')", "no such file"),
    ("import os; os.kill(os.getpid(), 4)", "SIGILL"),
])
def test_a_model_that_will_not_start(fault: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text(fault)
    mark = str(tmp_path)
    database = f"sqlite:///{tmp_path}/a.db"
    said = refusal(environ=environ(MARK=mark, PYTHONPATH=tmp_path, DATABASE_URL=database, PORT=free_port()))
    assert f"The bundled model cannot start ({reason})" in said[-1] and "OPENAI_BASE_URL" in said[-1]
    assert not marked(mark)
