"""The arithmetic of the prediction on kernels whose time is known."""

import dataclasses

import pytest

from grids_policy.bench.cards import CARDS, MEMORY_EFFICIENCY, Card, card_of, find_card
from grids_policy.bench.operators import Kernel
from grids_policy.bench.predictions import with_tokens
from grids_policy.bench.random_policy import small_config
from grids_policy.bench.roofline import kernel_time, predict, stage_time, tile_share, total_s

CARD = Card("test", {"fp16": 100.0}, 1000.0, 4000.0, 10.0, 100, 0.5, "test", 8.0, 4.0, 0.5, 2.0)
LARGE = (1, 12800, 12800, 1024)  # 100 x 100 tiles: 100 waves without a rest


def product(shape=LARGE, weights=0, reads=()):
    count, m, n, k = shape
    return Kernel("mm", "product", 2 * count * m * n * k, weights, tuple(reads), (), shape)


def test_a_large_product_takes_its_operations_at_the_efficient_rate():
    products, memory = kernel_time(product(), CARD, "fp16")
    assert products == pytest.approx(2 * 12800 * 12800 * 1024 / 50e12)
    assert memory == 0


def test_weights_come_from_memory_and_small_activations_from_the_cache():
    _, weights = kernel_time(Kernel("mul", "elementwise", 0, 10**6, (), ()), CARD, "fp16")
    _, small = kernel_time(Kernel("mul", "elementwise", 0, 0, ((1, 10**6),), ()), CARD, "fp16")
    _, large = kernel_time(Kernel("mul", "elementwise", 0, 0, ((1, 10**8),), ()), CARD, "fp16")
    assert weights == pytest.approx(1e6 / (1e12 * MEMORY_EFFICIENCY))
    assert small == pytest.approx(1e6 / 4e12)
    assert large == pytest.approx(1e8 / (1e12 * MEMORY_EFFICIENCY))


def test_a_product_of_one_tile_uses_one_multiprocessor():
    assert tile_share((1, 128, 128, 64), 100) == pytest.approx(4 * 0.7 / 100)  # four small tiles are better than one
    assert tile_share((1, 1, 64, 64), 100) < 1e-3
    assert tile_share(LARGE, 100) == pytest.approx(1.0)
    assert tile_share(LARGE, 0) == 1.0  # a CPU has no tiles


def test_one_tile_more_than_multiprocessors_costs_a_second_wave():
    assert tile_share((1, 128 * 101, 128, 64), 100) < 0.75
    assert tile_share((1, 128 * 100, 128, 64), 100) == pytest.approx(1.0)


@pytest.mark.parametrize(("host", "expected_us"), [("operator", 800.0), ("launch", 400.0), ("graph", 250.0)])
def test_many_small_kernels_take_the_time_of_their_launches(host, expected_us):
    kernels = [Kernel("add", "elementwise", 0, 0, ((1, 64),), ())] * 100
    found = stage_time(kernels, CARD, "fp16", host)
    assert found.seconds * 1e6 == pytest.approx(expected_us, rel=1e-3)
    assert found.limit == "launches"


def test_the_host_hides_behind_long_kernels():
    found = stage_time([product()] * 10, CARD, "fp16", "operator")
    assert found.seconds == pytest.approx(10 * (2 * 12800 * 12800 * 1024 / 50e12 + 2e-6))
    assert found.limit == "products"


def test_a_faster_card_is_never_predicted_slower():
    config = with_tokens(small_config(), "16")
    for engine in ("eager", "compile", "compile+graph", "cuda", "tensorrt"):
        slow, fast = (total_s(predict(CARDS[name], config, engine, "fp16")) for name in ("Orin NX", "RTX 3090"))
        assert fast < slow


def test_what_cannot_be_predicted_is_refused_in_one_sentence():
    config = with_tokens(small_config(), "16")
    with pytest.raises(ValueError, match=r"^expected one of fp32, fp16 for Xavier NX, got 'bf16'$"):
        predict(CARDS["Xavier NX"], config, "eager", "bf16")
    with pytest.raises(ValueError, match=r"^engine tensorrt takes batch 1, got 2$"):
        predict(CARDS["RTX 3090"], config, "tensorrt", "fp16", 2)


@pytest.mark.parametrize(
    ("reported", "name"),
    [
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", None),
    ],
)
def test_a_card_is_known_by_the_drivers_name_and_its_relatives_are_not(reported, name):
    found = find_card(reported)
    assert (found and found.name) == name


def test_measured_peaks_make_a_card_that_predicts_what_was_measured():
    peaks = {"tflops": {"fp16": 60.0}, "units": 100, "cache_mb": 10.0, "copy_gb_s": 800.0, "read_gb_s": 850.0,
             "cached_gb_s": 2000.0, "operator_us": 9.0, "graph_us": 2.5}  # fmt: skip
    card = card_of("measured", peaks)
    seconds, _ = kernel_time(product(), card, "fp16")
    assert seconds == pytest.approx(2 * 12800 * 12800 * 1024 / 60e12)
    found = stage_time([Kernel("add", "elementwise", 0, 0, (), ())], card, "fp16", "graph")
    assert found.seconds == pytest.approx(2.5e-6)
    _, read = kernel_time(Kernel("mul", "elementwise", 0, 10**9, (), ()), card, "fp16")
    assert read == pytest.approx(1e9 / 850e9)
    cpu = card_of("cpu", {**peaks, "units": 0, "graph_us": None})
    assert dataclasses.astuple(cpu)[-2:] == (0.0, 0.0)
