"""python -m tests.security.fuzz_events [libFuzzer's options]: Atheris looks for a split of a stream that gives other events."""
import sys
from itertools import pairwise

import atheris

with atheris.instrument_imports(include=["llmstream.sse"]):
    from tests.security.test_events import read


def try_one(data: bytes) -> None:
    given = atheris.FuzzedDataProvider(data)
    cuts = [given.ConsumeIntInRange(0, 600) for _ in range(given.ConsumeIntInRange(0, 8))]
    stream = given.ConsumeBytes(600)
    places = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    assert read([stream[a:b] for a, b in pairwise(places)]) == read([stream]), (stream, places)


if __name__ == "__main__":
    atheris.Setup(sys.argv, try_one)
    atheris.Fuzz()
