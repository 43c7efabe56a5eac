"""Every command that a page names exists in ./grids; nobody is sent to a module."""

import re
import subprocess
import sys

import pytest
from pages import pages
from repository import ROOT

from grids_bringup.cli.bench import BENCHES
from grids_bringup.cli.commands import COMMANDS

PAGES = pages()
# Comments of configuration files and the code's own messages send users to commands, too.
TEXTS = [*PAGES, *(ROOT / "config").rglob("*.yaml"), *(ROOT / "src").rglob("*.py"), *(ROOT / "docker").iterdir()]
# Programs that start one another, and the one that ./grids itself starts.
INNER = {"grids_bringup.cli", "grids_sim.twin.cli"}
# Verbs that need the runtime wheels only.
RUNTIME = {"calibrate", "deploy", "doctor", "rest", "teleop", "twin", "urdf"}


def named(text: str) -> set[str]:
    """Words after ./grids, where they look like a command's name."""
    return set(re.findall(r"(?<![\w/])\./grids ([a-z][a-z_-]*)", text))


def levels(*words: str) -> set[str]:
    """What ./grids sets up before it runs `words`, by its own lines."""
    script = (ROOT / "grids").read_text(encoding="utf-8")
    lines = script[script.index("levels=(") : script.index("fresh()")]
    shell = ["bash", "-c", f'{lines}\necho "${{levels[@]}}"', "grids", *words]
    return set(subprocess.run(shell, check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_a_page_exist(page):
    text = page.read_text(encoding="utf-8")
    assert named(text) <= set(COMMANDS)
    benches = set(re.findall(r"\./grids bench ([a-z]+)", text))
    assert benches <= set(BENCHES)


def test_no_text_sends_anybody_to_a_module():
    wrong = [
        f"{path.relative_to(ROOT)}: python -m {module}"
        for path in TEXTS
        for module in re.findall(r"python3? -m (grids_[\w.]+|so100_[\w.]+)", path.read_text(encoding="utf-8"))
        if module.rstrip(".") not in INNER
    ]
    assert not wrong, "\n".join(wrong)


def test_a_page_that_names_an_unknown_command_would_be_noticed():
    assert named("run `./grids train-demos --out x`, then\n./grids eval BUNDLE") == {"train-demos", "eval"}
    assert named("./grids COMMAND, a/./grids x") == set()


@pytest.mark.parametrize("verb", COMMANDS)
def test_a_command_gets_what_it_needs_installed(verb):
    assert (levels(verb) == {"runtime"}) == (verb in RUNTIME)


@pytest.mark.parametrize("verb", ["study", "card", "frames", "untrained", "urdf"])
def test_a_command_explains_itself(verb):
    command = [sys.executable, "-m", "grids_bringup.cli", verb, "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(f"usage: grids {verb}")
