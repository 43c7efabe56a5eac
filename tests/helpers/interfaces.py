"""docs/interfaces.md as the code defines it: topics, services, actions, message definitions, parameters."""

import typing
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from repository import ROOT

from grids_common.params import Doc
from grids_common.services import ACTIONS, SERVICES
from grids_common.topics import TOPICS

HEAD = """# Topics, services, actions and parameters
Written by the code: `GRIDS_WRITE=1 ./grids test tests/unit/test_interfaces.py` rewrites this page after a change, and
the same test fails when the page is stale. The sources are `src/grids_common/grids_common/topics.py`,
`src/grids_common/grids_common/qos.py`, `src/grids_common/grids_common/services.py`, the definitions in `src/grids_msgs`
and the parameter dataclasses of the packages."""

PARAMETERS = """## Parameters
Every parameter is read-only: it is read when the node starts and cannot be set while it runs. Site values belong in
`config/`; a misspelt or unknown name there is an error. Lifecycle nodes also take `autostart` (bool, default `false`):
configure and activate without a manager. `--help` lists the arguments of `./grids deploy`, `teleop` and `record`."""

QOS = """## QoS profiles
Keep-last history throughout. The topic table names the profile of the publisher and that of our subscribers."""


@dataclass(frozen=True)
class Node:
    """One node: its executable (`package name`), parameter schema and the file of config/ that sets it."""

    name: str
    executable: str
    schema: type
    config: str = ""
    lifecycle: bool = False


def nodes() -> tuple[Node, ...]:
    """Every node that declares parameters. Imports ROS."""
    from grids_bringup.run.manager_node import ManagerParams
    from grids_perception.params import CameraParams, DescriptionParams, OverlayParams
    from grids_policy.node.params import PolicyParams
    from grids_recorder.node.params import RecorderParams
    from grids_sim.nodes.expert import ExpertParams
    from grids_sim.nodes.params import TwinCameraParams, TwinParams
    from so100_driver.params import DriverParams, LeaderParams

    return (
        Node("driver", "so100_driver driver", DriverParams, "config/arm.yaml", lifecycle=True),
        Node("leader", "so100_driver leader", LeaderParams, "config/arm.yaml", lifecycle=True),
        Node("front_camera, wrist_camera", "grids_perception camera", CameraParams, "config/perception.yaml", True),
        Node("description", "grids_perception description", DescriptionParams, "config/perception.yaml"),
        Node("policy", "grids_policy policy", PolicyParams, "config/policy.yaml", lifecycle=True),
        Node("policy (scripted expert)", "grids_sim expert_policy", ExpertParams),
        Node("overlay", "grids_perception overlay", OverlayParams, "config/perception.yaml"),
        Node("recorder", "grids_recorder recorder", RecorderParams, "config/record.yaml"),
        Node("twin", "grids_sim twin", TwinParams),
        Node("twin_cameras", "grids_sim twin_cameras", TwinCameraParams),
        Node("run_manager", "grids_bringup run_manager", ManagerParams),
    )


def _short(kind: str) -> str:
    return kind.replace("/msg/", "/").replace("/srv/", "/").replace("/action/", "/")


def _cell(text: str) -> str:
    text = text.replace("|", "\\|")
    return text if text.startswith("`") else text.replace("<", "&lt;")


def _table(head: str, rows: list[tuple]) -> list[str]:
    names = head.split(", ")
    return [
        f"| {' | '.join(names)} |",
        "|" + "---|" * len(names),
        *(f"| {' | '.join(_cell(str(cell)) for cell in row)} |" for row in rows),
    ]


def topics() -> list[str]:
    rows = [
        (f"`{t.name}`", f"`{_short(t.type)}`", t.offered, t.requested, "yes" if t.recorded else "", t.note)
        for t in TOPICS
    ]
    return ["## Topics", *_table("topic, type, offered, requested, recorded, meaning", rows)]


def profiles() -> list[str]:
    """The QoS table; imports rclpy."""
    from grids_common.qos import PROFILES

    rows = []
    for name, profile in PROFILES.items():
        lifespan_s = profile.lifespan.nanoseconds * 1e-9
        rows.append(
            (
                name,
                profile.depth,
                profile.reliability.name.lower().replace("_", " "),
                profile.durability.name.lower().replace("_", " "),
                f"{lifespan_s:g} s" if 0 < lifespan_s < 1e6 else "",
            )
        )
    return [QOS, "", *_table("profile, depth, reliability, durability, lifespan", rows)]


def services() -> list[str]:
    lines = []
    for title, table in (("Services", SERVICES), ("Actions", ACTIONS)):
        rows = [(f"`{s.name}`", f"`{_short(s.type)}`", f"`{s.node}`", s.note) for s in table]
        lines += [f"## {title}", *_table("name, type, offered by, meaning", rows), ""]
    return lines[:-1]


def definitions() -> list[str]:
    lines = ["## Messages of grids_msgs"]
    for folder in ("msg", "srv", "action"):
        for path in sorted((ROOT / "src" / "grids_msgs" / folder).iterdir()):
            lines += [f"### {path.stem} ({folder})", "```", path.read_text(encoding="utf-8").strip(), "```"]
    return lines


def _type(kind) -> str:
    """`float`, or `float[]` for a tuple of floats."""
    if typing.get_origin(kind) is tuple:
        return f"{typing.get_args(kind)[0].__name__}[]"
    return kind.__name__


def _value(value) -> str:
    """A default as YAML would spell it."""
    if isinstance(value, tuple):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _range(doc: Doc) -> str:
    if doc.choices:
        return ", ".join(f"`{_value(choice)}`" for choice in doc.choices)
    low, high = ("" if limit is None else _number(limit) for limit in (doc.lo, doc.hi))
    return f"{low} … {high}".strip() if low or high else ""


def parameters(node: Node) -> list[str]:
    hints = typing.get_type_hints(node.schema)
    rows = []
    for f in fields(node.schema):
        doc = f.metadata.get("doc", Doc(""))
        default = "" if f.default is MISSING else f"`{_value(f.default)}`"
        rows.append(
            (
                f"`{f.name}`",
                _type(hints[f.name]),
                default,
                doc.unit,
                _range(doc),
                doc.text + ("; can be set while the node runs" if doc.live else ""),
            )
        )
    kind = "lifecycle node" if node.lifecycle else "node"
    where = f", site values in `{node.config}`" if node.config else ""
    return [
        f"### {node.name}",
        f"`ros2 run {node.executable}`, a {kind}{where}.",
        "",
        *_table("parameter, type, default, unit, range, meaning", rows),
    ]


def page() -> str:
    """The whole of docs/interfaces.md."""
    blocks = [[HEAD], topics(), profiles(), services(), [PARAMETERS]]
    blocks += [parameters(node) for node in nodes()]
    blocks.append(definitions())
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


def declared_schemas() -> set[str]:
    """Names of the dataclasses handed to `declare(self, …)`, read from the code."""
    import ast

    found = set()
    for path in Path(ROOT, "src").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not (isinstance(call, ast.Call) and len(call.args) >= 2 and isinstance(call.args[1], ast.Name)):
                continue
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name == "declare" and isinstance(call.args[0], ast.Name) and call.args[0].id == "self":
                found.add(call.args[1].id)
    return found
