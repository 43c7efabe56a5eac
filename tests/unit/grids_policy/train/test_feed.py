"""What the trainer reads: frame caches, what is drawn from them, the tokenizer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_training import SPEC, episode, tiny_run
from tokenizers import Tokenizer

from grids_policy.runtime.bundle import LanguageSettings
from grids_policy.runtime.language import encode
from grids_policy.train.cache import CacheError, CacheSpec, ShardWriter, open_cache
from grids_policy.train.config import (
    AugmentConfig,
)
from grids_policy.train.feed import Feed, Prefetch, list_samples, split_held_out
from grids_policy.train.loss import SlotHead
from grids_policy.train.run import choose_precision
from grids_policy.train.tokenizer import fit_tokenizer


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    writer = ShardWriter(SPEC)
    for seed in range(4):
        writer.append(episode(seed, task="one" if seed % 2 else "two"))
        if seed == 1:
            writer.write(tmp_path / "frames" / "s0")
    writer.write(tmp_path / "frames" / "s1")
    return tmp_path / "frames"


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    fit_tokenizer(["do one", "do two"], 300, tmp_path / "tokenizer.json")
    return Tokenizer.from_file(str(tmp_path / "tokenizer.json"))


def test_what_is_written_is_read_back(cache: Path) -> None:
    shards = open_cache([cache])
    assert [len(shard.episodes) for shard in shards] == [2, 2]
    row = shards[1].episodes[1]
    assert (row.seed, row.ticks, row.images) == (3, 11, 6)
    np.testing.assert_array_equal(shards[1].images["wrist"][row.image_start :, 0, 0, 0], 100 + np.arange(6))
    np.testing.assert_allclose(shards[1].action[row.tick_start :, 0], np.arange(11) + 0.5)


def test_a_half_written_shard_is_not_opened(cache: Path) -> None:
    (cache / "s0").rename(cache / "s0.part")
    assert len(open_cache([cache])) == 1


def test_an_empty_cache_and_a_wrong_image_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"found none"):
        open_cache([tmp_path])
    wrong = CacheSpec(20, 2, (9, 9), SPEC.cameras, SPEC.joints, SPEC.labels)
    with pytest.raises(CacheError, match=r"expected 6 images \(9, 9\)"):
        ShardWriter(wrong).append(episode(0))


def test_rows_marked_invalid_are_never_drawn_and_task_weights_count(cache: Path) -> None:
    shards = open_cache([cache])
    samples = list_samples(shards, ("one=0.0",))
    ticks = [samples.tick[i] - shards[samples.shard[i]].episodes[samples.episode[i] % 2].tick_start for i in range(5)]
    assert min(ticks) == 2
    feed_weight = {int(e): float(samples.weight[samples.episode == e].sum()) for e in range(4)}
    assert feed_weight == {0: 5.0, 1: 0.0, 2: 5.0, 3: 0.0}
    with pytest.raises(CacheError, match="task=factor"):
        list_samples(shards, ("one",))


def test_held_out_episodes_are_whole_and_apart(cache: Path) -> None:
    shards = open_cache([cache])
    training, held = split_held_out(list_samples(shards), shards, 0.25)
    assert set(held.episode) == {3}
    assert set(training.episode) == {0, 1, 2}


def test_an_episode_that_is_listed_twice_is_held_out_twice(cache: Path) -> None:
    shards = open_cache([cache, cache])
    training, held = split_held_out(list_samples(shards), shards, 0.25)
    assert len(training) + len(held) == len(list_samples(shards))

    def seeds(samples) -> set[int]:
        rows = [row for shard in shards for row in shard.episodes]
        return {rows[e].seed for e in samples.episode}

    assert len(seeds(held)) == 1
    assert not seeds(held) & seeds(training)


def test_chunk_rows_are_targets_of_their_own_tick_relative_where_asked(cache: Path, words: Tokenizer) -> None:
    shards = open_cache([cache])
    samples = list_samples(shards)
    feed = Feed(shards, samples, tiny_run(), words)
    first = int(np.flatnonzero((samples.episode == 0) & (samples.tick == 4))[0])
    state, actions, pad = feed.targets(first)
    np.testing.assert_allclose(state, 4.0)
    # Rows at ticks 4, 6, 8, 10: targets tick + 0.5, minus the state in joints 0 and 1.
    np.testing.assert_allclose(actions[:, 0], [0.5, 2.5, 4.5, 6.5])
    np.testing.assert_allclose(actions[:, 2], [4.5, 6.5, 8.5, 10.5])
    assert not pad.any()
    late = int(np.flatnonzero((samples.episode == 0) & (samples.tick == 8))[0])
    np.testing.assert_array_equal(feed.targets(late)[2], [False, False, True, True])


def test_a_batch_depends_on_seed_and_step_only(cache: Path, words: Tokenizer) -> None:
    shards = open_cache([cache])
    feed = Feed(shards, list_samples(shards), tiny_run(), words)
    augment = AugmentConfig(shift_px=2, state_noise_rad=0.1)

    def make(step: int):
        rng = np.random.default_rng([0, step])
        return feed.batch(feed.draw(rng, 4), rng, augment)

    once, again, other = make(3), make(3), make(4)
    np.testing.assert_array_equal(once.images, again.images)
    np.testing.assert_array_equal(once.state, again.state)
    assert not np.array_equal(once.state, other.state)


def test_points_move_with_the_shifted_image(tmp_path: Path, words: Tokenizer) -> None:
    writer, made = ShardWriter(SPEC), episode(1)
    dot = np.zeros((6, 8, 8, 3), np.uint8)
    dot[:, 4, 3] = 255
    at = np.broadcast_to(np.float32([(3 + 0.5) / 8, (4 + 0.5) / 8]), (6, 2, 1, 2))
    writer.append(replace(made, images={"front": dot, "wrist": dot}, pixels=at))
    writer.write(tmp_path / "one")
    shards = open_cache([tmp_path])
    feed = Feed(shards, list_samples(shards), tiny_run(), words)
    batch = feed.batch(np.array([0, 1, 2, 3]), np.random.default_rng(0), AugmentConfig(shift_px=2))
    assert len(np.unique(batch.pixels[..., 0])) > 1
    for images, pixels in zip(batch.images, batch.pixels, strict=True):
        for image, ((x, y),) in zip(images, pixels, strict=True):
            assert image[int(y * 8), int(x * 8)].tolist() == [255, 255, 255]


def test_slots_are_told_which_cell_to_look_at_and_only_where_it_is_in_view() -> None:
    head = SlotHead(tiny_run().model, 2)
    cells = len(head.cells)
    pixels = torch.tensor([[[[0.3, 0.2]], [[1.2, 0.5]]]])  # (1, 2 cameras, 1 point, 2): the second is out of view
    mask = torch.ones(1, 2, dtype=torch.bool)
    blind = torch.zeros(1, 2, head.SLOTS, cells).log_softmax(-1)
    assert head.point_loss(blind, pixels, mask) == pytest.approx(np.log(cells), rel=1e-5)
    assert head.point_loss(blind, pixels, torch.tensor([[False, True]])) == 0
    looks = torch.zeros(1, 2, head.SLOTS, cells, requires_grad=True)
    for _ in range(200):
        loss = head.point_loss(looks.log_softmax(-1), pixels, mask)
        (slope,) = torch.autograd.grad(loss, looks)
        looks = (looks - slope).detach().requires_grad_()
    mean = looks.softmax(-1)[0, 0, 0] @ (head.cells + 1) / 2
    np.testing.assert_allclose(mean.detach(), [0.3, 0.25], atol=0.02)  # y is nearer the border than a cell's centre


def test_statistics_per_row_have_the_chunk_as_first_axis(cache: Path, words: Tokenizer) -> None:
    shards = open_cache([cache])
    feed = Feed(shards, list_samples(shards), tiny_run(), words)
    by_row, by_joint = feed.statistics("step"), feed.statistics("joint")
    assert by_row["action.mean"].shape == (4, 3)
    assert by_joint["action.mean"].shape == (3,)
    np.testing.assert_allclose(by_row["action.mean"][:, 0], [0.5, 2.5, 4.5, 6.5])
    assert by_row["action.std"][0, 0] > 0  # a constant column must still be a divisor
    with pytest.raises(CacheError, match="step or joint"):
        feed.statistics("row")


def test_an_error_of_the_producer_reaches_the_consumer() -> None:
    def broken(step: int):
        raise CacheError(f"no batch {step}")

    prefetch = Prefetch(broken, 7)
    with pytest.raises(CacheError, match="no batch 7"):
        prefetch.get()
    prefetch.close()


def test_sentences_are_newline_ended_padded_and_cut_on_the_left(words: Tokenizer) -> None:
    ids, mask = encode(words, "do one", LanguageSettings(6, 2, "left", ""))
    assert mask.sum() == 3
    assert list(ids[mask.sum() :]) == [2, 2, 2]
    cut, _ = encode(words, "do one " * 9, LanguageSettings(6, 2, "left", ""))
    assert cut[-1] == ids[2]  # the newline survives


def test_auto_precision_is_bf16_only_where_the_processor_multiplies_it(monkeypatch) -> None:
    cpu = torch.device("cpu")
    for found, expected in (({"avx512_bf16": True}, "bf16"), ({"amx_bf16": True}, "bf16"), ({"avx2": True}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found)
        assert choose_precision("auto", cpu) == expected
    assert choose_precision("bf16", cpu) == "bf16"
