"""No request whose end could be seen at two places is answered, nor what stands behind it."""

import pytest

from tests.security.smuggling import HIDDEN, KEPT, PIPELINED, PROBES, send
from tests.service import Service, one_database


@one_database
@pytest.mark.parametrize("name", PROBES)
def test_what_is_not_framed_rightly_is_refused_and_ends_the_connection(service: Service, name: str) -> None:
    answer = send(service.port, PROBES[name])
    assert answer.status == 400, f"{answer}"
    assert answer.responses == 1, f"{answer}"
    assert b"next_before" not in answer.received


@one_database
@pytest.mark.parametrize("name", PIPELINED)
def test_a_body_that_nobody_read_is_never_taken_for_a_request(service: Service, name: str) -> None:
    answer = send(service.port, PIPELINED[name], hidden=b"")
    assert 400 <= answer.status < 500 and answer.responses == 1, f"{answer}"


@one_database
@pytest.mark.parametrize("name", KEPT)
def test_nor_on_a_connection_that_goes_on(service: Service, name: str) -> None:
    answer = send(service.port, KEPT[name], hidden=b"")
    assert 400 <= answer.status < 500 and answer.responses <= 2 and b"next_before" not in answer.received, f"{answer}"


@one_database
def test_a_good_request_is_answered(service: Service) -> None:
    """Else the probes would show nothing."""
    answer = send(service.port, b"", hidden=HIDDEN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert answer.status == 200 and b"next_before" in answer.received
