"""The rights of a node as sros2's policy, and as the permissions and governance that DDS reads. Texts only."""

from datetime import datetime
from xml.etree import ElementTree

from grids_bringup.secure.rights import EVERYBODY_PUBLISHES, LIFECYCLE, NODE_NAMES, NODES, PARAMETERS, Rights

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_OMG = "http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_{}.xsd"
GRAPH = "ros_discovery_info"  # which node has which topics: every process of rmw_fastrtps writes and reads it
_GOALS = ("send_goal", "cancel_goal", "get_result")


def enclave(node: str, robot: str = "") -> str:
    """The enclave of a node, which is its full name: /driver, or /left/driver."""
    return f"/{robot}/{node}" if robot else f"/{node}"


def _placed(names: tuple[str, ...], robot: str) -> set[str]:
    return {f"/{robot}{name}" if robot else name for name in names}


def _own(node: str, robot: str, names: tuple[str, ...]) -> set[str]:
    return {f"{enclave(name, robot)}/{own}" for name in NODE_NAMES.get(node, (node,)) for own in names}


def resolved(node: str, robot: str = "") -> dict[str, set[str]]:
    """The full ROS names of everything a node may do: publish, subscribe, reply, request, execute, call."""
    rights: Rights = NODES[node]
    events = _own(node, robot, ("transition_event",)) if rights.lifecycle else set()
    return {
        "publish": _placed(rights.publish, robot) | set(rights.shared_publish) | set(EVERYBODY_PUBLISHES) | events,
        "subscribe": _placed(rights.subscribe, robot) | set(rights.shared_subscribe),
        "reply": _placed(rights.serve, robot)
        | _own(node, robot, PARAMETERS)
        | (_own(node, robot, LIFECYCLE) if rights.lifecycle else set()),
        "request": _placed(rights.call, robot),
        "execute": _placed(rights.execute, robot),
        "call": _placed(rights.invoke, robot),
    }


def dds_topics(node: str, robot: str = "") -> tuple[set[str], set[str]]:
    """The DDS topics that a node may write and may read, as rmw names them."""
    names = resolved(node, robot)
    goals = {way: {f"{name}/_action/{goal}" for name in names[way] for goal in _GOALS} for way in ("execute", "call")}
    progress = {way: {f"rt{n}/_action/{t}" for n in names[way] for t in ("feedback", "status")} for way in goals}
    asks, answers = names["request"] | goals["call"], names["reply"] | goals["execute"]
    write = {f"rt{n}" for n in names["publish"]} | {f"rq{n}Request" for n in asks} | {f"rr{n}Reply" for n in answers}
    read = {f"rt{n}" for n in names["subscribe"]} | {f"rr{n}Reply" for n in asks} | {f"rq{n}Request" for n in answers}
    return write | progress["execute"] | {GRAPH}, read | progress["call"] | {GRAPH}


def _document(root: ElementTree.Element) -> bytes:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


def _child(parent: ElementTree.Element, tag: str, text: str = "", **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = text or None
    return element


def _dds(kind: str) -> ElementTree.Element:
    return ElementTree.Element("dds", {f"{{{_XSI}}}noNamespaceSchemaLocation": _OMG.format(kind)})


def policy(nodes: list[str], robot: str = "") -> bytes:
    """The policy in sros2's own format, for `ros2 security`: version 0.2.0."""
    root = ElementTree.Element("policy", version="0.2.0")
    enclaves = _child(root, "enclaves")
    kinds = {
        "publish": "topic", "subscribe": "topic", "reply": "service", "request": "service", "execute": "action",
        "call": "action",
    }  # fmt: skip
    for node in nodes:
        profiles = _child(_child(enclaves, "enclave", path=enclave(node, robot)), "profiles")
        profile = _child(profiles, "profile", ns=f"/{robot}", node=NODE_NAMES.get(node, (node,))[0])
        for way, names in resolved(node, robot).items():
            if names:
                group = _child(profile, f"{kinds[way]}s", **{way: "ALLOW"})
                for name in sorted(names):
                    _child(group, kinds[way], name)
    return _document(root)


def permissions(node: str, robot: str, domain: int, begin: datetime, end: datetime) -> bytes:
    """The permissions that DDS reads: what is not allowed is denied."""
    name = enclave(node, robot)
    root = _dds("permissions")
    grant = _child(_child(root, "permissions"), "grant", name=name)
    _child(grant, "subject_name", f"CN={name}")
    validity = _child(grant, "validity")
    _child(validity, "not_before", begin.strftime("%Y-%m-%dT%H:%M:%S"))
    _child(validity, "not_after", end.strftime("%Y-%m-%dT%H:%M:%S"))
    rule = _child(grant, "allow_rule")
    _child(_child(rule, "domains"), "id", str(domain))
    for way, topics in zip(("publish", "subscribe"), dds_topics(node, robot), strict=True):
        listed = _child(_child(rule, way), "topics")
        for topic in sorted(topics):
            _child(listed, "topic", topic)
    _child(grant, "default", "DENY")
    return _document(root)


def governance(domain: int) -> bytes:
    """The rules of the domain, as sros2 sets them: everybody authenticated, all topics encrypted and guarded."""
    root = _dds("governance")
    rule = _child(_child(root, "domain_access_rules"), "domain_rule")
    _child(_child(rule, "domains"), "id", str(domain))
    for tag, value in (
        ("allow_unauthenticated_participants", "false"),
        ("enable_join_access_control", "true"),
        ("discovery_protection_kind", "ENCRYPT"),
        ("liveliness_protection_kind", "ENCRYPT"),
        ("rtps_protection_kind", "SIGN"),
    ):
        _child(rule, tag, value)
    topic = _child(_child(rule, "topic_access_rules"), "topic_rule")
    for tag, value in (
        ("topic_expression", "*"),
        ("enable_discovery_protection", "true"),
        ("enable_liveliness_protection", "true"),
        ("enable_read_access_control", "true"),
        ("enable_write_access_control", "true"),
        ("metadata_protection_kind", "ENCRYPT"),
        ("data_protection_kind", "ENCRYPT"),
    ):
        _child(topic, tag, value)
    return _document(root)
