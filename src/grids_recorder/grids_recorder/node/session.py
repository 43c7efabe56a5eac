"""State machine of a recording session: when an episode starts and stops, and what follows. No clock, no ROS."""

from dataclasses import dataclass

IDLE, RECORDING, SAVING, RESETTING, FAILED = "idle", "recording", "saving", "resetting", "failed"
SUCCESS, FAIL, DISCARD, REDO, UNLABELLED = "success", "fail", "discard", "redo", ""
OUTCOMES = (SUCCESS, FAIL, DISCARD, REDO, UNLABELLED)
# The judge reports success after one second of rest; a little more shows the arm leaving.
AFTER_SUCCESS_S = 0.5
# If an automatic session rejects so many episodes in a row, the next ones would be rejected too.
REJECTS_IN_A_ROW = 5


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """Plan of a session.

    `total`: episodes to record, 0: no limit; `episode_s`: longest episode in s, 0: no limit; `reset_s`: time between
    episodes in s; `automatic`: start and stop without keys.
    """

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
    """State of one session. Times are monotonic s. Not thread-safe. `kept`: episodes that were not rejected."""

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
        """Whether all planned episodes are recorded."""
        return self.plan.total > 0 and self.kept >= self.plan.total

    @property
    def index(self) -> int:
        """Number of the current or next episode, from 1."""
        return self.kept + (0 if self.complete else 1)

    def elapsed_s(self, now_s: float) -> float:
        """Seconds since the episode or the reset began; 0 in other states."""
        return now_s - self._since_s if self.state in (RECORDING, RESETTING) else 0.0

    def remaining_s(self, now_s: float) -> float:
        """Seconds left of the episode or of the reset, -1 without a limit."""
        limit = {RECORDING: self.plan.episode_s, RESETTING: self.plan.reset_s}.get(self.state, 0.0)
        return max(limit - self.elapsed_s(now_s), 0.0) if limit > 0 else -1.0

    def started(self, now_s: float) -> None:
        """An episode has started."""
        self.state, self._since_s, self._success_s = RECORDING, now_s, None
        self._halted = False

    def stopping(self) -> None:
        """The episode has ended and is being saved."""
        self.state = SAVING

    def saved(self, now_s: float, outcome: str, verdict: str) -> None:
        """An episode was saved (or moved aside, for discard and redo); rejected episodes do not count."""
        if outcome not in (DISCARD, REDO):
            self.verdicts.append(verdict)
            self.kept += verdict != "REJECT"
        self.state, self._since_s = (IDLE if self.complete or self._halted else RESETTING), now_s

    def failed(self) -> None:
        """An episode could not be started or saved, or too many were rejected; wait for a client's request."""
        self.state, self._halted = FAILED, True

    @property
    def hopeless(self) -> bool:
        """Whether the session is automatic and its last REJECTS_IN_A_ROW episodes were all rejected."""
        last = self.verdicts[-REJECTS_IN_A_ROW:]
        return self.plan.automatic and len(last) == REJECTS_IN_A_ROW and set(last) == {"REJECT"}

    def halt(self) -> None:
        """Start no further episode automatically, because recording cannot go on."""
        self._halted = True

    def tick(self, now_s: float, *, ready: bool, success: bool) -> SessionAction:
        """What to do now; call several times per second.

        `ready`: all required topics are being received; `success`: the twin's judge reports success.
        """
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
