"""What travels between the evaluator and a suite's worker process: msgpack maps with numpy arrays. No pickles.

A message is one `multiprocessing.connection` byte message: a map with text keys. An array is msgpack extension 1: its
dtype, its shape and its bytes. Only numbers and bool are taken.
"""

import math
from multiprocessing.connection import Connection

import msgpack
import numpy as np

_ARRAY = 1
_KINDS = "biuf"  # bool, integers, floats: arrays of objects would need pickle
MAX_BYTES = 1 << 28


class WireError(Exception):
    """A message that is not one of ours: what was expected and what came."""


def pack(message: dict) -> bytes:
    """`message` as bytes. Raises WireError where it contains something other than text, numbers, lists and arrays."""
    try:
        return msgpack.packb(message, default=_pack_array)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"expected text, numbers, lists and arrays, got a message that has others: {error}") from error


def _pack_array(value: object) -> msgpack.ExtType | object:
    if isinstance(value, np.generic):
        return value.item()
    if not isinstance(value, np.ndarray) or value.dtype.kind not in _KINDS:
        raise TypeError(f"{type(value).__name__} {getattr(value, 'dtype', '')}".strip())
    head = msgpack.packb([value.dtype.str, list(value.shape)])
    return msgpack.ExtType(_ARRAY, head + np.ascontiguousarray(value).tobytes())


def unpack(data: bytes) -> dict:
    """The inverse of `pack`. Raises WireError."""
    try:
        message = msgpack.unpackb(data, ext_hook=_unpack_array, max_ext_len=MAX_BYTES, max_str_len=1 << 20)
    except WireError:
        raise
    except Exception as error:  # msgpack raises its own and others on damaged bytes
        raise WireError(f"expected a message of a suite's worker, got bytes that are none: {error}") from error
    if not isinstance(message, dict):
        raise WireError(f"expected a map, got {type(message).__name__}")
    return message


def _unpack_array(code: int, data: bytes) -> np.ndarray:
    if code != _ARRAY:
        raise WireError(f"expected extension {_ARRAY}, got {code}")
    unpacker = msgpack.Unpacker()
    unpacker.feed(data)
    text, shape = unpacker.unpack()
    dtype = np.dtype(text)
    if dtype.kind not in _KINDS or math.prod(shape) * dtype.itemsize != len(data) - unpacker.tell():
        raise WireError(f"expected {shape} numbers, got {len(data)} bytes of {text}")
    return np.frombuffer(data, dtype, offset=unpacker.tell()).reshape(shape).copy()


def send(pipe: Connection, message: dict) -> None:
    """Send one message. Raises OSError where the other side is gone."""
    pipe.send_bytes(pack(message))


def receive(pipe: Connection) -> dict:
    """Wait for one message. Raises EOFError where the other side is gone, OSError where it is too large."""
    return unpack(pipe.recv_bytes(MAX_BYTES))
