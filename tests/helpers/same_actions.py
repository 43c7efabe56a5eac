"""One random observation, and the actions that a checkpoint computes of it here, to compare with LeRobot's."""

import json

import numpy as np
import torch
from repository import ROOT

from grids_policy.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from grids_policy.model.relative import from_relative, relative_mask
from grids_policy.runtime.language import SentenceEncoder, policy_language

TINY = ROOT / "tests" / "data" / "oracle" / "tiny"
SIZES = json.loads((TINY / "oracle_config.json").read_text())["vlm"]


def written(checkpoint: Checkpoint, folder):
    """The checkpoint as we save it, with the sizes of the language model for the peer."""
    save_checkpoint(folder, checkpoint)
    (folder / "vlm.json").write_text(json.dumps(SIZES))
    return folder


def case(config, path, state: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Images, noise and, where none is given, a random state."""
    random = np.random.default_rng(0)
    values = {
        name: random.integers(0, 256, (*hw, 3), dtype=np.uint8)
        for name, hw in zip(config.cameras, config.image_hw, strict=True)
    }
    values["state"] = random.normal(0, 20, config.state_dim).astype(np.float32)
    values["noise"] = random.standard_normal((config.chunk_size, config.max_action_dim)).astype(np.float32)
    if state is not None:
        values["state"] = state.astype(np.float32)
    np.savez(path, **values)
    return values


@torch.no_grad()
def own_actions(checkpoint: Checkpoint, given: dict[str, np.ndarray]) -> np.ndarray:
    """(S, J) in the data's units."""
    policy, config = checkpoint.policy, checkpoint.config
    images = policy.preprocess([torch.from_numpy(given[name])[None] for name in config.cameras])
    language = policy_language(config, None, checkpoint.normalizer("observation.state"))
    encoder = SentenceEncoder(checkpoint.tokenizer.parent, language)
    tokens, mask = encoder.encode("pick up the red cube", given["state"])
    raw = torch.from_numpy(given["state"])[None]
    present = torch.ones(1, len(config.cameras), dtype=torch.bool)
    words = torch.from_numpy(tokens)[None], torch.from_numpy(mask)[None]
    state = checkpoint.normalizer("observation.state").apply(raw)
    cache = policy.encode(images, present, state, *words)
    chunk = policy.sample(torch.from_numpy(given["noise"])[None], cache)[..., : config.action_dim]
    relative = relative_mask(config.relative_actions, config.action_dim)
    mask = None if relative is None else torch.tensor(relative)
    return from_relative(checkpoint.normalizer("action").invert(chunk), raw, mask)[0].numpy()


def difference(peer, folder, scratch, state: np.ndarray | None = None) -> float:
    """Largest difference of the actions that LeRobot's plug-in and we compute, in standard deviations of the data."""
    checkpoint = load_checkpoint(folder)
    given = case(checkpoint.config, scratch / "case.npz", state)
    peer.run("plugin-act", folder, scratch / "case.npz", scratch / "out.npz", *checkpoint.config.cameras)
    theirs = np.load(scratch / "out.npz")["actions"]
    spread = checkpoint.statistics["action.std"].numpy()
    return float(np.abs((theirs - own_actions(checkpoint, given)) / spread).max())
