"""The exported graphs as a stage provider for the parity table.

The exporter writes the graphs to a temporary folder, in fp32, and ONNX Runtime runs them on the CPU, one sample at a
time. The graphs compute only what a robot needs, so some stages of a reference have no counterpart: keys and values of
the expert's cross layers are already projected, empty cameras are left out, and there are no losses or gradients.
"""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from grids_policy.export.cli import write_graphs
from grids_policy.export.families import GRAPH_SETS
from grids_policy.export.spec import ExportOptions
from grids_policy.model.cameras import without_cameras
from grids_policy.model.checkpoint import Checkpoint
from grids_policy.model.config import PolicyConfig
from grids_policy.parity.cli import ONNX_TOLERANCE, OracleError, Reference

GRAPHS = ("preprocess", "vision", "prefix", "denoise_step")


def reference_columns(config: PolicyConfig, *, slots: int, words: int) -> tuple[list[int], list[int]]:
    """Maps the graph's prefix tokens to the reference's: (graph positions, reference positions).

    The reference has a full block for every camera slot and `words` language tokens; the graph has no image tokens for
    an empty slot (its special tokens, if any, stay) and pads the sentence to the config's length.
    """
    before, after = (2, 1) if config.image_special_tokens else (0, 0)
    last = int(config.family == "smolvla")  # the state token
    kept, cameras = config.image_tokens, len(config.image_keys)
    theirs: list[int] = []
    for slot in range(slots):
        start = slot * (before + kept + after)
        block = list(range(start, start + before + kept + after))
        theirs += block if slot < cameras else block[:before] + block[before + kept :]
    own = list(range(len(theirs)))
    start = slots * (before + kept + after)
    state = len(own) + config.tokenizer_max_length
    ours = [*own, *range(len(own), len(own) + words), *[state] * last]
    return ours, [*theirs, *range(start, start + words + last)]


def open_graphs(
    checkpoint: Checkpoint, folder: Path, options: ExportOptions
) -> dict[str, onnxruntime.InferenceSession]:
    """Export the four graphs in float32 into `folder` and open them on the CPU."""
    with warnings.catch_warnings():  # the converter warns about its own internals
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        write_graphs(checkpoint, options, folder, lambda _: None)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    providers = ["CPUExecutionProvider"]
    return {
        name: onnxruntime.InferenceSession(folder / f"{name}.onnx", settings, providers=providers) for name in GRAPHS
    }


@dataclasses.dataclass(frozen=True)
class OnnxStages:
    """The exporter's graphs, in float32."""

    checkpoint: Checkpoint
    name: str = "onnx"
    tolerance: float = ONNX_TOLERANCE

    def stages(self, reference: Reference) -> dict[str, np.ndarray]:
        """All stages that the graphs have. Raises OracleError when the numbers of cameras differ."""
        if len(reference.frames) < len(self.checkpoint.config.image_keys) and reference.cameras:
            absent = [key.rsplit(".", 1)[-1] for key in reference.cameras[len(reference.frames) :]]
            mounted = without_cameras(self.checkpoint, {*absent} & {*self.checkpoint.config.cameras})
            return dataclasses.replace(self, checkpoint=mounted).stages(dataclasses.replace(reference, cameras=()))
        config, frames = self.checkpoint.config, reference.frames
        if len(frames) != len(config.image_keys):
            raise OracleError(f"the reference has {len(frames)} cameras, the checkpoint {len(config.image_keys)}")
        sizes = [f"{n}={f.shape[2]}x{f.shape[1]}" for n, f in zip(self.checkpoint.cameras, frames, strict=True)]
        with tempfile.TemporaryDirectory() as folder:
            sessions = open_graphs(self.checkpoint, Path(folder), ExportOptions(cameras=",".join(sizes)))
            samples = [self._sample(sessions, reference, i) for i in range(len(frames[0]))]
        steps_first = ("denoise/x_traj", "denoise/v_traj")
        return {name: np.stack([one[name] for one in samples], name in steps_first) for name in samples[0]}

    def _sample(self, sessions: dict[str, Any], reference: Reference, i: int) -> dict[str, np.ndarray]:
        """Every stage of sample i, without the batch axis."""
        config = self.checkpoint.config
        frames = {f"image_{n}": f[i] for n, f in zip(self.checkpoint.cameras, reference.frames, strict=True)}
        images = call(sessions["preprocess"], frames)["images"]
        dense = call(sessions["vision"], {"images": images})["dense"]
        words = reference["pre/lang_tokens"].shape[1]
        fill = (0, config.tokenizer_max_length - words)
        observed = {
            "dense": dense,
            "present": reference.image_mask[i, : len(config.image_keys)],
            "state": reference["in/state_raw"][i],
            "tokens": np.pad(reference["pre/lang_tokens"][i], fill),
            "token_mask": np.pad(reference["pre/lang_masks"][i], fill),
        }
        cache = call(sessions["prefix"], observed)
        found = {}
        for camera in range(len(config.image_keys)):
            found[f"pre/image{camera + 1}"] = images[camera]
            found[f"vis/connector{camera + 1}"] = dense[camera]
            if config.sampler.kind == "dense":
                found[f"vis/tokens{camera + 1}"] = dense[camera]
        return found | self._prefix(cache, reference, words) | self._denoise(sessions, cache, reference, i)

    def _prefix(self, cache: dict[str, np.ndarray], reference: Reference, words: int) -> dict[str, np.ndarray]:
        """Pad mask, and the language model's keys and values where self layers read them as they are."""
        config = self.checkpoint.config
        own, theirs = reference_columns(config, slots=reference.slots, words=words)
        length = reference["prefix/pad_masks"].shape[1]
        pad = np.zeros(length, bool)
        pad[theirs] = cache["prefix_pad"][own]
        found = {"prefix/pad_masks": pad}
        for index, layer in enumerate(config.expert_layers):
            if config.is_self_layer(layer):
                for kind in "kv":
                    tokens = cache[f"{kind}_{index}"].swapaxes(0, 1)  # (P, G, D)
                    found[f"cache/{layer}/{kind}"] = placed = np.zeros((length, *tokens.shape[1:]), tokens.dtype)
                    placed[theirs] = tokens[own]
        return found

    def _denoise(
        self, sessions: dict[str, Any], cache: dict[str, np.ndarray], reference: Reference, i: int
    ) -> dict[str, np.ndarray]:
        config = self.checkpoint.config
        noise = reference["in/noise"][i]
        kept = {name: cache[name] for name in GRAPH_SETS[config.family].cache_names(config)}
        if config.relative_actions:
            kept["state"] = reference["in/state_raw"][i]
        none = {
            "committed": np.zeros((config.chunk_size, config.action_dim), np.float32),
            "committed_rows": np.array(0),
        }

        def step(x: np.ndarray, index: int) -> tuple[np.ndarray, np.ndarray]:
            out = call(sessions["denoise_step"], {"x": x, "step": np.array(index), **none, **kept})
            return out["x_next"], out["actions"]

        found, x, trajectory, velocities = {}, noise, [], []
        schedule = [1.0 - index / config.num_steps for index in range(config.num_steps)]
        for text in reference.times():
            near = [index for index, time in enumerate(schedule) if abs(time - float(text)) < 1e-6]
            if near:
                found[f"denoise/v_t{text}"] = (step(noise, near[0])[0] - noise) * -config.num_steps
        for index in range(config.num_steps):
            before = x
            x, actions = step(x, index)
            trajectory.append(x)
            velocities.append((x - before) * -config.num_steps)
        found["denoise/x_traj"], found["denoise/v_traj"] = np.stack(trajectory), np.stack(velocities)
        found["out/actions_padded"] = x
        found["out/action_chunk"] = x[:, : config.action_dim]
        found["out/action_chunk_unnormalised"] = actions
        return found


def call(session: onnxruntime.InferenceSession, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Run one graph on the inputs it still has (unused ones are dropped at export)."""
    known = {entry.name for entry in session.get_inputs()}
    names = [entry.name for entry in session.get_outputs()]
    return dict(zip(names, session.run(names, {k: v for k, v in inputs.items() if k in known}), strict=True))
