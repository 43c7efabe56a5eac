"""`./grids view`: the panel without rqt, live, from a bag, or as a picture rendered without a screen."""

import argparse
import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from grids_common.topics import CAMERAS

PICTURE_READY_S = 0.5  # of further messages once everything wanted has arrived


def _size(words: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", words)
    if not match:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 1280x800, got {words!r}")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids view", description=__doc__)
    parser.add_argument("bag", nargs="?", type=Path, help="show this bag or run folder instead of the live graph")
    parser.add_argument("--snapshot", type=Path, metavar="PNG", help="render one picture without a screen, then end")
    parser.add_argument("--demo", action="store_true", help="start the twin and a policy to have something to show")
    parser.add_argument("--policy", default="demo", help="policy of the demo (default: %(default)s)")
    parser.add_argument("--task", default="pick_place", help="task of the demo (default: %(default)s)")
    parser.add_argument("--at", type=float, metavar="S", help="bag: seconds after its start (default: its end)")
    parser.add_argument("--wait", type=float, default=60.0, metavar="S", help="longest wait for data (%(default)s s)")
    parser.add_argument("--size", type=_size, default=(1280, 800), help="window or picture (default: 1280x800)")
    parser.add_argument("--retention", action="store_true", help="tint the cameras by retention")
    return parser


def _pass_on(_kind, _context, message: str) -> None:
    """Qt's messages without the two that only say that there is no desktop."""
    if not message.startswith(("QStandardPaths: ", "This plugin does not support propagateSizeHints")):
        sys.stderr.write(f"qt: {message}\n")


def make_application(*, offscreen: bool):
    """The QApplication; offscreen needs no display. RuntimeError says what is missing."""
    if offscreen:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    elif sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise RuntimeError("expected a screen (DISPLAY or WAYLAND_DISPLAY), found none: use --snapshot picture.png")
    try:
        from qtpy import QtCore, QtGui, QtWidgets
    except ImportError as error:
        raise RuntimeError(f"the viewer needs Qt: bash requirements/setup.sh view ({error})") from error
    if offscreen:
        QtCore.qInstallMessageHandler(_pass_on)
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["grids"])
    # Qt 5 lists families through the instance, Qt 6 through the class; 5 accepts both since 5.15's bindings.
    database = QtGui.QFontDatabase() if hasattr(QtGui.QFontDatabase, "addApplicationFont") else QtGui.QFontDatabase
    if not database.families():
        raise RuntimeError("Qt finds no font: apt install fonts-dejavu-core")
    return application


def _panel(model, now_ns, options, controls=None):
    from grids_rqt.views.panel import Panel

    panel = Panel(model, now_ns, CAMERAS, controls)
    panel.set_layers({"retention": True} if options.retention else {})
    panel.resize(*options.size)
    return panel


def _save(application, panel, path: Path) -> None:
    panel.ensurePolished()
    panel.show()  # on the offscreen platform: lays out, shows nothing
    panel.refresh()
    application.processEvents()  # texts have changed widths: lay out again
    path.parent.mkdir(parents=True, exist_ok=True)
    if not panel.grab().save(str(path)):
        raise RuntimeError(f"cannot write the picture {path}: expected a writable .png path")


def _complete(state, *, tokens: bool) -> bool:
    """Enough on screen for a picture: images, joints and, where a policy samples, samples of every camera."""
    cameras = list(state.cameras.values())
    if any(c.image is None for c in cameras) or not len(state.joints_ns):
        return False
    return not tokens or (state.chunk is not None and all(c.samples for c in cameras))


def _wait_for_data(model, feed, options, demo, end) -> None:
    """Until the model is complete; without samples a picture is taken after half of the wait."""
    begin, ready = time.monotonic(), None
    while True:
        passed = time.monotonic() - begin
        state = model.snapshot(feed.now_ns())
        over = demo.over() if demo is not None else None
        if over is not None:
            raise RuntimeError(over.sentence)
        if end.asked:
            raise RuntimeError(f"ended by {end.asked} before there was enough for a picture")
        if _complete(state, tokens=passed < options.wait / 2):
            ready = ready or time.monotonic()
            if time.monotonic() - ready >= PICTURE_READY_S + (3.0 if demo else 0.0):
                return
        if passed > options.wait:
            seen = [n for n, c in state.cameras.items() if c.image is not None]
            raise RuntimeError(
                f"expected images and joint states within {options.wait:g} s, got images of {seen or 'no camera'} and "
                f"{len(state.joints_ns)} joint states: is the stack running in this ROS_DOMAIN_ID? (or use --demo)"
            )
        time.sleep(0.05)


def _from_bag(options) -> int:
    from grids_rqt.feeds.bag import load
    from grids_rqt.view_model import Model

    model = Model(CAMERAS)
    last_ns = load(options.bag, model, until_s=options.at)
    application = make_application(offscreen=options.snapshot is not None)
    panel = _panel(model, lambda: last_ns, options)
    if options.snapshot is not None:
        _save(application, panel, options.snapshot)
        return 0
    from grids_rqt.window import EndRequest, show

    panel.refresh()
    with EndRequest() as end:
        return show(application, panel, end)


def _live(options) -> int:
    from grids_rqt.feeds.demo import DemoRun
    from grids_rqt.view_model import Model

    application = make_application(offscreen=options.snapshot is not None)
    from grids_rqt.feeds.ros import RosControls, RosFeed
    from grids_rqt.window import EndRequest, show

    with ExitStack() as started:  # each is ended, whatever happens to the others
        end = started.enter_context(EndRequest())
        demo = DemoRun(policy=options.policy, task=options.task, limit_s=600.0) if options.demo else None
        if demo is not None:
            started.callback(demo.close)
        model = Model(CAMERAS)
        feed = RosFeed(model)
        started.callback(feed.close)
        panel = _panel(model, feed.now_ns, options, RosControls(feed))
        if options.snapshot is not None:
            _wait_for_data(model, feed, options, demo, end)
            _save(application, panel, options.snapshot)
            return 0
        panel.start()
        return show(application, panel, end, demo)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: shown or written; 1: no data, no screen or a failed demo; 2: wrong arguments."""
    options = _parser().parse_args(argv)
    try:
        return _from_bag(options) if options.bag is not None else _live(options)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"grids view: {error}\n")
        return 1
    except KeyboardInterrupt:  # before anything was started
        return 130


def run() -> None:
    sys.exit(main())
