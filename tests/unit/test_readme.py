"""The README's tables are made from the code. Run with GRIDS_WRITE=1 to rewrite them."""

import os

from repository import ROOT

from grids_common.topics import TOPICS

README = ROOT / "README.md"
START, END = "<!-- topics:", "<!-- /topics -->"


def table() -> str:
    rows = ["## Topics", "| topic | type | recorded | meaning |", "|---|---|---|---|"]
    for row in TOPICS:
        kind = row.type.replace("/msg/", "/")
        rows.append(f"| `{row.name}` | `{kind}` | {'yes' if row.recorded else ''} | {row.note} |")
    return "\n".join(rows)


def test_the_topic_table_is_current():
    text = README.read_text(encoding="utf-8")
    begin = text.index("\n", text.index(START)) + 1
    end = text.index(END)
    if os.environ.get("GRIDS_WRITE"):
        README.write_text(text[:begin] + table() + "\n" + text[end:], encoding="utf-8")
        return
    assert text[begin:end].strip() == table()
