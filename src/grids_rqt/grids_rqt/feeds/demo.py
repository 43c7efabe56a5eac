"""A short run of the stack for `./grids view --demo`: the twin and a policy, in a ROS domain of their own."""

import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from grids_common.process import grids_command


@dataclass(frozen=True, slots=True)
class Over:
    """How a run ended: `ok` in one of the ordinary ways, or failed."""

    ok: bool
    sentence: str


class DemoRun:
    """Starts `./grids deploy` on the twin as a child process; `close` ends it the way Ctrl-C would.

    setpriv makes it end with this process, even when that is killed.
    """

    def __init__(self, *, policy: str, task: str, limit_s: float) -> None:
        # Another domain than the caller's: a real arm may be listening there. From 102 on ports are ephemeral ones.
        self.domain = random.randint(62, 101)
        os.environ["ROS_DOMAIN_ID"] = str(self.domain)
        self._folder = tempfile.TemporaryDirectory(prefix="grids-view-demo-")
        self.log = Path(self._folder.name) / "deploy.log"
        words = ["deploy", f"policy:={policy}", f"task:={task}", f"duration:={limit_s}", "hardware:=twin"]
        outlived = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [*outlived, *grids_command(*words, f"output:={self._folder.name}/run")],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def over(self) -> Over | None:
        """How the run ended, None while it runs. A task not done in time (code 3) is no failure of the demo."""
        code = self._process.poll()
        if code is None:
            return None
        summary = self._summary()
        failure, how = summary.get("failure"), summary.get("ended_by")
        if code in (0, 3) and how and not failure:
            return Over(True, f"the demo run is over: {how}. For another, start ./grids view --demo again")
        return Over(False, f"the demo run ended with code {code}: {failure or self._last_words()}")

    def _summary(self) -> dict:
        try:
            return json.loads((Path(self._folder.name) / "run" / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # it ended before there was one

    def _last_words(self) -> str:
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "no output"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._folder.cleanup()
