"""The table of rights against the nodes of real runs: none does what it may not, and none may do what none does."""

import signal
import time

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.action import get_action_server_names_and_types_by_node  # noqa: E402

from grids_bringup.secure.permissions import resolved  # noqa: E402
from grids_bringup.secure.rights import JPEG, PARAMETERS  # noqa: E402

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SETTLED_S = 4.0  # without anything new
# Rights that these runs do not use: another host, real arms and cameras, images as JPEG, a switched-on output, buttons.
UNUSED = {
    "twin": {"/twin/hand"},
    "twin_cameras": set(JPEG),
    "policy": {"/policy/joint_trajectory", "/twin/objects", "/run_manager/clock", *JPEG},
    "overlay": set(JPEG),
    "run_manager": {"/run/state", "/run_manager/clock", "/estop"},
}


def used(node, name: str) -> dict[str, set[str]]:
    """What a node does now, by the ways of `resolved`."""
    ways = {
        "publish": node.get_publisher_names_and_types_by_node,
        "subscribe": node.get_subscriber_names_and_types_by_node,
        "reply": node.get_service_names_and_types_by_node,
        "request": node.get_client_names_and_types_by_node,
    }
    found = {way: {n for n, _ in ask(name, "/") if "/_action/" not in n} for way, ask in ways.items()}
    found["execute"] = {n for n, _ in get_action_server_names_and_types_by_node(node, name, "/")}
    return found


def watch(node, names: list[str], timeout_s: float = 100.0) -> dict[str, dict[str, set[str]]]:
    """Everything that the nodes have done until nothing new has come for SETTLED_S."""
    seen = {name: {way: set() for way in ("publish", "subscribe", "reply", "request", "execute")} for name in names}
    last, begin = time.monotonic(), time.monotonic()
    while time.monotonic() - last < SETTLED_S or not all(seen[name]["publish"] for name in names):
        assert time.monotonic() - begin < timeout_s, f"not all nodes of {names} are there: {seen}"
        for name in set(names) & set(node.get_node_names()):
            for way, found in used(node, name).items():
                if found - seen[name][way]:
                    seen[name][way] |= found
                    last = time.monotonic()
        time.sleep(0.2)
    return seen


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("deploy",), ["twin", "twin_cameras", "driver", "policy", "overlay", "description", "run_manager"]),
        (("teleop", "record:=true", "episode_s:=60"), ["leader", "driver", "recorder", "run_manager"]),
    ],
    ids=["deploy", "record"],
)
def test_nodes_have_the_rights_that_they_use(launch, tmp_path, words, names):
    more = () if words[0] == "deploy" else (f"recordings:={tmp_path / 'recordings'}",)
    run = launch(*words, "duration:=120", *more)
    context = rclpy.Context()
    rclpy.init(context=context, domain_id=run.domain)
    node = rclpy.create_node("test_secure", context=context)
    try:
        seen = watch(node, names)
    finally:
        node.destroy_node()
        context.try_shutdown()
        run.process.send_signal(signal.SIGINT)
        run.wait(60)
    for name in names:
        allowed = resolved(name)
        for way, found in seen[name].items():
            assert found <= allowed[way], f"{name} may not {way} {found - allowed[way]}"
    if words[0] == "deploy":
        for name in set(names) - {"run_manager"}:
            idle = {n for way, found in seen[name].items() for n in resolved(name)[way] - found}
            own = {f"/{name}/{service}" for service in PARAMETERS}
            assert idle - own <= UNUSED.get(name, set()) | {"/leader/joint_states"}, f"{name} never uses {idle - own}"
