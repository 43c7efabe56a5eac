"""The README stays short, and shows the demo policy at work."""

import re

from repository import ROOT

README = ROOT / "README.md"
MAX_LINES, MAX_WIDTH, MAX_IMAGE_BYTES = 110, 200, 3_000_000


def test_the_readme_is_short():
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_LINES
    assert not [line for line in lines if len(line) > MAX_WIDTH]


def test_the_readme_shows_an_animated_image_and_the_command_that_made_it():
    text = README.read_text(encoding="utf-8")
    [image] = re.findall(r"!\[[^\]]+\]\((docs/demo\.(?:webp|gif))\)", text)
    data = (ROOT / image).read_bytes()
    assert len(data) <= MAX_IMAGE_BYTES
    assert data.startswith(b"GIF89a") or (data[:4] == b"RIFF" and b"ANIM" in data[:64])
    assert f"./grids figures runs/<time> --animation {image}" in text
