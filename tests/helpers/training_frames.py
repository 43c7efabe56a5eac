"""One shard of training frames."""

import numpy as np

from grids_policy.train.cache import CacheSpec, EpisodeFrames, ShardWriter


def frames(folder, images: int = 6, joints: str = "abcdef", second: str = "wrist"):
    """One shard of training frames at another size than the bundle's cameras."""
    spec = CacheSpec(30.0, 1, (24, 32), ("front", second), tuple(joints), (), ())
    writer, level = ShardWriter(spec), np.arange(images, dtype=np.uint8)
    shown = np.broadcast_to(level[:, None, None, None] * 40, (images, 24, 32, 3)).copy()
    state = np.tile(level[:, None] / 10, (1, len(joints))).astype(np.float32)
    writer.append(
        EpisodeFrames(
            "stack it", "stack", 0, {"front": shown, second: 255 - shown}, state, state, np.ones(images, bool),
            np.zeros((images, 0), np.float32), np.zeros((images, 2, 0, 2), np.float32), np.ones(images, np.float32),
        )
    )  # fmt: skip
    writer.write(folder)
    return folder
