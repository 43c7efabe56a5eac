"""What LeRobot does with our files. Runs in LeRobot's environment; imports nothing of this repository.

    peer.py act FOLDER CASE.npz OUT.npz [CAMERA ...]   load strictly, process, act, process back
    peer.py open FOLDER                                config, weights and processors: opened, or the error
    peer.py dataset FOLDER OUT.npz                     length and rate; states, actions and some frames to OUT
    peer.py write LIKE FOLDER                          record a dataset with the features of LIKE
    peer.py merge TARGET FOLDER ...                    merge datasets
    peer.py delete-first FOLDER TARGET                 a dataset without its first episode
    peer.py arm PORT FOLDER NAME CHANGE ...            drive an arm with the calibration FOLDER/NAME.json

The sizes of the vision-language model come from vlm.json in FOLDER and its tokenizer from tokenizer.json, because
LeRobot would fetch those of the published model. Nothing that computes is replaced but one fault of transformers, see
`true_patch_positions`.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import peer_arm
import peer_datasets
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
    true_patch_positions()
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


def main(argv: list[str]) -> None:
    command, folder, *rest = argv
    paths = [Path(word) for word in rest]
    match command:
        case "act":
            found = act(Path(folder), paths[0], paths[1], rest[2:])
        case "open":
            found = open_folder(Path(folder))
        case "dataset":
            found = peer_datasets.read(Path(folder), paths[0])
        case "write":
            found = peer_datasets.write(Path(folder), paths[0])
        case "merge":
            found = peer_datasets.merge(Path(folder), paths)
        case "delete-first":
            found = peer_datasets.delete_first(Path(folder), paths[0])
        case "arm":
            found = peer_arm.drive(folder, paths[0], rest[1], [float(word) for word in rest[2:]])
        case other:
            raise SystemExit(f"expected one of the commands in this file's first lines, got {other!r}")
    sys.stdout.write("\n" + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
