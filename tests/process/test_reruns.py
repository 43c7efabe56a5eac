"""A run in which too many tests needed their second chance fails."""

import os
import subprocess
import sys

import pytest
from repository import ROOT

FLAKY = """
import pytest
seen = set()

@pytest.mark.parametrize("number", range({count}))
@pytest.mark.flaky(reruns=1)
def test_second_time_lucky(number):
    first = number not in seen
    seen.add(number)
    assert not first
"""


@pytest.mark.parametrize(("count", "status"), [(0, 0), (3, 0), (4, 1)])
def test_more_than_three_tests_that_needed_a_rerun_fail_the_run(count, status, tmp_path):
    (tmp_path / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf-8"))
    (tmp_path / "test_flaky.py").write_text("def test_good(): pass\n" + FLAKY.format(count=count))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert (f"{count} tests needed a second run" in done.stdout) == (count > 0)
    assert ("expected at most 3: the run fails" in done.stdout) == (status == 1)
    assert done.stdout.count("test_second_time_lucky[") >= count
