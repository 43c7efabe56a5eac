"""docs/hardware.md against the code: each command in it exists and takes the options it is given."""

import argparse
import importlib
import re
import shlex

import pytest
import yaml
from repository import ROOT

from grids_bringup.arguments import parse
from grids_bringup.cli.bench import BENCHES
from grids_bringup.cli.command import DEPLOY, RECORD, REST, TELEOP
from grids_bringup.cli.commands import COMMANDS
from grids_common import topics

GUIDE = (ROOT / "docs" / "hardware.md").read_text(encoding="utf-8")
KINDS = {kind.name: kind for kind in (DEPLOY, REST, TELEOP, RECORD)}


def commands() -> list[list[str]]:
    """Every command line of the guide, from its blocks and from the running text, as words."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", GUIDE, re.DOTALL)).replace("\\\n", " ")
    inline = re.findall(r"`((?:\./grids|ros2) [^`]+)`", re.sub(r"```.*?```", "", GUIDE, flags=re.DOTALL))
    found = [shlex.split(line, comments=True) for line in [*blocks.splitlines(), *inline]]
    return [words for words in found if words]


def grids_lines() -> list[str]:
    """What ./grids is called with, on the host and in a container (there a service may come with its own command)."""
    lines = [words[1:] for words in commands() if words[0] == "./grids"]
    lines += [words[7:] for words in commands() if words[:2] == ["docker", "compose"] and words[7:]]
    return sorted({shlex.join(words) for words in lines})


class Parsed(Exception):  # noqa: N818 - no error: the options are right
    """Ends a command right after it has understood its options."""


@pytest.mark.parametrize("line", grids_lines())
def test_each_command_exists_and_understands_its_options(line, monkeypatch):
    name, *rest = shlex.split(line)
    original = argparse.ArgumentParser.parse_args

    def parse_only(self, *arguments, **options):
        original(self, *arguments, **options)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    module = COMMANDS[name][0]
    if name == "bench":
        module, *rest = BENCHES[rest[0]][0], *rest[1:]
    with pytest.raises(Parsed):
        importlib.import_module(module).main(rest)
    if name in KINDS and name != "record":
        parse(rest, KINDS[name].schema)  # an unknown name:= is refused


def test_the_guide_is_read_at_all():
    assert len(grids_lines()) > 15


def test_each_launch_file_exists_and_declares_the_arguments_it_is_given():
    lines = [words[2:] for words in commands() if words[:2] == ["ros2", "launch"] and words[2] == "grids_bringup"]
    assert {words[1] for words in lines} == {"teleop.launch.py", "deploy.launch.py", "record.launch.py"}
    for _, file, *pairs in lines:
        assert (ROOT / "launch" / file).is_file()
        declared = {row[0] for row in KINDS[file.removesuffix(".launch.py")].documentation()}
        assert {pair.split(":=")[0] for pair in pairs} <= declared


def test_each_executable_topic_service_and_file_exists():
    for words in commands():
        if words[:2] == ["ros2", "run"] and words[2].startswith("grids_"):
            assert f"{words[3]} =" in (ROOT / "src" / words[2] / "setup.py").read_text(encoding="utf-8")
        if words[:2] == ["ros2", "topic"]:
            assert {w for w in words if w.startswith("/")} <= {t.name for t in topics.TOPICS}
    for path in re.findall(r"(?<![\w/.])((?:config|docker|requirements|src)/[\w./-]*\w\.\w+)", GUIDE):
        made_by_the_reader = path.startswith("config/calibration/")
        assert made_by_the_reader or (ROOT / path).is_file(), path
    services = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))["services"]
    called = {words[6] for words in commands() if words[:2] == ["docker", "compose"]}
    assert called == set(services)
