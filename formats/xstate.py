"""The extended state of a thread in the layout that debuggers know.

In the standard format of XSAVE each processor says where its components are (CPUID leaf 0xD), and that is not part of
the state: a debugger must guess from the size. gdb before 14 knows the layout of Intel's processors only, later ones
two more. So a core has that one layout, cut behind its last component: Intel SDM vol. 1, 13.4, and
gdbsupport/x86-xstate.h of gdb.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from enum import IntFlag
from typing import NamedTuple

_XCR0_OFFSET = 464  # software-reserved bytes of the legacy region: arch/x86/include/asm/fpu/regset.h
_XSTATE_BV_OFFSET = 512
_WORD = struct.Struct("<Q")
_HEADER_END = 576


class Feature(IntFlag):
    """Components, by their bit in XCR0."""

    X87 = 1 << 0
    SSE = 1 << 1
    AVX = 1 << 2
    BNDREGS = 1 << 3
    BNDCFG = 1 << 4
    OPMASK = 1 << 5
    ZMM_HIGH = 1 << 6
    ZMM_16 = 1 << 7
    PKRU = 1 << 9


class _Place(NamedTuple):
    offset: int
    n_bytes: int


_AVX = {Feature.AVX: _Place(576, 256)}
_INTEL = _AVX | {
    Feature.BNDREGS: _Place(960, 64),
    Feature.BNDCFG: _Place(1024, 64),
    Feature.OPMASK: _Place(1088, 64),
    Feature.ZMM_HIGH: _Place(1152, 512),
    Feature.ZMM_16: _Place(1664, 1024),
    Feature.PKRU: _Place(2688, 8),
}
_AMD = _AVX | {
    Feature.OPMASK: _Place(832, 64),
    Feature.ZMM_HIGH: _Place(896, 512),
    Feature.ZMM_16: _Place(1408, 1024),
    Feature.PKRU: _Place(2432, 8),
}
_AMD_SIZES_BYTES = (2432, 2440)  # without and with PKRU
_INTEL_SIZES_BYTES = (832, 1088, 2688, 2696)  # up to AVX, bounds, AVX-512, PKRU
_TILES_BYTES = 2816  # what is at least as large has tile registers, all others are where Intel has them


def _layout(size_bytes: int) -> dict[Feature, _Place]:
    """Where components are; what is in doubt is left out."""
    if size_bytes in _AMD_SIZES_BYTES:
        return _AMD
    return _INTEL if size_bytes in _INTEL_SIZES_BYTES or size_bytes >= _TILES_BYTES else _AVX


class Components(NamedTuple):
    """What is known of an extended state: masks as in XCR0 and XSTATE_BV, and the bytes of components by their bit.

    Those of the legacy region, X87 and SSE, are in the masks only.
    """

    enabled: int
    used: int
    content: dict[Feature, bytes]


def components(xstate: bytes) -> Components | None:
    """The parts of NT_X86_XSTATE of any processor that debuggers show, None if it is none."""
    if len(xstate) < _HEADER_END:
        return None
    source = _layout(len(xstate))
    (enabled,) = _WORD.unpack_from(xstate, _XCR0_OFFSET)
    (used,) = _WORD.unpack_from(xstate, _XSTATE_BV_OFFSET)
    content = {}
    for feature, (_, n_bytes) in _INTEL.items():
        place = source.get(feature)
        if enabled & feature and place is not None and place.offset + n_bytes <= len(xstate):
            content[feature] = xstate[place.offset : place.offset + n_bytes]
    kept = sum(content, Feature.X87 | Feature.SSE)
    return Components(enabled & kept, used & kept, content)


def for_debuggers(xstate: bytes) -> bytes:
    """NT_X86_XSTATE of any processor in Intel's layout, b"" if it is none; what no debugger shows is left out."""
    known = components(xstate)
    return assembled(xstate[:_HEADER_END], known.used, known.content) if known else b""


def assembled(legacy: bytes, used: int, content: Mapping[Feature, bytes]) -> bytes:
    """NT_X86_XSTATE in Intel's layout, of the legacy region (as in NT_PRFPREG) and the bytes of components.

    `used` is as in XSTATE_BV. Components that have not the size of their kind are left out.
    """
    result = bytearray(legacy.ljust(_HEADER_END, b"\0"))
    enabled = Feature.X87 | Feature.SSE
    for feature, place in _INTEL.items():
        if len(content.get(feature, b"")) == place.n_bytes:
            enabled |= feature
            result += bytes(place.offset - len(result)) + content[feature]
    _WORD.pack_into(result, _XCR0_OFFSET, enabled)
    _WORD.pack_into(result, _XSTATE_BV_OFFSET, used & enabled)
    return bytes(result)
