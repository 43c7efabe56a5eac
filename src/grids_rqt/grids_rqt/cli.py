"""`./grids view`: the panel without rqt, live, from a bag, in a browser, or rendered to an image without a screen."""

import argparse
import os
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from grids_common.host import robots
from grids_common.signals import StopRequest
from grids_common.topics import CAMERAS, TRANSPORT_TEXT, TRANSPORTS

SNAPSHOT_READY_S = 0.5  # from complete data to the snapshot
SIZE = (1280, 800)  # px
WAIT_S = 60.0


def _size(words: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)x(\d+)", words)
    if not match:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 1280x800, got {words!r}")
    return int(match[1]), int(match[2])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="grids view", description=__doc__)
    parser.add_argument("bag", nargs="?", type=Path, help="show this bag or run folder instead of the live graph")
    parser.add_argument("--snapshot", type=Path, metavar="PNG", help="write one image without a screen, then exit")
    parser.add_argument("--demo", action="store_true", help="start a run on the twin and show it")
    parser.add_argument("--policy", default="demo", help="policy of the demo (default: %(default)s)")
    parser.add_argument("--task", default="pick_place", help="task of the demo (default: %(default)s)")
    parser.add_argument("--at", type=float, metavar="S", help="bag: seconds after its start (default: its end)")
    parser.add_argument("--wait", type=float, metavar="S", help=f"longest wait for data (default: {WAIT_S:g} s)")
    parser.add_argument("--size", type=_size, help="size of window or image (default: {}x{})".format(*SIZE))
    parser.add_argument("--image-transport", choices=TRANSPORTS, default="auto", help=f"live: {TRANSPORT_TEXT}")
    parser.add_argument("--robot", type=robots.option, default="", help=f"live: {robots.OPTION_TEXT}")
    parser.add_argument("--retention", action="store_true", help="tint the cameras by retention")
    web = parser.add_argument_group("in a browser")
    web.add_argument("--web", action="store_true", help="serve a page instead of opening a window")
    web.add_argument("--port", type=int, default=8080, help="port of the page (default: %(default)s; 0: any free one)")
    web.add_argument("--host", default="127.0.0.1", help="address to serve at; another than this needs a token")
    token = web.add_mutually_exclusive_group()
    token.add_argument("--token-file", type=Path, help="file with a word that the page's address must contain")
    token.add_argument("--token", default="", help="the word itself; `ps` shows it, but not GRIDS_VIEW_TOKEN")
    return parser


def _pass_on(_kind, _context, message: str) -> None:
    """Print Qt's messages, except two that are expected without a desktop."""
    if not message.startswith(("QStandardPaths: ", "This plugin does not support propagateSizeHints")):
        sys.stderr.write(f"qt: {message}\n")


def make_application(*, offscreen: bool):
    """The QApplication; `offscreen` needs no display. Raises RuntimeError that states what is missing."""
    if offscreen:
        os.environ["QT_QPA_PLATFORM"] = "offscreen"
    elif sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise RuntimeError("expected a screen (DISPLAY or WAYLAND_DISPLAY), found none: use --snapshot image.png")
    try:
        from qtpy import QtCore, QtGui, QtWidgets
    except ImportError as error:
        raise RuntimeError(f"the viewer needs Qt: bash requirements/setup.sh view ({error})") from error
    if offscreen:
        QtCore.qInstallMessageHandler(_pass_on)
    application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["grids"])
    # QFontDatabase.families is a method of the instance in Qt 5 and of the class in Qt 6.
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
    panel.show()  # computes the layout; nothing is visible on the offscreen platform
    panel.refresh()
    application.processEvents()  # the texts have new widths: compute the layout again
    path.parent.mkdir(parents=True, exist_ok=True)
    if not panel.grab().save(str(path)):
        raise RuntimeError(f"cannot write the image {path}: expected a writable .png path")


def _complete(state, *, tokens: bool) -> bool:
    """Whether there are images of all cameras and joints; with `tokens` also a chunk and samples of all cameras."""
    cameras = list(state.cameras.values())
    if any(c.image is None for c in cameras) or not len(state.joints_ns):
        return False
    return not tokens or (state.chunk is not None and all(c.samples for c in cameras))


def _wait_for_data(model, feed, options, demo, stop) -> None:
    """Wait until the view model is complete; samples are waited for during the first half of `options.wait` only.

    Raises RuntimeError after `options.wait`, if the demo run ends or a stop signal arrives.
    """
    begin, ready = time.monotonic(), None
    while True:
        passed = time.monotonic() - begin
        state = model.snapshot(feed.now_ns())
        result = demo.result() if demo is not None else None
        if result is not None:
            raise RuntimeError(result.sentence)
        if stop.requested:
            raise RuntimeError(f"ended by {stop.requested} before the data for an image was complete")
        if _complete(state, tokens=passed < options.wait / 2):
            ready = ready or time.monotonic()
            if time.monotonic() - ready >= SNAPSHOT_READY_S + (3.0 if demo else 0.0):
                return
        if passed > options.wait:
            found = [n for n, c in state.cameras.items() if c.image is not None]
            raise RuntimeError(
                f"expected images and joint states within {options.wait:g} s, got images of {found or 'no camera'} and "
                f"{len(state.joints_ns)} joint states: is the stack running in this ROS_DOMAIN_ID, "
                "and does --robot name it? (or use --demo)"
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
    from grids_rqt.window import show

    panel.refresh()
    with StopRequest() as stop:
        return show(application, panel, stop)


def _token(options) -> str:
    """The page's token: of --token, of --token-file, or of GRIDS_VIEW_TOKEN; "" for none. RuntimeError for no file."""
    if options.token or options.token_file is None:
        return options.token or os.environ.get("GRIDS_VIEW_TOKEN", "")
    try:
        words = options.token_file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise RuntimeError(f"--token-file: cannot read {options.token_file}: {error}") from error
    if not words:
        raise RuntimeError(f"--token-file: expected a word in {options.token_file}, found none")
    return words


def _web(options) -> int:
    """Serve the page of the live graph, or of a bag, until a stop signal."""
    try:
        from grids_rqt.web import server
    except ImportError as error:
        raise RuntimeError(f"the page needs its packages: bash requirements/setup.sh web ({error})") from error
    from grids_rqt.web.source import WebSource

    token = _token(options)
    with ExitStack() as started:
        stop = started.enter_context(StopRequest())
        place = started.enter_context(server.listen(options.host, options.port, token))
        source = _web_source(options, started, WebSource)
        source.style = replace(source.style, retention=options.retention)
        return server.serve(source, place, token, stop)


def _web_source(options, started: ExitStack, source: type):
    """The page's source: a bag, or a graph whose feed ends with `started`."""
    from grids_rqt.view_model import Model

    if options.bag is not None:
        from grids_rqt.feeds.bag import length_s, load

        def read(until_s: float | None) -> tuple[Model, int]:
            model = Model(CAMERAS)
            return model, load(options.bag, model, until_s=until_s)

        model, then_ns = read(options.at)
        shown = source(model, lambda: then_ns, None, options.bag.name)
        shown.recorded(length_s(options.bag), read)
        return shown
    model = Model(CAMERAS)
    from grids_rqt.feeds.ros import RosControls, RosFeed

    feed = RosFeed(model, image_transport=options.image_transport, robot=options.robot)
    started.callback(feed.close)
    return source(model, feed.now_ns, RosControls(feed), options.robot)


def _live(options) -> int:
    from grids_rqt.feeds.demo import DemoRun
    from grids_rqt.view_model import Model

    application = make_application(offscreen=options.snapshot is not None)
    from grids_rqt.feeds.ros import RosControls, RosFeed
    from grids_rqt.window import show

    with ExitStack() as started:  # ends everything that was started, also after an exception
        stop = started.enter_context(StopRequest())
        demo = DemoRun(policy=options.policy, task=options.task, limit_s=600.0) if options.demo else None
        if demo is not None:
            started.callback(demo.close)
        model = Model(CAMERAS)
        feed = RosFeed(model, image_transport=options.image_transport, robot=options.robot)
        started.callback(feed.close)
        panel = _panel(model, feed.now_ns, options, RosControls(feed))
        if options.snapshot is not None:
            _wait_for_data(model, feed, options, demo, stop)
            _save(application, panel, options.snapshot)
            return 0
        panel.start()
        return show(application, panel, stop, demo)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0: shown or written; 1: no data, no screen or a failed demo; 2: wrong arguments."""
    parser = _parser()
    options = parser.parse_args(argv)
    if not 0 <= options.port <= 65535:
        parser.error(f"--port: expected 0 to 65535, got {options.port}")
    if options.web and (options.demo or options.snapshot):
        parser.error("--web: expected neither --demo nor --snapshot with it: start ./grids deploy beside it")
    if options.web and (options.size or options.wait is not None):
        parser.error("--web: expected neither --size nor --wait with it: the browser has a size, and the page waits")
    options.size, options.wait = options.size or SIZE, WAIT_S if options.wait is None else options.wait
    try:
        if options.web:
            return _web(options)
        return _from_bag(options) if options.bag is not None else _live(options)
    except (RuntimeError, OSError) as error:
        sys.stderr.write(f"grids view: {error}\n")
        return 1
    except KeyboardInterrupt:  # before StopRequest was installed
        return 130


def run() -> None:
    """Entry point of `ros2 run grids_rqt view`."""
    sys.exit(main())
