"""Recorded observations for an export: of a bag, of a LeRobot dataset, or of training frames.

What a policy sees decides how large the values inside it become, so scales of int8 and the limits of fp16 are measured
on what was recorded, not on noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError
from grids_data.bag.reader import Bag, bags_in
from grids_data.bag.series import JOINTS, image_topics, ordered
from grids_data.dataset.frame_cache import resized
from grids_data.dataset.reader import open_dataset
from grids_data.units import Units
from grids_policy.export.cameras import ExportError
from grids_policy.runtime.base import PolicyInputs
from grids_policy.runtime.bundle import PolicySpec
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.train.cache import SHARD_FILE, open_cache

Recorded = tuple[dict[str, np.ndarray], np.ndarray, str]  # camera -> (h, w, 3) uint8; (J,) rad; the sentence, or ""
DEFAULT_COUNT = 32
_EVERY, _LEAST = 8, 4  # where some are held out: one of so many, and how many there must be in all


@dataclass(frozen=True, slots=True)
class Observations:
    """Those to measure on, and those held out for the parity gate. source: the name of what they are from."""

    source: str
    measured: tuple[PolicyInputs, ...]
    held_out: tuple[PolicyInputs, ...] = ()


def take_observations(
    given: Path | Sequence[PolicyInputs] | None, spec: PolicySpec, tokenizer: Path, *, hold_out: bool
) -> Observations | None:
    """The observations `given`, or recorded there; None for None.

    tokenizer: folder of tokenizer.json. hold_out: what is measured will be judged, so never on the same ones. Raises
    ExportError that names what was expected.
    """
    if given is None:
        return None
    recorded = isinstance(given, Path)
    source = given.name if recorded else "given to the exporter"
    found = read_observations(given, tokenizer, spec) if recorded else list(given)
    if not hold_out:
        return Observations(source, tuple(found))
    if len(found) < _LEAST:
        raise ExportError(
            f"{source}: expected at least {_LEAST} recorded observations, one of them for the parity gate, got "
            f"{len(found)}: record more"
        )
    last = {*range(_EVERY - 1, len(found), _EVERY)} or {len(found) - 1}
    return Observations(
        source,
        tuple(inputs for i, inputs in enumerate(found) if i not in last),
        tuple(inputs for i, inputs in enumerate(found) if i in last),
    )


def read_observations(path: Path, folder: Path, spec: PolicySpec, count: int = DEFAULT_COUNT) -> list[PolicyInputs]:
    """`count` observations spread evenly over what is recorded at `path`, as inputs of the policy `spec`.

    folder: of its tokenizer.json. Images are resized to the policy's. Raises ExportError that names what was expected
    there.
    """
    encoder = SentenceEncoder(folder, spec.language)
    found: list[PolicyInputs] = []
    try:
        for images, position_rad, sentence in _recorded(Path(path), spec, count):
            frames = tuple(resized(images[c.name], (c.height, c.width)) for c in spec.cameras)
            found.append(
                prepare_inputs(
                    spec,
                    frames=tuple(map(np.ascontiguousarray, frames)),
                    present=(True,) * len(frames),
                    position_rad=position_rad,
                    encoder=encoder,
                    instruction=sentence or spec.language.instruction or "go",
                    noise_seed=len(found),
                    committed_rad=np.empty((0, len(spec.joints))),
                )
            )
    except (GridsError, ValueError, OSError, LookupError) as error:
        raise ExportError(f"{path}: cannot be used as recorded observations: {error}") from error
    if not found:
        raise ExportError(f"{path}: expected recorded observations, found none")
    return found


def _recorded(path: Path, spec: PolicySpec, count: int) -> Iterator[Recorded]:
    if not path.exists():
        raise ExportError("expected a bag, a LeRobot dataset or training frames, found nothing")
    if (path / "meta" / "info.json").is_file():
        return _of_dataset(path, spec, count)
    if next(path.rglob(SHARD_FILE), None) is not None:
        return _of_frames(path, spec, count)
    if bags := bags_in(path):
        return _of_bags(bags, spec, count)
    raise ExportError("expected a bag, a LeRobot dataset or training frames, found none of them")


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` of `total` indices, evenly spread and ascending."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)) if total else np.empty(0, int)


def _of_dataset(path: Path, spec: PolicySpec, count: int) -> Iterator[Recorded]:
    dataset = open_dataset(path)
    try:
        states = dataset.column("observation.state")
        if len(states):
            _require_joints(spec, np.size(states[0]))
        for index in _spread(len(dataset), count):
            images = {c.name: dataset.frame(c.name, int(index)) for c in spec.cameras}
            sentence = next(iter(dataset.episode_of(int(index)).tasks), "")
            yield images, spec.state_units.to_rad(states[index]), sentence
    finally:
        dataset.close()


def _require_joints(spec: PolicySpec, count: int) -> None:
    if count != len(spec.state_units.scale):
        raise ExportError(f"expected the state of {len(spec.state_units.scale)} joints, got {count} numbers")


def _of_frames(path: Path, spec: PolicySpec, count: int) -> Iterator[Recorded]:
    shards = open_cache([path])
    if missing := [c.name for c in spec.cameras if c.name not in shards[0].spec.cameras]:
        raise ExportError(
            f"expected the cameras of the policy, {missing[0]!r} among them, got {shards[0].spec.cameras}"
        )
    _require_joints(spec, len(shards[0].spec.joints))
    units: Units = shards[0].spec.units or spec.state_units
    places = [(shard, episode, i) for shard in shards for episode in shard.episodes for i in range(episode.images)]
    for at in _spread(len(places), count):
        shard, episode, i = places[at]
        images = {c.name: np.asarray(shard.images[c.name][episode.image_start + i]) for c in spec.cameras}
        state = np.asarray(shard.state[episode.tick_start + i * shard.spec.image_every])
        yield images, units.to_rad(state), episode.instruction


def _of_bags(bags: list[Path], spec: PolicySpec, count: int) -> Iterator[Recorded]:
    share = -(-count // len(bags))
    for folder in bags:
        with Bag(folder) as bag:
            streams = {c.name: _images_of(bag, c.name) for c in spec.cameras}
            joints = [(bag.stamp_ns(one), ordered(bag.decode(one))) for one in bag.messages([JOINTS])]
            if not joints:
                raise ExportError(f"expected joint states on {JOINTS} in {folder}, found none")
            stamps = np.array([stamp for stamp, _ in joints])
            first = next(iter(streams.values()))
            for index in _spread(len(first), share):
                now = first[index][0]
                images = {
                    name: bag.image(min(stream, key=lambda item, now=now: abs(item[0] - now))[1])
                    for name, stream in streams.items()
                }
                yield images, joints[int(np.abs(stamps - now).argmin())][1], ""


def _images_of(bag: Bag, camera: str) -> list[tuple[int, object]]:
    """(stamp, message) of every image of a camera. Raises ExportError where there is none."""
    topic = next((name for name in image_topics(camera) if bag.counts.get(name)), None)
    if topic is None:
        raise ExportError(f"expected images of the {camera} camera in {bag.folder}, found none")
    return [(bag.stamp_ns(message), message) for message in bag.messages([topic])]
