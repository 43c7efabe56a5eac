"""What LeRobot does with our files. Runs in LeRobot's environment; imports nothing of this repository.

A command is one line on stdin, a JSON list of a number and words; each is answered by one JSON object on stdout, with
the same number:

    act FOLDER CASE.npz OUT.npz [CAMERA ...]   load strictly, process, act, process back
    open FOLDER                                config, weights and processors: opened, or the error
    dataset FOLDER OUT.npz                     length and rate; states, actions and some frames to OUT
    write LIKE FOLDER                          record a dataset with the features of LIKE
    merge TARGET FOLDER ...                    merge datasets
    delete-first FOLDER TARGET                 a dataset without its first episode
    arm PORT FOLDER NAME CHANGE ...            drive an arm with the calibration FOLDER/NAME.json
    arm-read PORT FOLDER NAME                  positions in degrees and in -100..100
    vlm SOURCE FOLDER                          a small language model for --policy.vlm_model_name
    tokenizer SOURCE FOLDER                    a tokenizer for --policy.tokenizer_name
    plugin-published TYPE                      sizes of a policy of the plug-in against LeRobot's own
    plugin-import SOURCE                       what the plug-in says to an older LeRobot
    plugin-act, plugin-open, plugin-adapt      as peer_plugin.py says, with the plug-in lerobot_policy_grids

The sizes of the vision-language model come from vlm.json in FOLDER and its tokenizer from tokenizer.json, because
LeRobot would fetch those of the published model. Nothing that computes is replaced but one fault of transformers, see
`true_patch_positions`.
"""

import json
import os
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peer_arm
import peer_datasets
import peer_plugin
import torch


def offline_vlm(folder: Path) -> None:
    """Let transformers build the model of vlm.json and read the folder's tokenizer."""
    import transformers
    from lerobot.policies.smolvla import smolvlm_with_expert as module

    sizes = json.loads((folder / "vlm.json").read_text())
    config = transformers.SmolVLMConfig(**sizes)
    ids = SimpleNamespace(fake_image_token_id=1, global_image_token_id=1)
    module.AutoConfig = SimpleNamespace(from_pretrained=lambda _name: config)
    module.AutoProcessor = SimpleNamespace(from_pretrained=lambda _name: SimpleNamespace(tokenizer=ids))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    fast.pad_token_id = 2
    fast.truncation_side = "left"
    transformers.AutoTokenizer.from_pretrained = lambda *_a, **_k: fast


def true_patch_positions() -> None:
    """Undo a fault of transformers 4.55 to 4.57: in float32 the first two rows of patches get the same position.

    They compute bucketize(i / n * (1 - 1e-6)), which is below the boundary i / n (huggingface/transformers#41190).
    SmolVLA was trained with the versions before, and 5.x agrees with them.
    """
    import transformers

    if transformers.__version__.startswith(("4.55.", "4.56.", "4.57.")):
        rounded_down = torch.bucketize
        torch.bucketize = lambda values, *words, **options: rounded_down(values + 2e-6, *words, **options)


def load(folder: Path, *, strict: bool):
    from lerobot.configs.policies import PreTrainedConfig
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig  # noqa: F401 - registers the type
    from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

    config = PreTrainedConfig.from_pretrained(folder)
    offline_vlm(folder)
    policy = SmolVLAPolicy.from_pretrained(folder, config=config, strict=strict).eval()
    return policy, *make_pre_post_processors(config, pretrained_path=str(folder))


def act(folder: Path, case: Path, out: Path, cameras: list[str]) -> dict:
    policy, before, after = load(folder, strict=True)
    given = np.load(case)
    batch = {"observation.state": torch.from_numpy(given["state"]), "task": "pick up the red cube"}
    for name in cameras:
        batch[f"observation.images.{name}"] = torch.from_numpy(given[name]).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        chunk = policy.predict_action_chunk(before(batch), noise=torch.from_numpy(given["noise"])[None])
    np.savez(out, actions=after(chunk)[0].numpy())
    return {"shape": list(chunk.shape)}


def open_folder(folder: Path) -> dict:
    try:
        load(folder, strict=False)
    except Exception as error:
        return {"opened": False, "error": f"{type(error).__name__}: {error}"[:2000]}
    return {"opened": True, "error": ""}


COMMANDS = {
    "act": lambda folder, case, out, *cameras: act(Path(folder), Path(case), Path(out), list(cameras)),
    "open": lambda folder: open_folder(Path(folder)),
    "dataset": lambda folder, out: peer_datasets.read(Path(folder), Path(out)),
    "write": lambda like, folder: peer_datasets.write(Path(like), Path(folder)),
    "merge": lambda target, *folders: peer_datasets.merge(Path(target), [Path(folder) for folder in folders]),
    "delete-first": lambda folder, target: peer_datasets.delete_first(Path(folder), Path(target)),
    "arm": lambda port, folder, name, *change: peer_arm.drive(port, Path(folder), name, [float(v) for v in change]),
    "arm-read": lambda port, folder, name: peer_arm.read(port, Path(folder), name),
    "vlm": lambda source, folder: peer_plugin.write_vlm(Path(source), Path(folder)),
    "tokenizer": lambda source, folder: peer_plugin.write_tokenizer(Path(source), Path(folder)),
    "plugin-published": peer_plugin.published,
    "plugin-act": lambda folder, case, out, *cameras: peer_plugin.act(
        Path(folder), Path(case), Path(out), list(cameras)
    ),
    "plugin-open": lambda folder, *changes: peer_plugin.refused(Path(folder), *changes),
    "plugin-import": lambda source: peer_plugin.imported(Path(source)),
    "plugin-adapt": lambda folder: peer_plugin.adapted(Path(folder)),
}


def main() -> None:
    # Libraries print to stdout too: the answers get the real one, everybody else stderr.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    true_patch_positions()
    for line in sys.stdin:
        number, command, *words = json.loads(line)
        try:
            found = COMMANDS[command](*words)
        except Exception:
            found = {"traceback": traceback.format_exc()}
        answers.write(json.dumps(found | {"number": number}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
