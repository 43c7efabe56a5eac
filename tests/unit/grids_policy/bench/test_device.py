"""The device of a bench: what only a GPU has is refused or absent on a CPU in one sentence."""

import pytest
import torch

from grids_policy.bench import device
from grids_policy.bench.device import CpuDevice, Nvml, is_out_of_memory, measure_card, open_device, set_precision

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def test_an_allocation_that_cannot_succeed_is_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 50, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))


def test_another_error_of_a_variant_is_not_out_of_memory():
    with pytest.raises(RuntimeError) as raised:
        torch.ones(2) @ torch.ones(3)
    assert not is_out_of_memory(raised.value)
    assert not is_out_of_memory(KeyError("memory"))


@without_gpu
def test_a_gpu_that_is_not_there_is_refused_with_the_reason():
    with pytest.raises(RuntimeError, match=r"^torch \S+ (is a build without CUDA|finds no NVIDIA GPU)"):
        open_device("cuda")
    assert open_device("auto").kind == "cpu"


def test_a_cpu_captures_no_graph_and_measures_no_energy():
    cpu = CpuDevice()
    with pytest.raises(RuntimeError, match="CUDA graphs need an NVIDIA GPU"):
        cpu.capture(lambda value: value, 1)
    assert cpu.energy_j() is None


@without_gpu
def test_without_nvidias_library_power_is_left_out_with_the_reason():
    nvml = Nvml()
    assert nvml.energy_j() is None
    assert nvml.describe()["power"].startswith("power is not measured: ")


class FakeNvml:
    """Answers as NVML does for a card that counts energy but does not tell its limit."""

    class NVMLError(Exception):
        """NVML's error."""

    @staticmethod
    def nvmlDeviceGetTotalEnergyConsumption(handle):  # noqa: N802
        assert handle == "card"
        return 12_500

    @staticmethod
    def nvmlDeviceGetEnforcedPowerLimit(handle):  # noqa: N802
        raise FakeNvml.NVMLError("Not Supported")

    @staticmethod
    def nvmlSystemGetDriverVersion():  # noqa: N802
        return "580.95"


def test_energy_is_in_joules_and_what_a_card_does_not_support_is_none():
    nvml = Nvml()
    nvml._handle, nvml._api = "card", FakeNvml
    assert nvml.energy_j() == 12.5
    assert nvml.describe() == {"driver": "580.95", "power_limit_w": None}


@pytest.mark.parametrize(("precision", "allowed"), [("tf32", True), ("fp32", False), ("bf16", False)])
def test_tf32_is_used_only_where_it_is_asked_for(precision, allowed):
    set_precision(precision)
    assert torch.backends.cuda.matmul.allow_tf32 is allowed
    set_precision("fp32")


def test_peaks_are_positive_and_complete(monkeypatch):
    cpu = CpuDevice()
    monkeypatch.setattr(device, "best_s", lambda _device, work, **_: (work(), 1e-3)[1])
    cpu.precisions = ("fp32",)
    peaks = measure_card(cpu)
    assert peaks["tflops"]["fp32"] == pytest.approx(2 * 1024**3 / 1e-3 / 1e12)
    assert peaks["operator_us"] == pytest.approx(1e3 / 420)
    assert (peaks["units"], peaks["graph_us"]) == (0, None)
    assert all(peaks[key] > 0 for key in ("copy_gb_s", "read_gb_s", "cached_gb_s", "cache_mb"))
