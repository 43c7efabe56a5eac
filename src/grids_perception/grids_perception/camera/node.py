"""Node `camera`: publishes images, intrinsics and diagnostics of one camera. One process per camera.

A lifecycle node: configure opens the device and fails if it is missing or not the configured one; the active node
publishes. A camera that is lost later is reopened with back-off while the node is active; /diagnostics reports it.
An unexpected error ends the process with code 1.
"""

import sys
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.time import Time
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from grids_common import topics
from grids_common.images import JPEG_FORMAT, ImageBuffer, rgb_to_jpeg
from grids_common.lifecycle import ManagedNode, SetupError, run_node
from grids_common.params import declare
from grids_perception.camera.capture import CapturedFrame, Stamp
from grids_perception.camera.capture_loop import CaptureHealth, CaptureLimits, CaptureLoop
from grids_perception.camera.source import AbstractSource, ColorRequest, Intrinsics, SourceError
from grids_perception.params import CameraParams

DIAGNOSTICS_PERIOD_S = 1.0


def is_plain_video(p: CameraParams) -> bool:
    """Whether the source is a video file and not a recording of the RealSense SDK (.db3)."""
    return p.source == "file" and not p.device.endswith(".db3")


def build_source(p: CameraParams, clock_ns) -> AbstractSource:
    """The source that the parameters select; `clock_ns` returns ROS time. Raises SourceError if the SDK is missing."""
    given = Intrinsics(p.width, p.height)
    if p.intrinsics:
        given = Intrinsics(p.width, p.height, *p.intrinsics, coefficients=p.distortion or given.coefficients)
    request = ColorRequest(
        p.width,
        p.height,
        p.fps,
        exposure_us=p.exposure_us or None,
        gain=p.gain if p.gain >= 0 else None,
        white_balance_k=p.white_balance_k or None,
    )
    match p.source:
        case "uvc":
            from grids_perception.camera.opencv_source import UvcSource

            return UvcSource(p.device, request, clock_ns, intrinsics=given)
        case "file" if is_plain_video(p):
            from grids_perception.camera.opencv_source import VideoFileSource

            return VideoFileSource(Path(p.device), clock_ns, loop=p.loop)
        case _:
            from grids_perception.camera.realsense import RealSenseSource

            serial = p.serial.removeprefix("_")  # ROS would parse digits alone as a number
            file = Path(p.device) if p.source == "file" else None
            return RealSenseSource(request, clock_ns, serial=serial, model=p.model, file=file, loop=p.loop)


def camera_info(intrinsics: Intrinsics, size: tuple[int, int]) -> CameraInfo:
    """sensor_msgs/CameraInfo without header. K is zero for an uncalibrated camera, as the message definition states."""
    i = intrinsics
    message = CameraInfo(height=size[1], width=size[0], distortion_model=i.distortion_model)
    message.d = [float(c) for c in i.coefficients]
    message.k = [i.fx, 0.0, i.cx, 0.0, i.fy, i.cy, 0.0, 0.0, 1.0 if i.fx else 0.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [i.fx, 0.0, i.cx, 0.0, 0.0, i.fy, i.cy, 0.0, 0.0, 0.0, 1.0 if i.fx else 0.0, 0.0]
    return message


def trouble_since(health: CaptureHealth, previous: CaptureHealth) -> list[str]:
    """Problems counted since the previous snapshot. A file that starts again sets its clock back without a problem."""
    live = health.info is None or health.info.live
    grown = (
        ((health.lost or 0) - (previous.lost or 0), "frame(s) lost"),
        (health.stamps_distrusted - previous.stamps_distrusted, "implausible stamp(s)"),
        (health.clock_jumps - previous.clock_jumps if live else 0, "clock jump(s)"),
    )
    found = [f"{count} {what} since the last message" for count, what in grown if count > 0]
    if health.state == "streaming" and health.outage_s > previous.outage_s:
        found.append(f"lost {health.outages} time(s) so far, {health.outage_s:.1f} s without images")
    return found


def diagnose(
    name: str, health: CaptureHealth, rate_hz: float, previous: CaptureHealth | None = None
) -> DiagnosticStatus:
    """The camera's status in /diagnostics. `rate_hz`: configured rate; `previous`: the health last published.

    Without a device the hardware_id is the node's name: aggregators and robot monitors want one.
    """
    level, message = DiagnosticStatus.OK, f"{health.rate_hz:.1f} Hz"
    trouble = trouble_since(health, previous) if previous else []
    if health.rate_hz < 0.8 * rate_hz and health.received > rate_hz:
        trouble.insert(0, f"{health.rate_hz:.1f} Hz instead of {rate_hz:g} Hz")
    notes = health.info.notes if health.info else ()
    if health.state in ("lost", "opening", "ended"):
        level = DiagnosticStatus.WARN if health.state == "ended" else DiagnosticStatus.ERROR
        message = health.reason or health.state
    elif health.black:
        level, message = DiagnosticStatus.WARN, "the image is black: lens cap, light or exposure"
    elif trouble:
        level, message = DiagnosticStatus.WARN, "; ".join(trouble)
    elif notes:
        level, message = DiagnosticStatus.WARN, "; ".join(notes)
    values = {
        "state": health.state,
        "received": health.received,
        "lost": "unknown" if health.lost is None else health.lost,
        "repeated": health.repeated,
        "rate_hz": f"{health.rate_hz:.2f}",
        "reconnects": health.reconnects,
        "resets": health.resets,
        "outages": health.outages,
        "outage_s": f"{health.outage_s:.2f}",
        "stamp_from": health.stamp_how,
        "stamp_domain": health.stamp_domain,
        "stamps_distrusted": health.stamps_distrusted,
        "clock_jumps": health.clock_jumps,
        "age_p95_ms": f"{health.age_p95_ms:.2f}",
        "node_cost_p95_ms": f"{health.cost_p95_ms:.2f}",
        "real-time": health.realtime,
        "firmware": health.info.firmware if health.info else "",
        "usb": health.info.usb if health.info else "",
    }
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=f"{health.info.name} {health.info.serial}" if health.info else name.partition(":")[0],
        values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
    )


class CameraNode(ManagedNode):
    """The camera node. Images are published from the capture thread, diagnostics from the executor's thread."""

    def __init__(self) -> None:
        super().__init__("camera")
        self._params = p = declare(self, CameraParams, "front_camera", "wrist_camera", apply=self._apply)
        self._frame_id = p.frame_id or f"{p.camera}_color_optical_frame"
        self._images = topics.publisher(self, f"/{p.camera}/color/image_raw", Image)
        self._buffer = ImageBuffer(Image())
        self._infos = topics.publisher(self, f"/{p.camera}/color/camera_info", CameraInfo)
        self._jpegs = None
        if p.compressed:
            self._jpegs = topics.publisher(self, f"/{p.camera}/color/image_raw/compressed", CompressedImage)
        self._diagnostics = topics.publisher(self, "/diagnostics", DiagnosticArray)
        self._loop: CaptureLoop | None = None
        self._info = CameraInfo()
        self._timer = None
        self._reported: CaptureHealth | None = None  # the state in the last diagnostics

    def _now_ns(self) -> int:
        return self.get_clock().now().nanoseconds

    def _log(self, level: str, text: str) -> None:
        logger, sentence = self.get_logger(), f"{self._params.camera}: {text}"
        # rclpy allows one severity per calling line, so each level needs its own line.
        match level:
            case "fatal":
                logger.fatal(sentence)
            case "error":
                logger.error(sentence)
            case "warning":
                logger.warning(sentence)
            case _:
                logger.info(sentence)

    def _make_loop(self) -> CaptureLoop:
        p = self._params
        limits = CaptureLimits(p.timeout_s, p.frozen_after_s, p.max_stamp_error_s, p.assumed_delay_s)
        # Decoding a video may be slow; with real-time priority it would block all other threads on its core.
        priority = 0 if is_plain_video(p) else p.realtime_priority
        return CaptureLoop(build_source(p, self._now_ns), limits, self._deliver, self._log, priority)

    def _apply(self, params: CameraParams) -> None:
        self._params = params

    def configure(self) -> None:
        try:
            self._loop = self._make_loop()
        except SourceError as error:
            raise SetupError(f"{self._params.camera}: {error}") from error
        self._open()

    def _open(self) -> None:
        """Open the camera. Raises SetupError if it is missing or not the configured one."""
        try:
            info = self._loop.open()
        except SourceError as error:
            raise SetupError(f"{self._params.camera}: {error}") from error
        for note in info.notes:
            self._log("warning", note)
        self._log("info", f"{info.name} serial {info.serial or '?'} firmware {info.firmware or '?'} opened")

    def activate(self) -> None:
        if not self._loop.is_open:  # it was active before
            self._open()
        self._reported = None
        self._loop.start()
        self._timer = self.create_timer(DIAGNOSTICS_PERIOD_S, self._publish_diagnostics)

    def deactivate(self) -> None:
        self._drop_timer()
        self._loop.stop()
        self._loop = self._make_loop()

    def cleanup(self) -> None:
        self.make_safe()
        self._loop = None

    def make_safe(self) -> None:
        self._drop_timer()
        if self._loop is not None:
            self._loop.stop()

    def _drop_timer(self) -> None:
        if self._timer is not None:
            self.destroy_timer(self._timer)
        self._timer = None

    def _deliver(self, frame: CapturedFrame, stamp: Stamp) -> None:
        """Publish one frame. Called from the capture thread."""
        header = Header(frame_id=self._frame_id, stamp=Time(nanoseconds=max(stamp.ns, 0)).to_msg())
        self._images.publish(self._buffer.fill(frame.pixels, header))
        size = (frame.pixels.shape[1], frame.pixels.shape[0])
        if (self._info.width, self._info.height) != size:
            info = self._loop.health().info if self._loop else None
            self._info = camera_info(info.intrinsics if info else Intrinsics(*size), size)
        self._info.header = header
        self._infos.publish(self._info)
        if self._jpegs is not None and self._jpegs.get_subscription_count() > 0:
            packed = rgb_to_jpeg(frame.pixels, self._params.jpeg_quality)
            self._jpegs.publish(CompressedImage(header=header, format=JPEG_FORMAT, data=packed))

    def _publish_diagnostics(self) -> None:
        health = self._loop.health()
        status = diagnose(topics.diagnostic_name(self, "images"), health, float(self._params.fps), self._reported)
        self._reported = health
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)
        if self._loop.fatal:
            self._log("fatal", f"the capture thread failed; this node exits: {health.reason}")
            raise SystemExit(1)


def main() -> None:
    """Entry point of `ros2 run grids_perception camera`."""
    sys.exit(run_node(CameraNode, outlive_signals=True))  # the capture thread publishes until make_safe
