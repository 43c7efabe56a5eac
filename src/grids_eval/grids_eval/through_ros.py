"""`./grids eval --through-ros`: the same scenes through the real-time graph, one `grids deploy` run per episode.

Twin, servos over the wire, camera, policy and driver nodes run as they would for a user, against the wall clock. So
the machine must keep up: an episode whose run failed to come up is an error, not a failure of the policy.
"""

import contextlib
import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from grids_common.process import Child, grids_command
from grids_eval.pool import EvaluationError
from grids_eval.rollout import EpisodeConfig, EpisodeResult

RUN_S = 180.0  # bring-up, at most 60 s of task, rest and tear-down
END_S = 60.0  # from SIGINT until a run's manager has held the arm and summed up
_SAID = 500  # characters of a run's output in an error


@dataclass(frozen=True, slots=True)
class FailedRun:
    """An episode of which nothing is known, because its run, not the policy, failed. `error` says why."""

    task: str
    seed: int
    error: str


def deploy_command(policy: Path, config: EpisodeConfig, folder: Path) -> list[str]:
    """One run of the deployed graph."""
    arguments = [f"policy:={policy.resolve()}", f"task:={config.task}", f"seed:={config.seed}", f"output:={folder}"]
    if config.instruction:
        arguments.append(f"instruction:={config.instruction}")
    return grids_command("deploy", *arguments)


def failure_of_run(summary: dict) -> str:
    """Why a run that came up did not do its task, as far as its summary.json says; empty on success.

    Where the objects are at the end is not in it, so the categories of the lock-step evaluation cannot be told.
    """
    if summary["success"]:
        return ""
    if not summary["chunks"]:
        return "no_chunks"
    driver = summary.get("driver") or {}
    refused = driver.get("chunks_refused", 0) and not driver.get("chunks_accepted", 0)
    return "arm_refused" if refused else "not_done"


def result_of(summary: dict, config: EpisodeConfig) -> EpisodeResult:
    """A run's summary.json as an episode. Raises EvaluationError when the run, not the policy, failed."""
    if summary.get("success") is None or summary.get("ended_by") == "failure":
        exit_code, arm = summary.get("exit_code", "unknown"), summary.get("arm", "in an unknown state")
        why = summary.get("failure") or summary
        raise EvaluationError(f"seed {config.seed}: the graph failed: {why} (exit code {exit_code}, arm {arm})")
    done = bool(summary["success"])
    if not done and summary.get("ended_by") == "stopped":
        raise EvaluationError(f"seed {config.seed}: the run was stopped before the task's time was up; run it again")
    time_s = summary["success_time_s"] if done else summary["elapsed_s"]
    nan = float("nan")
    failure = failure_of_run(summary)
    return EpisodeResult(config.task, config.seed, done, time_s, failure, nan, summary["chunks"], nan, nan, nan, {})


def run_folder(folder: Path, config: EpisodeConfig) -> Path:
    return folder / f"{config.task}_{config.seed}"


def check_episodes(episodes: Sequence[EpisodeConfig], folder: Path) -> None:
    """Raises EvaluationError for what the graph cannot run, and where an earlier run would be taken for a new one."""
    for config in episodes:
        if config.scenario is not None or config.control != "none" or config.delay_steps or config.n_action_steps:
            raise EvaluationError(
                "--through-ros runs the standard scene: no --ood, --scene all, controls, delays or --n-action-steps"
            )
        run = run_folder(folder, config)
        if any((run / name).exists() for name in ("summary.json", "exits.jsonl")):
            raise EvaluationError(f"{run}: expected no earlier run, found one; move it away or give another --out")


def _end(run: Child) -> None:
    """Asks a run to end, so that it holds the arm, sums up and stops its nodes; kills what is left after END_S."""
    import psutil

    if not run.alive:
        return
    # Nodes lead sessions of their own, so they must be found before their parent is gone.
    nodes = set(psutil.Process(run.pid).children(recursive=True))
    run.send(signal.SIGINT)
    if run.wait(END_S) is None:
        nodes |= set(psutil.Process(run.pid).children(recursive=True))
    run.kill()
    for node in nodes:
        with contextlib.suppress(psutil.NoSuchProcess):
            node.kill()
    psutil.wait_procs(nodes, timeout=2.0)


def run_graph(command: list[str], log: Path) -> None:
    """Runs one graph to its end, output to `log`. After RUN_S it is ended as a whole: EvaluationError."""
    log.parent.mkdir(parents=True, exist_ok=True)
    run = Child(command, log=log)
    try:
        if run.wait(RUN_S) is None:
            raise EvaluationError(f"the run had not ended after {RUN_S:g} s and was stopped; see {log}")
    finally:
        _end(run)


def run_episode(policy: Path, config: EpisodeConfig, run: Path) -> EpisodeResult:
    """One episode; its summary, logs and deploy.log stay in the folder `run`. Raises EvaluationError when it fails."""
    log, path = run / "deploy.log", run / "summary.json"
    run_graph(deploy_command(policy, config, run), log)
    if not path.is_file():
        output = log.read_text(encoding="utf-8", errors="replace").strip()[-_SAID:]
        raise EvaluationError(f"seed {config.seed}: expected {path}, found none; the run said: {output}")
    return result_of(json.loads(path.read_text(encoding="utf-8")), config)


def evaluate_through_ros(
    policy: Path,
    episodes: Sequence[EpisodeConfig],
    folder: Path,
    say: Callable[[EpisodeResult | FailedRun], None] | None = None,
) -> list[EpisodeResult | FailedRun]:
    """One episode after another, each in a folder of its own below `folder`; a run that fails does not end the others.

    Raises EvaluationError before anything starts where `check_episodes` does.
    """
    check_episodes(episodes, folder)
    results: list[EpisodeResult | FailedRun] = []
    for config in episodes:
        try:
            results.append(run_episode(policy, config, run_folder(folder, config)))
        except EvaluationError as error:
            results.append(FailedRun(config.task, config.seed, str(error)))
        if say is not None:
            say(results[-1])
    return results
