"""The extended state of any processor in the one layout that all debuggers know."""

from __future__ import annotations

import struct

import pytest

from formats.xstate import Feature, for_debuggers

AVX_512 = Feature.OPMASK | Feature.ZMM_HIGH | Feature.ZMM_16
BASE = Feature.X87 | Feature.SSE | Feature.AVX
SIZES = {Feature.AVX: 256, Feature.OPMASK: 64, Feature.ZMM_HIGH: 512, Feature.ZMM_16: 1024, Feature.PKRU: 8}
INTEL = {Feature.AVX: 576, Feature.OPMASK: 1088, Feature.ZMM_HIGH: 1152, Feature.ZMM_16: 1664, Feature.PKRU: 2688}
AMD = {Feature.AVX: 576, Feature.OPMASK: 832, Feature.ZMM_HIGH: 896, Feature.ZMM_16: 1408, Feature.PKRU: 2432}


def state_of(size_bytes: int, enabled: int, offsets: dict[Feature, int]) -> bytes:
    """A state in which each component is filled with a byte of its own."""
    state = bytearray(size_bytes)
    state[:464] = b"L" * 464
    struct.pack_into("<Q", state, 464, enabled)
    struct.pack_into("<Q", state, 512, enabled)
    for feature, offset in offsets.items():
        if enabled & feature:
            state[offset : offset + SIZES[feature]] = bytes([int(feature).bit_length()]) * SIZES[feature]
    return bytes(state)


@pytest.mark.parametrize(
    ("size_bytes", "enabled", "offsets", "result_bytes"),
    [
        (832, BASE, INTEL, 832),
        (2688, BASE | AVX_512, INTEL, 2688),
        (2696, BASE | AVX_512 | Feature.PKRU, INTEL, 2696),
        (2696, BASE | Feature.PKRU, INTEL, 2696),
        (11008, BASE | AVX_512 | Feature.PKRU, INTEL, 2696),
        (2432, BASE | AVX_512, AMD, 2688),
        (2440, BASE | AVX_512 | Feature.PKRU, AMD, 2696),
        (2440, BASE | Feature.PKRU, AMD, 2696),
    ],
)
def test_components_are_where_intel_has_them(
    size_bytes: int, enabled: int, offsets: dict[Feature, int], result_bytes: int
) -> None:
    tiles = 3 << 17 if size_bytes > 2696 else 0
    result = for_debuggers(state_of(size_bytes, enabled | tiles, offsets))
    assert result == state_of(result_bytes, enabled, INTEL)


def test_an_unknown_layout_keeps_what_is_the_same_everywhere() -> None:
    unknown = state_of(840, BASE | Feature.PKRU, {Feature.AVX: 576, Feature.PKRU: 832})
    assert for_debuggers(unknown) == state_of(832, BASE, INTEL)


def test_what_is_too_short_is_left_out() -> None:
    assert for_debuggers(b"") == b""
    assert for_debuggers(bytes(575)) == b""
    assert len(for_debuggers(bytes(576))) == 576
