"""config/arm.yaml shows every parameter with unit and range. Run with GRIDS_WRITE=1 to rewrite it from the schemas."""

import json
import os
import re
from dataclasses import fields

import yaml
from repository import ROOT

from grids_common.params import load_file
from so100_driver.params import DriverParams, LeaderParams

FILE = ROOT / "config" / "arm.yaml"
SCHEMAS = {"driver": DriverParams, "leader": LeaderParams}
HEADER = """\
# Site values of the arms. Behind each: its unit, the range that is accepted, what it does. A key that does not exist or
# a value out of range is an error. Lines that begin with "# " show the defaults: take the mark away to change one.
"""


def value_text(value) -> str:
    """As YAML, floats with their point."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def meaning(field) -> str:
    doc = field.metadata["doc"]
    limits = " or ".join(doc.choices) if doc.choices else "" if doc.lo is None else f"{doc.lo:g} to {doc.hi:g}"
    about = " ".join(part for part in (limits, doc.unit) if part)
    return f"# {about + ': ' if about else ''}{doc.text}"


def site_file(chosen: dict[str, dict]) -> str:
    """The file in which `chosen` values are set and every other parameter is shown."""
    rows = [HEADER.rstrip()]
    for node, schema in SCHEMAS.items():
        rows += [f"/**/{node}:", "  ros__parameters:"]
        for field in fields(schema):
            mark = "" if field.name in chosen[node] else "# "
            entry = f"    {mark}{field.name}: {value_text(chosen[node].get(field.name, field.default))}"
            rows.append(f"{entry:<36}  {meaning(field)}")
    return "\n".join(rows) + "\n"


def test_the_sites_file_shows_every_parameter_with_its_unit_and_range():
    text = FILE.read_text(encoding="utf-8")
    tree = yaml.safe_load(text)
    if os.environ.get("GRIDS_WRITE"):
        FILE.write_text(site_file({node: tree[f"/**/{node}"]["ros__parameters"] for node in SCHEMAS}), encoding="utf-8")
        return
    blocks = re.split(r"^/\*\*/(\w+):$", text, flags=re.MULTILINE)
    shown = dict(zip(blocks[1::2], blocks[2::2], strict=True))
    for node, schema in SCHEMAS.items():
        for field in fields(schema):
            pattern = rf"^    (# )?{field.name}: .*{re.escape(meaning(field))}$"
            assert re.search(pattern, shown[node], flags=re.MULTILINE), f"{node}: {field.name}: {meaning(field)}"


def test_every_value_shown_can_be_set_as_it_stands(tmp_path):
    everything = {node: {f.name: f.default for f in fields(schema)} for node, schema in SCHEMAS.items()}
    path = tmp_path / "arm.yaml"
    path.write_text(site_file(everything), encoding="utf-8")
    assert load_file(path, SCHEMAS) == {"driver": DriverParams(), "leader": LeaderParams()}
