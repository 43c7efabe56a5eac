"""The run of `./grids view --demo`: the twin and a policy, in their own ROS domain."""

import json
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grids_common.process import Child, grids_command

END_S = 20.0  # from SIGINT until the run has brought the arm to rest


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How the run ended. ok: without a failure; sentence: for the user."""

    ok: bool
    sentence: str


class DemoRun:
    """Starts `./grids deploy` on the twin as a child process and sets ROS_DOMAIN_ID of this process to its domain."""

    def __init__(self, *, policy: str, task: str, limit_s: float) -> None:
        # Not the caller's domain, where a real arm may be active. Ports of domains above 101 are ephemeral ports.
        self.domain = random.randint(62, 101)
        os.environ["ROS_DOMAIN_ID"] = str(self.domain)
        self._folder = tempfile.TemporaryDirectory(prefix="grids-view-demo-")
        self.log = Path(self._folder.name) / "deploy.log"
        words = ["deploy", f"policy:={policy}", f"task:={task}", f"duration:={limit_s}", "hardware:=twin"]
        self._process = Child(grids_command(*words, f"output:={self._folder.name}/run"), log=self.log)

    def result(self) -> DemoResult | None:
        """How the run ended; None while it runs. A task that was not done in time (code 3) is not a failure."""
        code = self._process.code
        if code is None:
            return None
        summary = self._summary()
        failure, how = summary.get("failure"), summary.get("ended_by")
        if code in (0, 3) and how and not failure:
            return DemoResult(True, f"the demo run has ended: {how}. To start another one: ./grids view --demo")
        return DemoResult(False, f"the demo run ended with code {code}: {failure or self._process.last_words()}")

    def _summary(self) -> dict:
        try:
            return json.loads((Path(self._folder.name) / "run" / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # it ended before there was one

    def close(self) -> None:
        """End the run with SIGINT, as Ctrl-C does, and delete its folder."""
        self._process.end(interrupt_s=END_S)
        self._folder.cleanup()
