"""A short run of the stack for `./grids view --demo`: the twin and a policy, in a ROS domain of their own."""

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path


class DemoRun:
    """Starts `./grids deploy` on the twin as a child process; `close` ends it the way Ctrl-C would."""

    def __init__(self, *, policy: str, task: str, limit_s: float) -> None:
        # Another domain than the caller's: a real arm may be listening there. From 102 on ports are ephemeral ones.
        self.domain = random.randint(62, 101)
        os.environ["ROS_DOMAIN_ID"] = str(self.domain)
        self._folder = tempfile.TemporaryDirectory(prefix="grids-view-demo-")
        self.log = Path(self._folder.name) / "deploy.log"
        words = ["deploy", f"policy:={policy}", f"task:={task}", f"duration:={limit_s}", "hardware:=twin"]
        with self.log.open("w", encoding="utf-8") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "grids_bringup.cli", *words, f"output:={self._folder.name}/run"],
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def failed(self) -> str:
        """Why the run ended early, "" while it runs."""
        if self._process.poll() is None:
            return ""
        return f"the demo run ended with code {self._process.returncode}: {self._reason()}"

    def _reason(self) -> str:
        """The failure the run wrote into its summary, else its last words."""
        try:
            summary = json.loads((Path(self._folder.name) / "run" / "summary.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            summary = {}  # it ended before there was one
        lines = self.log.read_text(encoding="utf-8").strip().splitlines()
        return summary.get("failure") or " / ".join(lines[-3:]) or "no output"

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        self._folder.cleanup()
