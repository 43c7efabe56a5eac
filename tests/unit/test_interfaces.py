"""docs/interfaces.md is made from the code. Run with GRIDS_WRITE=1 to rewrite it."""

import ast
import os

import interfaces
from repository import ROOT

PAGE = ROOT / "docs" / "interfaces.md"
# The table itself; clients of ROS's own services, whose names are made from a node's.
MAKES_SERVICES = {
    "grids_common/services.py",
    "grids_bringup/run/manager_node.py",
    "grids_recorder/node/node_parameters.py",
    "so100_driver_testing/lifecycle_scenarios.py",
}


def test_the_page_is_what_the_code_says():
    if os.environ.get("GRIDS_WRITE"):
        PAGE.write_text(interfaces.page(), encoding="utf-8")
    stale = "stale: GRIDS_WRITE=1 ./grids test tests/unit/test_interfaces.py"
    assert PAGE.read_text(encoding="utf-8") == interfaces.page(), stale


def test_every_node_that_declares_parameters_is_on_the_page():
    assert interfaces.declared_schemas() == {node.schema.__name__ for node in interfaces.nodes()}


def test_services_are_made_through_the_table():
    makers = {"create_service", "create_client"}
    found = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr in makers:
                found.add("/".join(path.relative_to(ROOT / "src").parts[1:]))
    assert found == MAKES_SERVICES
