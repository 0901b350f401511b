"""The chat page as a reader uses it, and a wire that can be cut."""
import socket
import threading
from contextlib import suppress
from typing import Any

from tests.client import eventually

SQLITE = ("kind", ["sqlite"])  # what the pages show does not depend on the database


def expect(what: Any) -> Any:
    """Playwright's expectations, which wait; imported late so that a machine without it can collect the tests."""
    from playwright.sync_api import expect as playwright_expect
    return playwright_expect(what)


class Chat:
    """One open chat page."""

    def __init__(self, page: Any, url: str) -> None:
        self.page, self.url = page, url
        self.box = page.locator("#prompt")
        self.turns = page.locator(".turn")
        self.note = self.turn().locator(".note")
        self.answer = self.turn().locator('[data-part="answer"]')
        self.stop_button = page.get_by_role("button", name="Stop the answer")
        self.jump = page.locator('[data-part="jump"]')
        self.announcer = page.locator("#announcer")

    def open(self, path: str = "/") -> "Chat":
        self.page.goto(self.url + path)
        self.page.locator("html.js").wait_for()
        return self

    def turn(self, number: int = -1) -> Any:
        return self.turns.nth(number)

    def send(self, prompt: str) -> "Chat":
        self.box.fill(prompt)
        self.box.press("Enter")
        return self

    def ended(self) -> "Chat":
        """Wait until nothing is being written any more."""
        expect(self.turn()).not_to_have_attribute("aria-busy", "true")
        expect(self.stop_button).to_be_hidden()
        return self

    def click(self, name: str) -> None:
        self.turn().get_by_role("button", name=name, exact=True).click()

    @property
    def completion_id(self) -> int:
        return int(self.turn().get_attribute("data-completion-id"))

    @property
    def is_at_end(self) -> bool:
        return self.page.evaluate("scrollY + innerHeight >= document.documentElement.scrollHeight - 24")

    def scrolled_to_end(self) -> None:
        eventually(lambda: self.page.evaluate("scrollY > 0") and self.is_at_end, what="the end of the page")


class Wire:
    """A line between the browser and the service that a test cuts and mends."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._sockets: list[socket.socket] = []
        self.is_cut = False
        self.loses_answers = False  # what the service says gets lost on the way
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Every connection breaks, and new ones with it until `mend`."""
        self.is_cut = True
        self.snap()

    def snap(self) -> None:
        """Every connection breaks; new ones are fine."""
        while self._sockets:
            with suppress(OSError):
                self._sockets.pop().shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.is_cut = False

    def close(self) -> None:
        self.cut()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._sockets += [near, far]
                for source, target, is_answer in ((near, far, False), (far, near, True)):
                    threading.Thread(target=self._carry, args=(source, target, is_answer), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not (is_answer and self.loses_answers):
                    target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
