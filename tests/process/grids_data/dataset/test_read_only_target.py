"""A dataset is not begun where its user may not write."""

import subprocess
import sys


def test_a_read_only_target_is_refused_with_its_name(public_folder):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from grids_data.dataset.schema import *; from grids_data.dataset.writer import DatasetWriter\n"
        "os.setuid(65534) if os.getuid() == 0 else None\n"
        "try: DatasetWriter(Path(sys.argv[1]) / 'set', DatasetSpec(20, so100_features(64, 64)))\n"
        "except DatasetError as error: print(error)\n"
    )
    (public_folder / "locked").mkdir(mode=0o555)
    words = [sys.executable, "-c", code, public_folder / "locked"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "set.partial: expected a writable folder: Permission denied" in done.stdout, done.stderr
