"""Which cameras need the vision tower again: a camera whose image hardly changed keeps its tokens."""

import numpy as np

_STRIDE = 8  # every eighth pixel of both axes is enough to see that something moved


class FrameReuse:
    """Remembers the image behind each camera's tokens. threshold: mean absolute difference, 0..255; 0: never."""

    def __init__(self, cameras: int, threshold: float) -> None:
        self._threshold = threshold
        self._kept: list[np.ndarray | None] = [None] * cameras

    def refresh(self, frames: tuple[np.ndarray, ...]) -> tuple[bool, ...]:
        """True for each camera whose tokens must be computed anew; those images become the reference."""
        return tuple(self._changed(i, frame) for i, frame in enumerate(frames))

    def _changed(self, camera: int, frame: np.ndarray) -> bool:
        small = frame[::_STRIDE, ::_STRIDE].astype(np.int16)
        kept = self._kept[camera]
        if kept is not None and self._threshold > 0:
            # The largest block counts, not the mean of the image: a moving cube is small.
            blocks = np.abs(small - kept).mean(-1)
            if _block_max(blocks) < self._threshold:
                return False
        self._kept[camera] = small
        return True


def _block_max(difference: np.ndarray, side: int = 5) -> float:
    """Largest mean over side x side blocks."""
    rows, columns = (n // side * side for n in difference.shape)
    if not rows or not columns:
        return float(difference.mean())
    blocks = difference[:rows, :columns].reshape(rows // side, side, columns // side, side)
    return float(blocks.mean((1, 3)).max())
