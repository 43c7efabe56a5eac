"""An animated image from a video written here, read back with Pillow."""

import numpy as np
import pytest

from grids_perception.figures.cli import main
from grids_perception.overlay.video import Mp4Writer

Image = pytest.importorskip("PIL.Image", reason="pip install -r requirements/view.txt")

FPS, FRAMES = 10, 40


@pytest.fixture
def run(tmp_path):
    """A run of 4 s whose image turns from black to white: the brightness tells the time."""
    writer = Mp4Writer(tmp_path / "overlay.mp4", (320, 160), FPS)
    for i in range(FRAMES):
        writer.write(np.full((160, 320, 3), 16 + 220 * i // FRAMES, np.uint8), i)
    writer.close()
    return tmp_path


@pytest.mark.parametrize("name", ["demo.webp", "demo.gif"])
def test_the_last_seconds_of_a_run_become_an_animated_image(run, name):
    output = run / "made" / name
    assert main([str(run), "--animation", str(output), "--seconds", "2", "--width", "160"]) == 0
    with Image.open(output) as image:
        assert image.size == (160, 80)
        brightness, duration_ms = [], 0
        for i in range(image.n_frames):  # frames alike are merged, their times added
            image.seek(i)
            brightness.append(np.asarray(image.convert("RGB")).mean())
            duration_ms += image.info["duration"]
    assert duration_ms == pytest.approx(2000, abs=20 * 16)  # GIF counts in hundredths of a second
    assert brightness[0] == pytest.approx(16 + 220 * 20 / FRAMES, abs=12)
    assert brightness[-1] > 210


def test_what_cannot_be_animated_is_refused_in_one_sentence(run, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for words, message in (
        ([str(tmp_path / "other"), "--animation", "a.webp"], "expected a run with overlay.mp4"),
        ([str(tmp_path / "broken.mp4"), "--animation", "a.webp"], "expected a video that FFmpeg can read"),
        ([str(run), "--animation", "a.png"], "ending in .webp or .gif"),
        ([str(run), str(run), "--animation", "a.gif"], "expected one run, got 2"),
        ([str(run), "--animation", "a.gif", "--width", "3"], "64 to 1920 pixels"),
    ):
        assert main(words) == 1
        assert message in capsys.readouterr().err
