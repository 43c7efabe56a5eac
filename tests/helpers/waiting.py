"""Waits for something that happens in its own time, and fails with its name when it does not."""

import time
from collections.abc import Callable
from typing import Any


def wait_for(
    condition: Callable[[], Any],
    what: str = "what was waited for",
    *,
    step: Callable[[], object] = lambda: None,
    timeout_s: float = 60.0,
    period_s: float = 0.05,
) -> Any:
    """The first true value of the condition. `step` is called before each further look, after that `period_s` pass."""
    end = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < end, f"expected within {timeout_s:g} s: {what}"
        step()
        time.sleep(period_s)
    return value
