"""The commands of docs/hardware.md exist and take the options written there."""

import re
import shlex

import pytest
from repository import ROOT

from grids_bringup.arguments import DeployArguments, parse
from grids_bringup.cli import command, record
from grids_bringup.cli.commands import COMMANDS
from grids_policy.train.cli import parse_arguments as parse_train
from grids_recorder.convert.cli import build_parser
from so100_driver.setup.calibrate import _parser as calibrate_parser

GUIDE = ROOT / "docs" / "hardware.md"


def commands() -> list[list[str]]:
    """The words of every `./grids …` line in a code block, continued lines joined, comments off."""
    blocks = re.findall(r"```bash\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("./grids ")]


def test_every_command_exists_and_none_is_only_its_help():
    names = [words[0] for words in commands()]
    assert set(names) <= set(COMMANDS)
    assert {"doctor", "calibrate", "record", "check", "convert", "train", "export", "deploy"} <= set(names)
    assert not any("--help" in words for words in commands())


@pytest.mark.parametrize(
    ("name", "parser"),
    [
        ("calibrate", lambda words: calibrate_parser().parse_args(words)),
        ("convert", lambda words: build_parser().parse_args(words)),
        ("train", parse_train),
        ("deploy", lambda words: parse(words, DeployArguments)),
    ],
    ids=["calibrate", "convert", "train", "deploy"],
)
def test_the_options_written_there_are_taken(name, parser):
    given = [words[1:] for words in commands() if words[0] == name]
    assert given
    for words in given:
        parser(words)


def test_the_recording_written_there_is_taken(monkeypatch):
    kinds = []
    monkeypatch.setattr(command, "main", lambda kind, pairs: kinds.append(parse(pairs, kind.schema)) or 0)
    for words in commands():
        if words[0] == "record":
            assert record.main(words[1:]) == 0
    assert [arguments.hardware for arguments in kinds] == ["real"]
