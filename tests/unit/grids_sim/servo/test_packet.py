"""Feetech packets as pure bytes."""

import random

import pytest

from grids_sim.servo import packet
from grids_sim.servo.packet import Instruction, PacketReader, Status


def test_a_ping_is_the_bytes_of_the_manual():
    assert packet.encode_instruction(Instruction(1, packet.PING)) == bytes.fromhex("ffff010201fb")


def test_a_status_is_the_bytes_of_the_manual():
    # Feetech's example: servo 1 answers a read of 2 bytes at 56 with 0x0518.
    assert packet.encode_status(Status(1, 0, b"\x18\x05")) == bytes.fromhex("ffff0104001805dd")


def test_instructions_are_read_from_pieces_of_any_size():
    rng = random.Random(1)
    sent = [
        Instruction(rng.randrange(253), rng.choice((1, 2, 3, 0x82)), rng.randbytes(rng.randrange(30)))
        for _ in range(200)
    ]
    stream = b"".join(packet.encode_instruction(each) for each in sent)
    reader, got = PacketReader(), []
    while stream:
        cut = rng.randrange(1, 40)
        got += packet.read_instructions(reader, stream[:cut])
        stream = stream[cut:]
    assert got == sent
    assert reader.checksum_errors == reader.garbage_bytes == 0


@pytest.mark.parametrize("garbage", [b"\x00\x17", b"\xff", b"\xff\xff\xff", b"\xff\xff\x01\x00", b"\xff\x00\xff"])
def test_a_good_packet_behind_garbage_is_found(garbage):
    expected = Instruction(3, packet.READ, b"\x38\x02")
    reader = PacketReader()
    assert packet.read_instructions(reader, garbage + packet.encode_instruction(expected)) == [expected]
    assert reader.garbage_bytes > 0


def test_a_wrong_checksum_drops_that_packet_only():
    good = packet.encode_instruction(Instruction(2, packet.PING))
    bad = good[:-1] + bytes((good[-1] ^ 1,))
    reader = PacketReader()
    assert packet.read_instructions(reader, bad + good) == [Instruction(2, packet.PING)]
    assert reader.checksum_errors == 1


def test_a_corrupt_length_does_not_lose_the_next_packet():
    good = packet.encode_instruction(Instruction(2, packet.WRITE, b"\x2a\xff\x07"))
    cut = good[:5]  # the rest was lost
    reader = PacketReader()
    got = packet.read_instructions(reader, cut + good + good)
    assert got.count(Instruction(2, packet.WRITE, b"\x2a\xff\x07")) >= 1
