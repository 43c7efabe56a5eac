"""The rqt plugin: the panel inside rqt, with its settings."""

import argparse
import json
import os

from python_qt_binding import QT_BINDING
from rqt_gui_py.plugin import Plugin

# The widgets use QtPy, which must use the binding that rqt has already loaded. rqt's name for it differs from QtPy's.
os.environ["QT_API"] = {"pyqt": "pyqt5", "pyside": "pyside2"}.get(QT_BINDING, QT_BINDING)

try:
    import qtpy  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"the GridS panel needs the viewer's packages ({error}): run `bash requirements/setup.sh view` in the GridS "
        "folder once (`./grids view` does it too), then start rqt again"
    ) from error

from grids_common.host import robots
from grids_common.topics import CAMERAS
from grids_rqt.feeds.ros import RosControls, RosFeed
from grids_rqt.view_model import Model
from grids_rqt.views.panel import Panel


class GridsPlugin(Plugin):
    """The rqt plugin; `rqt --standalone grids_rqt` starts it alone."""

    def __init__(self, context) -> None:
        super().__init__(context)
        self.setObjectName("GridsPlugin")
        model = Model(CAMERAS)
        serial = context.serial_number()  # 0 with --standalone; unique node names are needed for rosout
        words = argparse.ArgumentParser(prog="grids_rqt")
        words.add_argument("--robot", type=robots.option, default="", help=robots.OPTION_TEXT)
        robot = words.parse_known_args(context.argv())[0].robot  # rqt --standalone grids_rqt --args --robot left
        self._feed = RosFeed(model, f"grids_rqt_{serial}" if serial else "grids_rqt", robot=robot)
        self._panel = Panel(model, self._feed.now_ns, CAMERAS, RosControls(self._feed))
        if serial > 1:
            self._panel.setWindowTitle(f"GridS ({serial})")
        context.add_widget(self._panel)
        self._panel.start()

    def shutdown_plugin(self) -> None:
        self._panel.stop()
        self._feed.close()

    def save_settings(self, plugin_settings, instance_settings) -> None:
        instance_settings.set_value("layers", json.dumps(self._panel.layers()))

    def restore_settings(self, plugin_settings, instance_settings) -> None:
        try:
            saved = json.loads(instance_settings.value("layers") or "{}")
        except (TypeError, ValueError):
            saved = {}  # settings of an older version: use the defaults
        self._panel.set_layers(saved if isinstance(saved, dict) else {})
