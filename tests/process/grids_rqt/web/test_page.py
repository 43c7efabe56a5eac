"""The page's stop, as page.js in a JavaScript engine whose clock and line are the test's."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from repository import ROOT

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
SCRIPT = ROOT / "src" / "grids_rqt" / "grids_rqt" / "web" / "page.js"
# `advance(ms)` runs what is due; `line(path)` answers a request, or throws as fetch does while the line is down.
ENGINE = """
const said = { textContent: "", className: "" };
const handlers = {}, button = { disabled: false, classList: { add() {}, remove() {} } };
button.addEventListener = (kind, handler) => { handlers[kind] = handler; };
globalThis.document = {
  getElementById: (id) => id === "stop" ? button : said,
  addEventListener() {},
};
globalThis.window = globalThis;
let now = 0, due = [];
globalThis.setTimeout = (call, ms) => due.push({ at: now + ms, call });
globalThis.setInterval = (call, ms) => due.push({ at: now + ms, call, every: ms });
const settle = async () => { for (let n = 0; n < 50; n++) await null; };
async function advance(ms) {
  await settle();
  for (const end = now + ms; ; await settle()) {
    const next = due.filter((each) => each.at <= end).sort((one, other) => one.at - other.at)[0];
    if (!next) { now = end; return; }
    now = next.at;
    if (next.every) next.at += next.every; else due = due.filter((each) => each !== next);
    next.call();
  }
}
const asked = [];
let line;
globalThis.fetch = async (path) => { if (path === "/estop") asked.push(now); return line(path); };
const down = () => { throw new TypeError("Failed to fetch"); };
const status = (code, body) => ({ ok: code < 300, status: code, text: async () => body, json: async () => body });
const sees = (reply) => (path) => path === "/estop" ? status(200, reply) : status(204, "");
const confirmed = sees({ ok: true, sentence: "stopped: the driver confirms it" });
const unsure = sees({ ok: false, sentence: "the stop was sent, but no driver reports its state: cut the arm's power" });
const seen = [];
const note = () => seen.push({ text: said.textContent, level: said.className, asked: asked.slice() });
"""


def played(tmp_path: Path, story: str) -> list[dict]:
    """What each `note()` of the story saw: the sentence, its class, and when stops were asked for, ms."""
    script = tmp_path / "story.js"
    end = "console.log(JSON.stringify(seen));"
    code = f"{ENGINE}\n{SCRIPT.read_text(encoding='utf-8')}\n(async () => {{ {story}; {end} }})();"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(["node", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_stop_is_asked_for_until_the_driver_confirms_it(tmp_path):
    story = "line = down; handlers.pointerdown(); await advance(20000); note(); line = confirmed; await advance(600)"
    failed, stopped = played(tmp_path, f"{story}; note()")
    assert "cut the arm's power" in failed["text"]
    assert failed["level"] == "bad"
    pauses = {later - sooner for sooner, later in zip(failed["asked"], failed["asked"][1:], strict=False)}
    assert pauses == {500}
    assert failed["asked"][-1] >= 19500
    assert stopped["text"].startswith("stopped: the driver confirms it")


def test_a_line_that_is_back_does_not_erase_a_stop_that_failed(tmp_path):
    story = "line = down; await advance(3000); note(); handlers.pointerdown(); await advance(3000); note()"
    lost, failed, back, stopped, quiet = played(
        tmp_path,
        f"{story}; line = unsure; await advance(3000); note(); line = confirmed; await advance(600); note();"
        "await advance(6000); note()",
    )
    assert lost["text"].startswith("No connection")
    assert "cut the arm's power" in failed["text"]
    assert "No connection" in failed["text"]
    assert "No connection" not in back["text"]
    assert "cut the arm's power" in back["text"]
    assert back["level"] == "bad"
    assert (stopped["text"], stopped["level"]) == ("stopped: the driver confirms it", "good")
    assert quiet["text"] == ""
    assert len(quiet["asked"]) == len(stopped["asked"])


def test_an_answer_that_is_no_page_counts_as_no_connection(tmp_path):
    story = "line = () => status(401, 'expected the token'); await advance(3000); note(); handlers.click()"
    lost, refused = played(tmp_path, f"{story}; await advance(100); note()")
    assert lost["text"].startswith("No connection")
    assert "cut the arm's power" in refused["text"]
    assert "expected the token" in refused["text"]
