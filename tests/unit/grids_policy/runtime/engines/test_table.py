"""Which engine a computer gets, and what is said of the ones it does not get."""

import pytest

from grids_policy.node.params import PolicyParams
from grids_policy.runtime.bundle import BundleError
from grids_policy.runtime.engines.machine import Gpu, Machine
from grids_policy.runtime.engines.table import CHOICES, ENGINES, NAMES, choose

GPU = Gpu("A100", "580.65", "8.0")
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
NONE = Machine("no NVIDIA driver (nvidia-smi not found)", ("CPUExecutionProvider",), None, {})


def names(machine: Machine, precision: str = "fp32", requested: str = "auto") -> list[str]:
    return [engine.name for engine in choose(requested, machine, precision).engines]


def test_the_best_engine_present_is_taken_and_better_ones_are_explained():
    assert names(Machine(GPU, PROVIDERS, "101601", {}))[0] == "tensorrt"
    without = Machine(GPU, PROVIDERS, None, {})
    assert names(without)[0] == "cuda"
    assert any("libnvinfer.so.10 not found" in reason for reason in choose("auto", without, "fp32").reasons)
    assert names(NONE) == ["cpu"]
    assert len(choose("auto", NONE, "fp32").reasons) == len(ENGINES) - 1
    no_gpu = choose("auto", Machine(NONE.gpu, PROVIDERS, None, {}), "fp32")
    assert [engine.name for engine in no_gpu.engines] == ["cpu"]
    assert sum("no NVIDIA driver" in reason for reason in no_gpu.reasons) >= 2


@pytest.mark.parametrize("engine", [name for name in NAMES if name != "cpu"])
def test_an_engine_asked_for_by_name_is_never_replaced_in_silence(engine):
    with pytest.raises(BundleError, match=f"expected engine '{engine}', but it cannot run here"):
        choose(engine, NONE, "fp32")


def test_an_int8_bundle_stays_where_its_operators_exist():
    whole = Machine(GPU, PROVIDERS, "101601", {})
    assert names(whole, "int8") == ["cpu"]
    assert "not int8" in choose("auto", whole, "int8").reasons[0]
    with pytest.raises(BundleError, match=r"cuda.*not int8"):
        choose("cuda", whole, "int8")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(BundleError, match=r"engine: expected one of auto, .*cpu, got 'quantum'"):
        choose("quantum", NONE, "fp32")


def test_the_parameter_offers_the_table_and_the_last_resort_runs_everywhere():
    assert PolicyParams.__dataclass_fields__["engine"].metadata["doc"].choices == CHOICES
    assert len(set(NAMES)) == len(NAMES)
    assert ENGINES[-1].missing(NONE) is None
    assert not ENGINES[-1].measured


@pytest.mark.parametrize("engine", ENGINES, ids=NAMES)
def test_what_is_missing_is_one_sentence(engine):
    said = engine.missing(NONE)
    assert (said is None) == (engine.name == "cpu")
    if said:
        assert "\n" not in said
        assert len(said) < 300
