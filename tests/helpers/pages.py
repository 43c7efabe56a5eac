"""The pages of this repository: where they are, what they link to, and the blocks in them that are written by code."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from repository import ROOT

SRC = ROOT / "src"
# A word in backticks that names a file: has a folder and one of these endings.
ENDINGS = (
    "py",
    "md",
    "yaml",
    "yml",
    "xml",
    "msg",
    "srv",
    "action",
    "rules",
    "webp",
    "gif",
    "rviz",
    "sh",
    "json",
    "urdf",
)
# What runs and users make, topics, other people's folders.
MADE = ("runs/", "recordings/", "datasets/", "/", "~", "PATH/")


def pages() -> list[Path]:
    """Every page for readers, sorted."""
    fixed = [
        ROOT / "README.md",
        ROOT / "lerobot_policy_grids" / "README.md",
        *(ROOT / "docs").glob("*.md"),
        *SRC.glob("*/README.md"),
    ]
    return sorted([*fixed, *(ROOT / "config").rglob("*.md"), *(ROOT / "models").rglob("*.md")])


def without_code(text: str) -> str:
    """The text with its fenced blocks taken out."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """(path or "", anchor or "") of every relative link and image."""
    for target in re.findall(r"\]\(([^)\s]+)\)|src=\"([^\"]+)\"", without_code(page.read_text(encoding="utf-8"))):
        link = target[0] or target[1]
        if "://" not in link and not link.startswith("mailto:"):
            path, _, anchor = link.partition("#")
            yield path, anchor


def anchors(page: Path) -> set[str]:
    """The anchors GitHub gives a page's headings: lower case, punctuation dropped, blanks as hyphens."""
    heads = re.findall(r"^#+ +(.*)$", without_code(page.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def named_files(page: Path) -> Iterator[str]:
    """Words in backticks that look like a file of this repository."""
    for word in re.findall(r"`([^`\s]+)`", without_code(page.read_text(encoding="utf-8"))):
        looks = re.fullmatch(rf"[\w./-]+/[\w.-]+\.({'|'.join(ENDINGS)})", word)
        if looks and not word.startswith(MADE):
            yield word


def exists(page: Path, word: str) -> bool:
    """From the root, from the page's folder, or from the package beside the page."""
    return any((base / word).exists() for base in (ROOT, page.parent, page.parent / page.parent.name))


def grids_commands(page: Path) -> list[str]:
    """Every line of a page that calls ./grids with something, from blocks and running text, up to what follows it.

    Lines with a gap for the reader to fill ("…", "$@", "[") are left out, and tests, which cannot be parsed only.
    """
    text = page.read_text(encoding="utf-8")
    blocks = "\n".join(re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    calls = re.findall(r"\./grids [^\n]+", blocks) + re.findall(r"`(\./grids [^`]+)`", without_code(text))
    calls = [re.split(r"\s(?:>|&&|\||#)\s|;", " ".join(call.split()))[0] for call in calls]
    return sorted({call for call in calls if not re.search(r"…|\$@|\[-|--help|\./grids test", call) and " -" in call})


def run_arguments(page: Path) -> list[tuple[str, list[str]]]:
    """(command, ["name:=value", …]) of every call of `./grids` or `ros2 launch` with launch arguments on a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for name, rest in re.findall(r"(?:\./grids |grids_bringup )(\w+)(?:\.launch\.py)?((?: +[\w_]+:=[^\s`]+)+)", text):
        pairs = [pair for pair in rest.split() if not re.search(r"…|\.\.\.$", pair)]
        found.append((name, pairs))
    return found


def functions(path: Path) -> set[str]:
    """Names of all functions and classes in a module, methods as `Class.method` too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found.update(f"{node.name}.{item.name}" for item in node.body if isinstance(item, ast.FunctionDef))
    return found


def first_sentence(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or "").split("\n", maxsplit=1)[0]


def description(package: str) -> str:
    """What package.xml says a package is."""
    return ElementTree.parse(SRC / package / "package.xml").getroot().findtext("description") or ""


def rooms(package: str) -> list[tuple[str, str]]:
    """(name, one line) of a package's rooms, then of the modules that stand beside them."""
    home = SRC / package / package
    folders = sorted(path.parent for path in home.glob("*/__init__.py"))
    modules = sorted(path for path in home.glob("*.py") if path.name != "__init__.py")
    found = [(f"{folder.name}/", first_sentence(folder / "__init__.py")) for folder in folders]
    return found + [(path.name, first_sentence(path)) for path in modules]


def room_table(package: str) -> str:
    """The block `rooms` of a package's README."""
    if package == "grids_msgs":
        names = sorted(path for folder in ("msg", "srv", "action") for path in (SRC / package / folder).iterdir())
        return "\n".join(["| file |", "|---|", *(f"| `{path.relative_to(SRC / package)}` |" for path in names)])
    rows = [f"| `{name}` | {line} |" for name, line in rooms(package)]
    return "\n".join(["| room or module | what |", "|---|---|", *rows])


def block(page: Path, name: str, content: str) -> tuple[str, str]:
    """(what the page holds between `<!-- name -->` and `<!-- /name -->`, what it should hold).

    With GRIDS_WRITE in the environment the page is rewritten first.
    """
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    text = page.read_text(encoding="utf-8")
    if os.environ.get("GRIDS_WRITE"):
        head, _, rest = text.partition(start)
        text = head + start + content + "\n" + end + rest.partition(end)[2]
        page.write_text(text, encoding="utf-8")
    return text.partition(start)[2].partition(end)[0].strip(), content


def rules() -> tuple[dict[str, int], set[tuple[str, str]]]:
    """LEVELS and FORBIDDEN of tests/unit/test_layering.py, read without importing it."""
    found = {}
    for node in ast.parse((ROOT / "tests" / "unit" / "test_layering.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in ("LEVELS", "FORBIDDEN"):
            found[node.targets[0].id] = ast.literal_eval(node.value)
    return found["LEVELS"], found["FORBIDDEN"]
