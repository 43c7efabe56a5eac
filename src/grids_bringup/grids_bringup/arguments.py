"""The arguments of a run, shared by `./grids NAME` and `ros2 launch grids_bringup NAME.launch.py`."""

import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory

from grids_common.params import Doc, ParameterError, build, load_file, param
from grids_common.tasks import TASKS
from grids_common.topics import CAMERAS
from grids_perception.params import SCHEMAS, CameraParams

DEFAULT_LIMIT_S = 60.0
DEMO = "demo"


@dataclass(frozen=True, slots=True)
class DeployArguments:
    """What `name:=value` pairs fill; every value is checked before any process starts."""

    hardware: str = param("twin", "where the arm and cameras are", choices=("twin", "real"))
    task: str = param("pick_place", "scene the twin sets up and judges", choices=tuple(TASKS))
    policy: str = param(
        "",
        "a bundle folder, a name under models/, or expert (the twin's scripted policy); empty: demo on the twin, while "
        "a real arm needs a bundle trained on it",
    )
    duration: float = param(
        0.0,
        "how long to run; 0: until the task is done, at most 60 s on the twin, until Ctrl-C otherwise",
        unit="s",
        lo=0.0,
        hi=86400.0,
    )
    seed: int = param(0, "scene and noise seed", lo=0, hi=2**31 - 1)
    instruction: str = param("", "sentence for the policy; empty: on the twin the task's own, else the bundle's")
    time_scale: float = param(
        1.0, "chunks play this many times slower: a way to run a policy too slow for this machine", lo=1.0, hi=50.0
    )
    serial_port: str = param("", "follower's serial device; empty: the twin's, or the site's arm.yaml")
    cameras: str = param("ours", "camera nodes on real hardware", choices=("ours", "realsense_ros"))
    output: str = param("", "folder for summary, video and logs; empty: runs/<time>")

    @property
    def chosen(self) -> str:
        """The policy as a name or folder. Empty: none, since the demo has only ever seen the twin."""
        return self.policy or (DEMO if self.hardware == "twin" else "")

    @property
    def expert(self) -> bool:
        return self.policy == "expert"

    @property
    def limit_s(self) -> float:
        """Longest run in s; 0 = no limit."""
        if self.duration > 0:
            return self.duration
        return DEFAULT_LIMIT_S if self.hardware == "twin" else 0.0

    @property
    def must_succeed(self) -> bool:
        """A run without a duration is asked to do the task; one with a duration is asked to run that long."""
        return self.hardware == "twin" and self.duration == 0.0


@dataclass(frozen=True, slots=True)
class TeleopArguments:
    """A leader arm moves the follower; on the twin a virtual operator moves the leader."""

    hardware: str = param("twin", "where the arms and cameras are", choices=("twin", "real"))
    task: str = param("pick_place", "scene the twin sets up and judges; what real episodes show", choices=tuple(TASKS))
    operator: str = param(
        "expert",
        "who moves the twin's leader: the scripted expert, a slow wave, the topic twin/hand, or nobody",
        choices=("expert", "wave", "topic", "none"),
    )
    duration: float = param(
        0.0,
        "how long to run; 0: until the expert has done the task, at most 60 s, otherwise until Ctrl-C",
        unit="s",
        lo=0.0,
        hi=86400.0,
    )
    seed: int = param(0, "scene seed", lo=0, hi=2**31 - 1)
    serial_port: str = param("", "follower's serial device; empty: the twin's, or the site's arm.yaml")
    leader_port: str = param("", "leader's serial device; empty: the twin's, or the site's arm.yaml")
    cameras: str = param("ours", "camera nodes on real hardware", choices=("ours", "realsense_ros"))
    output: str = param("", "folder for summary, video and logs; empty: runs/<time>")
    record: bool = param(False, "record episodes")
    recordings: str = param("recordings", "folder that receives the episodes")
    episodes: int = param(0, "episodes wanted, 0: until stopped", lo=0, hi=100_000)
    episode_s: float = param(0.0, "longest episode; 0: 30 s on the twin, else until stopped", unit="s", lo=0.0, hi=3600)
    reset_s: float = param(-1.0, "time between episodes; below 0: 2 s on the twin, else as in record.yaml", unit="s")
    sentence: str = param("", "text stored with the episodes; empty: the task's own instruction")
    person: str = param("", "who demonstrates, stored with the episodes")

    @property
    def episode_text(self) -> str:
        """The text for the recorder; empty: it hears the twin's."""
        return self.sentence or (TASKS[self.task].instruction if self.hardware == "real" else "")

    @property
    def scripted(self) -> bool:
        """The twin demonstrates to itself: episodes need no keys."""
        return self.hardware == "twin" and self.operator == "expert"

    @property
    def must_succeed(self) -> bool:
        """Only the scripted operator is asked to do the task."""
        return self.scripted and self.duration == 0.0 and not self.record

    @property
    def limit_s(self) -> float:
        """Longest run in s; 0 = no limit."""
        return self.duration or (DEFAULT_LIMIT_S if self.must_succeed else 0.0)


@dataclass(frozen=True, slots=True)
class RestArguments:
    """An arm that holds is let down."""

    hardware: str = param("real", "where the arm is; twin: one that `./grids twin` runs", choices=("twin", "real"))
    serial_port: str = param("", "follower's serial device; empty: the site's arm.yaml")
    output: str = param("", "folder for summary and logs; empty: runs/<time>")


def share() -> Path:
    """The installed copy of launch/, config/ and models/."""
    return Path(get_package_share_directory("grids_bringup"))


def parse(pairs: list[str], schema: type = DeployArguments):
    """`["task:=pick_place", …]` to a checked `schema`; ParameterError says what was expected and what came."""
    hints = {f.name: f.type for f in fields(schema)}
    values = {}
    for pair in pairs:
        name, separator, text = pair.partition(":=")
        if not separator:
            raise ParameterError(f"expected name:=value, got {pair!r}; names: {', '.join(hints)}")
        values[name] = convert(text, hints.get(name, str))
    return build(schema, values, where="arguments")


def convert(text: str, kind: type):
    """One command-line value; strings stay strings even when they look like numbers."""
    if kind is str:
        return text
    if kind in (int, float):
        with suppress(ValueError):
            return kind(text)  # YAML would read 010 as eight and 1:30 as ninety
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def resolve_policy(policy: str) -> str:
    """The bundle folder meant by `policy`: a path, or a name under models/."""
    for folder in (Path(policy), share() / "models" / policy):
        if (folder / "policy.json").is_file():
            return str(folder.resolve())
    known = sorted(path.parent.name for path in (share() / "models").glob("*/policy.json"))
    raise ParameterError(f"policy: expected 'expert', a folder holding policy.json, or one of {known}, got {policy!r}")


def check_port(name: str, port: str) -> None:
    """A named serial device must exist; ParameterError lists those that do."""
    if port and not Path(port).exists():
        found = sorted(str(path) for pattern in ("ttyACM*", "ttyUSB*") for path in Path("/dev").glob(pattern))
        raise ParameterError(f"{name}: expected an existing device, got {port!r}; present: {found or 'none'}")


def check_deploy(arguments: DeployArguments) -> None:
    """Everything that can be refused before a process starts; raises ParameterError."""
    if arguments.expert and arguments.hardware != "twin":
        raise ParameterError("policy: the expert reads the twin's ground truth; expected a bundle for hardware:=real")
    if arguments.expert and arguments.instruction:
        raise ParameterError(
            "instruction: the expert does its task:=… and reads no sentence; expected a bundle as policy"
        )
    if not arguments.chosen:
        raise ParameterError(
            "policy: expected policy:=BUNDLE, trained on this arm, with hardware:=real, got none "
            "(the demo has only ever seen the twin)"
        )
    if not arguments.expert:
        resolve_policy(arguments.chosen)
    check_cameras(arguments)
    check_port("serial_port", arguments.serial_port)


def camera_sites() -> dict[str, CameraParams]:
    """What perception.yaml says of each camera node, by node name."""
    site = load_file(share() / "config" / "perception.yaml", SCHEMAS)
    return {name: site.get(name) or CameraParams() for name in (f"{camera}_camera" for camera in CAMERAS)}


def check_cameras(arguments: DeployArguments | TeleopArguments) -> None:
    """`cameras:=realsense_ros` replaces our nodes of real RealSense cameras; raises ParameterError elsewhere."""
    if arguments.cameras == "ours":
        return
    if arguments.hardware != "real":
        raise ParameterError("cameras: the twin brings its own; expected hardware:=real with cameras:=realsense_ros")
    sites = camera_sites()
    for name, site in sites.items():
        if site.source != "realsense":
            raise ParameterError(
                f"cameras: expected source realsense of {name} in perception.yaml with cameras:=realsense_ros, "
                f"got {site.source!r}"
            )
        alike = [other.model for other in sites.values()].count(site.model) > 1
        if not site.serial and (alike or not site.model):
            raise ParameterError(
                f"cameras: expected a serial, or a model of its own, of {name} in perception.yaml: "
                "realsense2_camera takes the first camera that fits"
            )


def check_rest(arguments: RestArguments) -> None:
    """A named device must exist; raises ParameterError."""
    check_port("serial_port", arguments.serial_port)


def check_teleop(arguments: TeleopArguments) -> None:
    """Everything that can be refused before a process starts; raises ParameterError."""
    check_cameras(arguments)
    check_port("serial_port", arguments.serial_port)
    check_port("leader_port", arguments.leader_port)


def run_folder(output: str) -> Path:
    """Makes and returns the folder of a run (`output`, or runs/<time>); refuses to write over an earlier run."""
    if output:
        folder = Path(output).expanduser().resolve()
    else:
        folder = Path.cwd() / "runs" / time.strftime("%Y-%m-%d_%H-%M-%S")
        number = 1
        while folder.exists():
            number += 1
            folder = folder.with_name(f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{number}")
    # A run that was killed left no summary, but exits that this one would take for its own.
    if any((folder / name).exists() for name in ("summary.json", "exits.jsonl")):
        raise ParameterError(f"output: expected a folder without an earlier run, got {folder}")
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"output: expected a writable folder, got {folder}: {error.strerror}") from error
    return folder


def documentation(schema: type) -> list[tuple[str, str, str]]:
    """(name, default, text) of every argument, for --help and for DeclareLaunchArgument."""
    rows = []
    for f in fields(schema):
        doc: Doc = f.metadata["doc"]
        choices = f" ({' | '.join(doc.choices)})" if doc.choices else ""
        rows.append((f.name, str(f.default), doc.text + (f" [{doc.unit}]" if doc.unit else "") + choices))
    return rows
