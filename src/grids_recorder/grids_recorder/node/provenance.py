"""Sources of the commands in an episode and the times of human intervention, collected from its messages.

Used while recording, and again when a bag is recovered.
"""

from grids_data.bag.series import CHUNKS, TRACE

NOTED = (TRACE, CHUNKS)


class Provenance:
    """Call `begin` with every message's time, and `add` with the decoded messages on NOTED topics. Times in ns."""

    def __init__(self) -> None:
        self._origin_ns: int | None = None
        self._human: list[list[float]] = []
        self._human_now = False
        self._sources: dict[str, None] = {}
        self._bundles: dict[str, None] = {}

    def begin(self, time_ns: int) -> None:
        """Set the start of the episode; only the first call has an effect."""
        if self._origin_ns is None:
            self._origin_ns = time_ns

    def add(self, topic: str, time_ns: int, message) -> None:
        """Evaluate a CommandTrace or an ActionChunk."""
        if topic == CHUNKS:
            self._bundles[message.bundle_id] = None
            return
        self._sources[message.source] = None
        at = round((time_ns - self._origin_ns) * 1e-9, 3)
        if message.human and not self._human_now:
            self._human.append([at, at])
        elif message.human:
            self._human[-1][1] = at
        self._human_now = bool(message.human)

    def as_json(self) -> dict:
        """Entries for episode.json; spans in s since the first message."""
        return {
            "human_spans_s": self._human,
            "sources": list(self._sources),
            "bundle_ids": [name for name in self._bundles if name],
        }
