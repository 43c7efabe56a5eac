"""The view model from message-like objects: what is kept, what is refused, what is forgotten."""

from types import SimpleNamespace as Message

import numpy as np
import pytest

from grids_common.so100 import JOINT_NAMES
from grids_perception.overlay.similarity import coordinate_jitter, mean_off_diagonal, mixing_weights, sampled_similarity
from grids_rqt.view_model import Model

SECOND = 1_000_000_000


def header(t_ns: int) -> Message:
    return Message(stamp=Message(sec=t_ns // SECOND, nanosec=t_ns % SECOND))


def tokens(t_ns: int, coordinates, camera="front", **fields) -> Message:
    base = {
        "header": header(t_ns), "camera": camera, "grid_height": 8, "grid_width": 8, "tokens": len(coordinates) // 2,
        "coordinates": coordinates, "convention": "align_corners_false", "image_width": 640, "image_height": 480,
        "input_width": 512, "input_height": 512, "resized_width": 512, "resized_height": 384, "pad_left": 0,
        "pad_top": 128, "retention": [], "mean_retention": 0.0, "self_similarity": [],
    }  # fmt: skip
    return Message(**base | fields)


def joints(t_ns: int, value: float, names=JOINT_NAMES) -> Message:
    return Message(header=header(t_ns), name=list(names), position=[value + i for i in range(len(names))])


def image(t_ns: int, level: int = 7) -> Message:
    data = bytes([level]) * (4 * 6 * 3)
    return Message(header=header(t_ns), encoding="rgb8", height=4, width=6, step=18, data=data)


def chunk(t_ns: int) -> Message:
    return Message(
        header=header(t_ns), joint_names=list(JOINT_NAMES), horizon=2, dt=0.05, positions=[0.1] * 12, sequence=1,
        stage_names=[], stage_s=[],
    )  # fmt: skip


@pytest.fixture
def model():
    return Model(("front", "wrist"))


def test_joints_are_put_into_the_common_order_whatever_order_they_come_in(model):
    model.take("/follower/joint_states", joints(SECOND, 0.0, tuple(reversed(JOINT_NAMES))), SECOND)
    state = model.snapshot(SECOND)
    np.testing.assert_array_equal(state.joints_rad, [[5, 4, 3, 2, 1, 0]])


def test_a_hundred_hertz_are_thinned_and_old_joints_forgotten(model):
    for i in range(1000):
        t = i * SECOND // 100
        model.take("/follower/joint_states", joints(t, float(i)), t)
    state = model.snapshot(10 * SECOND)
    assert 100 < len(state.joints_ns) < 200
    assert state.joints_ns[0] > 4.9 * SECOND


def play(model, begin_ns: int, stamp_ns: int, seconds: float) -> int:
    """`ros2 bag play` of joints at 20 Hz, which arrive from `begin_ns` on with stamps from `stamp_ns` on: its end."""
    for i in range(round(20 * seconds)):
        t = i * SECOND // 20
        model.take("/follower/joint_states", joints(stamp_ns + t, float(i)), begin_ns + t)
    return begin_ns + round(seconds * SECOND)


@pytest.mark.parametrize("recorded", [10 * SECOND, 5_000 * SECOND], ids=["long ago", "by a clock that was ahead"])
def test_a_replay_with_old_stamps_is_plotted_as_if_it_were_live(model, recorded):
    now = play(model, 1_000 * SECOND, recorded, 3.0)
    model.take("/policy/action_chunk", chunk(recorded + 3 * SECOND - SECOND // 5), now)
    state = model.snapshot(now)
    assert len(state.joints_ns) == 60
    assert 0 < now - state.joints_ns[-1] <= SECOND // 10
    assert now - state.chunk.stamp_ns == pytest.approx(SECOND // 5, abs=SECOND // 10)
    assert "a replay, or a wrong clock" in state.problems[-1]


@pytest.mark.parametrize("length_s", [1.0, 4.0, 60.0])
def test_a_replay_that_starts_again_drops_what_came_before(model, length_s):
    now = 1_000 * SECOND
    for _ in range(3):
        now = play(model, now, 10 * SECOND, length_s)
        state = model.snapshot(now)
        assert len(state.joints_ns) == min(round(20 * length_s), 99)
        assert (np.diff(state.joints_ns) > 0).all()
        assert 0 <= now - state.joints_ns[-1] < SECOND // 5


def test_a_replay_with_its_own_clock_starts_again_too(model):
    """`ros2 bag play --clock --loop` with use_sim_time: the clock itself jumps back."""
    for _ in range(2):
        now = play(model, 10 * SECOND, 10 * SECOND, 4.0)
        model.take("/front/color/image_raw", image(now), now)
        state = model.snapshot(now)
        assert len(state.joints_ns) == 80
        assert state.problems == ()
        assert state.cameras["front"].silent_s == 0.0


def test_live_after_a_replay_is_shown_with_its_own_stamps(model):
    now = play(model, 1_000 * SECOND, 10 * SECOND, 3.0)
    now = play(model, now, now, 2.0)
    state = model.snapshot(now)
    assert len(state.joints_ns) == 40
    assert state.joints_ns[-1] == now - SECOND // 20
    assert state.problems == ()


def test_one_camera_with_a_wrong_clock_does_not_disturb_the_plots(model):
    for i in range(60):
        t = 100 * SECOND + i * SECOND // 20
        model.take("/follower/joint_states", joints(t, 0.0), t)
        model.take("/front/color/image_raw", image(t - 30 * SECOND), t)
    state = model.snapshot(t)
    assert len(state.joints_ns) == 60
    assert state.cameras["front"].rate_hz == pytest.approx(20.0, rel=0.01)


def test_compressed_images_are_shown_as_raw_ones_are(model):
    from grids_common.images import rgb_to_jpeg

    packed = Message(header=header(0), format="jpeg", data=rgb_to_jpeg(np.full((48, 64, 3), 90, np.uint8), 95))
    model.take("/front/color/image_raw/compressed", packed, 0)
    assert abs(int(model.snapshot(0).cameras["front"].image[0, 0, 0]) - 90) <= 2


def test_the_rate_is_that_of_the_arrivals(model):
    for i in range(31):
        model.take("/front/color/image_raw", image(i * SECOND // 30), i * SECOND // 30)
    camera = model.snapshot(SECOND).cameras["front"]
    assert camera.rate_hz == pytest.approx(30.0, rel=1e-3)
    assert camera.image.shape == (4, 6, 3)


def test_a_camera_that_falls_silent_loses_its_rate_and_says_for_how_long(model):
    for i in range(31):
        model.take("/front/color/image_raw", image(i * SECOND // 30), i * SECOND // 30)
    assert model.snapshot(2 * SECOND).cameras["front"].silent_s == 0.0
    camera = model.snapshot(5 * SECOND).cameras["front"]
    assert (camera.rate_hz, camera.silent_s) == (0.0, pytest.approx(4.0))
    assert camera.image is not None
    assert model.snapshot(5 * SECOND).cameras["wrist"].silent_s == 0.0  # never came: nothing has stopped
    for i in range(2):
        model.take("/front/color/image_raw", image(5 * SECOND + i), 5 * SECOND + i * SECOND // 30)
    assert model.snapshot(5 * SECOND + SECOND // 2).cameras["front"].rate_hz == pytest.approx(30.0, rel=1e-3)


def test_an_image_that_cannot_be_read_does_not_count_as_one(model):
    model.take("/front/color/image_raw", image(0), 0)
    model.take("/front/color/image_raw", Message(**vars(image(0)) | {"encoding": "16UC1"}), 3 * SECOND)
    assert model.snapshot(3 * SECOND).cameras["front"].silent_s == pytest.approx(3.0)


def driver_status() -> Message:
    words = {"mode": "policy", "state": "executing", "reason": "following", "last_refusal": ""}
    numbers = ("queue_s", "chunk_age", "ticks", "late_ticks", "lateness_p99_ms", "empty_ticks", "chunks_refused")
    return Message(**words, **dict.fromkeys(numbers, 0), bus_errors=[0] * 6)


def policy_status() -> Message:
    words = {"state": "running", "reason": "", "provider": "CPU", "bundle_id": "b", "instruction": "go"}
    numbers = ("chunks", "dropped_observations", "refused_outputs", "observation_age", "camera_skew")
    stages = dict.fromkeys(("stage_names", "stage_p50", "stage_p95", "stage_p99"), ())
    return Message(**words, **dict.fromkeys(numbers, 0), **stages)


def servo_state() -> Message:
    names = ("position", "load", "current", "temperature", "voltage", "error_bits", "torque_enabled", "valid")
    return Message(joint_names=["gripper"], **{name: [1] for name in names})


@pytest.mark.parametrize(
    ("topic", "message", "field"),
    [
        ("/follower/status", driver_status(), "driver"),
        ("/policy/status", policy_status(), "policy"),
        ("/follower/servo_state", servo_state(), "servos"),
    ],
    ids=["driver", "policy", "servos"],
)
def test_what_a_dead_node_said_last_is_dropped_after_two_seconds_and_comes_back_with_it(model, topic, message, field):
    model.take(topic, message, SECOND)
    assert getattr(model.snapshot(3 * SECOND), field)
    assert not getattr(model.snapshot(3 * SECOND + 1), field)
    model.take(topic, message, 9 * SECOND)
    assert getattr(model.snapshot(9 * SECOND), field)


def test_samples_of_each_camera_are_kept_apart_and_bounded(model):
    for i in range(30):
        model.take("/policy/sampled_tokens", tokens(i, [0.1, i / 100]), i)
    model.take("/policy/sampled_tokens", tokens(99, [0.5, 0.5], camera="wrist"), 99)
    state = model.snapshot(100)
    assert len(state.cameras["front"].samples) == 9
    assert state.cameras["front"].samples[-1].coordinates[0, 1] == pytest.approx(0.29)
    assert len(state.cameras["wrist"].samples) == 1


@pytest.mark.parametrize(
    ("topic", "message", "text"),
    [
        ("/follower/joint_states", joints(0, 0.0, ("a", "b")), "expected positions of shoulder_pan"),
        ("/policy/sampled_tokens", tokens(0, [0.1, float("nan")]), "NaN"),
        ("/front/color/image_raw", Message(**vars(image(0)) | {"encoding": "16UC1"}), "16UC1"),
        (
            "/policy/action_chunk",
            Message(header=header(0), horizon=2, joint_names=["a"], positions=[1.0], dt=0.1),
            "expected 2 × 1 positions",
        ),
    ],
    ids=["joints", "tokens", "image", "chunk"],
)
def test_a_malformed_message_becomes_a_problem_on_screen_and_changes_nothing_else(model, topic, message, text):
    model.take(topic, message, SECOND)
    state = model.snapshot(SECOND)
    assert text in state.problems[0]
    assert model.rejected == 1
    assert not len(state.joints_ns)
    assert state.chunk is None


def test_a_problem_disappears_when_it_is_solved_or_old(model):
    def report(level):
        return Message(status=[Message(level=level, name="camera front", message="lost")])

    model.take("/diagnostics", report(b"\x02"), 0)
    assert model.snapshot(SECOND).problems == ("camera front: lost",)
    assert model.snapshot(6 * SECOND).problems == ()
    model.take("/diagnostics", report(b"\x00"), 2 * SECOND)
    assert model.snapshot(2 * SECOND).problems == ()


def test_a_snapshot_does_not_change_afterwards(model):
    model.take("/front/color/image_raw", image(0, 1), 0)
    before = model.snapshot(0)
    model.take("/front/color/image_raw", image(1, 2), 1)
    assert before.cameras["front"].image[0, 0, 0] == 1


def samples_of(message: Message):
    model = Model(("front",))
    model.take("/policy/sampled_tokens", message, 0)
    return model.snapshot(0).cameras["front"].samples[-1]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"mean_retention": 0.8}, 0.8),
        ({"mean_retention": 0.0}, float("nan")),
        ({"mean_retention": 0.0, "retention": [0.5, -0.5] * 32}, 0.0),
        ({"mean_retention": float("inf"), "retention": [0.5] * 64}, float("nan")),
    ],
    ids=["map not sent", "sampled early", "map", "not finite"],
)
def test_the_mean_retention_is_shown_without_the_map_but_never_guessed(fields, expected):
    assert samples_of(tokens(0, [0.1, 0.2], **fields)).mean_retention == pytest.approx(expected, nan_ok=True)


def test_similarity_after_sampling_matches_the_features_themselves():
    """Against the real thing: mix unit-length dense tokens with grid_sample's weights and compare cosines."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(64, 32)) + 1.0
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    coordinates = rng.uniform(0, 1, 32).astype(np.float32)
    last = samples_of(tokens(0, coordinates, self_similarity=(dense @ dense.T).ravel()))
    mixed = mixing_weights(last) @ dense
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    np.testing.assert_allclose(sampled_similarity(last), mixed @ mixed.T, atol=1e-5)


def test_sampling_the_centres_of_four_different_cells_keeps_their_similarities():
    centres = [(1.5 / 8, 2.5 / 8), (6.5 / 8, 0.5 / 8)]
    dense = np.eye(64)
    cell = [2 * 8 + 1, 6]
    dense[cell[0], cell[1]] = dense[cell[1], cell[0]] = 0.3
    last = samples_of(tokens(0, np.ravel(centres), self_similarity=dense.ravel()))
    after = sampled_similarity(last)
    np.testing.assert_allclose(after, [[1.0, 0.3], [0.3, 1.0]], atol=1e-6)
    assert mean_off_diagonal(after) == pytest.approx(0.3)


def test_jitter_is_the_mean_step_of_a_sample():
    start, step = np.zeros((2, 2)), np.array([0.03, 0.04])
    assert coordinate_jitter([start, start + step]) == pytest.approx(0.05)
    assert np.isnan(coordinate_jitter([start]))
