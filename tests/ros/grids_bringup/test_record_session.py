"""`./grids record` on the twin: real processes, from the first image to a dataset."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.ros, pytest.mark.e2e]
pytest.importorskip("rclpy")

from grids_data.bag.reader import Bag, find_bags  # noqa: E402
from grids_data.bag.series import JOINTS, TRACE, image_topics  # noqa: E402
from grids_data.dataset.reader import open_dataset  # noqa: E402
from grids_recorder.convert.cli import ConvertSettings, convert  # noqa: E402


def test_the_twin_records_episodes_that_become_a_dataset(tmp_path):
    environment = os.environ | {"ROS_DOMAIN_ID": str(62 + os.getpid() % 40), "XDG_RUNTIME_DIR": str(tmp_path)}
    words = [sys.executable, "-m", "grids_bringup.cli", "record", "--task", "pick_place", "--duration", "25"]
    words += ["--episode-s", "8", "--recordings", str(tmp_path / "recordings"), "--output", str(tmp_path / "run")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["ended_by"] == "time limit"
    usable = []
    for folder in find_bags([tmp_path / "recordings"]):
        with Bag(folder) as bag:
            assert (folder / "verdict.json").exists() == (bag.episode["outcome"] != "")  # not the one that the end cut
            needed = [JOINTS, TRACE, *(image_topics(camera)[1] for camera in ("front", "wrist"))]
            assert bag.episode["task"] == "pick up the green cube and place it in the green bowl"
            assert bag.episode["operator"] == "scripted expert"
            if all(bag.counts[topic] > 20 for topic in needed) and bag.episode["outcome"] in ("success", "fail"):
                usable.append(folder)
    assert usable, done.stdout
    dataset = open_dataset(convert(usable, tmp_path / "dataset", ConvertSettings(fps=10))[0])
    assert len(dataset.episodes) == len(usable)
    assert dataset.frame("wrist", 0).shape == (240, 320, 3)
