"""Conversion between sensor_msgs/Image, sensor_msgs/CompressedImage and RGB arrays: the one converter of all nodes.

Messages are accessed by attribute only, so rclpy's messages and messages decoded from a bag both work, without ROS.
Encoding names are those of sensor_msgs/image_encodings.hpp. Pixels are copied only if their layout has to change.
Colours that have to be computed (YUV, 16 bits) are computed by cv_bridge where ROS brings it, else by the OpenCV
functions that cv_bridge calls; a test compares the two.
"""

import array
import functools

import numpy as np

JPEG_FORMAT = "rgb8; jpeg compressed bgr8"  # CompressedImage.format, as image_transport writes it
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1, "mono16": 1}
# 4:2:2, two bytes per pixel: OpenCV's name of the byte order, by current and by deprecated encoding name.
_YUV = {"uyvy": "UYVY", "yuv422": "UYVY", "yuyv": "YUYV", "yuv422_yuy2": "YUYV"}
ENCODINGS = (*_CHANNELS, *_YUV)
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def image_to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image in one of ENCODINGS → RGB uint8 (H, W, 3).

    rgb8, bgr8, rgba8 and bgra8 return views of the message's data (bgr: with a negative stride); the others return
    copies. mono16 is scaled by 255/65535. `step` 0 means rows without padding. Raises ValueError for another encoding,
    and for data that is not `step` bytes a row; callers put the topic before the text.
    """
    encoding, height, width = message.encoding, message.height, message.width
    if encoding not in ENCODINGS:
        raise ValueError(
            f"image: expected encoding {', '.join(ENCODINGS)}, got {encoding!r}: "
            "set the camera's colour format to one of them"
        )
    kind = np.dtype(">u2" if message.is_bigendian else "<u2") if encoding == "mono16" else np.dtype(np.uint8)
    channels = _CHANNELS.get(encoding, 2)
    row = width * channels * kind.itemsize
    step = message.step or row
    data = np.frombuffer(message.data, np.uint8)
    if step < row or data.size != height * step or not height * width:
        raise ValueError(
            f"image: expected {height} rows of at least {row} bytes ({width} px of {encoding}), "
            f"got step {step} and {data.size} bytes: the camera's node fills its messages wrongly"
        )
    lines = data.reshape(height, step)[:, :row]
    if encoding in _YUV or encoding == "mono16":
        return _computed(lines, encoding, kind).reshape(height, width, 3)
    pixels = lines.reshape(height, width, channels)
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., 2::-1] if encoding.startswith("bgr") else pixels[..., :3]


def _computed(lines: np.ndarray, encoding: str, kind: np.dtype) -> np.ndarray:
    """Rows of bytes in an encoding whose colours are computed → RGB uint8; YUV by ITU-R BT.601.

    Raises ValueError for an odd width.
    """
    lines = np.ascontiguousarray(lines)
    if encoding == "mono16":
        pixels = lines.view(kind).astype(np.uint16)  # in this computer's byte order
    else:
        pixels = lines.reshape(len(lines), -1, 2)
        if pixels.shape[1] % 2:
            raise ValueError(f"image: expected an even width for YUV 4:2:2, got {pixels.shape[1]}")
    convert = _cv_bridge()
    if convert is not None:
        return convert(pixels, encoding, "rgb8")
    import cv2

    if encoding == "mono16":
        grey = cv2.convertScaleAbs(pixels, alpha=255.0 / 65535.0)
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(pixels, getattr(cv2, f"COLOR_YUV2RGB_{_YUV[encoding]}"))


@functools.cache
def _cv_bridge():
    """cv_bridge's function (pixels, encoding, wanted encoding) → pixels; None where it is missing.

    A cv_bridge built for another NumPy than the one in use counts as missing.
    """
    try:
        from cv_bridge.boost.cv_bridge_boost import cvtColor2
    except (ImportError, AttributeError):
        return None
    return cvtColor2


def compressed_to_rgb(message, *, least_px: int = 0) -> np.ndarray:
    """sensor_msgs/CompressedImage that contains a JPEG or a PNG → RGB uint8 (H, W, 3). ValueError for anything else.

    With `least_px` > 0 a JPEG may be decoded at a reduced size, which is faster; no side gets below `least_px`.
    """
    data = _compressed_bytes(message)
    if data.startswith(_JPEG):
        import simplejpeg

        try:
            return simplejpeg.decode_jpeg(data, "RGB", fastdct=least_px > 0, min_height=least_px, min_width=least_px)
        except ValueError as error:
            raise ValueError(f"compressed image: expected a whole JPEG, got {len(data)} bytes: {error}") from error
    import cv2

    # OpenCV returns what it could read of a PNG that was cut off, with the rest black.
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if b"IEND" in data[-12:] else None
    if image is None:
        raise ValueError(f"compressed image: expected a whole PNG, got {len(data)} damaged bytes")
    return image[..., ::-1]


def _compressed_bytes(message) -> bytes:
    """The data of a CompressedImage. Raises ValueError unless it begins as a JPEG or a PNG of colours."""
    data = bytes(memoryview(message.data))
    if not data.startswith((_JPEG, _PNG)) or "compressedDepth" in message.format:
        raise ValueError(
            f"compressed image: expected a JPEG or a PNG, got format {message.format!r} and {len(data)} bytes: "
            "set the camera's transport to compressed, with format jpeg or png"
        )
    return data


def to_rgb(message, *, least_px: int = 0) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage → RGB uint8 (H, W, 3). Raises ValueError if it cannot be decoded.

    `least_px` as in compressed_to_rgb.
    """
    return compressed_to_rgb(message, least_px=least_px) if hasattr(message, "format") else image_to_rgb(message)


def image_size(message) -> tuple[int, int]:
    """(height, width) in px of an Image or a CompressedImage, without decoding the pixels.

    Raises ValueError if a CompressedImage contains neither a JPEG nor a PNG.
    """
    if hasattr(message, "height"):
        return message.height, message.width
    data = _compressed_bytes(message)
    if data.startswith(_PNG):
        if len(data) < 24:
            raise ValueError(f"compressed image: expected a whole PNG, got {len(data)} damaged bytes")
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    import simplejpeg

    try:
        return simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError as error:
        raise ValueError(f"compressed image: expected a whole JPEG, got {len(data)} bytes: {error}") from error


def rgb_to_jpeg(image: np.ndarray, quality: int, *, subsampling: str = "444") -> bytes:
    """RGB uint8 (H, W, 3) → JPEG of `quality` 1 to 100; `subsampling` of the colour channels: "444", "422" or "420"."""
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", subsampling)


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """RGB uint8 (H, W, 3) as it arrives from a camera that publishes JPEG of `quality` 1 to 100."""
    import simplejpeg

    return simplejpeg.decode_jpeg(rgb_to_jpeg(image, quality), "RGB")


def fill_image(message, image: np.ndarray, header, encoding: str = "rgb8") -> None:
    """Copy pixels, uint8 (H, W, C), into a sensor_msgs/Image.

    `array.frombytes` is fast and passes rclpy's field checks; assigning a list takes 50 ms.
    """
    message.header = header
    message.height, message.width = image.shape[:2]
    message.encoding, message.is_bigendian = encoding, 0
    message.step = image.shape[1] * image.shape[2]
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(image).data)
    message.data = data


class ImageBuffer:
    """One sensor_msgs/Image that is reused: each image costs one copy of the pixels and no memory allocation.

    publish() serialises the message before it returns, so the message may then be filled with the next image.
    """

    def __init__(self, message) -> None:
        self.message = message
        self._pixels = np.empty(0, np.uint8)

    def fill(self, image: np.ndarray, header, encoding: str = "rgb8"):
        """Copy uint8 (H, W, C) into the message and return it."""
        if self._pixels.shape != image.shape or self.message.encoding != encoding:
            fill_image(self.message, image, header, encoding)
            self._pixels = np.frombuffer(self.message.data, np.uint8).reshape(image.shape)
        else:
            self.message.header = header
            np.copyto(self._pixels, image)
        return self.message
