"""Feetech's SDK, unmodified in its protocol, against the pseudo-terminal."""

import os
import select
import termios
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import scservo_sdk as scs
import serial
from repository import ROOT

from grids_sim.nodes.params import TwinParams
from grids_sim.servo import bus_log
from grids_sim.servo import packet as feetech_packet
from grids_sim.servo.packet import Instruction, PacketReader
from grids_sim.servo.serial_bus import group_blocks, wire_s
from grids_sim.twin.cli import state
from grids_sim.twin.faults import KINDS, FaultError
from grids_sim.twin.link_folder import FolderInUseError
from grids_sim.twin.twin import Twin

IDS = (1, 2, 3, 4, 5, 6)
OK, TIMEOUT, CORRUPT = scs.COMM_SUCCESS, scs.COMM_RX_TIMEOUT, scs.COMM_RX_CORRUPT


@pytest.fixture
def twin(start_twin):
    return start_twin()


@pytest.fixture
def client(twin, connect):
    return connect(twin.paths["follower"])


def raw_exchange(client, packet: bytes, wait_s: float = 0.05) -> bytes:
    """Send bytes past the SDK and collect what comes in `wait_s`: for packets that get no answer."""
    descriptor, data, end = client.port.ser.fd, b"", time.monotonic() + wait_s
    os.write(descriptor, packet)
    while (left := end - time.monotonic()) > 0 and select.select([descriptor], [], [], left)[0]:
        data += os.read(descriptor, 4096)
    return data


def statuses(client, packet: bytes, last_id: int) -> list[feetech_packet.Status]:
    """Send bytes past the SDK and collect the answers up to that of servo `last_id`, however long they take."""
    descriptor, reader, found = client.port.ser.fd, PacketReader(), []
    os.write(descriptor, packet)
    while not found or found[-1].servo_id != last_id:
        assert select.select([descriptor], [], [], 10.0)[0], f"no answer of {last_id} after {found}"
        found += feetech_packet.read_statuses(reader, os.read(descriptor, 4096))
    return found


def ping(servo_id: int) -> bytes:
    return feetech_packet.encode_instruction(Instruction(servo_id, feetech_packet.PING))


def test_ping_finds_six_servos_of_the_right_model_and_no_seventh(client):
    assert [client.ping(i) for i in IDS] == [(777, OK, 0)] * 6
    assert client.is_silent(7)


def test_broadcast_ping_is_answered_by_all(client):
    assert [s.servo_id for s in statuses(client, ping(0xFE), IDS[-1])] == list(IDS)


def test_read_and_write_of_one_and_two_bytes(client):
    assert client.write(3, "Acceleration", 77) == (OK, 0)
    assert client.value(3, "Acceleration") == 77
    assert client.write(3, "Torque_Limit", 650) == (OK, 0)
    assert client.value(3, "Torque_Limit") == 650
    assert client.value(4, "Torque_Limit") == 1000


def test_locked_eeprom_answers_success_but_keeps_its_value(client):
    client.write(1, "Lock", 1)
    assert client.write(1, "P_Coefficient", 9) == (OK, 0)
    assert client.value(1, "P_Coefficient") == 16
    client.write(1, "Lock", 0)
    client.write(1, "P_Coefficient", 9)
    assert client.value(1, "P_Coefficient") == 9


def test_negative_values_are_sign_magnitude_not_twos_complement(client):
    """The SDK sends -5 as 0xFFFB; the servo reads that as sign-magnitude -32763."""
    client.write(1, "Goal_Velocity", 0x8005)
    assert client.value(1, "Goal_Velocity") == -5
    client.write(1, "Goal_Velocity", -5 & 0xFFFF)
    assert client.value(1, "Goal_Velocity") == -32763


def test_homing_offset_shifts_what_is_read(client, until):
    before = client.value(2, "Present_Position")
    client.write(2, "Lock", 0)
    client.write(2, "Homing_Offset", scs.SCS_TOSCS(-120, 11) if hasattr(scs, "SCS_TOSCS") else 120 | 1 << 11)
    assert until(lambda: client.value(2, "Present_Position") == before + 120)


def test_lerobots_homing_offsets_correct_an_arm_with_horns_off_centre(start_twin, connect, until):
    horns = (310, -45, 700, 0, -1200, 12)
    client = connect(start_twin(horn_ticks=horns, start_pose="home").paths["follower"])
    true = connect(start_twin(start_pose="home").paths["follower"])
    expected = {i: true.value(i, "Present_Position") for i in IDS}
    raw = {i: client.value(i, "Present_Position") for i in IDS}
    assert raw == {i: (expected[i] + horns[i - 1]) % 4096 for i in IDS}
    for i in IDS:
        offset = (raw[i] - expected[i] + 2048) % 4096 - 2048  # the short way round: the register holds +-2047
        client.write(i, "Homing_Offset", abs(offset) | (1 << 11 if offset < 0 else 0))
    assert until(lambda: {i: client.value(i, "Present_Position") for i in IDS} == expected)


def test_sync_read_returns_the_status_block_of_all(client):
    result, blocks = client.sync_read(56, 15)
    assert result == OK
    assert {len(block) for block in blocks.values()} == {15}
    for servo_id, block in blocks.items():
        assert int.from_bytes(block[0:2], "little") == client.value(servo_id, "Present_Position")
        assert block[6] in range(118, 122)  # 12.0 V
        assert block[7] == 25


def test_sync_write_reaches_all_and_is_not_answered(client):
    assert client.sync_write("Goal_Position", {i: 2000 + i for i in IDS}) == OK
    assert [client.value(i, "Goal_Position") for i in IDS] == [2000 + i for i in IDS]
    assert client.port.ser.in_waiting == 0


def test_register_write_and_broadcast_action(client):
    for i in IDS:
        data = [i, 0]
        assert client.handler.regWriteTxRx(client.port, i, 48, 2, data)[0] == OK
    assert client.value(1, "Torque_Limit") == 1000
    client.handler.action(client.port, 0xFE)
    assert [client.value(i, "Torque_Limit") for i in IDS] == list(IDS)


def test_response_level_zero_answers_only_reads(client):
    client.write(6, "Lock", 0)
    client.write(6, "Response_Status_Level", 0)
    with client.waiting(200.0):
        assert client.write(6, "Acceleration", 3)[0] == TIMEOUT
    assert client.value(6, "Acceleration") == 3


def test_a_new_id_answers_and_the_old_one_is_silent(client):
    client.write(6, "Lock", 0)
    client.write(6, "ID", 9)
    assert client.ping(9) == (777, OK, 0)
    assert client.is_silent(6)


def test_unknown_instructions_and_packets_for_unknown_ids_get_no_answer(client):
    for packet in (
        Instruction(1, 0x55, b"\x01"),
        Instruction(42, feetech_packet.PING),
        Instruction(1, feetech_packet.READ, b"\x38"),
        Instruction(3, feetech_packet.SYNC_READ, b"\x38\x02\x01"),
    ):
        assert raw_exchange(client, feetech_packet.encode_instruction(packet)) == b""
    assert client.ping(1) == (777, OK, 0)


def test_factory_reset_keeps_the_id(client):
    client.write(4, "Lock", 0)
    client.write(4, "Max_Torque_Limit", 300)
    raw_exchange(client, feetech_packet.encode_instruction(Instruction(4, feetech_packet.RESET)))
    client.flush()
    assert client.ping(4) == (777, OK, 0)
    assert client.value(4, "Max_Torque_Limit") == 1000


def test_a_client_at_another_baud_rate_gets_no_answer_until_the_servo_uses_it(client, twin, connect):
    client.write(2, "Lock", 0)
    client.write(2, "Baud_Rate", 4)  # 115200
    assert client.is_silent(2)
    assert client.ping(3) == (777, OK, 0)
    slow = connect(twin.paths["follower"], baud=115_200)
    slow.flush()
    assert slow.ping(2) == (777, OK, 0)
    assert slow.is_silent(3)


def test_requests_with_a_wrong_checksum_are_ignored(client):
    good = ping(1)
    assert raw_exchange(client, good[:-1] + bytes((good[-1] ^ 8,))) == b""
    assert [s.servo_id for s in statuses(client, good, 1)] == [1]


def test_an_incomplete_packet_is_discarded_after_a_pause(client):
    good = feetech_packet.encode_instruction(Instruction(1, feetech_packet.WRITE, b"\x29\x05"))
    raw_exchange(client, good[:5], 0.1)
    client.flush()
    assert client.ping(1) == (777, OK, 0)


# -- timing ----------------------------------------------------------------------------------------------------


def test_replies_never_come_before_the_wire_could_have_carried_them(client):
    """1 Mbaud: 14 bytes out, six answers of 21 bytes back, no return delay."""
    least_s = wire_s(14 + 6 * 21, 1_000_000)
    took = []
    for _ in range(100):
        begin = time.perf_counter()
        result, _ = client.sync_read(56, 15)
        took.append(time.perf_counter() - begin)
        if result != OK:
            client.flush()
    assert least_s <= min(took) < 20 * least_s


def test_return_delay_is_waited_for_by_every_servo(client):
    for i in IDS:
        client.write(i, "Lock", 0)
        client.write(i, "Return_Delay_Time", 250)
    begin = time.perf_counter()
    client.sync_read(56, 2)
    assert time.perf_counter() - begin >= 6 * 500e-6 + wire_s(14 + 6 * 8, 1_000_000)


def test_blocks_hold_at_most_a_usb_packet_and_break_at_pauses():
    replies = [(0.001 + 210e-6 * i, bytes(21)) for i in range(6)]
    blocks = group_blocks(replies, 1_000_000)
    assert [len(data) for _, data in blocks] == [63, 63]
    assert [end for end, _ in blocks] == [replies[2][0], replies[5][0]]
    pause = [(0.001, bytes(8)), (0.002, bytes(8))]
    assert len(group_blocks(pause, 1_000_000)) == 2


# -- faults ----------------------------------------------------------------------------------------------------


def test_a_dead_servo_is_silent_and_the_others_are_not(client, twin):
    twin.inject("dead_servo", target="elbow_flex")
    assert client.is_silent(3)
    with client.waiting(200.0):
        assert client.write(3, "Acceleration", 5)[0] == TIMEOUT
    assert [client.ping(i)[1] for i in (1, 2, 4, 5, 6)] == [OK] * 5
    request = Instruction(0xFE, feetech_packet.SYNC_READ, bytes((56, 2, *IDS)))
    answers = statuses(client, feetech_packet.encode_instruction(request), 6)
    assert [s.servo_id for s in answers] == [1, 2, 4, 5, 6]
    twin.inject("")
    assert client.value(3, "Acceleration") == 254


def test_reply_loss_by_probability_and_by_count(client, twin):
    twin.inject("reply_loss", target="shoulder_pan", value=0.5)
    # The line is served in order: once servo 2 has answered, servo 1 has sent all its replies.
    assert 15 <= len(statuses(client, 60 * ping(1) + ping(2), 2)) - 1 <= 45
    twin.inject("")
    twin.inject("reply_loss", target="shoulder_pan", value=3)
    assert [client.is_silent(1) for _ in range(3)] == [True] * 3
    assert [client.ping(1)[1] for _ in range(2)] == [OK] * 2


def test_the_sdk_reports_a_corrupt_checksum_as_corrupt(client, twin):
    twin.inject("corrupt_checksum", value=1.0, target="wrist_roll")
    assert client.read(5, "Present_Position")[1] == CORRUPT
    assert client.read(4, "Present_Position")[1] == OK


def test_a_late_reply_is_read_as_the_answer_to_the_next_question(client, twin, until):
    """The SDK's trap: it does not flush, so a stale position passes for a temperature."""
    twin.inject("late_reply", target="shoulder_pan", value=1.0)
    with client.waiting(20.0):
        assert client.read(1, "Present_Position")[1] == TIMEOUT
    assert until(lambda: client.port.ser.in_waiting == 8)
    stale, result, _ = client.read(1, "Present_Temperature")
    assert result == OK
    assert stale == 2047 & 0xFF


def test_a_reply_has_a_wrong_id(client, twin):
    twin.inject("wrong_id", value=1.0, target="shoulder_pan")
    assert [s.servo_id for s in statuses(client, ping(1), 2)] == [2]


def test_unplugging_removes_the_path_and_replugging_gives_a_new_terminal(client, twin, connect, until):
    path = Path(twin.paths["follower"])
    twin.inject("unplug")
    assert until(lambda: not path.is_symlink())
    with pytest.raises((OSError, serial.SerialException)):
        connect(str(path))
    # Depending on the call in which it strikes: termios.error is neither an OSError nor a SerialException.
    with pytest.raises((termios.error, OSError, serial.SerialException)):
        client.ping(1)
    twin.inject("")
    assert until(path.exists)
    assert connect(str(path)).ping(1) == (777, OK, 0)


def test_an_unplug_with_a_duration_ends_by_itself(twin, until):
    twin.inject("unplug", duration_s=0.3)
    # By the twin's own log: a busy machine may not look at all while the link is gone.
    assert until(lambda: [r.note for r in twin.log.records(kind="event")][-2:] == ["unplugged", "plugged in"])
    assert Path(twin.paths["follower"]).exists()


def test_voltage_sag_overload_and_heat_show_in_every_reply(client, twin, until):
    twin.inject("voltage_sag", value=3.4)
    assert until(lambda: client.read(1, "Present_Voltage")[2] == 1)
    assert client.value(1, "Present_Voltage") == 34
    twin.inject("")
    assert until(lambda: client.ping(1)[2] == 0)
    twin.inject("overload", target="wrist_flex")
    assert until(lambda: client.ping(4)[2] == 32)
    client.write(4, "Torque_Enable", 0)
    assert client.value(4, "Status") == 32
    twin.inject("")
    assert until(lambda: client.ping(4)[2] == 0)
    for servo in range(6):
        twin.arms["follower"].bank.set_temperature(servo, 68.0)
    client.write(2, "Torque_Enable", 1)
    twin.inject("overheat", target="shoulder_lift", value=90)
    assert until(lambda: client.ping(2)[2] == 4)
    assert client.value(2, "Torque_Enable") == 0
    assert any("released by itself" in r.note for r in twin.log.records(kind="event"))


def test_a_stuck_joint_does_not_move_and_shows_its_load(client, twin, until):
    twin.inject("stuck_joint", target="shoulder_pan")
    client.sync_write("Torque_Enable", dict.fromkeys(IDS, 1))
    client.sync_write("Goal_Position", {1: 2347, 3: 2347})
    assert until(lambda: abs(client.value(3, "Present_Position") - 2347) < 10)
    assert until(lambda: client.value(1, "Present_Load") > 200)
    assert abs(client.value(1, "Present_Position") - 2047) < 5
    twin.inject("")
    assert until(lambda: abs(client.value(1, "Present_Position") - 2347) < 10)


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"kind": "gremlin"}, "unknown fault 'gremlin'; known: reply_loss"),
        ({"kind": "dead_servo", "target": "knee"}, "unknown target 'knee' of dead_servo; known: shoulder_pan"),
        ({"kind": "dead_servo", "arm": "third"}, "unknown arm 'third'"),
        ({"kind": "unplug", "arm": "leader"}, "no leader"),
        ({"kind": "late_reply", "value": -1.0}, "expected a value of 0 to 10"),
        ({"kind": "reply_loss", "duration_s": float("nan")}, "duration"),
    ],
    ids=lambda value: value if isinstance(value, str) else value["kind"],
)
def test_invalid_faults_are_refused_with_the_allowed_values(twin, request_, expected):
    with pytest.raises(FaultError, match=expected):
        twin.inject(**request_)


def test_the_documentation_of_the_twin_lists_every_fault():
    text = (ROOT / "docs" / "twin.md").read_text(encoding="utf-8")
    missing = [kind for kind in KINDS if f"`{kind}`" not in text]
    assert not missing


# -- log, folder, leader ---------------------------------------------------------------------------------------


def test_the_log_holds_every_goal_and_torque_write_on_disk_too(start_twin, connect, until, tmp_path):
    path = tmp_path / "bus.jsonl"
    twin = start_twin(bus_log=str(path))
    client = connect(twin.paths["follower"])
    begin = time.monotonic()
    client.sync_write("Torque_Enable", dict.fromkeys(IDS, 1))
    for step in range(10):
        client.sync_write("Goal_Position", {1: 2047 + 5 * step})
    client.write(1, "Torque_Enable", 0)
    goals = twin.log.records(kind="goal")
    assert [r.value for r in goals] == [2047 + 5 * step for step in range(10)]
    assert begin < goals[0].t_s < goals[-1].t_s < time.monotonic()
    assert bus_log.largest_goal_step_rad(twin.log.records()) == pytest.approx(5 * 2 * np.pi / 4096)
    assert [r.servo_id for r in bus_log.torque_offs(twin.log.records())] == [1]
    assert until(lambda: len(bus_log.load(path)) == len(twin.log.records()))
    assert bus_log.load(path) == [
        bus_log.BusRecord(round(r.t_s, 6), *(getattr(r, f) for f in r.__slots__[1:])) for r in twin.log.records()
    ]


def test_reported_torque_equals_the_servos_register_also_between_physics_steps(client, twin):
    client.sync_write("Torque_Enable", dict.fromkeys(IDS, 1))
    assert [client.value(i, "Torque_Enable") for i in IDS] == [1] * 6
    holding, go_on = threading.Event(), threading.Event()

    def hold_physics():
        holding.set()
        go_on.wait(30)

    stepper = threading.Thread(target=twin._call, args=(hold_physics, 60.0))
    stepper.start()
    try:
        assert holding.wait(10)  # from here on no physics step is taken
        client.sync_write("Torque_Enable", dict.fromkeys(IDS, 0))
        assert [client.value(i, "Torque_Enable") for i in IDS] == [0] * 6
        assert state(twin)["arms"]["follower"]["torque_on"] == [False] * 6
        client.write(3, "Torque_Enable", 1)
        assert state(twin)["arms"]["follower"]["torque_on"] == [False, False, True, False, False, False]
    finally:
        go_on.set()
        stepper.join(10)


def test_switching_torque_on_with_a_stale_goal_counts_as_a_goal_jump(client, twin):
    client.sync_write("Goal_Position", {1: 3000})
    client.sync_write("Torque_Enable", {1: 1})
    assert client.value(1, "Torque_Enable") == 1
    assert bus_log.largest_goal_step_rad(twin.log.records()) > 1.4


def test_a_second_twin_on_the_same_folder_is_refused_with_one_sentence(twin):
    with pytest.raises(FolderInUseError, match=r"another twin \(process \d+\) already uses .*: stop it, or choose"):
        Twin(TwinParams(plant="simple", link_dir=str(twin.folder.path)))
    assert Path(twin.paths["follower"]).exists()


def test_closing_removes_links_and_folder(start_twin):
    twin = start_twin()
    folder = twin.folder.path
    twin.close()
    assert not folder.exists()
    Twin(TwinParams(plant="simple", link_dir=str(folder))).close()


def test_the_operator_moves_the_leader_without_torque_and_it_holds_with_torque(start_twin, connect, until):
    twin = start_twin(leader=True, operator="topic")
    leader, follower = connect(twin.paths["leader"]), connect(twin.paths["follower"])
    start = leader.value(1, "Present_Position")
    twin.set_hand([0.5, -1.0, 1.0, 0.5, 0.0, 0.0])
    assert until(lambda: abs(leader.value(1, "Present_Position") - (2047 + 0.5 * 4096 / 2 / np.pi)) < 8)
    assert follower.value(1, "Present_Position") == start
    held = leader.value(1, "Present_Position")
    leader.write(1, "Goal_Position", held)
    leader.write(1, "Torque_Enable", 1)
    twin.set_hand([-0.5, -1.0, 1.0, 0.5, 0.0, 0.0])
    end = twin.stats.steps + 300  # a second of physics, in which a limp arm follows the hand
    assert until(lambda: twin.stats.steps >= end)
    assert abs(leader.value(1, "Present_Position") - held) < 8


def test_the_hand_moves_smoothly(start_twin, until):
    twin = start_twin(leader=True, operator="wave")
    plant, seen = twin.arms["leader"].plant, []

    def fastest():
        seen.append(plant.velocity_rad_s.copy())
        return np.abs(np.array(seen)).max()

    assert until(lambda: fastest() > 0.05 and len(seen) > 200)
    assert fastest() < 2.5
