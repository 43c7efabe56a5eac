"""`./grids eval --through-ros`: the same scenes through the real-time graph, one `grids deploy` run per episode.

Twin, servos over the wire, camera, policy and driver nodes run as they would for a user, against the wall clock. So
the machine must keep up: an episode whose run failed to come up is an error, not a failure of the policy.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from grids_policy.evaluate_pool import EvaluationError
from grids_policy.evaluate_rollout import EpisodeConfig, EpisodeResult

_BRING_UP_S = 120.0


def deploy_command(policy: Path, config: EpisodeConfig, folder: Path) -> list[str]:
    """One run of the deployed graph."""
    arguments = [f"policy:={policy.resolve()}", f"task:={config.task}", f"seed:={config.seed}", f"output:={folder}"]
    if config.instruction:
        arguments.append(f"instruction:={config.instruction}")
    return [sys.executable, "-m", "grids_bringup.cli", "deploy", *arguments]


def result_of(summary: dict, config: EpisodeConfig) -> EpisodeResult:
    """A run's summary.json as an episode. Raises EvaluationError when the run, not the policy, failed."""
    if summary.get("success") is None or summary.get("ended_by") == "failure":
        raise EvaluationError(f"seed {config.seed}: the graph failed: {summary.get('failure') or summary}")
    done = bool(summary["success"])
    time_s = summary["success_time_s"] if done else summary["elapsed_s"]
    nan = float("nan")
    failure = "" if done else "not_done"
    return EpisodeResult(config.task, config.seed, done, time_s, failure, nan, summary["chunks"], nan, nan, nan, {})


def evaluate_through_ros(
    policy: Path,
    episodes: Sequence[EpisodeConfig],
    folder: Path,
    say: Callable[[int, int, EpisodeResult], None] | None = None,
) -> list[EpisodeResult]:
    """One episode after another; each leaves its run folder (summary, logs) below `folder`."""
    results = []
    for number, config in enumerate(episodes):
        if config.scenario is not None or config.control != "none" or config.delay_rows:
            raise EvaluationError("--through-ros runs the standard scene only: no --ood, controls or delays")
        run = folder / f"{config.task}_{config.seed}"
        done = subprocess.run(
            deploy_command(policy, config, run), capture_output=True, text=True, check=False, timeout=60 + _BRING_UP_S
        )
        path = run / "summary.json"
        if not path.is_file():
            raise EvaluationError(f"seed {config.seed}: no {path}; the run said: {done.stderr.strip()[-500:]}")
        results.append(result_of(json.loads(path.read_text(encoding="utf-8")), config))
        if say is not None:
            say(number + 1, len(episodes), results[-1])
    return results
