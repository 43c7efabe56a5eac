"""ROS parameters declared as frozen dataclasses: one field holds type, default, unit, range and description.

    @dataclass(frozen=True)
    class ArmParams:
        rate_hz: float = param(100.0, "control rate", unit="Hz", lo=10, hi=250)

`declare(node, ArmParams)` declares the ROS parameters and returns the filled object. `load_file` checks a YAML file
against the same schemas, so that a misspelt key is an error; rclpy ignores keys that no node declares.
"""

import dataclasses
import math
import types
import typing
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path

import yaml


class ParameterError(ValueError):
    """All problems of one configuration in one message, each with what was expected and what was found."""


@dataclass(frozen=True, slots=True)
class Doc:
    """Description, unit, range (inclusive) and allowed values of one parameter."""

    text: str
    unit: str = ""
    lo: float | None = None
    hi: float | None = None
    choices: tuple = ()


def param(default, text: str, *, unit: str = "", lo=None, hi=None, choices=()):
    """A dataclass field with a `Doc`. List parameters have tuples as defaults."""
    return field(default=default, metadata={"doc": Doc(text, unit, lo, hi, tuple(choices))})


def _coerce(name: str, kind, value):
    """`value` as `kind`; int is accepted for float, list for tuple; everything else must match exactly."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        kind = next(option for option in args if option is not type(None))
        return None if value is None else _coerce(name, kind, value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)) or isinstance(value, str):
            # rclpy returns numeric arrays as array.array
            value = list(value) if hasattr(value, "typecode") else value
        if not isinstance(value, (list, tuple)):
            raise ParameterError(f"{name}: expected a list of {args[0].__name__}, got {value!r}")
        return tuple(_coerce(f"{name}[{i}]", args[0], item) for i, item in enumerate(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ParameterError(f"{name}: expected {kind.__name__}, got {value!r} ({type(value).__name__})")
    return value


def _check(name: str, doc: Doc, value) -> str | None:
    """The problem with one value, or None."""
    for item in value if isinstance(value, tuple) else (value,):
        if item is None or isinstance(item, (str, bool)):
            if doc.choices and item not in doc.choices:
                return f"{name}: expected one of {list(doc.choices)}, got {item!r}"
            continue
        too_low = doc.lo is not None and not item >= doc.lo
        too_high = doc.hi is not None and not item <= doc.hi
        if too_low or too_high or math.isnan(item):
            return f"{name}: expected {doc.lo} to {doc.hi} {doc.unit}".rstrip() + f", got {item}"
    return None


def build(schema: type, values: dict, *, where: str = ""):
    """`schema` filled from `values`; missing keys keep their default. Raises ParameterError that lists all problems."""
    known, problems, clean = {f.name: f for f in fields(schema)}, [], {}
    hints = typing.get_type_hints(schema)
    for key, value in values.items():
        if key not in known:
            problems.append(f"unknown parameter {key!r}; known: {', '.join(sorted(known))}")
            continue
        try:
            clean[key] = _coerce(key, hints[key], value)
        except ParameterError as error:
            problems.append(str(error))
            continue
        problem = _check(key, known[key].metadata.get("doc", Doc("")), clean[key])
        problems += [problem] if problem else []
    if not problems:
        try:
            return schema(**clean)
        except (ValueError, TypeError) as error:
            problems.append(str(error))
    raise ParameterError(f"{where or schema.__name__}: " + "; ".join(problems))


def _default(f: dataclasses.Field):
    return f.default if f.default is not MISSING else None


def declare(node, schema: type):
    """Declare every field of `schema` as a read-only parameter of an rclpy node; return the schema with its values.

    Raises ParameterError that lists all problems.
    """
    from rcl_interfaces.msg import ParameterDescriptor

    values = {}
    for f in fields(schema):
        doc, default = f.metadata.get("doc", Doc("")), _default(f)
        # No range in the descriptor: rclpy would stop at the first violation; build() reports all of them.
        limits = "" if doc.lo is None else f" ({doc.lo} to {doc.hi} {doc.unit})"
        descriptor = ParameterDescriptor(description=doc.text + limits, read_only=True, dynamic_typing=True)
        default = list(default) if isinstance(default, tuple) else default
        value = node.declare_parameter(f.name, default, descriptor).value
        if value is not None or default is not None:
            values[f.name] = value
    return build(schema, values, where=f"parameters of node {node.get_name()!r}")


def load_file(path: Path, schemas: dict[str, type]) -> dict[str, object]:
    """Read a ROS parameter file (`node: ros__parameters: …`) and check every key; returns a filled schema per node.

    Raises ParameterError for an unreadable file, an unknown node or key, or a value out of range.
    """
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path}: expected a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParameterError(f"{path}: expected a mapping of node names, got {type(tree).__name__}")
    filled = {}
    for node, block in tree.items():
        if node not in schemas:
            raise ParameterError(f"{path}: expected node names {sorted(schemas)}, got {node!r}")
        if not isinstance(block, dict) or set(block) != {"ros__parameters"}:
            raise ParameterError(f"{path}: {node}: expected one key 'ros__parameters', got {block!r}")
        values = block["ros__parameters"] or {}
        if not isinstance(values, dict):
            raise ParameterError(f"{path}: {node}: expected a mapping of parameter names, got {values!r}")
        filled[node] = build(schemas[node], values, where=f"{path}: {node}")
    return filled
