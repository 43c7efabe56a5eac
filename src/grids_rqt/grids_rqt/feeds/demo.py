"""A short run of the stack for `./grids view --demo`: the twin and a policy, in a ROS domain of their own."""

import json
import os
import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grids_common.process import Child, grids_command

END_S = 20.0  # from SIGINT until the run has brought the arm to rest


@dataclass(frozen=True, slots=True)
class Over:
    """How a run ended: `ok` in one of the ordinary ways, or failed."""

    ok: bool
    sentence: str


class DemoRun:
    """Starts `./grids deploy` on the twin as a child process; `close` ends it the way Ctrl-C would."""

    def __init__(self, *, policy: str, task: str, limit_s: float) -> None:
        # Another domain than the caller's: a real arm may be listening there. From 102 on ports are ephemeral ones.
        self.domain = random.randint(62, 101)
        os.environ["ROS_DOMAIN_ID"] = str(self.domain)
        self._folder = tempfile.TemporaryDirectory(prefix="grids-view-demo-")
        self.log = Path(self._folder.name) / "deploy.log"
        words = ["deploy", f"policy:={policy}", f"task:={task}", f"duration:={limit_s}", "hardware:=twin"]
        self._process = Child(grids_command(*words, f"output:={self._folder.name}/run"), log=self.log)

    def over(self) -> Over | None:
        """How the run ended, None while it runs. A task not done in time (code 3) is no failure of the demo."""
        code = self._process.code
        if code is None:
            return None
        summary = self._summary()
        failure, how = summary.get("failure"), summary.get("ended_by")
        if code in (0, 3) and how and not failure:
            return Over(True, f"the demo run is over: {how}. For another, start ./grids view --demo again")
        return Over(False, f"the demo run ended with code {code}: {failure or self._process.last_words()}")

    def _summary(self) -> dict:
        try:
            return json.loads((Path(self._folder.name) / "run" / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # it ended before there was one

    def close(self) -> None:
        self._process.end(interrupt_s=END_S)
        self._folder.cleanup()
