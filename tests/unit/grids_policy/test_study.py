"""The study's bookkeeping: which commands run, what is counted, what a table says."""

import json
import subprocess
from pathlib import Path

import pytest

from grids_policy import study
from grids_policy.train_config import load_train_config


def result(variant, seed, conditions, settings=None):
    rows = [
        {"condition": c, "task": t, "successes": good, "episodes": tried, "retention": 0.9, "coordinate_spread": 0.02}
        for c, t, good, tried in conditions
    ]
    return {"variant": variant, "seed": seed, "settings": settings, "conditions": rows}


def keep(out, found):
    folder = out / f"{found['variant']}-s{found['seed']}"
    folder.mkdir(parents=True)
    (folder / study.RESULT).write_text(json.dumps(found))


@pytest.fixture
def arguments(tmp_path):
    words = ["--out", str(tmp_path), "--base", "BASE", "--frames", "a", "b", "--lanes", "1"]
    return study.parse_arguments([*words, "--variants", "dense", "grids-16", "--seeds", "0", "1"])


def test_every_variant_is_a_training_the_trainer_accepts_and_no_two_are_alike(arguments, tmp_path):
    seen = set()
    for variant in study.VARIANTS:
        words = study.train_words(arguments, variant, 3, tmp_path / "run")
        overrides = tuple(words[i + 1] for i, word in enumerate(words) if word == "--set")
        config = load_train_config(Path("config/train/demo.yaml"), overrides)
        assert (config.seed, config.optimiser.minutes, config.data.frames) == (3, 0, ("a", "b"))
        seen.add((config.model.sampler, config.lora))
    assert len(seen) == len(study.VARIANTS)


def test_seeds_are_pooled_and_shown_and_families_are_kept_apart(tmp_path):
    keep(
        tmp_path, result("dense", 1, [("in_distribution", "pick_place", 60, 100), ("ood_clutter", "pick_place", 1, 10)])
    )
    keep(
        tmp_path, result("dense", 0, [("in_distribution", "pick_place", 80, 100), ("ood_spatial", "pick_place", 2, 10)])
    )
    found = study.read_results(tmp_path)
    assert study.count(found["dense"], "pick_place", ood=False) == (140, 200, [0.8, 0.6])
    assert study.count(found["dense"], "", ood=True) == (3, 20, [0.2, 0.1])
    assert "140/200 = 70 % (63–76; 80, 60)" in study.table(found)


def test_a_complete_run_is_not_repeated_and_a_failure_is_said(arguments, tmp_path, monkeypatch, capsys):
    rows = [("in_distribution", "pick_place", 1, 2), ("ood_clutter", "pick_place", 1, 2)]
    keep(tmp_path, result("dense", 0, rows, study.settings(arguments)))
    keep(tmp_path, result("dense", 1, rows, study.settings(arguments) | {"steps": 7}))
    ran = []

    def fail(words, **_):
        ran.append(words)
        raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(study.subprocess, "run", fail)
    monkeypatch.setattr(study, "parse_arguments", lambda _: arguments)
    monkeypatch.setattr(study, "build_features", lambda _: None)
    assert study.main() == 1
    assert len(ran) == 2  # grids-16 with both seeds
    shown = capsys.readouterr()
    assert "dense seed 1 failed" in shown.err
    assert "was made with steps 7, not 800: give the same options" in shown.err
    assert "grids-16 seed 1 failed" in shown.err
    assert "2/4 = 50 %" in shown.out


def test_training_needs_a_base_and_a_table_needs_runs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        study.parse_arguments(["--out", str(tmp_path)])
    assert study.main(["--out", str(tmp_path), "--table"]) == 1
    assert "found none" in capsys.readouterr().err
