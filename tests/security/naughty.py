"""The Big List of Naughty Strings through every field: no server error, and what is taken comes back unchanged."""

import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

import requests

from tests.people import Browser, Team
from tests.service import ROOT

STRINGS: list[str] = sorted(set(json.loads((ROOT / "tests" / "vendor" / "blns.json").read_text())))
OURS = [
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "\x85\u2028\u2029",
    "\r\nX-Injected: yes",
    "%00",
    "%ff%fe",
    "\x1b[2J",
    "\ufeff=1+1",
    "../../etc/passwd",
    "'; DROP TABLE completions; --",
    '" OR ""="',
    "{{7*7}}${7*7}",
    "<script>alert(1)</script>",
    "\\",
    "%",
    "_",
]
EVERYTHING = [*STRINGS, *OURS]
REFUSED = (400, 404, 409, 413, 415, 422)  # docs/api.md, "Errors"
Case = Callable[["Fields", str], requests.Response]


def is_utf8(text: str) -> bool:
    """In JSON what is not is refused; in URLs and forms, where no browser sends it, something else takes its place."""
    return text.encode(errors="replace").decode() == text


class Fields:
    """Sends a string through a field, in each way that there is, as an admin of a service with a login."""

    def __init__(self, team: Team) -> None:
        self.team, self.url = team, team.service.url
        self._own = threading.local()
        self.completion = team.by("ana").stream_text("hello").completion_id
        team.by("ana").finished(self.completion)
        self.browser = team.browser("ana")
        self.token = self.browser.token("/admin")

    @property
    def session(self) -> requests.Session:
        if not hasattr(self._own, "session"):
            self._own.session = requests.Session()
            self._own.session.trust_env = False
            self._own.session.headers["Authorization"] = f"Bearer {self.team.keys['ana']}"
        return self._own.session

    def call(self, method: str, path: str, **options: Any) -> requests.Response:
        return self.session.request(method, self.url + path, timeout=30, **options)

    def asked(self, text: str, **fields: str) -> requests.Response:
        """POST /stream with the text in these fields; if it is taken the row must say the same."""
        body = {"prompt": "hello"} | {name: text for name in fields}
        answer = self.call("POST", "/stream", json=body)
        if answer.status_code == 200:
            row = self.call("GET", f"/history/{answer.headers['Completion-Id']}").json()
            assert all(row[name] == text for name in fields), f"{text!r} came back as {[row[name] for name in fields]}"
        return answer

    def judged(self, text: str) -> requests.Response:
        answer = self.call(
            "POST", f"/history/{self.completion}/reviews", json={"reason": text, "note": text, "correction": text}
        )
        if answer.ok:
            review, lines = answer.json(), text.replace("\r\n", "\n") if text.strip() else None
            assert (review["note"] or None) == (review["correction"] or None) == lines, f"{text!r}: {review}"
            assert (review["reason"] or None) == (" ".join(text.split()) or None), f"{text!r}: {review}"
        return answer

    def tagged(self, text: str) -> requests.Response:
        answer = self.call("PUT", f"/history/{self.completion}/tags/{quote(text, safe='', errors='surrogatepass')}")
        if answer.ok:
            assert answer.json()["name"] == " ".join(text.split()) or not is_utf8(text), (
                f"{text!r} came back as {answer.text}"
            )
            gone = self.call("DELETE", f"/history/{self.completion}/tags/{quote(text, safe='', errors='surrogatepass')}")
            assert gone.status_code == 204, f"{text!r}: {gone.status_code} {gone.text}"
        return answer

    def viewed(self, text: str) -> requests.Response:
        answer = self.call("POST", "/views", json={"name": text, "query": urlencode({"q": text}, errors="surrogatepass")})
        if answer.ok:
            view = answer.json()
            assert view["name"] == " ".join(text.split())
            assert self.call("GET", view["url"]).status_code == 200
            assert self.call("DELETE", f"/views/{view['id']}").status_code == 204
        return answer

    def filtered(self, text: str) -> requests.Response:
        given = urlencode({name: text for name in ("q", "tag", "model", "owner", "reason")}, errors="surrogatepass")
        page = self.call("GET", f"/history?{given}", headers={"Accept": "text/html"})
        assert page.status_code in (200, 422), f"{text!r}: {page.status_code}"
        return self.call("GET", f"/history?{given}")

    def placed(self, text: str) -> requests.Response:
        """Where a number, a day or one of a few words is wanted."""
        for name in (
            "before",
            "limit",
            "from",
            "to",
            "status",
            "rating",
            "source",
            "reviewed",
            "conversation_id",
            "min_duration_ms",
        ):
            answer = self.call("GET", f"/history?{urlencode({name: text}, errors='surrogatepass')}")
            assert answer.status_code in (200, 422), f"{name}={text!r}: {answer.status_code}"
        return self.call("GET", f"/history/{quote(text, safe='', errors='surrogatepass')}")

    def keyed(self, text: str) -> requests.Response:
        """In headers: what HTTP's client cannot send is sent as UTF-8."""
        value = re.sub(rb"[\r\n\0]", b" ", text.encode(errors="surrogatepass")).strip()
        return self.call(
            "POST",
            "/stream",
            json={"prompt": "hello"},
            headers={"Idempotency-Key": value, "User-Agent": value, "Accept-Language": value, "Referer": value},
        )  # type: ignore[dict-item]

    def shown(self, value: str) -> requests.Response:
        """As a credential: a key, a cookie."""
        text = re.sub(rb"[\r\n\0;]", b" ", value.encode(errors="surrogatepass")).strip()
        for headers in ({"Authorization": b"Bearer " + text}, {"Authorization": text, "Cookie": b"session=" + text}):
            with requests.Session() as stranger:
                stranger.trust_env = False
                answer = stranger.get(f"{self.url}/history", headers=headers, timeout=30)  # type: ignore[arg-type]
                assert answer.status_code in (400, 401), f"{text!r} came in: {answer.status_code}"
        return answer

    def named(self, text: str) -> requests.Response:
        """As the name of a user and of a key, through the admin's page."""
        sent = text.encode(errors="surrogatepass")
        data = {"csrf_token": self.token, "name": sent, "role": "user"}
        cookies, page = self.browser.session.cookies, {"Accept": "text/html"}
        answer = requests.post(
            f"{self.url}/admin/users", data=data, cookies=cookies, headers=page, allow_redirects=False, timeout=30
        )
        data = {"csrf_token": self.token, "name": sent, "user": "bob", "days": "1"}
        key = requests.post(
            f"{self.url}/admin/keys", data=data, cookies=cookies, headers=page, allow_redirects=False, timeout=30
        )
        assert key.status_code in (201, *REFUSED), f"key {text!r}: {key.status_code} {key.text[-300:]}"
        if answer.status_code == 303 and is_utf8(text):
            assert self.team.database.value("SELECT count(*) FROM users WHERE name = :name", name=text) == 1, f"user {text!r}"
        return answer

    def filled_in(self, text: str) -> requests.Response:
        """As what the forms of the pages send: a prompt, a reason and where to go, a reviewer's name; an admin's choices."""
        sent, row = text.encode(errors="surrogatepass"), f"/history/{self.completion}"
        forms = [("/", {"prompt": sent, "model": sent, "idempotency_key": sent}), ("/", {"prompt": sent}), ("/", {"stop": sent}),
                 (f"{row}/reviews", {"reason": sent, "then": "/history"}), (f"{row}/reviews", {"rating": "good", "then": sent}),
                 (f"{row}/tags", {"add": sent}), ("/review/name", {"name": sent}), ("/views", {"name": sent, "query": sent}),
                 ("/delete?status=failed", {"shown": sent, "typed": sent}),
                 ("/admin/keys", {"user": sent, "name": "odd", "days": sent, "scopes": sent}),
                 ("/admin/users", {"name": "odd", "role": sent, "password": sent})]
        for path, form in forms:
            data = {"csrf_token": self.token, **form}
            answer = requests.post(f"{self.url}{path}", data=data, cookies=self.browser.session.cookies, allow_redirects=False,
                                   headers={"Accept": "text/html"}, timeout=30)
            assert answer.status_code in (200, 201, 303, *REFUSED), f"{path} {text!r}: {answer.status_code} {answer.text[-300:]}"
        return answer

    def counted(self, text: str) -> requests.Response:
        """Where the numbers, an export, a page of judgements or of the audit trail begin, and in the cookies of a reviewer."""
        for path, names in {"/stats": ["days", "by", "whole"], "/history.csv": ["after", "upto", "status"], "/admin": ["before"],
                            f"/history/{self.completion}/reviews": ["before", "limit"], "/review": ["q", "skip", "id"],
                            f"/history/{self.completion}": ["view", "q"],
                            f"/stream/{self.completion}": ["after"]}.items():  # completed: any other is cut, as it must be
            for name in names:
                answer = self.call("GET", f"{path}?{urlencode({name: text}, errors='surrogatepass')}")
                assert answer.status_code in (200, 303, 404, 422), f"{path} {name}={text!r}: {answer.status_code}"
        value = re.sub(rb"[\r\n\0;]", b" ", text.encode(errors="surrogatepass")).strip()
        return self.call("GET", "/review", headers={"Cookie": b"reviewer=" + value + b"; browser=" + value})  # type: ignore[dict-item]

    def entered(self, text: str) -> requests.Response:
        """As name, password and place to go to of a login."""
        browser = Browser(self.url)
        raw = text.encode(errors="surrogatepass")
        answer = browser.submit("/login", name=raw, password=raw, next=raw)
        assert answer.status_code in (400, 401, 429), f"{text!r}: {answer.status_code}"
        return answer


CASES: dict[str, Case] = {
    "prompt": lambda fields, text: fields.asked(text, prompt=text),
    "system": lambda fields, text: fields.asked(text, system=text),
    "model": lambda fields, text: fields.call("POST", "/stream", json={"prompt": "hello", "model": text}),
    "review": Fields.judged,
    "tag": Fields.tagged,
    "view": Fields.viewed,
    "filters": Fields.filtered,
    "places": Fields.placed,
    "headers": Fields.keyed,
    "credentials": Fields.shown,
    "names": Fields.named,
    "forms": Fields.filled_in,
    "counts": Fields.counted,
    "login": Fields.entered,
}


def send(team: Team, cases: Iterable[tuple[str, str]]) -> tuple[Counter[str], list[str]]:
    """Send (field, string) pairs, four at a time. How many were taken and refused, and what was wrong."""
    fields, wrong, counts = Fields(team), [], Counter[str]()

    def one(case: tuple[str, str]) -> None:
        name, text = case
        try:
            status = CASES[name](fields, text).status_code
            counts["taken" if status < 400 else "refused"] += 1
            if status >= 400 and status not in (*REFUSED, 401, 429):
                wrong.append(f"{name} {text!r}: {status}")
        except (AssertionError, requests.RequestException, KeyError, ValueError) as error:
            wrong.append(f"{name}: {type(error).__name__} {error}"[:400])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, cases))
    return counts, wrong
