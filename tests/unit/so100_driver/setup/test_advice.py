"""Every `./grids …` command in a message of the driver, the doctor and the calibration is one that its parser takes."""

import argparse
import ast
import importlib
import re
import shlex

import pytest
from repository import ROOT

from grids_bringup.cli.commands import COMMANDS
from so100_driver.control import prepare

SOURCES = [ROOT / "src" / "so100_driver", ROOT / "src" / "grids_data" / "grids_data" / "calibration.py"]
# What may stand in the place of a variable.
VALUES = {"arm": "follower", "name": "follower", "shlex.quote(name)": "'my arm'", "shlex.quote(port)": "'/dev/my arm'"}
COMMAND = re.compile(r"\./grids ([a-z]+(?: --?[a-z-]+(?: (?!--|or\b|and\b)(?:'[^']*'|[A-Za-z0-9_/.]+))?)*)")


def texts():
    """(file, text) of every string that is no docstring, its variables filled in."""
    for source in SOURCES:
        for path in [source] if source.is_file() else source.rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            docs = {
                id(node.body[0].value)
                for node in ast.walk(tree)
                if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
                if node.body and isinstance(node.body[0], ast.Expr)
            }
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield path.name, "".join(filled(part) for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | parts:
                    yield path.name, node.value


def filled(part):
    return part.value if isinstance(part, ast.Constant) else VALUES.get(ast.unparse(part.value), "x")


def advised():
    """(file, words) of each command; text around a command's name alone, as in `./grids does`, is no advice."""
    found = {(name, words) for name, text in texts() for words in COMMAND.findall(text)}
    return sorted((name, words) for name, words in found if words.split()[0] in COMMANDS)


class Taken(Exception):  # noqa: N818 - no error: the command was understood
    """Ends a command once it has understood its words."""


@pytest.mark.parametrize(("file", "words"), advised())
def test_an_advised_command_is_understood(file, words, monkeypatch):
    original = argparse.ArgumentParser.parse_args

    def parse_only(self, *arguments, **options):
        original(self, *arguments, **options)
        raise Taken

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    name, *rest = shlex.split(words)
    with pytest.raises(Taken):
        importlib.import_module(COMMANDS[name][0]).main(rest)


def test_commands_are_found_in_the_messages():
    assert {words.split()[0] for _, words in advised()} >= {"calibrate", "doctor"}
    assert prepare.calibrate_command("leader", "/dev/x") == "./grids calibrate --arm leader --serial-port /dev/x"
