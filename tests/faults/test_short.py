"""The short pass of every fault on each database. Most of their time is waiting, so a few run at a time."""
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.conftest import missing
from tests.faults.__main__ import KINDS, SCENARIOS, once
from tests.faults.harness import Missing, NotApplicable, Result

AT_A_TIME = 5
CASES = [pytest.param(scenario, kind, id=f"{scenario.__name__}-{kind}") for scenario in SCENARIOS for kind in KINDS]
SEED = int(os.environ.get("FAULTS_SEED", "1"))


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Result]]]:
    """The faults that were chosen, each under way in a thread of its own."""
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        yield {item.nodeid: pool.submit(once, item.callspec.params["scenario"], SEED, item.callspec.params["kind"], False)
               for item in request.session.items if item.module is request.module and hasattr(item, "callspec")}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_nothing_is_lost(request: pytest.FixtureRequest, running: dict[str, Future[Result]], scenario: object, kind: str) -> None:
    try:
        result = running[request.node.nodeid].result()
    except NotApplicable:
        pytest.skip(f"there is no such fault on {kind}")
    except Missing as part:
        missing(str(part))
    print(result)
    assert not result.breaches, "\n".join(result.breaches[:20])
    assert result.rounds
