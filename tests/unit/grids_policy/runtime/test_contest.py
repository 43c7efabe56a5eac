"""When auto measures an engine, what it decides and what it remembers. No torch."""

import json
from dataclasses import replace
from functools import partial

import pytest
from repository import ROOT

from grids_common.host.memory import TooLittleMemory, require_memory
from grids_policy.runtime import contest, onnx
from grids_policy.runtime.bundle import load_bundle
from grids_policy.runtime.contest import Contest, Verdict
from grids_policy.runtime.engines import table
from grids_policy.runtime.engines.base import AbstractEngine
from grids_policy.runtime.engines.buffers import HostBuffers
from grids_policy.runtime.engines.cpu import CpuEngine
from grids_policy.runtime.engines.machine import Machine
from grids_policy.runtime.onnx import EngineOptions, OnnxRuntime

UNTRAINED = ROOT / "models" / "untrained"
MACHINE = Machine("no NVIDIA driver", ("CPUExecutionProvider",), None, {"onnxruntime": "1.32.0"}, "Xeon avx512f")


class Rival(AbstractEngine):
    """An engine that has to be measured; the processor plays it."""

    name, provider, summary, memory, measured = "rival", "Rival", "", "host", True

    def __init__(self, wrong=False) -> None:
        self.opened, self._wrong = 0, wrong

    def missing(self, machine):
        return None

    def fingerprint(self, bundle, machine):
        return None

    def buffers(self):
        return HostBuffers()

    def open(self, folder, bundle, options, cache):
        self.opened += 1
        graphs = CpuEngine().open(folder, bundle, options, cache)
        if self._wrong:
            bind = graphs["denoise_step"].bind
            graphs["denoise_step"].bind = lambda places: off_by_five(bind(places), places["actions"].array)
        return graphs


def off_by_five(run, actions):
    def wrong():
        run()
        actions[...] += 5.0

    return wrong


@pytest.fixture
def rival(monkeypatch, tmp_path):
    """`start(known)` starts the runtime where auto knows this engine and cpu; the first start counts as slow."""
    monkeypatch.setattr(contest, "ENOUGH_S", 0.0)

    def start(known, faster=None, **options):
        monkeypatch.setattr(table, "ENGINES", (known, CpuEngine()))
        monkeypatch.setattr(onnx, "faster", lambda first, second: (faster, "1 ms against 2 ms"))
        return OnnxRuntime(UNTRAINED, EngineOptions(threads=1, cache=tmp_path, **options))

    return start


def test_the_faster_one_is_taken_and_the_next_start_measures_nothing(rival, monkeypatch):
    first = rival(Rival(), faster=True)
    assert first.provider == "Rival"
    assert "1 ms against 2 ms" in first.note
    second = rival(Rival(), faster=None)
    assert second.provider == "Rival"
    assert "off the CPU engine; 1 ms against 2 ms" in second.note, "compared again, but not measured again"


def test_the_slower_one_is_not_even_loaded_at_the_next_start(rival):
    first = rival(Rival(), faster=False)
    assert first.provider == "CPUExecutionProvider"
    assert "rival: 1 ms against 2 ms" in first.note
    engine = Rival()
    second = rival(engine, faster=True)
    assert second.provider == "CPUExecutionProvider"
    assert engine.opened == 0
    assert "rival: 1 ms against 2 ms at an earlier start" in second.note


def test_asked_for_by_name_it_is_never_replaced(rival):
    rival(Rival(), faster=False)
    named = rival(Rival(), faster=False, engine="rival")
    assert named.provider == "Rival"


def test_other_threads_are_other_conditions(rival, tmp_path):
    rival(Rival(), faster=False)
    options, bundle = EngineOptions(threads=1, cache=tmp_path), load_bundle(UNTRAINED)
    known = json.loads((tmp_path / "choices.json").read_text())
    assert len(known) == 1
    same = Contest(Rival(), bundle, MACHINE, options)
    same.keep(Verdict(True, "fast"))
    assert Contest(Rival(), bundle, MACHINE, options).known() == Verdict(True, "fast")
    for changed in (
        Contest(Rival(), bundle, MACHINE, replace(options, threads=2)),
        Contest(Rival(), bundle, MACHINE, replace(options, device="GPU")),
        Contest(Rival(), replace(bundle, digest="0" * 64), MACHINE, options),
        Contest(Rival(), bundle, replace(MACHINE, processor="Xeon avx2"), options),
        Contest(Rival(), bundle, replace(MACHINE, packages={"onnxruntime": "1.33.0"}), options),
    ):
        assert changed.known() is None


def test_a_wrong_engine_is_not_loaded_again(rival):
    assert "rival: Rival: actions" in rival(Rival(wrong=True)).note
    engine = Rival(wrong=True)
    again = rival(engine)
    assert again.provider == "CPUExecutionProvider"
    assert engine.opened == 0


def test_where_the_reference_is_fast_nothing_is_loaded(rival, monkeypatch):
    monkeypatch.setattr(contest, "ENOUGH_S", 1.0)
    engine = Rival()
    runtime = rival(engine, faster=True)
    assert engine.opened == 0
    assert "rival: not tried, CPUExecutionProvider takes" in runtime.note


def test_an_engine_that_does_not_fit_beside_the_reference_is_not_loaded(rival, monkeypatch, tmp_path):
    """Named, it is refused with the numbers; auto goes on with the reference alone."""
    size = sum(file.bytes for file in load_bundle(UNTRAINED).files.values())
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1 kB\nMemAvailable: {int(1.3 * size) // 1024} kB\n")
    monkeypatch.setattr(onnx, "require_memory", partial(require_memory, meminfo=meminfo))
    engine = Rival()
    with pytest.raises(TooLittleMemory, match=r"\(engine rival with engine cpu beside it\) needs .* are free"):
        rival(engine, engine="rival")
    assert engine.opened == 0
    engine.copies = 2.0
    runtime = rival(engine, faster=True)
    assert runtime.provider == "CPUExecutionProvider"
    assert "rival: " in runtime.note
    assert "needs about" in runtime.note
    meminfo.write_text("MemAvailable: 1 kB\n")
    with pytest.raises(TooLittleMemory, match=r"\(engine cpu\) needs about"):
        rival(engine, engine="cpu")


WRONG = '{"KEY": {"faster": 1, "said": ""}}'


@pytest.mark.parametrize("text", ["", "[]", '{"KEY": 3}', WRONG, '{"KEY": {"faster": true}}', "{", "\udcff"])
def test_a_damaged_record_is_measured_again(tmp_path, text):
    found = Contest(Rival(), load_bundle(UNTRAINED), MACHINE, EngineOptions(threads=1, cache=tmp_path))
    (tmp_path / "choices.json").write_bytes(text.replace("KEY", found._key).encode("utf-8", "surrogateescape"))
    assert found.known() is None
    found.keep(Verdict(False, "slow"))
    assert found.known() == Verdict(False, "slow")


def test_the_record_keeps_the_newest_and_does_not_grow(tmp_path):
    bundle = load_bundle(UNTRAINED)
    for threads in range(1, 80):
        Contest(Rival(), bundle, MACHINE, EngineOptions(threads=threads, cache=tmp_path)).keep(Verdict(True, "x"))
    kept = [
        Contest(Rival(), bundle, MACHINE, EngineOptions(threads=threads, cache=tmp_path)).known() is not None
        for threads in range(1, 80)
    ]
    assert sum(kept) == 64
    assert kept[-1]
    assert not kept[0]


def test_a_folder_that_cannot_be_written_only_costs_another_measurement(rival, tmp_path):
    (tmp_path / "file").write_text("")
    found = Contest(Rival(), load_bundle(UNTRAINED), MACHINE, EngineOptions(threads=1, cache=tmp_path / "file"))
    found.keep(Verdict(True, "fast"))
    assert found.known() is None
