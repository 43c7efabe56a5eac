"""The rqt plugin where the viewer's packages are missing: rqt shows one sentence that says what to run."""

import subprocess
import sys

PROGRAM = """
import sys, types
sys.modules["qtpy"] = None  # as after a set-up without the viewer
binding = types.ModuleType("python_qt_binding")
binding.QT_BINDING = "pyqt"
plugin = types.ModuleType("rqt_gui_py.plugin")
plugin.Plugin = object
sys.modules |= {"python_qt_binding": binding, "rqt_gui_py": types.ModuleType("rqt_gui_py"), "rqt_gui_py.plugin": plugin}
try:
    import grids_rqt.plugin
except ImportError as error:
    print(error)
"""


def test_a_set_up_without_the_viewer_says_what_to_run():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "run `bash requirements/setup.sh view`" in result.stdout
    assert "./grids view" in result.stdout
    assert len(result.stdout.splitlines()) == 1
