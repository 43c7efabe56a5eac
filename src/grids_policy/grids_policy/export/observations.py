"""Recorded observations for an export: of a bag, of a LeRobot dataset, or of training frames.

What a policy sees decides how large the values inside it become, so scales of int8 and the limits of fp16 are measured
on what was recorded, not on noise.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from grids_policy.runtime.bundle import Bundle
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.train.cache import SHARD_FILE, open_cache

Recorded = tuple[dict[str, np.ndarray], np.ndarray, str]  # camera -> (h, w, 3) uint8; (J,) rad; the sentence, or ""
DEFAULT_COUNT = 32


def read_observations(path: Path, folder: Path, bundle: Bundle, count: int = DEFAULT_COUNT) -> list[PolicyInputs]:
    """`count` observations spread evenly over what is recorded at `path`, as inputs of the bundle in `folder`.

    Images are resized to the bundle's. Raises ExportError that names what was expected there.
    """
    encoder = SentenceEncoder(folder, bundle.language)
    found: list[PolicyInputs] = []
    try:
        for images, position_rad, sentence in _recorded(Path(path), bundle, count):
            frames = tuple(resized(images[c.name], (c.height, c.width)) for c in bundle.cameras)
            found.append(
                prepare_inputs(
                    bundle,
                    frames=tuple(map(np.ascontiguousarray, frames)),
                    present=(True,) * len(frames),
                    position_rad=position_rad,
                    encoder=encoder,
                    instruction=sentence or bundle.language.instruction or "go",
                    noise_seed=len(found),
                    committed_rad=np.empty((0, len(bundle.joints))),
                )
            )
    except (GridsError, ValueError, OSError, LookupError) as error:
        raise ExportError(f"{path}: cannot be used as recorded observations: {error}") from error
    if not found:
        raise ExportError(f"{path}: expected recorded observations, found none")
    return found


def _recorded(path: Path, bundle: Bundle, count: int) -> Iterator[Recorded]:
    if not path.exists():
        raise ExportError("expected a bag, a LeRobot dataset or training frames, found nothing")
    if (path / "meta" / "info.json").is_file():
        return _of_dataset(path, bundle, count)
    if next(path.rglob(SHARD_FILE), None) is not None:
        return _of_frames(path, bundle, count)
    if bags := bags_in(path):
        return _of_bags(bags, bundle, count)
    raise ExportError("expected a bag, a LeRobot dataset or training frames, found none of them")


def _spread(total: int, count: int) -> np.ndarray:
    """At most `count` of `total` indices, evenly spread and ascending."""
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int)) if total else np.empty(0, int)


def _of_dataset(path: Path, bundle: Bundle, count: int) -> Iterator[Recorded]:
    dataset = open_dataset(path)
    try:
        states = dataset.column("observation.state")
        if len(states):
            _require_joints(bundle, np.size(states[0]))
        for index in _spread(len(dataset), count):
            images = {c.name: dataset.frame(c.name, int(index)) for c in bundle.cameras}
            sentence = next(iter(dataset.episode_of(int(index)).tasks), "")
            yield images, bundle.state_units.to_rad(states[index]), sentence
    finally:
        dataset.close()


def _require_joints(bundle: Bundle, count: int) -> None:
    if count != len(bundle.joints):
        raise ExportError(f"expected the state of {len(bundle.joints)} joints, got {count} numbers")


def _of_frames(path: Path, bundle: Bundle, count: int) -> Iterator[Recorded]:
    shards = open_cache([path])
    if missing := [c.name for c in bundle.cameras if c.name not in shards[0].spec.cameras]:
        raise ExportError(
            f"expected the cameras of the policy, {missing[0]!r} among them, got {shards[0].spec.cameras}"
        )
    _require_joints(bundle, len(shards[0].spec.joints))
    units: Units = shards[0].spec.units or bundle.state_units
    places = [(shard, episode, i) for shard in shards for episode in shard.episodes for i in range(episode.images)]
    for at in _spread(len(places), count):
        shard, episode, i = places[at]
        images = {c.name: np.asarray(shard.images[c.name][episode.image_start + i]) for c in bundle.cameras}
        state = np.asarray(shard.state[episode.tick_start + i * shard.spec.image_every])
        yield images, units.to_rad(state), episode.instruction


def _of_bags(bags: list[Path], bundle: Bundle, count: int) -> Iterator[Recorded]:
    share = -(-count // len(bags))
    for folder in bags:
        with Bag(folder) as bag:
            streams = {c.name: _images_of(bag, c.name) for c in bundle.cameras}
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
