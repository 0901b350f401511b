"""What /openapi.json says of the API is what the API does: some calls of each kind; `make security` makes thousands."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.security.__main__ import CHECKS
from tests.service import Service, one_database


@one_database
def test_no_call_is_a_server_error_or_answered_otherwise_than_documented(start: Callable[..., Service], tmp_path: Path) -> None:
    service = start(WEB_CONCURRENCY=1)
    program = str(Path(sys.executable).parent / "st")
    few = ["--phases", "fuzzing", "--max-examples", "4", "--seed", "1", "--continue-on-failure"]
    command = [program, "run", f"{service.url}/openapi.json", "--checks", CHECKS, *few]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    made = re.search(r"(\d+) generated, (\d+) passed", ran.stdout)
    assert ran.returncode == 0 and made and made[1] == made[2], ran.stdout[-3000:]
    assert int(made[1]) > 50
