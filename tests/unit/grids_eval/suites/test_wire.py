"""What travels to a suite's worker comes out as it went in, and nothing else is taken."""

import msgpack
import numpy as np
import pytest

from grids_eval.suites.wire import WireError, pack, unpack


def test_a_message_comes_out_as_it_went_in():
    arrays = {
        "state": np.linspace(0, 1, 14),
        "image": np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3),
        "none": np.zeros((0, 4)),
        "flipped": np.arange(12).reshape(3, 4)[::-1, ::-1],
    }
    found = unpack(pack({"kind": "step", "seed": 7, "hw": (480, 640), "one": np.float64(0.5), **arrays}))
    assert (found["kind"], found["seed"], found["hw"], found["one"]) == ("step", 7, [480, 640], 0.5)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable


@pytest.mark.parametrize("value", [np.array([object()]), np.array(["text"]), {1, 2}], ids=["objects", "texts", "set"])
def test_what_would_need_pickle_is_refused(value: object):
    with pytest.raises(WireError, match="expected text, numbers, lists and arrays"):
        pack({"value": value})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgpack.packb([1, 2]),
        msgpack.packb({"a": msgpack.ExtType(9, b"x")}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["|O", [1]]) + b"12345678")}),
        msgpack.packb({"a": msgpack.ExtType(1, msgpack.packb(["<f8", [3]]) + b"12345678")}),
    ],
    ids=["nothing", "no msgpack", "no map", "another extension", "objects", "too short"],
)
def test_bytes_that_are_no_message_are_refused(data: bytes):
    with pytest.raises(WireError, match="expected"):
        unpack(data)
