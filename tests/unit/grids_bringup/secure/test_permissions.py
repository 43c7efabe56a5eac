"""Each node may do what its task needs: the table names real topics and services, and the documents say the same."""

from datetime import UTC, datetime
from xml.etree import ElementTree

import pytest

from grids_bringup.secure.permissions import GRAPH, dds_topics, enclave, governance, permissions, policy, resolved
from grids_bringup.secure.rights import EVERYBODY_PUBLISHES, LIFECYCLE, MANAGED, NODES, PARAMETERS
from grids_common import services, topics

BEGIN, END = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), datetime(2036, 1, 2, 3, 4, 5, tzinfo=UTC)
ROS = {f"/{node}/{name}" for node in (*NODES, "twin") for name in (*LIFECYCLE, *PARAMETERS)}
TOPICS = {topic.name for topic in topics.TOPICS} | set(EVERYBODY_PUBLISHES)


def who(way: str, name: str) -> set[str]:
    return {node for node in NODES if name in resolved(node)[way]}


@pytest.mark.parametrize("node", NODES)
def test_every_name_is_one_of_the_tables(node):
    names = resolved(node)
    assert names["publish"] - {f"/{node}/transition_event"} <= TOPICS
    assert names["subscribe"] <= TOPICS
    own = {f"/{name}/{own}" for name in ("grids_view", "grids_rqt") for own in PARAMETERS}
    assert names["reply"] | names["request"] <= {service.name for service in services.SERVICES} | ROS | own
    assert names["execute"] | names["call"] <= {action.name for action in services.ACTIONS}


def test_every_topic_and_service_of_the_tables_has_a_node():
    made = {name for node in NODES for name in resolved(node)["publish"]}
    assert {topic.name for topic in topics.TOPICS} - made == {"/twin/hand"}  # from a program of the user's
    answered = {name for node in NODES for name in resolved(node)["reply"]}
    assert {service.name for service in services.SERVICES} <= answered


def test_what_moves_the_arm_is_in_few_hands():
    assert who("publish", "/policy/action_chunk") == {"policy"}
    assert who("publish", "/leader/joint_states") == {"leader"}
    assert who("publish", "/follower/status") == {"driver"}
    assert who("publish", "/policy/instruction") == {"policy", "view"}
    assert who("publish", "/estop") == {"leader", "run_manager", "view", "estop"}
    assert who("request", "/driver/set_mode") == {"view"}
    assert who("request", "/driver/release") == set()
    assert who("request", "/driver/change_state") == {"run_manager"}
    assert who("request", "/twin/fault") == set()
    for service in PARAMETERS:
        if service.startswith("set_"):
            assert who("request", f"/driver/{service}") == set()


def test_dds_names_are_those_of_rmw():
    write, read = dds_topics("policy")
    assert {"rt/policy/action_chunk", "rr/policy/change_stateReply", "rq/run_manager/clockRequest"} <= write
    assert {"rt/front/color/image_raw", "rq/policy/change_stateRequest", "rr/run_manager/clockReply"} <= read
    assert "rr/policy/run_task/_action/send_goalReply" in write
    assert "rt/policy/run_task/_action/feedback" in write
    assert "rq/policy/run_task/_action/cancel_goalRequest" in read
    assert GRAPH in write & read
    assert not any("*" in name for node in NODES for names in dds_topics(node) for name in names)


def test_a_named_robots_external_stop_reaches_every_arm_and_does_nothing_else():
    names = resolved("estop", "left")
    assert names["publish"] == {"/estop", *EVERYBODY_PUBLISHES}
    assert "/estop" in resolved("driver", "right")["subscribe"]
    assert names["subscribe"] | names["request"] | names["execute"] | names["call"] == set()
    assert {node for node in NODES if "/estop" in resolved(node, "left")["publish"]} == {"estop"}


def test_a_robot_with_a_name_has_its_own_but_shares_what_all_share():
    left = resolved("driver", "left")
    assert "/left/follower/status" in left["publish"]
    assert "/left/driver/set_mode" in left["reply"]
    assert left["subscribe"] >= {"/estop", "/left/estop"}
    assert not any(name.startswith("/right") for names in left.values() for name in names)
    assert resolved("description", "left")["publish"] >= {"/tf", "/tf_static"}
    assert "/rosout" in resolved("driver", "left")["publish"]
    assert enclave("driver", "left") == "/left/driver"


@pytest.mark.parametrize("robot", ["", "left"])
@pytest.mark.parametrize("node", NODES)
def test_permissions_allow_these_topics_in_this_domain_and_deny_the_rest(node, robot):
    grant = ElementTree.fromstring(permissions(node, robot, 7, BEGIN, END)).find("permissions/grant")
    assert grant.findtext("subject_name") == f"CN={enclave(node, robot)}"
    assert grant.findtext("default") == "DENY"
    assert [e.text for e in grant.iter("id")] == ["7"]
    assert (grant.findtext("validity/not_before"), grant.findtext("validity/not_after")) == (
        "2026-01-02T03:04:05",
        "2036-01-02T03:04:05",
    )
    found = tuple({e.text for e in grant.findall(f"allow_rule/{way}/topics/topic")} for way in ("publish", "subscribe"))
    assert found == dds_topics(node, robot)


def test_the_domain_lets_nobody_in_without_keys_and_encrypts_every_topic():
    root = ElementTree.fromstring(governance(7))
    assert root.findtext(".//domains/id") == "7"
    assert root.findtext(".//allow_unauthenticated_participants") == "false"
    assert root.findtext(".//enable_join_access_control") == "true"
    rules = root.findall(".//topic_rule")
    assert [rule.findtext("topic_expression") for rule in rules] == ["*"]
    assert rules[0].findtext("data_protection_kind") == "ENCRYPT"
    assert rules[0].findtext("enable_write_access_control") == "true"


def test_the_policy_names_the_same_in_sros2s_format():
    root = ElementTree.fromstring(policy(list(NODES), "left"))
    assert root.get("version") == "0.2.0"
    enclaves = root.findall("enclaves/enclave")
    assert [e.get("path") for e in enclaves] == [enclave(node, "left") for node in NODES]
    for node, element in zip(NODES, enclaves, strict=True):
        profile = element.find("profiles/profile")
        named = {
            way: {e.text for group in profile if group.get(way) == "ALLOW" for e in group} for way in resolved(node)
        }
        assert named == resolved(node, "left")


def test_lifecycle_nodes_are_those_that_the_run_manager_manages():
    assert {node for node, rights in NODES.items() if rights.lifecycle} == set(MANAGED)
