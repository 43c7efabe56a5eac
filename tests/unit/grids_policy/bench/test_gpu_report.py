"""The report: its form is checked when it is read; it says what was not measured."""

import json

import pytest

from grids_policy.bench.device import CpuDevice
from grids_policy.bench.gpu_report import empty_report, figure, markdown, problem, read_json, write_json
from grids_policy.bench.random_policy import small_config
from grids_policy.runtime.base import STAGES


def row(sampler, milliseconds, **more):
    seconds = {stage: dict.fromkeys(("p50", "p95", "p99"), milliseconds / 4e3) for stage in STAGES}
    seconds["total"] = {"p50": milliseconds / 1e3, "p95": milliseconds / 900, "p99": milliseconds / 800}
    return {
        "engine": "eager", "precision": "bf16", "sampler": sampler, "batch": 1, "known": True, "runs": 9,
        "seconds": seconds, "start_s": 2.0, "first_run_s": 0.3, "memory_gb": 1.5, "chunks_per_s": 1e3 / milliseconds,
        **more,
    }  # fmt: skip


@pytest.fixture
def report():
    made = empty_report("small", small_config(), CpuDevice())
    made["peaks"] = {"tflops": {"bf16": 71.0}, "copy_gb_s": 800.0, "read_gb_s": 850.0, "cached_gb_s": 2000.0,
                     "operator_us": 8.0, "graph_us": 2.5, "units": 82, "cache_mb": 6.0}  # fmt: skip
    made["rows"] = [
        row("dense", 40.0, predicted_s={"total": 0.03}),
        row("16", 20.0, power_w=250.4, joules_per_chunk=5.0),
    ]
    made["left_out"] = [{"what": "tensorrt", "reason": "libnvinfer.so.10 not found"}]
    return made


def test_a_report_is_read_as_it_was_written(report, tmp_path):
    write_json(report, tmp_path / "gpu.json")
    assert read_json(tmp_path / "gpu.json") == json.loads(json.dumps(report))
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_the_tables_say_that_no_gpu_was_there_and_what_is_missing(report):
    report["interrupted"] = True
    text = markdown(report)
    assert "**No GPU was measured**: " in text
    assert "**Interrupted**" in text
    assert "* Left out: tensorrt: libnvinfer.so.10 not found" in text


def test_a_row_holds_speed_up_power_and_the_ratio_of_the_prediction(report):
    dense, kept = [line for line in markdown(report).splitlines() if line.startswith("| eager")]
    assert "| 40.0/44.4/50.0 | 25.0 | 1.00 |" in dense
    assert dense.endswith("| – | – | 0.75 | – |")
    assert "| 2.00 | 1.50 |" in kept
    assert kept.endswith("| 250 | 5.00 | – | – |")


def test_the_plot_is_drawn(report, tmp_path):
    assert figure(report, tmp_path / "gpu.png").stat().st_size > 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(bench="policy"), "expected the JSON of ./grids bench gpu"),
        (lambda r: r.update(schema=99), "expected schema 1, got 99"),
        (lambda r: r.pop("peaks"), "expected 'peaks' in the report, which is missing"),
        (lambda r: r["rows"][1].pop("start_s"), "expected 'start_s' in row 1, which is missing"),
        (lambda r: r["rows"][0]["seconds"]["vision"].pop("p99"), "expected p50, p95 and p99 of vision in row 0"),
    ],
)
def test_another_form_is_named(report, change, message):
    assert problem(report) is None
    change(report)
    assert problem(report) == message


def test_a_file_that_is_no_report_is_refused_by_name(tmp_path):
    path = tmp_path / "notes.json"
    path.write_text("not json", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.json: expected JSON"):
        read_json(path)
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"notes\.json: expected the JSON of \./grids bench gpu"):
        read_json(path)


def test_a_number_that_json_does_not_have_leaves_the_old_file(report, tmp_path):
    write_json(report, tmp_path / "gpu.json")
    before = (tmp_path / "gpu.json").read_text(encoding="utf-8")
    report["rows"][0]["memory_gb"] = float("nan")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(report, tmp_path / "gpu.json")
    assert (tmp_path / "gpu.json").read_text(encoding="utf-8") == before
