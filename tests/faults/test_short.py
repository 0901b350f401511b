"""The short pass of every fault on each database. Most of their time is waiting, so a few run at a time."""
import inspect
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import pytest

from tests.conftest import missing
from tests.faults.__main__ import KINDS, SCENARIOS, once
from tests.faults.harness import Missing, NotApplicable, Result, end_steady

pytestmark = pytest.mark.alone
AT_A_TIME = 5
CASES = [pytest.param(scenario, kind, id=f"{scenario.__name__}-{kind}") for scenario in SCENARIOS for kind in KINDS]
SEED = int(os.environ.get("FAULTS_SEED", "1"))


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[Result]]]:
    """The faults that were chosen: by node id what will come of each. Those that share a service run one after the other."""
    chosen = {item.nodeid: item.callspec.params for item in request.session.items
              if item.module is request.module and hasattr(item, "callspec")}
    lanes: dict[str, list[str]] = {}
    for node, params in chosen.items():
        lanes.setdefault(lane(params["scenario"], params["kind"]), []).append(node)
    results: dict[str, Future[Result]] = {node: Future() for node in chosen}

    def run(nodes: list[str]) -> None:
        for node in nodes:
            try:
                results[node].set_result(once(chosen[node]["scenario"], SEED, chosen[node]["kind"], False))
            except (NotApplicable, Missing) as left_out:
                results[node].set_exception(left_out)

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        for nodes in sorted(lanes.values(), key=len, reverse=True):
            pool.submit(run, nodes)
        yield results
    end_steady()


def lane(scenario: Any, kind: str) -> str:
    """What scenarios that take turns have in common."""
    source = inspect.getsource(scenario)
    shared = "steady" if "run.steady(" in source else "pair" if "pair(run)" in source else scenario.__name__
    return f"{shared} {kind}"


@pytest.mark.parametrize(("scenario", "kind"), CASES)
def test_nothing_is_lost(request: pytest.FixtureRequest, running: dict[str, Future[Result]], scenario: Any, kind: str) -> None:
    try:
        result = running[request.node.nodeid].result()
    except NotApplicable:
        pytest.skip(f"there is no such fault on {kind}")
    except Missing as part:
        missing(str(part))
    print(result)
    if result.breaches and not (result.wrong or result.missing):  # no record is wrong, so it is a limit of time, and others ran
        warnings.warn(f"{result.fault} on {kind} is judged again: " + "; ".join(result.breaches[:5]), stacklevel=1)
        wait(running.values())
        result = once(scenario, SEED, kind, False)  # beside it: it is judged once more, alone
        print(result)
    assert not result.breaches, "\n".join(result.breaches[:20])
    assert result.rounds
