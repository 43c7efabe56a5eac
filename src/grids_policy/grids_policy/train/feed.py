"""Batches from frame caches: which frames, what is drawn at random for each, and the statistics of the whole.

Every random number comes from (seed, process, step), so a resumed run continues with the batches it would have had.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from grids_policy.runtime.language import encode, smolvla_language
from grids_policy.train.cache import CacheError, Shard
from grids_policy.train.config import AugmentConfig, TrainConfig

_LEAST_STD = 1e-3
_STATISTICS_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """Everything that can be drawn: one row per usable image. All int64 but `weight`."""

    shard: np.ndarray
    image: np.ndarray
    tick: np.ndarray
    end: np.ndarray  # first tick after the episode
    episode: np.ndarray  # running number over all shards
    weight: np.ndarray

    def take(self, keep: np.ndarray) -> "SampleIndex":
        return SampleIndex(*(getattr(self, name)[keep] for name in self.__slots__))

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True, slots=True)
class RawBatch:
    """B samples as numpy; actions already relative where asked for; in dataset units.

    images are (B, N, h, w, 3) uint8, or dense tokens (B, N, T, C) float16 where the vision tower is frozen.
    """

    images: np.ndarray
    state: np.ndarray  # (B, J)
    actions: np.ndarray  # (B, S, J)
    pad: np.ndarray  # (B, S) bool, True past the end or where the row is no target
    tokens: np.ndarray  # (B, L)
    token_mask: np.ndarray  # (B, L)
    labels: np.ndarray  # (B, l)
    pixels: np.ndarray  # (B, N, P, 2), moved with the images


def parse_weights(items: Sequence[str]) -> dict[str, float]:
    """("task=factor", …) as a mapping. Raises CacheError."""
    try:
        return {task: float(factor) for task, factor in (item.split("=") for item in items)}
    except ValueError:
        raise CacheError(f"data.task_weights: expected task=factor, got {list(items)}") from None


def list_samples(shards: Sequence[Shard], task_weights: Sequence[str] = ()) -> SampleIndex:
    """Every image whose own tick is a valid target."""
    factors = parse_weights(task_weights)
    columns: list[np.ndarray] = []
    number = 0
    for index, shard in enumerate(shards):
        valid, weight = np.asarray(shard.valid), np.asarray(shard.weight)
        for row in shard.episodes:
            image = row.image_start + np.arange(row.images)
            tick = row.tick_start + np.arange(row.images) * shard.spec.image_every
            good = valid[tick]
            count = int(good.sum())
            full = [np.full(count, v) for v in (index, row.tick_start + row.ticks, number)]
            drawn = weight[image[good]] * factors.get(row.task, 1.0)
            columns.append(np.stack([full[0], image[good], tick[good], full[1], full[2], drawn]))
            number += 1
    table = np.concatenate(columns, axis=1)
    return SampleIndex(*(table[i].astype(np.int64) for i in range(5)), table[5])


def split_held_out(samples: SampleIndex, shards: Sequence[Shard], share: float) -> tuple[SampleIndex, SampleIndex]:
    """(training, held out): whole episodes, evenly spread; one that is there twice is wholly on one side."""
    rows = [row for shard in shards for row in shard.episodes]
    first: dict[tuple, int] = {}
    number = np.array([first.setdefault((r.task, r.seed, r.ticks, r.images), len(first)) for r in rows])
    every = max(2, round(1 / share)) if share > 0 else len(rows) + 1
    held = (number % every == every - 1)[samples.episode]
    return samples.take(~held), samples.take(held)


class Feed:
    """Assembles batches. Threads: one producer; `batch` itself is thread-safe."""

    def __init__(
        self, shards: Sequence[Shard], samples: SampleIndex, config: TrainConfig, tokenizer: Tokenizer
    ) -> None:
        if not len(samples):
            raise CacheError("expected at least one usable frame, found none: every row is marked invalid")
        model = config.model
        self.shards, self.samples, self.chunk_size = tuple(shards), samples, model.chunk_size
        self.frame_stride = config.data.frame_stride
        self.relative = list(model.relative_actions)
        known = self.shards[0].spec.units
        # (J,) dataset units to one rad, without their sign; 1 where the data do not name their units.
        self.per_rad = np.ones(model.state_dim, np.float32) if known is None else np.abs(known.scale, dtype=np.float32)
        cumulative = np.cumsum(samples.weight)
        self._cumulative = cumulative / cumulative[-1]
        language = smolvla_language(model.tokenizer_max_length)
        self._words = [
            [encode(tokenizer, row.instruction, language) for row in shard.episodes] for shard in self.shards
        ]
        self._first = np.cumsum([0, *(len(shard.episodes) for shard in self.shards)])
        self.features: Sequence[Mapping[str, np.ndarray]] | None = None  # set to read these instead of images
        self._state = [np.asarray(shard.state) for shard in self.shards]
        self._action = [np.asarray(shard.action) for shard in self.shards]
        self._valid = [np.asarray(shard.valid) for shard in self.shards]

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Rows of `samples`, in proportion to their weights."""
        return np.searchsorted(self._cumulative, rng.random(count))

    def targets(self, row: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """state (J,), actions (S, J), pad (S,) of one sample."""
        s = self.samples
        shard, tick, end = int(s.shard[row]), int(s.tick[row]), int(s.end[row])
        wanted = tick + self.frame_stride * np.arange(self.chunk_size)
        ticks = np.minimum(wanted, end - 1)
        state, actions = self._state[shard][tick], self._action[shard][ticks].copy()
        actions[:, self.relative] -= state[self.relative]
        pad = (wanted >= end) | ~self._valid[shard][ticks]
        return state, actions, pad

    def batch(self, rows: np.ndarray, rng: np.random.Generator | None, augment: AugmentConfig) -> RawBatch:
        """Assemble; with `rng`, images are shifted and the state is disturbed."""
        s = self.samples
        parts = [self.targets(row) for row in rows]
        state = np.stack([p[0] for p in parts])
        shifts = np.zeros((len(rows), len(self.shards[0].spec.cameras), 2), int)
        if rng is not None and augment.shift_px:
            shifts = rng.integers(-augment.shift_px, augment.shift_px + 1, shifts.shape)
        images = self._images(rows, shifts) if self.features is None else self._tokens(rows)
        size = np.array(self.shards[0].spec.image_hw)
        pixels = np.stack([np.asarray(self.shards[s.shard[r]].pixels[s.image[r]]) for r in rows])
        pixels = pixels - (shifts / size)[:, :, None, ::-1].astype(np.float32)  # (down, right) to (x, y)
        if rng is not None and augment.state_noise_rad:
            noise_rad = augment.state_noise_rad * rng.standard_normal(state.shape).astype(np.float32)
            state = state + self.per_rad * noise_rad
        words = [self._words[s.shard[r]][s.episode[r] - self._first[s.shard[r]]] for r in rows]
        return RawBatch(
            images,
            state,
            np.stack([p[1] for p in parts]),
            np.stack([p[2] for p in parts]),
            np.stack([w[0] for w in words]),
            np.stack([w[1] for w in words]),
            np.stack([np.asarray(self.shards[s.shard[r]].labels[s.image[r]]) for r in rows]),
            pixels,
        )

    def _images(self, rows: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """(B, N, h, w, 3); shifts (B, N, 2) in pixels, down and right."""
        s, spec = self.samples, self.shards[0].spec
        images = np.empty((len(rows), len(spec.cameras), *spec.image_hw, 3), np.uint8)
        for i, row in enumerate(rows):
            for n, camera in enumerate(spec.cameras):
                _copy_shifted(self.shards[s.shard[row]].images[camera][s.image[row]], images[i, n], *shifts[i, n])
        return images

    def _tokens(self, rows: np.ndarray) -> np.ndarray:
        s, cameras = self.samples, self.shards[0].spec.cameras
        return np.stack([[self.features[s.shard[r]][c][s.image[r]] for c in cameras] for r in rows])

    def statistics(self, mode: str) -> dict[str, np.ndarray]:
        """Mean, std, min and max of state and (relative) action; labels too. "step": action ones are (S, J)."""
        rng = np.random.default_rng(0)
        rows = rng.permutation(len(self.samples))[:_STATISTICS_ROWS]
        parts = [self.targets(row) for row in rows]
        state = np.concatenate(self._state)
        actions, kept = np.stack([p[1] for p in parts]), ~np.stack([p[2] for p in parts])
        if mode == "step":
            columns = [actions[kept[:, i], i] for i in range(self.chunk_size)]
            action = {name: np.stack([getattr(c, name)(0) for c in columns]) for name in ("mean", "std", "min", "max")}
        elif mode == "joint":
            action = {name: getattr(actions[kept], name)(0) for name in ("mean", "std", "min", "max")}
        else:
            raise CacheError(f"data.action_statistics: expected step or joint, got {mode!r}")
        labels = np.concatenate([np.asarray(shard.labels) for shard in self.shards])
        stats = {f"action.{name}": value for name, value in action.items()}
        stats |= {f"observation.state.{n}": getattr(state, n)(0) for n in ("mean", "std", "min", "max")}
        stats |= {"labels.mean": labels.mean(0), "labels.std": labels.std(0)}
        floored = {n: np.maximum(v, _LEAST_STD) if n.endswith(".std") else v for n, v in stats.items()}
        return {name: value.astype(np.float32) for name, value in floored.items()}


def _copy_shifted(source: np.ndarray, target: np.ndarray, down: int, right: int) -> None:
    """target[y, x] = source[y + down, x + right]; what comes from outside repeats the border."""
    height, width = source.shape[:2]
    if not down and not right:
        target[:] = source
        return
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    target[:] = np.asarray(source)[rows[:, None], columns]


class Prefetch:
    """Batches ahead of their use, from one background thread. An error in the thread is raised by `get`."""

    def __init__(self, make: Callable[[int], RawBatch], first_step: int, depth: int = 4) -> None:
        self._make, self._step = make, first_step
        self._queue: queue.Queue = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                item = self._make(self._step)
            except Exception as error:  # handed over to the consumer, who raises it
                item = error
            self._step += 1
            while not self._stop.is_set():
                try:
                    self._queue.put(item, timeout=0.2)
                    break
                except queue.Full:
                    continue

    def get(self) -> RawBatch:
        item = self._queue.get(timeout=120)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        self._stop.set()
        self._thread.join(timeout=5)
