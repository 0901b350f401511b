"""The pages are tested in real Chromium, against the real service in front of the scripted upstream."""
from collections.abc import Iterator
from typing import Any

import pytest

from tests.pages.chat import Chat, Wire
from tests.service import Service


@pytest.fixture
def chat(page: Any, service: Service) -> Chat:
    """A new conversation."""
    return Chat(page, service.url).open()


@pytest.fixture
def wire(service: Service) -> Iterator[Wire]:
    wire = Wire(service.port)
    yield wire
    wire.close()
