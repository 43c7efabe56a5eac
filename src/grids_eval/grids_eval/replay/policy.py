"""Runs a bundle on recorded observations and noise seeds and compares its chunks with the recorded ones.

On the same engine, with raw images, they are equal bit for bit. With JPEG images, another engine or another bundle the
largest differences are printed as a table. A bag does not contain which of two messages with almost equal times had
reached the policy when it started an inference, so the few possible observations are tried one after another.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.chunk import Chunk
from grids_common.process import workspace
from grids_common.stamps import stamp_ns
from grids_data.bag import cdr
from grids_data.bag.reader import Bag, BagMessage
from grids_data.bag.series import CHUNKS, JOINTS, image_topics, ordered
from grids_data.errors import DataError
from grids_policy.node.observation import Joints, Rejection, interpolate_joints
from grids_policy.runtime.base import PolicyInputs, PolicyOutputs
from grids_policy.runtime.bundle import Bundle, read_manifest
from grids_policy.runtime.inputs import prepare_inputs
from grids_policy.runtime.language import SentenceEncoder
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime
from grids_recorder.judge.verdict import nearest

INSTRUCTION = "/policy/instruction"
_JOINT_GAP_S = 0.10


@dataclass(frozen=True, slots=True)
class ChunkDifference:
    """The largest difference of one chunk, in rad (0 when `exact`), with its joint and action step."""

    sequence: int
    exact: bool
    difference_rad: float
    joint: str
    step: int


@dataclass(slots=True)
class Recorded:
    """The messages a policy received and its chunks; images are still encoded. Times are ns; raw: no image is JPEG."""

    frames: dict[str, tuple[np.ndarray, list[BagMessage]]]  # camera: stamps in ns, images
    joints: tuple[Joints, ...]
    instructions: list[tuple[int, str]]
    chunks: list[tuple[int, object]]
    raw: bool


def read_recorded(bag: Bag, cameras: tuple[str, ...]) -> Recorded:
    """Read a bag's observations and chunks. Raises DataError that names what is missing."""
    frames, raw = {}, True
    for camera in cameras:
        topic = next((name for name in image_topics(camera) if bag.counts.get(name)), None)
        if topic is None:
            raise DataError(f"{bag.folder}: the bundle needs the {camera} camera, but no image of it is recorded")
        records = list(bag.messages([topic]))
        raw = raw and records[0].type == cdr.IMAGE
        frames[camera] = (np.array([cdr.stamp_ns(one.raw) for one in records]), records)
    joints = [Joints(cdr.stamp_ns(one.raw), ordered(bag.decode(one))) for one in bag.messages([JOINTS])]
    instructions = [(one.time_ns, bag.decode(one).data) for one in bag.messages([INSTRUCTION])]
    chunks = [(one.time_ns, bag.decode(one)) for one in bag.messages([CHUNKS])]
    computed = [(at, chunk) for at, chunk in chunks if len(chunk.stage_s)]
    if not computed:
        raise DataError(f"{bag.folder}: expected chunks of a policy on {CHUNKS}, found none to compare with")
    return Recorded(frames, tuple(sorted(joints, key=lambda j: j.stamp_ns)), instructions, computed, raw)


class Replayer:
    """Runs a loaded bundle on one recording. Raises DataError when the recording lacks something."""

    def __init__(self, bag: Bag, runtime: OnnxRuntime, encoder: SentenceEncoder) -> None:
        self.bundle: Bundle = runtime.bundle
        self._bag, self._runtime, self._encoder = bag, runtime, encoder
        self.recorded = read_recorded(bag, tuple(camera.name for camera in self.bundle.cameras))
        self._outputs = PolicyOutputs.empty(self.bundle)

    def _image(self, camera: str, stamp: int, *, earlier: bool) -> np.ndarray:
        """The image nearest to `stamp`, or the one before it, as the nearest may have arrived too late."""
        stamps, records = self.recorded.frames[camera]
        index = int(nearest(stamps, np.array([stamp]))[0])
        record = records[max(index - earlier, 0)]
        return np.ascontiguousarray(self._bag.image(record))

    def _position(self, message, stamp: int, known: int) -> np.ndarray:
        """Joints (6,) in rad at `stamp`. known 0: from all samples; else none from it on, nor `known` - 1 before."""
        samples = self.recorded.joints
        if known:
            before = int(np.searchsorted([sample.stamp_ns for sample in samples], stamp))
            samples = samples[: max(before - known + 1, 0)]
        position = interpolate_joints(samples, stamp, _JOINT_GAP_S)
        if isinstance(position, Rejection):
            raise DataError(f"chunk {message.sequence}: {position.text}")
        return position

    def _instruction(self, time_ns: int) -> str:
        texts = [text for at, text in self.recorded.instructions if at <= time_ns]
        return texts[-1] if texts else self.bundle.language.instruction

    def _variants(self) -> list[tuple[bool, int]]:
        """Pairs (use the previous image of the other cameras, `known` of `_position`), the most likely first."""
        comparable = self.recorded.raw and self.bundle.bundle_id in self._bag.episode.get("bundle_ids", [])
        return [(False, 0), (False, 1), (True, 0), (True, 1), (False, 2), (True, 2)] if comparable else [(False, 0)]

    def _inputs(self, time_ns: int, message, previous, variant: tuple[bool, int]) -> PolicyInputs:
        bundle, stamp = self.bundle, stamp_ns(message.header.stamp)
        earlier, known = variant
        committed = np.zeros((0, len(bundle.joints)))
        if message.committed_rows and previous is not None:
            times = stamp + np.round(np.arange(int(message.committed_rows)) * message.dt * 1e9).astype(np.int64)
            committed = _as_chunk(previous).at(times)
        return prepare_inputs(
            bundle,
            frames=tuple(self._image(c.name, stamp, earlier=earlier and i > 0) for i, c in enumerate(bundle.cameras)),
            present=(True,) * len(bundle.cameras),
            position_rad=self._position(message, stamp, known),
            encoder=self._encoder,
            instruction=self._instruction(time_ns),
            noise_seed=int(message.noise_seed),
            committed_rad=committed,
        )

    def compare(self) -> Iterator[ChunkDifference]:
        """Compare each recorded chunk with the one computed now. Raises DataError where the shapes differ."""
        previous = None
        for time_ns, message in self.recorded.chunks:
            same = previous is not None and previous.epoch == message.epoch
            best: ChunkDifference | None = None
            for variant in self._variants():
                found = self._once(message, self._inputs(time_ns, message, previous if same else None, variant))
                best = found if best is None or found.difference_rad < best.difference_rad else best
                if best.exact:
                    break
            yield best
            previous = message

    def _once(self, message, inputs: PolicyInputs) -> ChunkDifference:
        self._runtime.infer(inputs, self._outputs)
        now = self.bundle.action_units.to_rad(self._outputs.actions.astype(np.float64))
        then = np.asarray(message.positions).reshape(-1, len(message.joint_names))
        if now.shape != then.shape:
            raise DataError(f"expected chunks of shape {then.shape} as recorded, the bundle makes {now.shape}")
        difference = np.abs(now - then)
        step, joint = np.unravel_index(int(difference.argmax()), difference.shape)
        exact = bool(np.array_equal(now, then))
        return ChunkDifference(
            int(message.sequence), exact, float(difference.max()), message.joint_names[joint], int(step)
        )


def _as_chunk(message) -> Chunk:
    positions = np.asarray(message.positions, float).reshape(-1, len(message.joint_names))
    return Chunk(stamp_ns(message.header.stamp), message.dt, positions)


def find_bundle(recorded_ids: Sequence[str], models: Path) -> Path:
    """The folder below `models` of the first recorded bundle id. Raises DataError that lists the bundles found."""
    found = {read_manifest(path.parent).bundle_id: path.parent for path in sorted(models.glob("*/policy.json"))}
    for name in recorded_ids:
        if name in found:
            return found[name]
    expected = ", ".join(recorded_ids) or "the recorded policy (the episode names none)"
    raise DataError(
        f"expected the bundle {expected} under {models}, found {', '.join(found) or 'none'}: give --bundle FOLDER"
    )


def replay_policy(folder: Path, chosen: Path | None, engine: str) -> int:
    """Replay the episode in `folder` and print the outcome. Exit status: 0 equal bit for bit, 1 different.

    chosen: bundle folder; None: the bundle below ./models with a recorded id. Raises DataError or BundleError.
    """
    with Bag(folder) as bag:
        recorded_ids = bag.episode.get("bundle_ids", [])
        path = (chosen or find_bundle(recorded_ids, workspace() / "models")).expanduser()
        runtime = OnnxRuntime(path, EngineOptions(engine))
        try:
            replayer = Replayer(bag, runtime, SentenceEncoder(path, runtime.bundle.language))
            differences = list(replayer.compare())
            raw = replayer.recorded.raw
        finally:
            runtime.close()
    return report(differences, runtime.bundle.bundle_id, recorded_ids, raw=raw)


def report(differences: list[ChunkDifference], bundle_id: str, recorded_ids: list[str], *, raw: bool) -> int:
    """Print the comparison. Returns 0 when every chunk is equal bit for bit, else 1."""
    exact = sum(one.exact for one in differences)
    write = sys.stdout.write
    write(f"{exact} of {len(differences)} chunks are equal bit for bit\n")
    if exact == len(differences):
        return 0
    if recorded_ids and bundle_id not in recorded_ids:
        write(f"the episode was recorded with {', '.join(recorded_ids)}, but is compared with {bundle_id}\n")
    if not raw:
        write("images were recorded as JPEG, so small differences are expected; record with images: raw for equality\n")
    write("chunk  largest difference\n")
    for one in sorted(differences, key=lambda one: -one.difference_rad)[:20]:
        write(f"{one.sequence:5d}  {1000 * one.difference_rad:8.3f} mrad  {one.joint}, action step {one.step}\n")
    return 1
