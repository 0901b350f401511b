"""Nobody waits while a page is compiled: that is done before the service answers, and once on a machine."""
import hashlib
from pathlib import Path

from tests.service import ROOT, Database, Service, one_database

TEMPLATES = ROOT / "templates"


def kept() -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (TEMPLATES / "__pycache__").glob("*.cache")}


def assert_all_are_compiled() -> None:
    found = kept().values()
    for template in TEMPLATES.glob("*.html"):
        digest = hashlib.sha1(template.read_bytes(), usedforsecurity=False).hexdigest().encode()  # what Jinja knows its source by
        assert any(digest in code for code in found), f"{template.name} is compiled by whoever asks for it first"


@one_database
def test_every_page_is_compiled_as_it_is_now_when_the_service_answers(service: Service) -> None:
    assert_all_are_compiled()


@one_database
def test_compiled_pages_that_were_cut_or_garbled_are_compiled_anew(service: Service, tmp_path: Path) -> None:
    for number, (path, code) in enumerate(kept().items()):
        path.write_bytes(code[:50] if number % 2 else b"garbage")
    second = Service(tmp_path, Database(f"sqlite:///{tmp_path}/new.db"), OPENAI_BASE_URL="http://127.0.0.1:9/v1",
                     LLMSTREAM_MODEL="none").wait_ready()
    for page in ("/", "/history", "/stats", "/review", "/export", "/delete"):
        assert second.client.call("GET", page, headers={"Accept": "text/html"}).status_code == 200, page
    second.stop()
    assert_all_are_compiled()
