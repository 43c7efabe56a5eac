"""What does not fit into memory is refused before it is loaded."""

import pytest

from grids_common.host.memory import TooLittleMemory, available_bytes, require_memory


def test_free_memory_is_what_the_system_says(tmp_path):
    path = tmp_path / "meminfo"
    path.write_text("MemTotal: 100 kB\nMemFree: 1 kB\nMemAvailable:    2048 kB\n")
    assert available_bytes(path) == 2048 * 1024
    require_memory(2048 * 1024, "x", "y", path)
    with pytest.raises(TooLittleMemory, match=r"the model needs about 2\.0 GiB .* and 0\.0 GiB are free: close"):
        require_memory(2**31, "the model", "close programs", path)


def test_a_system_that_does_not_say_refuses_nothing(tmp_path):
    require_memory(2**60, "x", "y", tmp_path / "none")
    assert available_bytes() is None or available_bytes() > 0
