"""What LeRobot reads from our datasets and does with them. Runs in LeRobot's environment."""

from pathlib import Path

import numpy as np

VALUES = ("observation.state", "action")
PICTURE = "observation.images."


def opened(folder: Path):
    """The dataset, decoded with torchcodec where it finds the FFmpeg libraries that it needs."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    try:
        import torchcodec  # noqa: F401
    except (ImportError, RuntimeError):
        return LeRobotDataset("local/here", root=folder, video_backend="pyav")
    return LeRobotDataset("local/here", root=folder)


def read(folder: Path, out: Path) -> dict:
    """States, actions and three decoded frames of each camera to `out` (npz)."""
    data = opened(folder)
    indices = [0, len(data) // 2, len(data) - 1]
    found = {name: np.stack([np.asarray(row) for row in data.hf_dataset[name]]) for name in VALUES}
    for key in data.meta.camera_keys:
        frames = [data[index][key].permute(1, 2, 0).numpy() for index in indices]
        found[key] = (np.stack(frames) * 255).round().astype(np.uint8)
    np.savez(out, indices=indices, **found)
    return {"length": len(data), "fps": data.fps, "episodes": data.num_episodes, "tasks": list(data.meta.tasks.index)}


def write(like: Path, folder: Path) -> dict:
    """Record one episode as LeRobot does, in the codec that it chooses, with the features of the dataset `like`."""
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    source = opened(like).meta
    counted = ("timestamp", "frame_index", "episode_index", "index", "task_index")
    features = {name: feature for name, feature in source.features.items() if name not in counted}
    kept = {n: {k: f[k] for k in ("dtype", "shape", "names")} for n, f in features.items()}
    data = LeRobotDataset.create("local/new", source.fps, kept, root=folder, robot_type=source.robot_type)
    for step in range(20):
        data.add_frame({name: _value(feature, step) for name, feature in kept.items()} | {"task": "lift"})
    data.save_episode()
    data.finalize()
    return {"length": 20}


def _value(feature: dict, step: int) -> np.ndarray:
    shape = tuple(feature["shape"])
    kind = np.uint8 if feature["dtype"] in ("video", "image") else np.dtype(feature["dtype"])
    return np.full(shape, step, kind)


def merge(target: Path, folders: list[Path]) -> dict:
    """Merge datasets with LeRobot's own tool."""
    from lerobot.datasets.dataset_tools import merge_datasets

    try:
        merged = merge_datasets([opened(folder) for folder in folders], "local/merged", output_dir=target)
    except ValueError as error:
        return {"merged": False, "error": str(error)}
    return {"merged": True, "length": len(merged), "episodes": merged.num_episodes}


def delete_first(folder: Path, target: Path) -> dict:
    """Delete episode 0 with LeRobot's own tool."""
    from lerobot.datasets.dataset_tools import delete_episodes

    rest = delete_episodes(opened(folder), [0], output_dir=target, repo_id="local/rest")
    return {"length": len(rest), "episodes": rest.num_episodes}
