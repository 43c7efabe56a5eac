"""Conversion between sensor_msgs/Image, sensor_msgs/CompressedImage and RGB arrays.

Messages are accessed by attribute only, so rclpy's messages and messages decoded from a bag both work, without ROS.
Encoding names are those of sensor_msgs/image_encodings.hpp. Pixels are copied only if their layout has to change.
"""

import array

import numpy as np

JPEG_FORMAT = "rgb8; jpeg compressed bgr8"  # CompressedImage.format, as image_transport writes it
_PNG, _PNG_SIZE = b"\x89PNG\r\n\x1a\n", slice(16, 24)  # the beginning of the file; where width and height lie
_CHANNELS = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
# 4:2:2, two bytes per pixel: OpenCV's name of the byte order, by current and by deprecated encoding name.
_YUV = {"uyvy": "UYVY", "yuv422": "UYVY", "yuyv": "YUYV", "yuv422_yuy2": "YUYV"}
ENCODINGS = (*_CHANNELS, *_YUV)


def image_to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image in one of ENCODINGS → RGB uint8 (H, W, 3).

    rgb8, bgr8, rgba8 and bgra8 return views of the message's data (bgr: with a negative stride); mono8 and YUV return
    copies. `step` 0 means rows without padding. Raises ValueError for another encoding or a wrong data size.
    """
    encoding, height, width = message.encoding, message.height, message.width
    if encoding not in ENCODINGS:
        raise ValueError(f"image: expected encoding {', '.join(ENCODINGS)}, got {encoding!r}")
    channels = _CHANNELS.get(encoding, 2)
    step = message.step or width * channels
    data = np.frombuffer(message.data, np.uint8)
    if step < width * channels or data.size < height * step or not height * width:
        raise ValueError(
            f"image: expected {height} rows of at least {width * channels} bytes ({width} px of {encoding}), "
            f"got step {step} and {data.size} bytes"
        )
    lines = data[: height * step].reshape(height, step)[:, : width * channels]
    pixels = lines.reshape(height, width, channels)
    if encoding in _YUV:
        return _yuv_to_rgb(pixels, _YUV[encoding])
    if channels == 1:
        return np.repeat(pixels, 3, axis=2)
    return pixels[..., 2::-1] if encoding.startswith("bgr") else pixels[..., :3]


def _yuv_to_rgb(pixels: np.ndarray, order: str) -> np.ndarray:
    """(H, W, 2) uint8 → (H, W, 3), by ITU-R BT.601 as OpenCV and cv_bridge do. ValueError for an odd width."""
    import cv2

    if pixels.shape[1] % 2:
        raise ValueError(f"image: expected an even width for YUV 4:2:2, got {pixels.shape[1]}")
    return cv2.cvtColor(np.ascontiguousarray(pixels), getattr(cv2, f"COLOR_YUV2RGB_{order}"))


def jpeg_to_rgb(message, *, least_px: int = 0) -> np.ndarray:
    """sensor_msgs/CompressedImage that contains a JPEG or a PNG → RGB uint8 (H, W, 3). ValueError for anything else.

    With `least_px` > 0 the image may be decoded at a reduced size, which is faster; no side gets below `least_px`.
    """
    import simplejpeg

    data = bytes(memoryview(message.data))
    if data.startswith(_PNG):
        return _png_to_rgb(data)
    if not data.startswith(b"\xff\xd8"):
        raise ValueError(f"compressed image: expected a JPEG or a PNG, got format {message.format!r}")
    return simplejpeg.decode_jpeg(data, "RGB", fastdct=least_px > 0, min_height=least_px, min_width=least_px)


def _png_to_rgb(data: bytes) -> np.ndarray:
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise ValueError("compressed image: expected a whole PNG, it is damaged")
    return image


def to_rgb(message) -> np.ndarray:
    """sensor_msgs/Image or CompressedImage → RGB uint8 (H, W, 3). Raises ValueError if it cannot be decoded."""
    return jpeg_to_rgb(message) if hasattr(message, "format") else image_to_rgb(message)


def image_size(message) -> tuple[int, int]:
    """(height, width) in px of an Image or a CompressedImage, without decoding the pixels.

    Raises ValueError if a CompressedImage does not contain a JPEG or a PNG.
    """
    import simplejpeg

    if hasattr(message, "height"):
        return message.height, message.width
    data = bytes(memoryview(message.data))
    if data.startswith(_PNG) and len(data) >= _PNG_SIZE.stop:
        width, height = np.frombuffer(data[_PNG_SIZE], ">u4").tolist()
        return height, width
    try:
        return simplejpeg.decode_jpeg_header(data)[:2]
    except ValueError as error:
        raise ValueError(f"compressed image: expected a JPEG or a PNG, got format {message.format!r}") from error


def rgb_to_jpeg(image: np.ndarray, quality: int, *, subsampling: str = "444") -> bytes:
    """RGB uint8 (H, W, 3) → JPEG of `quality` 1 to 100; `subsampling` of the colour channels: "444", "422" or "420"."""
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(image), quality, "RGB", subsampling)


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
