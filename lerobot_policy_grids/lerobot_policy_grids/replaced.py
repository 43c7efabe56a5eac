"""Names of a module of LeRobot, replaced while LeRobot builds something with values that stand in its code."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any


@contextmanager
def replaced(module: ModuleType, **names: Any) -> Iterator[None]:
    """`names` of `module` have these values inside the block. AttributeError where the module has no such name."""
    before = {name: getattr(module, name) for name in names}
    try:
        vars(module).update(names)
        yield
    finally:
        vars(module).update(before)
