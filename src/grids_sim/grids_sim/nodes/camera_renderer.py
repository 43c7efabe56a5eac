"""Front and wrist camera of the twin, in a separate process: rendering never delays a servo's answer.

The newest snapshot is rendered once per frame period; if the machine is too slow, frames are dropped, never queued.
`header.stamp` is the time of the snapshot, as a real camera's stamp is the time of exposure.
"""

import math
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from grids_common import params
from grids_common.images import JPEG_FORMAT, fill_image, rgb_to_jpeg
from grids_common.lifecycle import SetupError, run_node
from grids_common.pacing import Pacer
from grids_common.stamps import to_stamp
from grids_common.topics import CAMERAS, publisher
from grids_sim.nodes.params import TwinCameraParams
from grids_sim.twin.link_folder import STATE_NAME, default_folder
from grids_sim.twin.shared_state import SharedSnapshot, StateReader

FROZEN, BLACK, UNPLUGGED = 1, 2, 4
_STALE_CHECK_S = 1.0
RENDER_THREAD = "render"
JOIN_TIMEOUT_S = 2.0


def optical_frame(camera: str) -> str:
    """Frame id of a camera's images, named as by realsense2_camera."""
    return f"{camera}_color_optical_frame"


def intrinsics(fovy_deg: float, width: int, height: int) -> tuple[float, float, float]:
    """(focal length, cx, cy) in pixels of MuJoCo's pinhole camera with a vertical field of view in degrees."""
    focal = height / 2 / math.tan(math.radians(fovy_deg) / 2)
    return focal, (width - 1) / 2, (height - 1) / 2


def camera_info(frame_id: str, fovy_deg: float, width: int, height: int) -> CameraInfo:
    """CameraInfo of an ideal pinhole camera without distortion; the caller sets the stamp."""
    focal, cx, cy = intrinsics(fovy_deg, width, height)
    return CameraInfo(
        header=Header(frame_id=frame_id),
        width=width,
        height=height,
        distortion_model="plumb_bob",
        d=[0.0] * 5,
        k=[focal, 0.0, cx, 0.0, focal, cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[focal, 0.0, cx, 0.0, 0.0, focal, cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )


def image_message(pixels: np.ndarray, header: Header) -> Image:
    """rgb8 message of (height, width, 3) uint8 pixels."""
    message = Image()
    fill_image(message, pixels, header)
    return message


class SnapshotRenderer:
    """A World used only for rendering: follows the twin's task and state. Use from one thread (OpenGL)."""

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._world = None

    def prepare(self, snapshot: SharedSnapshot) -> bool:
        """Build the world of the snapshot's task unless it exists; True if it was built, which takes seconds."""
        from grids_sim.physics.world import World, WorldConfig

        if self._world is not None and self._world.config.task == snapshot.task:
            return False
        self.close()
        self._world = World(WorldConfig(task=snapshot.task))
        for camera in CAMERAS:
            self.draw(camera)
        return True

    def show(self, snapshot: SharedSnapshot) -> None:
        """Load a snapshot of the prepared task."""
        self._world.restore(snapshot.values)

    def fovy_deg(self, camera: str) -> float:
        """Vertical field of view of a camera in degrees."""
        return next(c.fovy_deg for c in self._world.scene.cameras if c.name == camera)

    def draw(self, camera: str) -> np.ndarray:
        """Render one camera: (height, width, 3) uint8 RGB."""
        return self._world.render(camera, *self._size)

    def close(self) -> None:
        """Release the world and its OpenGL context; `prepare` builds them again."""
        if self._world is not None:
            self._world.close()
            self._world = None


class TwinCameraNode(Node):
    """Publishes both cameras from a render thread; the executor only serves parameters. SetupError without a twin."""

    def __init__(self) -> None:
        super().__init__("twin_cameras")
        self.params = params.declare(self, TwinCameraParams, "twin_cameras")
        if os.nice(0) < self.params.nice:
            os.nice(self.params.nice - os.nice(0))
        folder = Path(self.params.link_dir) if self.params.link_dir else default_folder()
        self._state_link = folder / STATE_NAME
        self._images = {c: publisher(self, f"/{c}/color/image_raw", Image) for c in CAMERAS}
        jpegs = CAMERAS if self.params.compressed else ()
        self._jpegs = {c: publisher(self, f"/{c}/color/image_raw/compressed", CompressedImage) for c in jpegs}
        self._infos = {c: publisher(self, f"/{c}/color/camera_info", CameraInfo) for c in CAMERAS}
        self._reader = self._wait_for_twin()
        self._last: dict[str, np.ndarray] = {}
        self._info: dict[str, CameraInfo] = {}
        self._missed = 0
        self._stopping = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=RENDER_THREAD, daemon=True)
        self._thread.start()
        self.create_timer(1.0, self._watch)

    def destroy_node(self) -> None:
        self._stopping.set()
        self._thread.join(timeout=JOIN_TIMEOUT_S)
        super().destroy_node()

    def _wait_for_twin(self) -> StateReader:
        end_s = time.monotonic() + self.params.twin_timeout_s
        while True:
            try:
                return StateReader(self._state_link)
            except (FileNotFoundError, ValueError):
                if time.monotonic() > end_s:
                    raise SetupError(
                        f"expected a running twin behind {self._state_link}, found none for "
                        f"{self.params.twin_timeout_s:g} s: start the twin, or set link_dir to its folder"
                    ) from None
                time.sleep(0.05)

    def _watch(self) -> None:
        if self.failure is not None:
            raise RuntimeError("the render thread ended") from self.failure
        if self._missed > self.params.rate_hz / 2:
            self.get_logger().warning(
                f"rendering is too slow for {self.params.rate_hz:g} Hz: left out {self._missed} frames in the "
                f"last second; use a smaller image or a lower rate_hz",
                throttle_duration_sec=10.0,
            )
        self._missed = 0

    # -- render thread -----------------------------------------------------------------------------------------

    def _run(self) -> None:
        renderer = SnapshotRenderer(self.params.height, self.params.width)
        try:
            self._loop(renderer)
        except Exception as error:  # top of the thread: raised again by _watch
            self.failure = error
        finally:
            renderer.close()

    def _loop(self, renderer: SnapshotRenderer) -> None:
        counter, checked_s = 0, time.monotonic()
        first = self._reader.read()
        if first is not None:
            renderer.prepare(first)
        pacer = Pacer(self.params.rate_hz)
        while not self._stopping.is_set():
            self._missed += pacer.wait().missed
            snapshot = self._reader.read(newer_than=counter)
            if snapshot is not None and renderer.prepare(snapshot):
                pacer = Pacer(self.params.rate_hz)  # building took seconds: do not count missed frames
            elif snapshot is not None:
                counter = snapshot.counter
                self._publish(renderer, snapshot)
            elif time.monotonic() - checked_s > _STALE_CHECK_S:
                checked_s = time.monotonic()
                counter = self._follow_restart(counter)

    def _follow_restart(self, counter: int) -> int:
        """If the twin was restarted, open its new file. Returns the counter from which to continue."""
        if not self._reader.stale:
            return counter
        try:
            fresh = StateReader(self._state_link)
        except (FileNotFoundError, ValueError):
            return counter
        self._reader.close()
        self._reader = fresh
        return 0

    def _publish(self, renderer: SnapshotRenderer, snapshot: SharedSnapshot) -> None:
        renderer.show(snapshot)
        stamp = to_stamp(snapshot.stamp_ns)
        for camera in CAMERAS:
            code = snapshot.camera_faults.get(camera, 0)
            if code & UNPLUGGED:
                continue
            image = self._render(renderer, camera, code)
            header = Header(stamp=stamp, frame_id=self.params.frame_prefix + optical_frame(camera))
            self._images[camera].publish(image_message(image, header))
            self._publish_jpeg(camera, image, header)
            if camera not in self._info:
                height, width, _ = image.shape
                self._info[camera] = camera_info(header.frame_id, renderer.fovy_deg(camera), width, height)
            self._info[camera].header.stamp = stamp
            self._infos[camera].publish(self._info[camera])

    def _publish_jpeg(self, camera: str, image: np.ndarray, header: Header) -> None:
        jpegs = self._jpegs.get(camera)
        if jpegs is not None and jpegs.get_subscription_count() > 0:
            packed = rgb_to_jpeg(image, self.params.jpeg_quality)
            jpegs.publish(CompressedImage(header=header, format=JPEG_FORMAT, data=packed))

    def _render(self, renderer: SnapshotRenderer, camera: str, code: int) -> np.ndarray:
        if code & BLACK:
            return np.zeros((self.params.height, self.params.width, 3), np.uint8)
        if not code & FROZEN or camera not in self._last:
            self._last[camera] = renderer.draw(camera).copy()
        return self._last[camera]


def main(args=None) -> int:
    """Run the node `twin_cameras`; returns the exit code."""
    code = run_node(TwinCameraNode, args)
    if any(thread.name == RENDER_THREAD for thread in threading.enumerate()):
        # Building a world takes seconds on a busy computer. The interpreter's end would wait for it inside OpenGL.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
