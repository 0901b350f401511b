"""Who uses a service with a login: made by the commands and the admin's page, with a browser and an API key each."""

import re
import time
from typing import Any

import requests

from llmstream import create_app
from llmstream.extensions import db
from tests.client import Client
from tests.service import Database, Service

ROLES = {"ana": "admin", "rita": "reviewer", "bob": "user", "eve": "user"}
PAGE = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


def password(name: str) -> str:
    return f"a long password of {name}"


def command(database: Database, *words: str, typed: str = "", fails: bool = False) -> str:
    """Run `flask --app wsgi ...` on this database. What it said; with `fails` it must have refused, and not by a fault."""
    app = create_app({"DATABASE_URL": database.url, "OPENAI_BASE_URL": "http://127.0.0.1:9/v1", "LLMSTREAM_MODEL": "none"})
    ran = app.test_cli_runner().invoke(args=words, input=typed)
    with app.app_context():
        db.engine.dispose()
    assert isinstance(ran.exception, SystemExit | None), f"flask {' '.join(words)}: {ran.output}{ran.exception!r}"
    assert (ran.exit_code != 0) == fails, f"flask {' '.join(words)}: {ran.output}"
    return ran.output


def add_user(database: Database, name: str, role: str) -> str:
    return command(database, "user", "add", name, "--role", role, "--password-stdin", typed=password(name) + "\n")


def wait_closed(service: Service) -> None:
    """Until every worker asks for a login; each learns of the first user for itself."""
    give_up = time.monotonic() + 10
    open_at = time.monotonic()
    while time.monotonic() < open_at + 1.5:  # by then each has looked again
        if service.client.get("/history").status_code != 401:
            open_at = time.monotonic()
        time.sleep(0.1)  # they count: a service may allow only some a minute
        assert open_at < give_up, "the service stayed open though there is a user"


class Browser:
    """A browser's cookies and forms, without its pages."""

    def __init__(self, url: str) -> None:
        self.url, self.session = url, requests.Session()
        self.session.trust_env = False
        self.session.headers.update(PAGE | {"Connection": "close"})

    def get(self, path: str, **options: Any) -> requests.Response:
        return self.session.get(self.url + path, allow_redirects=False, timeout=20, **options)

    def token(self, path: str = "/login") -> str:
        """The token of the first form on this page."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.get(path).text)
        assert found, f"no form on {path} has a token"
        return found[1]

    def submit(self, path: str, form: str = "/login", **fields: Any) -> requests.Response:
        """Send a form of the page `form`, with its token."""
        return self.post(path, csrf_token=self.token(form), **fields)

    def post(self, path: str, headers: dict[str, str] | None = None, **fields: Any) -> requests.Response:
        return self.session.post(self.url + path, data=fields, headers=headers, allow_redirects=False, timeout=20)

    def log_in(self, name: str, **fields: str) -> requests.Response:
        return self.submit("/login", name=name, password=password(name), **fields)


class Team:
    """ana (admin), rita (reviewer), bob and eve (users) of one service, each with a key of their own."""

    def __init__(self, service: Service) -> None:
        self.service = service
        assert service.database
        self.database = service.database
        add_user(self.database, "ana", "admin")
        wait_closed(service)
        self.ana = self.browser("ana")
        for name, role in ROLES.items():
            if name != "ana":
                made = self.ana.submit("/admin/users", "/admin", name=name, role=role, password=password(name))
                assert made.status_code == 303, made.text
        self.keys = {name: self.key(name)[1] for name in ROLES}

    def browser(self, name: str) -> Browser:
        """A new browser in which this user has logged in."""
        browser = Browser(self.service.url)
        assert browser.log_in(name).status_code == 303
        return browser

    def key(self, user: str, **fields: Any) -> tuple[int, str]:
        """A new key: its id and its secret."""
        made = self.ana.submit("/admin/keys", "/admin", user=user, name=f"for {user}", **fields)
        secret = re.search(r"llms_[\w-]+", made.text)
        assert made.status_code == 201 and secret, made.text
        return self.database.value("SELECT max(id) FROM api_keys"), secret[0]

    def by(self, name: str, **headers: str) -> Client:
        """The API as this user's program calls it."""
        return self.with_key(self.keys[name], **headers)

    def with_key(self, secret: str, **headers: str) -> Client:
        return Client(self.service.url, {"Authorization": f"Bearer {secret}", **headers})

    def user_id(self, name: str) -> int:
        return self.database.value("SELECT id FROM users WHERE name = :name", name=name)
