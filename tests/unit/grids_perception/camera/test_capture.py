"""Stamps, losses and stuck images as pure functions."""

import numpy as np
import pytest

from grids_perception.camera.capture import FrameCounter, StampMapper, StillDetector, backoff_s

MS = 1_000_000


EPOCH_MS = 1.7e12


def mapper(**options) -> StampMapper:
    return StampMapper(max_error_ns=200 * MS, **options)


def test_a_believable_epoch_stamp_is_the_capture_time():
    stamp = mapper().map(EPOCH_MS, "global_time", round(EPOCH_MS * MS) + 12 * MS)
    assert (stamp.ns, stamp.how, stamp.age_ns) == (round(EPOCH_MS * MS), "device", 12 * MS)


@pytest.mark.parametrize("error_ms", [-5, 250, 1e9], ids=["future", "too old", "wrong clock"])
def test_an_unbelievable_epoch_stamp_is_replaced_and_counted(error_ms):
    clock = mapper()
    arrival = round((EPOCH_MS + error_ms) * MS)
    stamp = clock.map(EPOCH_MS, "global_time", arrival)
    assert stamp.how == "offset"
    assert stamp.ns == arrival
    assert clock.distrusted == 1


def test_a_hardware_clock_keeps_its_spacing_under_transport_jitter():
    """Arrivals jitter by up to 20 ms; stamps must not, once an undelayed frame has been seen."""
    clock, rng = mapper(), np.random.default_rng(0)
    device_ms = 5_000.0 + np.arange(200) * 1000 / 30
    delay_ms = rng.uniform(0, 20, 200)
    delay_ms[10] = 0.0
    start = 10**18
    stamps = [
        clock.map(d, "hardware_clock", start + round((d + late) * MS)).ns
        for d, late in zip(device_ms, delay_ms, strict=True)
    ]
    true = start + np.array([round(d * MS) for d in device_ms])
    assert np.abs(np.array(stamps[11:]) - true[11:]).max() <= 1
    assert clock.jumps == 0


def test_the_offset_forgets_so_that_it_follows_a_drifting_clock():
    clock = mapper(window=100)
    drift = 1e-4  # the device is 100 ppm slow
    error = []
    for i in range(2000):
        true_ms = i * 1000 / 30
        stamp = clock.map(true_ms * (1 - drift), "hardware_clock", round(true_ms * MS))
        error.append(abs(stamp.ns - true_ms * MS))
    assert max(error[200:]) < 1 * MS  # 100 frames of drift, not 2000


def test_a_device_clock_that_starts_again_is_mapped_anew():
    clock = mapper()
    clock.map(90_000.0, "hardware_clock", 10**18)
    stamp = clock.map(10.0, "hardware_clock", 10**18 + 33 * MS)
    assert stamp.ns == 10**18 + 33 * MS
    assert clock.jumps == 1


def stamp_errors_ms(clock: StampMapper, host_ms, delay_ms, domain="hardware_clock") -> np.ndarray:
    """Stamp less true capture time at 30 Hz; `host_ms` is added to the host's clock, `delay_ms` is transport."""
    device_ms = 5_000.0 + np.arange(len(host_ms)) * 1000 / 30
    start = 10**18
    stamps = [
        clock.map(d, domain, start + round((d + host + delay) * MS)).ns
        for d, host, delay in zip(device_ms, host_ms, delay_ms, strict=True)
    ]
    return (np.array(stamps) - start) / MS - device_ms - host_ms


def test_a_host_clock_set_forward_is_followed_within_a_few_frames():
    """By half a second: less than what is a jump at once. It took the whole window, 10 s, to be seen."""
    clock, rng = mapper(), np.random.default_rng(0)
    error = stamp_errors_ms(clock, np.where(np.arange(200) < 100, 0.0, 500.0), rng.uniform(5, 15, 200))
    assert np.abs(error[110:]).max() <= 15
    assert clock.jumps == 1


@pytest.mark.parametrize("late", [[400.0], [300.0 - 1000 / 30 * k for k in range(9)]], ids=["one", "a queue"])
def test_late_frames_are_no_step_of_the_clock(late):
    clock, delay = mapper(), np.full(200, 5.0)
    delay[100 : 100 + len(late)] = late
    assert np.abs(stamp_errors_ms(clock, np.zeros(200), delay) - 5.0).max() <= 0.01
    assert clock.jumps == 0


def test_without_a_device_stamp_arrival_less_the_known_delay_counts():
    stamp = mapper(assumed_delay_ns=15 * MS).map(None, "none", 10**18)
    assert (stamp.ns, stamp.how) == (10**18 - 15 * MS, "arrival")


def test_gaps_in_frame_numbers_are_losses_and_repeats_are_ignored():
    counter = FrameCounter()
    taken = [counter.add(n) for n in (7, 8, 8, 11, 12)]
    assert taken == [True, True, False, True, True]
    assert (counter.received, counter.lost, counter.repeated) == (4, 2, 1)


def test_numbers_that_start_again_are_no_loss():
    counter = FrameCounter()
    for n in (100, 101, 1, 2):
        counter.add(n)
    assert (counter.lost, counter.restarts) == (0, 1)
    counter.forget_position()
    counter.add(500)
    assert counter.lost == 0


@pytest.mark.parametrize("size", [(240, 320), (480, 640), (480, 848), (720, 1280)])
@pytest.mark.parametrize("where", [np.s_[137], np.s_[:, 151]])
def test_a_change_along_any_row_or_column_is_seen(size, where):
    still, image = StillDetector(), np.full((*size, 3), 90, np.uint8)
    still.add(image, 0)
    image[where] += 1
    assert still.add(image, 100 * MS) == 0


def test_identical_images_are_timed_and_the_noise_of_a_sensor_ends_it():
    still, image = StillDetector(), np.full((48, 64, 3), 90, np.uint8)
    still.add(image, 0)
    assert still.add(image, 700 * MS) == 700 * MS
    image += np.random.default_rng(0).random(image.shape) < 0.02
    assert still.add(image, 800 * MS) == 0
    assert not still.black
    still.add(np.zeros((48, 64, 3), np.uint8), 900 * MS)
    assert still.black


def test_back_off_doubles_and_stays_bounded():
    waits = [backoff_s(i) for i in range(8)]
    assert waits[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(waits) == 10.0
    assert backoff_s(10_000) == 10.0
