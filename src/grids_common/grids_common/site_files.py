"""Parameter files of a site (config/*.yaml): which of their sections are meant for a node.

rcl compares a section's name with the whole name of a node, so the section `driver:` reaches /driver and is silently
ignored by /robot1/driver and by a driver that was renamed. A speed limit must not be lost that way. Here a section is
meant for every node whose name ends in the section's, and `driver` for every node of that kind.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from grids_common.errors import GridsError


class ParameterError(GridsError, ValueError):
    """All problems of one configuration in one message, each with what was expected and what was found."""


class _Loader(yaml.SafeLoader):
    """YAML as rcl reads it. ros2 launch writes lists into its parameter files as Python tuples."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node))


def read_sections(path: Path) -> dict[str, dict[str, Any]]:
    """The parameters of each section of a ROS parameter file, by the section's name. Raises ParameterError."""
    try:
        tree = yaml.load(Path(path).read_text(encoding="utf-8"), _Loader) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ParameterError(f"{path}: expected a readable YAML file: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ParameterError(f"{path}: expected a mapping of node names, got {type(tree).__name__}")
    return {str(name): block for name, block in _flat(path, "", tree)}


def _flat(path: Path, above: str, tree: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Sections, also those nested in namespaces (`robot1: driver: ros__parameters: …`), which rcl accepts."""
    found: list[tuple[str, dict[str, Any]]] = []
    for key, block in tree.items():
        name = f"{above.rstrip('/')}/{str(key).lstrip('/')}" if above else str(key)
        if not isinstance(block, dict) or not block or ("ros__parameters" in block and len(block) > 1):
            raise ParameterError(f"{path}: {name}: expected one key 'ros__parameters', got {block!r}")
        if "ros__parameters" not in block:
            found += _flat(path, name, block)
            continue
        values = block["ros__parameters"] or {}
        if not isinstance(values, dict):
            raise ParameterError(f"{path}: {name}: expected a mapping of parameter names, got {values!r}")
        found.append((name, values))
    return found


def asks_for_sim_time(path: Path) -> bool:
    """Whether any section of a parameter file sets use_sim_time to true. Raises ParameterError."""
    return any(values.get("use_sim_time") is True for values in read_sections(path).values())


def kind_of(section: str) -> str:
    """The last part of a section's name: the name that a node of that kind has by default."""
    return section.rsplit("/", 1)[-1]


def reaches(section: str, node: str, kinds: Sequence[str]) -> bool:
    """Whether a section is meant for a node: one whose name is the end of the node's, in whole words.

    So `/left/driver` is also meant for /lab/left/driver, which a launch file around ours started: the values of a robot
    must not be lost by a namespace. node: the whole name, e.g. "/robot1/driver". kinds: the names that a node of this
    kind has by default; only where there is a single one, a renamed node can be told from its siblings.
    """
    names = [node, f"{node.rpartition('/')[0]}/{kinds[0]}"] if len(kinds) == 1 else [node]
    parts = ["(/[^/]+)*" if p == "**" else "/[^/]+" if p == "*" else f"/{re.escape(p)}" for p in _words(section)]
    return any(re.fullmatch("".join(["(/[^/]+)*", *parts]), name) for name in names)


def _words(section: str) -> list[str]:
    return [word for word in section.split("/") if word]


def meant_for(sections: Mapping[str, dict[str, Any]], node: str, kinds: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The sections of one file that reach a node, the one that names most of it last. Arguments as of `reaches`."""
    found = [name for name in sections if reaches(name, node, kinds)]
    found.sort(key=lambda name: sum(word not in ("*", "**") for word in _words(name)))
    return {name: sections[name] for name in found}


def parameter_files(arguments: Sequence[str]) -> list[Path]:
    """The files that `--params-file` names on a node's command line."""
    return [Path(after) for word, after in pairwise(arguments) if word == "--params-file"]


def command_line_names(arguments: Sequence[str]) -> set[str]:
    """The parameters that `-p [NODE:]NAME:=VALUE` sets on a node's command line."""
    after = [text for word, text in pairwise(arguments) if word in ("-p", "--param")]
    return {text.partition(":=")[0].rpartition(":")[2] for text in after}


def values_for(files: Sequence[Path], node: str, kinds: Sequence[str]) -> dict[str, Any]:
    """The values that the files hold for a node; of one file those of the section that names most of the node win.

    Later files win over earlier ones. Arguments as those of `reaches`.

    Raises ParameterError for a file that has a section of this kind, none of which is meant for the node.
    """
    values: dict[str, Any] = {}
    for path in files:
        sections = read_sections(path)
        found = meant_for(sections, node, kinds)
        if not found and any(kind_of(name) in kinds for name in sections):
            raise ParameterError(
                f"{path}: expected values for node {node}, got sections {sorted(sections)}: "
                f"name the section {kind_of(node)}, or /**/{kind_of(node)}"
            )
        for block in found.values():
            values |= block
    return values
