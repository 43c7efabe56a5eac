"""Which engine a computer gets, and what is said of the ones it does not get."""

import pytest

from grids_policy.node.params import PolicyParams
from grids_policy.runtime.bundle import CPU, GPU, BundleError
from grids_policy.runtime.engines.machine import Gpu, Machine
from grids_policy.runtime.engines.table import CHOICES, ENGINES, NAMES, choose

CARD = Gpu("A100", "580.65", "8.0")
BOTH = (CPU, GPU)
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
NONE = Machine("no NVIDIA driver (nvidia-smi not found)", ("CPUExecutionProvider",), None, {})


def names(machine: Machine, runs_on=BOTH, requested: str = "auto") -> list[str]:
    return [engine.name for engine in choose(requested, machine, runs_on).engines]


def test_the_best_engine_present_is_taken_and_better_ones_are_explained():
    assert names(Machine(CARD, PROVIDERS, "101601", {}))[0] == "tensorrt"
    without = Machine(CARD, PROVIDERS, None, {})
    assert names(without)[0] == "cuda"
    assert any("libnvinfer.so.10 not found" in reason for reason in choose("auto", without, BOTH).reasons)
    assert names(NONE) == ["cpu"]
    assert len(choose("auto", NONE, BOTH).reasons) == len(ENGINES) - 1
    no_gpu = choose("auto", Machine(NONE.gpu, PROVIDERS, None, {}), BOTH)
    assert [engine.name for engine in no_gpu.engines] == ["cpu"]
    assert sum("no NVIDIA driver" in reason for reason in no_gpu.reasons) >= 2


@pytest.mark.parametrize("engine", [name for name in NAMES if name != "cpu"])
def test_an_engine_asked_for_by_name_is_never_replaced_in_silence(engine):
    with pytest.raises(BundleError, match=f"expected engine '{engine}', but it cannot run here"):
        choose(engine, NONE, BOTH)


def test_a_bundle_stays_where_its_policy_json_says_that_it_runs():
    whole = Machine(CARD, PROVIDERS, "101601", {})
    assert names(whole, (CPU,)) == ["cpu"]
    assert "the bundle runs on cpu (runs_on in its policy.json), not on gpu" in choose("auto", whole, (CPU,)).reasons[0]
    with pytest.raises(BundleError, match=r"cuda.*not on gpu: export it in fp16"):
        choose("cuda", whole, (CPU,))
    with pytest.raises(BundleError, match=r"cpu.*not on cpu: export it in fp32"):
        choose("cpu", whole, (GPU,))


@pytest.mark.parametrize(("name", "capability", "runs"), [("V100", "7.0", False), ("A100", "8.0", True)])
def test_bf16_needs_a_card_that_multiplies_it(name, capability, runs):
    machine = Machine(Gpu(name, "580.65", capability), PROVIDERS, "101601", {})
    assert choose("auto", machine, BOTH, "fp16").engines[0].name == "tensorrt"
    assert choose("auto", machine, BOTH, "bf16").engines[0].name == ("tensorrt" if runs else "cpu")
    if not runs:
        said = r"cannot run here: bf16 needs compute capability 8\.0 or newer .*, and V100 has 7\.0: export it in fp16"
        with pytest.raises(BundleError, match=said):
            choose("cuda", machine, BOTH, "bf16")


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(BundleError, match=r"engine: expected one of auto, .*cpu, got 'quantum'"):
        choose("quantum", NONE, BOTH)


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
