"""The course of a recording session: when an episode starts, stops and what follows. No clock, no ROS."""

from dataclasses import dataclass

IDLE, RECORDING, SAVING, RESETTING, FAILED = "idle", "recording", "saving", "resetting", "failed"
SUCCESS, FAIL, DISCARD, REDO, UNLABELLED = "success", "fail", "discard", "redo", ""
OUTCOMES = (SUCCESS, FAIL, DISCARD, REDO, UNLABELLED)
# The judge reports success after one second of rest; a little more shows the arm leaving.
AFTER_SUCCESS_S = 0.5
# An automatic session whose episodes are all rejected has a fault that the next one would have too.
REJECTS_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Episodes to record (0: open-ended), longest episode (0: none) and reset time in s; automatic needs no keys."""

    total: int = 0
    episode_s: float = 0.0
    reset_s: float = 5.0
    automatic: bool = False


@dataclass(frozen=True, slots=True)
class SessionAction:
    """What to do now: "start", "stop" with an outcome, "reset", "done", or nothing."""

    do: str = ""
    outcome: str = UNLABELLED


class Session:
    """State of one session. Times are monotonic s. Not thread-safe."""

    def __init__(self, plan: SessionPlan) -> None:
        self.plan = plan
        self.state = IDLE
        self.kept = 0
        self.verdicts: list[str] = []
        self._since_s = 0.0
        self._success_s: float | None = None
        self._done = False
        self._halted = False

    @property
    def complete(self) -> bool:
        return self.plan.total > 0 and self.kept >= self.plan.total

    @property
    def index(self) -> int:
        """Number of the current or next episode, from 1."""
        return self.kept + (0 if self.complete else 1)

    def elapsed_s(self, now_s: float) -> float:
        return now_s - self._since_s if self.state in (RECORDING, RESETTING) else 0.0

    def remaining_s(self, now_s: float) -> float:
        """Time left of the episode or of the reset, -1 where there is no limit."""
        limit = {RECORDING: self.plan.episode_s, RESETTING: self.plan.reset_s}.get(self.state, 0.0)
        return max(limit - self.elapsed_s(now_s), 0.0) if limit > 0 else -1.0

    def started(self, now_s: float) -> None:
        self.state, self._since_s, self._success_s = RECORDING, now_s, None
        self._halted = False

    def stopping(self) -> None:
        self.state = SAVING

    def saved(self, now_s: float, outcome: str, verdict: str) -> None:
        """An episode is on disk (or gone, for discard and redo); rejected ones do not count."""
        if outcome not in (DISCARD, REDO):
            self.verdicts.append(verdict)
            self.kept += verdict != "REJECT"
        self.state, self._since_s = (IDLE if self.complete or self._halted else RESETTING), now_s

    def failed(self) -> None:
        """An episode could not be begun or saved, or none is any good; wait for a person."""
        self.state, self._halted = FAILED, True

    @property
    def hopeless(self) -> bool:
        """The session is automatic, and every one of the last episodes was rejected."""
        last = self.verdicts[-REJECTS_IN_A_ROW:]
        return self.plan.automatic and len(last) == REJECTS_IN_A_ROW and set(last) == {"REJECT"}

    def halt(self) -> None:
        """Start nothing by itself any more: recording cannot go on."""
        self._halted = True

    def tick(self, now_s: float, *, ready: bool, success: bool) -> SessionAction:
        """Call at some Hz. `ready`: everything needed is being received; `success`: the twin's judge."""
        if self.state == RECORDING:
            return self._tick_recording(now_s, success=success)
        if self.complete and not self._done:
            self._done = True
            return SessionAction("done")
        if self.complete or self._halted or not self.plan.automatic or not ready:
            return SessionAction()
        if self.state == RESETTING and self.elapsed_s(now_s) < self.plan.reset_s:
            return SessionAction()
        return SessionAction("start") if self.state in (IDLE, RESETTING) else SessionAction()

    def _tick_recording(self, now_s: float, *, success: bool) -> SessionAction:
        if success and self._success_s is None:
            self._success_s = now_s
        if self.plan.automatic and self._success_s is not None and now_s - self._success_s >= AFTER_SUCCESS_S:
            return SessionAction("stop", SUCCESS)
        if 0 < self.plan.episode_s <= self.elapsed_s(now_s):
            return SessionAction("stop", FAIL if self.plan.automatic else UNLABELLED)
        return SessionAction()
