"""Makes the pictures of docs/images from the made-up history of `flask demo`: `.venv/bin/python -m tests.pictures`.

Debian's fonts-noto-core and fonts-noto-cjk should be there: without them prompts in other scripts are rows of boxes.
"""
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from tests.client import eventually
from tests.conftest import CHROMIUM_FLAGS
from tests.people import Team
from tests.service import ROOT, Database, Service

IMAGES = ROOT / "docs" / "images"
DESK: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
LONG: dict[str, Any] = {"viewport": {"width": 1280, "height": 1600}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "is_mobile": True}
SERVER = {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "gpt-4.1-mini"}  # nobody is there, and nobody is asked


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    database = Database(f"sqlite:///{folder / 'demo.db'}")
    command = [sys.executable, "-m", "flask", "--app", "wsgi", "demo"]
    subprocess.run(command, cwd=ROOT, env=os.environ | SERVER | {"DATABASE_URL": database.url}, check=True)
    service = Service(folder, database, WEB_CONCURRENCY=1, **SERVER).wait_ready()
    try:
        eventually(lambda: "index is still" not in service.client.page("/history?q=a").text, 60, "the search index")
        with sync_playwright() as playwright:
            binary = os.environ.get("CHROMIUM", "/usr/bin/chromium")
            browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_FLAGS)
            for scheme in ("light", "dark"):
                for name, address in addresses(database).items():
                    size = LONG if name in ("completion", "stats") else DESK
                    shoot(browser, service.url + address, f"{name}-{scheme}", color_scheme=scheme, **size)
            for name in ("chat", "history", "review", "stats"):
                shoot(browser, service.url + addresses(database)[name], f"{name}-phone", **PHONE)
            shoot(browser, service.url + "/nowhere", "error-light", **DESK)
            shoot_login(browser, Team(service))
            browser.close()
    finally:
        service.stop()


def addresses(database: Database) -> dict[str, str]:
    """A picture's name and what it shows, chosen from what the demo made."""
    def one(condition: str, what: str = "id") -> int:
        return database.value(f"SELECT {what} FROM completions WHERE {condition} ORDER BY id DESC LIMIT 1")
    answer = one("response LIKE '%**%' AND reviewed_at IS NOT NULL AND id IN (SELECT completion_id FROM tags)")
    again, origin = database.rows("SELECT new.id, old.id AS origin FROM completions AS new JOIN completions AS old ON old.id = "
                                  "new.regenerated_from WHERE old.status = 'completed' AND new.status = 'completed' AND "
                                  "old.response <> new.response ORDER BY new.id DESC LIMIT 1")[0].values()
    unfinished = "SELECT conversation_id FROM completions WHERE status <> 'completed'"
    talk = one(f"response LIKE '%```%' AND conversation_id NOT IN ({unfinished})", "conversation_id")
    return {
        "chat": f"/?conversation={talk}",
        "history": "/history?status=completed&q=refund",
        "completion": f"/history/{answer}",
        "compare": f"/history/{again}/compare/{origin}",
        "review": "/review?status=completed",
        "stats": "/stats",
        "export": "/export?rating=bad",
        "delete": "/delete?status=failed",
    }


def shoot_login(browser: Any, team: Team) -> None:
    """What there is once there are users: the door, and what an admin finds behind it."""
    kept = team.ana.session.cookies.items()
    cookies = [{"name": name, "value": value, "domain": "127.0.0.1", "path": "/"} for name, value in kept]
    for scheme in ("light", "dark"):
        shoot(browser, team.service.url + "/login", f"login-{scheme}", color_scheme=scheme, **DESK)
        inside = {"color_scheme": scheme, "storage_state": {"cookies": cookies, "origins": []}, **LONG}
        shoot(browser, team.service.url + "/admin", f"admin-{scheme}", **inside)


def shoot(browser: Any, address: str, name: str, **options: Any) -> None:
    page = browser.new_page(**options)
    response = page.goto(address, wait_until="networkidle")
    assert response.status == (404 if address.endswith("/nowhere") else 200), f"{address} answered {response.status}"
    page.screenshot(path=IMAGES / f"{name}.png")
    page.close()


if __name__ == "__main__":
    main()
