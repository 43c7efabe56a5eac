"""The plug-in lerobot_policy_grids, found and loaded as LeRobot's commands do. Runs in LeRobot's environment."""

import json
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


def adapted(folder: Path) -> dict:
    """Parameters that LeRobot trains when it puts its default adapters on, and those that an image's tokens reach."""
    policy = opened(folder)[0]
    policy.config.pretrained_path = folder  # as --policy.path does
    wrapped = policy.wrap_with_peft(peft_cli_overrides={"method_type": "LORA", "r": 2})
    policy.model.vlm_with_expert.embed_image(torch.rand(1, 3, 64, 64)).square().sum().backward()
    trained = {name: value for name, value in wrapped.named_parameters() if value.requires_grad}
    return {"trained": list(trained), "reached": [name for name, value in trained.items() if value.grad is not None]}
