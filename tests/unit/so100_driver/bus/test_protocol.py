import pytest

from so100_driver.bus import registers as reg
from so100_driver.bus.protocol import decode, decode_state, encode, sync_write_payload


@pytest.mark.parametrize("register", [r for r in reg.TABLE.values() if r.sign_bit], ids=lambda r: r.name)
def test_signed_registers_use_sign_magnitude_and_invert(register):
    limit = (1 << register.sign_bit) - 1
    for value in (-limit, -5, 0, 7, limit):
        assert decode(register, encode(register, value)) == value
    assert int.from_bytes(encode(register, -5), "little") == 5 | 1 << register.sign_bit


def test_minus_five_is_not_twos_complement():
    assert encode(reg.GOAL_POSITION, -5) == b"\x05\x80"


@pytest.mark.parametrize(
    ("register", "value"),
    [(reg.HOMING_OFFSET, 2048), (reg.GOAL_POSITION, 40000), (reg.TORQUE_ENABLE, -1), (reg.P_GAIN, 256)],
    ids=lambda x: getattr(x, "name", x),
)
def test_a_value_that_does_not_fit_is_refused_by_name(register, value):
    with pytest.raises(ValueError, match=f"{register.name}: expected .* got {value}"):
        encode(register, value)


def test_the_state_block_is_decoded_field_by_field():
    data = [0x05, 0x08, 0x0A, 0x80, 0x2C, 0x05, 121, 33, 0, 32, 1, 0, 0, 0x03, 0x00]
    state = decode_state(data)
    assert (state.position, state.velocity, state.load) == (2053, -10, -300)
    assert (state.voltage, state.temperature, state.status, state.moving, state.current) == (121, 33, 32, 1, 3)


def test_a_short_state_block_is_refused():
    with pytest.raises(ValueError, match="expected 15 bytes, got 14"):
        decode_state([0] * 14)


def test_sync_write_payload_interleaves_ids_and_bytes():
    assert sync_write_payload(reg.GOAL_POSITION, {1: 2047, 6: 1}) == [1, 0xFF, 0x07, 6, 0x01, 0x00]


def test_no_two_registers_overlap():
    used = {}
    for register in reg.TABLE.values():
        for address in range(register.address, register.address + register.size):
            assert address not in used, f"{register.name} overlaps {used.get(address)}"
            used[address] = register.name


def test_status_text_names_known_bits_and_numbers_the_rest():
    assert reg.status_text(36) == "overheat, overload"
    assert reg.status_text(64) == "bit mask 64"
    assert reg.status_text(0) == "ok"


def test_each_status_bit_has_its_own_cause_and_fix():
    texts = [reg.status_help(bit) for bit in reg.STATUS_BITS]
    assert all(text.count(": ") == 2 for text in texts)
    for place in (1, 2):
        assert len({text.split(": ")[place] for text in texts}) == len(texts)
    assert "let it cool" in reg.status_help(4)
    assert "free the joint" not in reg.status_help(1)
    both = reg.status_help(33)
    assert both == f"{reg.status_help(1)}; {reg.status_help(32)}"
    assert "bit mask 64: not documented" in reg.status_help(64)
