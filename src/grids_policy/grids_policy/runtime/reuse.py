"""Decides which cameras need a new run of the vision tower: one whose image hardly changed keeps its tokens."""

import numpy as np

_STRIDE = 8  # every eighth pixel of both axes is enough to see that something moved
_BLOCK = 5  # of those pixels, so a block is 40 x 40 pixels of the image


class FrameReuse:
    """Stores the image from which each camera's tokens were computed.

    threshold: an image is new when, in any block of 40 x 40 pixels, the mean absolute difference to the remembered
    image (over every eighth pixel and the three colours, 0..255) reaches it. 0: every image counts as new.
    """

    def __init__(self, cameras: int, threshold: float) -> None:
        self._threshold = threshold
        self._kept: list[np.ndarray | None] = [None] * cameras

    def refresh(self, frames: tuple[np.ndarray, ...]) -> tuple[bool, ...]:
        """True for each of the (height, width, 3) uint8 images whose tokens must be computed again.

        Those images are stored for the next comparison.
        """
        return tuple(self._changed(i, frame) for i, frame in enumerate(frames))

    def _changed(self, camera: int, frame: np.ndarray) -> bool:
        small = frame[::_STRIDE, ::_STRIDE].astype(np.int16)
        kept = self._kept[camera]
        if kept is not None and self._threshold > 0:
            # The largest block counts, not the mean of the image: a moving cube is small.
            difference = np.abs(small - kept).mean(-1)
            if _block_max(difference) < self._threshold:
                return False
        self._kept[camera] = small
        return True


def _block_max(difference: np.ndarray, side: int = _BLOCK) -> float:
    """Largest mean over side x side blocks of (rows, columns); an image smaller than a block is one block."""
    rows, columns = (n // side * side for n in difference.shape)
    if not rows or not columns:
        return float(difference.mean())
    blocks = difference[:rows, :columns].reshape(rows // side, side, columns // side, side)
    return float(blocks.mean((1, 3)).max())
