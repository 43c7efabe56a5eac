"""The plug-in lerobot_policy_grids, found and loaded as LeRobot's commands do. Runs in LeRobot's environment."""

import json
import runpy
import sys
from pathlib import Path

import numpy as np
import torch

MARKERS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "image_token": "<image>",
}


def write_vlm(source: Path, folder: Path) -> dict:
    """A model for --policy.vlm_model_name in the sizes of vlm.json in `source`, without weights, and a tokenizer."""
    import transformers as t

    t.SmolVLMConfig(**json.loads((source / "vlm.json").read_text())).save_pretrained(folder)
    words = t.PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), pad_token="<|im_end|>", truncation_side="left",
        extra_special_tokens={**MARKERS, "end_of_utterance_token": "<end_of_utterance>"},
    )  # fmt: skip
    t.SmolVLMProcessor(t.SmolVLMImageProcessor(), words, t.SmolVLMVideoProcessor()).save_pretrained(folder)
    return {"tokens": len(words)}


def write_tokenizer(source: Path, folder: Path) -> dict:
    """The tokenizer.json of `source`, of PaliGemma's build, as the folder that --policy.tokenizer_name takes."""
    import transformers as t

    words = t.PreTrainedTokenizerFast(
        tokenizer_file=str(source / "tokenizer.json"), pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    words.save_pretrained(folder)
    return {"tokens": len(words)}


def opened(folder: Path, *changes: str):
    """(policy, pre-processor, post-processor) as lerobot-eval makes them of --policy.path and further arguments."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    config = PreTrainedConfig.from_pretrained(folder, cli_overrides=list(changes))
    policy = get_policy_class(config.type).from_pretrained(folder, config=config)
    return policy, *make_pre_post_processors(config, pretrained_path=str(folder))


def act(folder: Path, case: Path, out: Path, cameras: list[str]) -> dict:
    """Actions of the observation in `case` to `out` (npz), in the data's units; the policy saved again beside it."""
    policy, before, after = opened(folder)
    given = np.load(case)
    batch = {"observation.state": torch.from_numpy(given["state"]), "task": "pick up the red cube"}
    for name in cameras:
        batch[f"observation.images.{name}"] = torch.from_numpy(given[name]).permute(2, 0, 1).float() / 255
    batch = before(batch)
    chunk = policy.predict_action_chunk(dict(batch), noise=torch.from_numpy(given["noise"])[None])
    np.savez(out, actions=after(chunk)[0].numpy())
    policy.save_pretrained(out.with_suffix(""))
    return {"type": policy.config.type, "single": list(policy.select_action(dict(batch)).shape)}


def refused(folder: Path, *changes: str) -> dict:
    """Why the plug-in does not open a folder, "" where it does."""
    try:
        opened(folder, *changes)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"[:2000]}
    return {"error": ""}


def imported(source: Path) -> dict:
    """What the plug-in in the folder `source` says on import: to this LeRobot, and to a Python 3.11."""
    sys.path.insert(0, str(source))
    found = {}
    try:
        import lerobot_policy_grids  # noqa: F401
    except ImportError as error:
        found["lerobot"] = str(error)
    refuse_older = runpy.run_path(str(source / "lerobot_policy_grids" / "needed.py"))["refuse_older"]
    try:
        refuse_older((3, 11), "0.6.1")
    except ImportError as error:
        found["python"] = str(error)
    sys.path.remove(str(source))
    return found


def adapted(folder: Path) -> dict:
    """Parameters that LeRobot trains when it puts its default adapters on, and those that an image's tokens reach."""
    policy = opened(folder)[0]
    policy.config.pretrained_path = folder  # as --policy.path does
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2})
    model = policy.model
    tower, side = (
        (model.vlm_with_expert, 64) if hasattr(model, "vlm_with_expert") else (model.paligemma_with_expert, 112)
    )
    tower.embed_image(torch.rand(1, 3, side, side)).square().sum().backward()
    trained = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    return {"trained": list(trained), "reached": [name for name, value in trained.items() if value.grad is not None]}


def published(kind: str) -> dict:
    """In which tensors the plug-in's policy of full size differs from LeRobot's own."""
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import get_policy_class
    from lerobot.utils.import_utils import register_third_party_plugins

    register_third_party_plugins()
    shapes = []
    for name in (kind, f"grids_{kind}"):
        config = PreTrainedConfig.get_choice_class(name)(device="cpu")
        config.device = "meta"  # no numbers, only shapes
        config.input_features = {
            "observation.images.front": PolicyFeature(FeatureType.VISUAL, (3, 480, 640)),
            "observation.state": PolicyFeature(FeatureType.STATE, (6,)),
        }
        config.output_features = {"action": PolicyFeature(FeatureType.ACTION, (6,))}
        with torch.device("meta"):
            policy = get_policy_class(name)(config)
        shapes.append({key: tuple(value.shape) for key, value in policy.state_dict().items()})
    theirs, ours = shapes
    added = {key: shape for key, shape in ours.items() if theirs.get(key) != shape}
    return {"tensors": len(theirs), "lost": sorted(set(theirs) - set(ours)), "added": added}
