"""The pages are tested in real Chromium, against the real service in front of the scripted upstream."""
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.conftest import Launch
from tests.pages.chat import Chat, Wire
from tests.service import ROOT, Database, Service


@pytest.fixture
def chat(page: Any, service: Service) -> Chat:
    """A new conversation."""
    return Chat(page, service.url).open()


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    wire = Wire(service.port)
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def shown(launch: Launch, new_database: Callable[[], Database]) -> Iterator[Service]:
    """A service with a made-up history in which there is something of every kind."""
    database = new_database()
    environ = os.environ | {"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"}
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "demo", "--count", "500", "--days", "20"]
    subprocess.run(command, cwd=ROOT, env=environ, check=True, capture_output=True)
    service = launch(database, WEB_CONCURRENCY=1)
    yield service
    service.stop()
