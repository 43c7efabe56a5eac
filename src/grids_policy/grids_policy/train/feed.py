"""Batches from frame caches: which frames are drawn, how they are changed at random, and statistics of all of them.

Every random number depends on (seed, process, step) only, so a resumed run gets the batches of an uninterrupted one.

Dims: B samples, N cameras, J joints, S chunk_size, L tokenizer_max_length, l labels, P labelled points.
"""

import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

from grids_policy.model.normalize import Normalizer
from grids_policy.runtime.bundle import LanguageSettings
from grids_policy.runtime.language import encode, policy_language
from grids_policy.train.cache import CacheError, Shard
from grids_policy.train.config import AugmentConfig, TrainConfig

_LEAST_STD = 1e-3
_STATISTICS_SAMPLES = 20_000


@dataclass(frozen=True, slots=True)
class SampleIndex:
    """The samples of all shards: one per usable image, each array (samples,). All int64 except `weight`."""

    shard: np.ndarray
    image: np.ndarray  # index into the shard's images
    tick: np.ndarray  # index into the shard's states and actions
    end: np.ndarray  # first tick after the episode
    episode: np.ndarray  # counts over all shards
    weight: np.ndarray  # how often it is drawn, relative to the others

    def take(self, keep: np.ndarray) -> "SampleIndex":
        """The samples at indices `keep`, or where a mask `keep` is True."""
        return SampleIndex(*(getattr(self, name)[keep] for name in self.__slots__))

    def __len__(self) -> int:
        return len(self.shard)


@dataclass(frozen=True, slots=True)
class RawBatch:
    """B samples as numpy arrays in dataset units; actions are relative where the model's `relative_actions` are.

    images: (B, N, h, w, 3) uint8 rgb, or features (B, N, T, C) float16 (features.py) where the vision side is frozen.
    """

    images: np.ndarray
    state: np.ndarray  # (B, J)
    actions: np.ndarray  # (B, S, J)
    pad: np.ndarray  # (B, S) bool, True after the end of the episode or where the action is not a valid target
    tokens: np.ndarray  # (B, L)
    token_mask: np.ndarray  # (B, L)
    labels: np.ndarray  # (B, l)
    pixels: np.ndarray  # (B, N, P, 2) positions (x, y) of the labelled points in the images, see cache.py


def parse_weights(items: Sequence[str]) -> dict[str, float]:
    """Parse ("task=factor", …) into a mapping. Raises CacheError."""
    try:
        return {task: float(factor) for task, factor in (item.split("=") for item in items)}
    except ValueError:
        raise CacheError(f"data.task_weights: expected task=factor, got {list(items)}") from None


def list_samples(shards: Sequence[Shard], task_weights: Sequence[str] = ()) -> SampleIndex:
    """All images whose tick is a valid target. Raises CacheError on malformed `task_weights`."""
    factors = parse_weights(task_weights)
    columns: list[np.ndarray] = []
    number = 0
    for index, shard in enumerate(shards):
        valid, weight = np.asarray(shard.valid), np.asarray(shard.weight)
        for episode in shard.episodes:
            image = episode.image_start + np.arange(episode.images)
            tick = episode.tick_start + np.arange(episode.images) * shard.spec.image_every
            good = valid[tick]
            count = int(good.sum())
            full = [np.full(count, v) for v in (index, episode.tick_start + episode.ticks, number)]
            drawn = weight[image[good]] * factors.get(episode.task, 1.0)
            columns.append(np.stack([full[0], image[good], tick[good], full[1], full[2], drawn]))
            number += 1
    table = np.concatenate(columns, axis=1)
    return SampleIndex(*(table[i].astype(np.int64) for i in range(5)), table[5])


def split_held_out(samples: SampleIndex, shards: Sequence[Shard], share: float) -> tuple[SampleIndex, SampleIndex]:
    """Split into (training, held out) by whole episodes, evenly spread over the data.

    Copies of one episode (equal task, seed and lengths) all go to the same side.
    """
    episodes = [episode for shard in shards for episode in shard.episodes]
    first: dict[tuple, int] = {}
    number = np.array([first.setdefault((e.task, e.seed, e.ticks, e.images), len(first)) for e in episodes])
    every = max(2, round(1 / share)) if share > 0 else len(episodes) + 1
    held = (number % every == every - 1)[samples.episode]
    return samples.take(~held), samples.take(held)


class Feed:
    """Assembles batches from shards. `batch` is thread-safe.

    Raises CacheError where there are no samples.
    """

    def __init__(
        self, shards: Sequence[Shard], samples: SampleIndex, config: TrainConfig, tokenizer: Tokenizer
    ) -> None:
        if not len(samples):
            raise CacheError("expected at least one valid action step, found none: all are marked invalid")
        model = config.model
        self.shards, self.samples, self.chunk_size = tuple(shards), samples, model.chunk_size
        self.frame_stride = config.data.frame_stride
        self.relative = list(model.relative_actions)
        known = self.shards[0].spec.units
        # (J,) dataset units per rad, without sign; 1 where the units of the data are unknown.
        self.per_rad = np.ones(model.state_dim, np.float32) if known is None else np.abs(known.scale, dtype=np.float32)
        cumulative = np.cumsum(samples.weight)
        self._cumulative = cumulative / cumulative[-1]
        self._model, self._tokenizer = model, tokenizer
        self._language: LanguageSettings | None = None
        self._words: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        if model.conventions.state_in_prompt == "none":
            self.set_language(None)
        self._first = np.cumsum([0, *(len(shard.episodes) for shard in self.shards)])
        # Features per shard and camera (features.py), set from outside; where set, read instead of images.
        self.features: Sequence[Mapping[str, np.ndarray]] | None = None
        self._state = [np.asarray(shard.state) for shard in self.shards]
        self._action = [np.asarray(shard.action) for shard in self.shards]
        self._valid = [np.asarray(shard.valid) for shard in self.shards]

    def set_language(self, state: Normalizer | None) -> None:
        """Fix how sentences become token ids; state: of observation.state, for a prompt that contains it."""
        self._language = policy_language(self._model, self._tokenizer, state)
        texts = {episode.instruction for shard in self.shards for episode in shard.episodes}
        if not self._language.state_numbers:
            self._words = {text: encode(self._tokenizer, text, self._language) for text in texts}

    def _sentence(self, index: int, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ids and mask (L,) of one sample, whose state (J,) the model reads."""
        shard = int(self.samples.shard[index])
        text = self.shards[shard].episodes[int(self.samples.episode[index] - self._first[shard])].instruction
        if self._language is None:
            raise ValueError("the prompt of this policy contains the state; call set_language first")
        return self._words[text] if self._words else encode(self._tokenizer, text, self._language, state)

    def draw(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Draw `count` indices into `samples`, in proportion to their weights."""
        return np.searchsorted(self._cumulative, rng.random(count))

    def targets(self, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """state (J,), actions (S, J) and pad (S,) of one sample, see `RawBatch`."""
        s = self.samples
        shard, tick, end = int(s.shard[index]), int(s.tick[index]), int(s.end[index])
        steps = tick + self.frame_stride * np.arange(self.chunk_size)
        ticks = np.minimum(steps, end - 1)
        state, actions = self._state[shard][tick], self._action[shard][ticks].copy()
        actions[:, self.relative] -= state[self.relative]
        pad = (steps >= end) | ~self._valid[shard][ticks]
        return state, actions, pad

    def batch(self, indices: np.ndarray, rng: np.random.Generator | None, augment: AugmentConfig) -> RawBatch:
        """The samples at `indices` (B,). With `rng`, images are shifted and noise is added to the state."""
        s = self.samples
        parts = [self.targets(index) for index in indices]
        state = np.stack([p[0] for p in parts])
        shifts = np.zeros((len(indices), len(self.shards[0].spec.cameras), 2), int)
        if rng is not None and augment.shift_px:
            shifts = rng.integers(-augment.shift_px, augment.shift_px + 1, shifts.shape)
        images = self._images(indices, shifts) if self.features is None else self._tokens(indices)
        size = np.array(self.shards[0].spec.image_hw)
        pixels = np.stack([np.asarray(self.shards[s.shard[i]].pixels[s.image[i]]) for i in indices])
        pixels = pixels - (shifts / size)[:, :, None, ::-1].astype(np.float32)  # (down, right) to (x, y)
        if rng is not None and augment.state_noise_rad:
            noise_rad = augment.state_noise_rad * rng.standard_normal(state.shape).astype(np.float32)
            state = state + self.per_rad * noise_rad
        words = [self._sentence(i, own) for i, own in zip(indices, state, strict=True)]
        return RawBatch(
            images,
            state,
            np.stack([p[1] for p in parts]),
            np.stack([p[2] for p in parts]),
            np.stack([w[0] for w in words]),
            np.stack([w[1] for w in words]),
            np.stack([np.asarray(self.shards[s.shard[i]].labels[s.image[i]]) for i in indices]),
            pixels,
        )

    def _images(self, indices: np.ndarray, shifts: np.ndarray) -> np.ndarray:
        """(B, N, h, w, 3); shifts (B, N, 2) in pixels, down and right."""
        s, spec = self.samples, self.shards[0].spec
        images = np.empty((len(indices), len(spec.cameras), *spec.image_hw, 3), np.uint8)
        for b, i in enumerate(indices):
            for n, camera in enumerate(spec.cameras):
                _copy_shifted(self.shards[s.shard[i]].images[camera][s.image[i]], images[b, n], *shifts[b, n])
        return images

    def _tokens(self, indices: np.ndarray) -> np.ndarray:
        s, cameras = self.samples, self.shards[0].spec.cameras
        return np.stack([[self.features[s.shard[i]][c][s.image[i]] for c in cameras] for i in indices])

    def statistics(self, mode: str) -> dict[str, np.ndarray]:
        """Mean, std, min, max, q01, q99 of state (J,) and action, as "<feature>.<statistic>"; mean, std of labels (l,).

        Of actions, relative where the model's are: (S, J) with mode "step", (J,) over all steps with "joint".
        Raises CacheError on another mode.
        """
        rng = np.random.default_rng(0)
        parts = [self.targets(index) for index in rng.permutation(len(self.samples))[:_STATISTICS_SAMPLES]]
        state = np.concatenate(self._state)
        actions, kept = np.stack([p[1] for p in parts]), ~np.stack([p[2] for p in parts])
        if mode == "step":
            columns = [actions[kept[:, i], i] for i in range(self.chunk_size)]
            every = [_summary(column) for column in columns]
            action = {name: np.stack([one[name] for one in every]) for name in every[0]}
        elif mode == "joint":
            action = _summary(actions[kept])
        else:
            raise CacheError(f"data.action_statistics: expected step or joint, got {mode!r}")
        labels = np.concatenate([np.asarray(shard.labels) for shard in self.shards])
        stats = {f"action.{name}": value for name, value in action.items()}
        stats |= {f"observation.state.{name}": value for name, value in _summary(state).items()}
        stats |= {"labels.mean": labels.mean(0), "labels.std": labels.std(0)}
        floored = {n: np.maximum(v, _LEAST_STD) if n.endswith(".std") else v for n, v in stats.items()}
        return {name: value.astype(np.float32) for name, value in floored.items()}


def _summary(values: np.ndarray) -> dict[str, np.ndarray]:
    """The statistics (J,) of values (n, J) that normalisers use."""
    found = {name: getattr(values, name)(0) for name in ("mean", "std", "min", "max")}
    low, high = np.quantile(values, (0.01, 0.99), axis=0)
    return {**found, "q01": low, "q99": high}


def _copy_shifted(source: np.ndarray, target: np.ndarray, down: int, right: int) -> None:
    """target[y, x] = source[y + down, x + right]; pixels outside the source repeat its border."""
    height, width = source.shape[:2]
    if not down and not right:
        target[:] = source
        return
    rows = np.clip(np.arange(height) + down, 0, height - 1)
    columns = np.clip(np.arange(width) + right, 0, width - 1)
    target[:] = np.asarray(source)[rows[:, None], columns]


class Prefetch:
    """Makes batches ahead of their use in one background thread. An error in that thread is raised by `get`."""

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
        """The next batch; waits for it up to 120 s, then raises queue.Empty."""
        item = self._queue.get(timeout=120)
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Stop the thread."""
        self._stop.set()
        self._thread.join(timeout=5)
