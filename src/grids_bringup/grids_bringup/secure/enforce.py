"""The check before a run with security:=enforce, and the environment that its processes inherit. No cryptography."""

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from grids_bringup.arguments import site_root
from grids_bringup.secure.rights import NODE_NAMES, NODES
from grids_common.params import ParameterError

KEYSTORE_VARIABLE = "ROS_SECURITY_KEYSTORE"
INIT = "./grids secure init"
PROBE_S = 60.0
FILES = ("key.pem", "cert.pem", "permissions.p7s", "governance.p7s", "identity_ca.cert.pem", "permissions_ca.cert.pem")
# Creates what each node creates first. Without security in the DDS, or with unusable keys, that fails.
_PROBE = (
    "import rclpy, sys; _, enclave, name, namespace = sys.argv; rclpy.init(args=['--ros-args', '--enclave', enclave]);"
    "rclpy.create_node(name, namespace=namespace)"
)


def keystore_folder() -> Path:
    """Where the keys are: ROS_SECURITY_KEYSTORE, or keystore/ in this folder, which git ignores."""
    return Path(os.environ.get(KEYSTORE_VARIABLE) or site_root() / "keystore").expanduser()


def environment(keystore: Path) -> dict[str, str]:
    """What makes rcl use the keystore and refuse to start without keys."""
    return {KEYSTORE_VARIABLE: str(keystore), "ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}


def check(enclave: str, domain: str) -> dict[str, str]:
    """Check the keystore, its domain and the DDS; returns the environment of the run. Raises ParameterError.

    enclave: of one node of the run, which is started with its keys for a moment.
    """
    keystore = keystore_folder()
    governance = keystore / "enclaves" / "governance.xml"
    if not governance.exists():
        raise ParameterError(f"security: expected a keystore in {keystore}, found none: make one with {INIT}")
    made_for = made_for_domain(governance)
    if made_for != domain:
        raise ParameterError(
            f"security: expected ROS_DOMAIN_ID={made_for}, for which {keystore} was made, got {domain}: set it, or "
            f"make another keystore with {INIT} --domain {domain} --keystore FOLDER and name it in {KEYSTORE_VARIABLE}"
        )
    require([enclave])
    found = environment(keystore)
    _probe(enclave, found)
    return found


def made_for_domain(governance: Path) -> str:
    """The ROS domain of a keystore's governance.xml, "" if it names none. Raises ParameterError for a damaged file."""
    try:
        return ElementTree.parse(governance).findtext(".//domains/id", "")
    except ElementTree.ParseError as error:
        raise ParameterError(f"security: expected XML in {governance}, cannot read it: {error}") from error


def require(enclaves: list[str]) -> None:
    """Raise ParameterError unless there are keys for all of them."""
    for enclave in enclaves:
        robot, _, node = enclave.strip("/").rpartition("/")
        if node not in NODES:
            raise ParameterError(f"security: expected one of {', '.join(NODES)}, got {node}, which has no keys")
        for name in FILES:
            path = keystore_folder() / "enclaves" / enclave.strip("/") / name
            if not path.exists():
                more = f" --robot {robot}" if robot else ""
                raise ParameterError(f"security: expected {path}, found none: make it with {INIT}{more}")


def probe_node(enclave: str) -> tuple[str, str]:
    """(name, namespace) of the node that is started with these keys: their own, others have no rights."""
    namespace, _, name = enclave.rpartition("/")
    return NODE_NAMES.get(name, (name,))[0], namespace or "/"


def _probe(enclave: str, variables: dict[str, str]) -> None:
    """Raise ParameterError with the middleware's own reason if a process with these keys cannot start."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE, enclave, *probe_node(enclave)],
            env=os.environ | variables, capture_output=True, text=True, timeout=PROBE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ParameterError(
            f"security: expected a node with the keys of {enclave} to start within {PROBE_S:g} s, it did not: is this "
            "computer busy, or its DDS waiting for another one? Try again"
        ) from error
    if done.returncode == 0:
        return
    if "security libraries" in done.stderr:
        raise ParameterError(
            "security: expected a Fast DDS with security, this one was built without (the ROS wheels' is): use ROS 2 "
            "from apt or the container in docker/"
        )
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    raise ParameterError(
        f"security: no node can start with the keys of {enclave}: {lines[-1] if lines else 'no reason'}"
    )
