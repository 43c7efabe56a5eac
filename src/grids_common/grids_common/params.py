"""ROS parameters declared as frozen dataclasses: one field holds type, default, unit, range and description.

    @dataclass(frozen=True)
    class ArmParams:
        rate_hz: float = param(100.0, "control rate", unit="Hz", lo=10, hi=250)

`declare(node, ArmParams)` declares the ROS parameters and returns the filled object. `load_file` checks a YAML file
against the same schemas, so that a misspelt key is an error; rclpy ignores keys that no node declares.
"""

import dataclasses
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Collection
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from grids_common.site_files import (
    ParameterError,
    command_line_names,
    kind_of,
    meant_for,
    parameter_files,
    read_sections,
    values_for,
)

# Old names of parameters: the present name and the node that has it; no node: an argument of a run.
RENAMED = {"execute_rows": ("n_action_steps", "policy"), "namespace": ("robot", "")}
_ROBOTS = re.compile(r"(/\*\*)?(/[A-Za-z]\w*)+/\w+")  # a section of one robot: /left/driver, /**/left/driver
NO_CLOCK = (
    "'use_sim_time': expected not to be set, since no node of a run publishes /clock (the twin runs in real time too): "
    "take it out; a node started by hand takes -p use_sim_time:=true once a simulator publishes /clock"
)


@dataclass(frozen=True, slots=True)
class Doc:
    """Description, unit, range (inclusive) and allowed values of one parameter. `live`: may be set at run time."""

    text: str
    unit: str = ""
    lo: float | None = None
    hi: float | None = None
    choices: tuple = ()
    live: bool = False


def param(default, text: str, *, unit: str = "", lo=None, hi=None, choices=(), live: bool = False):
    """A dataclass field with a `Doc`. List parameters have tuples as defaults."""
    return field(default=default, metadata={"doc": Doc(text, unit, lo, hi, tuple(choices), live)})


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
    if value is None:
        empty = 'write "" for none' if kind is str else "write a value"
        raise ParameterError(f"{name}: expected {kind.__name__}, got nothing: {empty}, or take the line out")
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        quotes = f': write it in quotes, "{value}"' if kind is str and type(value) in (int, float) else ""
        raise ParameterError(f"{name}: expected {kind.__name__}, got {value!r} ({type(value).__name__}){quotes}")
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


def unknown(name: str, known: Collection[str]) -> str:
    """The sentence about a parameter or argument that does not exist; an old name is answered with the new one."""
    if name == "use_sim_time":
        return NO_CLOCK
    if name not in RENAMED:
        return f"unknown parameter {name!r}; known: {', '.join(sorted(known))}"
    new, node = RENAMED[name]
    place = "" if new in known or not node else f", a parameter of the node {node} (config/{node}.yaml)"
    return f"unknown parameter {name!r}: it is now called {new!r}{place}; set that instead"


def _refuse_old_names(node, site: Collection[str], known: Collection[str]) -> None:
    """rclpy ignores a value for a parameter that nobody declares: an old name would silently have no effect."""
    from rcl_interfaces.msg import ParameterDescriptor

    for old, (new, _) in RENAMED.items():
        if new not in known:
            continue
        given = node.declare_parameter(old, None, ParameterDescriptor(dynamic_typing=True)).value
        node.undeclare_parameter(old)
        if given is not None or old in site:
            raise ParameterError(f"parameters of node {node.get_name()!r}: {unknown(old, known)}")


def build(schema: type, values: dict, *, where: str = ""):
    """`schema` filled from `values`; missing keys keep their default. Raises ParameterError that lists all problems."""
    known, problems, clean = {f.name: f for f in fields(schema)}, [], {}
    hints = typing.get_type_hints(schema)
    for key, value in values.items():
        if key not in known:
            problems.append(unknown(key, known))
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


def declare(node, schema: type, *kinds: str, apply: Callable[[Any], object] | None = None):
    """Declare every field of `schema` as a parameter of an rclpy node; return the schema with its values.

    kinds: the names that a node of this kind has by default. Sections of a parameter file under these names hold in
    every namespace (see site_files); rcl would give /lab/left/driver the values of `/**/driver` and ignore those of
    `/left/driver`, so the files' values come from here and only -p from rcl. apply: called with the whole schema after
    fields marked `live` were set at run time; it must not raise. Setting another field is refused. Raises
    ParameterError that lists all problems.
    """
    from rcl_interfaces.msg import ParameterDescriptor

    site = values_for(parameter_files(sys.argv), node.get_fully_qualified_name(), kinds) if kinds else {}
    _refuse_old_names(node, site, {f.name for f in fields(schema)})
    from_file, values = site.keys() - command_line_names(sys.argv), {}
    for f in fields(schema):
        default = site.get(f.name, _default(f))
        default = list(default) if isinstance(default, tuple) else default
        # No range yet: rclpy would stop at the first violation; build() reports all of them.
        anything = ParameterDescriptor(dynamic_typing=True)
        value = node.declare_parameter(f.name, default, anything, ignore_override=f.name in from_file).value
        if value is not None or default is not None:
            values[f.name] = value
    filled = build(schema, values, where=f"parameters of node {node.get_name()!r}")
    for f in fields(schema):
        node.set_descriptor(f.name, _descriptor(f))
    _watch_changes(node, filled, apply)
    return filled


def _descriptor(f: dataclasses.Field):
    """The parameter's description and range, as rqt_reconfigure and `ros2 param describe` show them."""
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    doc = f.metadata.get("doc", Doc(""))
    text = doc.text + (f" [{doc.unit}]" if doc.unit else "")
    limits = {}
    if doc.lo is not None and f.type is float:
        top = math.inf if doc.hi is None else float(doc.hi)
        limits["floating_point_range"] = [FloatingPointRange(from_value=float(doc.lo), to_value=top)]
    elif doc.lo is not None and f.type is int:
        top = 2**63 - 1 if doc.hi is None else int(doc.hi)
        limits["integer_range"] = [IntegerRange(from_value=int(doc.lo), to_value=top, step=1)]
    notes = [f"one of {', '.join(map(str, doc.choices))}"] if doc.choices else []
    notes += [] if doc.live else ["fixed while the node runs"]
    return ParameterDescriptor(description=text, additional_constraints="; ".join(notes), dynamic_typing=True, **limits)


def _watch_changes(node, filled, apply: Callable[[Any], object] | None) -> None:
    """Check what a client sets at run time, and hand the new values on."""
    from rcl_interfaces.msg import SetParametersResult

    schema, current = type(filled), {f.name: getattr(filled, f.name) for f in fields(filled)}
    live = {f.name for f in fields(filled) if f.metadata.get("doc", Doc("")).live}

    def problem(changes) -> str:
        own = {change.name: change.value for change in changes if change.name in current}
        if fixed := sorted(set(own) - live):
            return (
                f"{', '.join(fixed)}: read once, when the node starts, so that nothing changes under a moving arm; "
                "set it in the parameter file and start the node again. "
                f"Can be set now: {', '.join(sorted(live)) or 'nothing'}"
            )
        try:
            build(schema, current | own)
        except ParameterError as error:
            return str(error)
        return ""

    def check(changes):
        reason = problem(changes)
        return SetParametersResult(successful=not reason, reason=reason)

    def keep(changes) -> None:
        own = {change.name: change.value for change in changes if change.name in live}
        if own and apply is not None:
            current.update(own)
            apply(build(schema, current))

    node.add_on_set_parameters_callback(check)
    node.add_post_set_parameters_callback(keep)


def load_file(path: Path, schemas: dict[str, type], namespace: str = "") -> dict[str, object]:
    """Read a ROS parameter file and check every key; returns a filled schema per node.

    A section is named `driver`, `/driver` or `/**/driver`. One that names a robot, such as `/left/driver`, holds for
    that robot only, on top of the other: `namespace` says whose values are wanted ("" for a robot without a name). The
    node itself reads the same ones (see site_files).
    Raises ParameterError for an unreadable file, an unknown node or key, two sections for one node, a robot's section
    above the one for all, or a value out of range.
    """
    found: set[str] = set()
    sections = read_sections(path)
    for name, values in sections.items():
        node, common = kind_of(name), not _ROBOTS.fullmatch(name)
        if node not in schemas or (common and name not in (node, f"/{node}", f"/**/{node}")):
            raise ParameterError(f"{path}: expected node names {sorted(schemas)}, got {name!r}")
        if common and node in found:
            raise ParameterError(
                f"{path}: expected one section for {node}, above those of single robots, got another one, {name!r}"
            )
        build(schemas[node], values, where=f"{path}: {node if common else name}")  # of every robot: a typo is an error
        found.add(node)
    filled = {}
    for node in found:
        values: dict[str, Any] = {}
        for block in meant_for(sections, f"/{namespace}/{node}" if namespace else f"/{node}", (node,)).values():
            values |= block
        filled[node] = build(schemas[node], values, where=f"{path}: {node}")
    return filled
