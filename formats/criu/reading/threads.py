"""Threads in CRIU's images as our own records: core-TID.img."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Sequence

from formats.criu.images_pb2 import Core, FloatingPoint, ThreadCore
from formats.criu.images_pb2 import Credentials as CredentialsMessage
from formats.criu.images_pb2 import PendingSignal as PendingSignalMessage
from formats.errors import ImageCorrupt
from formats.threadstate import Credentials, PendingSignal, Rseq, SignalStack, Thread
from formats.xstate import Feature, assembled

_FXSAVE = struct.Struct("<HHHHQQII32I64I24I")
"""struct user_fpregs_struct: cwd, swd, ftw, fop, rip, rdp, mxcsr, mxcr_mask, st_space, xmm_space, padding."""
_ST_WORDS, _XMM_WORDS, _PADDING_WORDS = 32, 64, 24
_U16 = 0xFFFF
_SIGINFO_BYTES = 128
_MAX_GROUPS = 65536  # NGROUPS_MAX


def thread_of(tid: int, core: Core) -> Thread:
    """The record of a thread. Its registers are those of x86-64, or none."""
    thread = core.thread
    stack = thread.signal_stack
    name = thread.name or (core.process.name if core.HasField("process") else b"")
    mask = thread.signal_mask if thread.HasField("signal_mask") else core.process.signal_mask
    registers, fpregs, xstate = _registers(core)
    return Thread(
        tid=tid,
        name=os.fsdecode(name),
        registers=registers,
        fpregs=fpregs,
        xstate=xstate,
        signal_mask=mask,
        pending=pending_of(thread.pending.signals),
        signal_stack=SignalStack(addr=stack.addr, size_bytes=stack.size_bytes, flags=stack.flags)
        if thread.HasField("signal_stack")
        else None,
        robust_list_addr=thread.robust_list_addr,
        robust_list_bytes=thread.robust_list_bytes,
        clear_child_tid_addr=core.x86.clear_child_tid_addr if core.HasField("x86") else None,
        parent_death_signal=thread.parent_death_signal if thread.HasField("parent_death_signal") else None,
        rseq=_rseq(thread),
        seccomp_mode=thread.seccomp_mode,
        credentials=credentials_of(thread.credentials) if thread.HasField("credentials") else None,
    )


def pending_of(signals: Iterable[PendingSignalMessage]) -> list[PendingSignal]:
    """Signals that wait, in order; the number is the first word of siginfo_t. Raises ImageCorrupt."""
    found = []
    for message in signals:
        siginfo = message.siginfo
        if len(siginfo) != _SIGINFO_BYTES:
            raise ImageCorrupt(
                f"A pending signal in an image of CRIU's has {len(siginfo)} bytes, not {_SIGINFO_BYTES}."
            )
        found.append(PendingSignal(number=int.from_bytes(siginfo[:4], "little", signed=True), siginfo=siginfo))
    return found


def credentials_of(message: CredentialsMessage) -> Credentials:
    """Ids, groups and capabilities; the ambient set is in no image."""
    return Credentials(
        uids=[message.uid, message.effective_uid, message.saved_uid, message.filesystem_uid],
        gids=[message.gid, message.effective_gid, message.saved_gid, message.filesystem_gid],
        groups=list(message.groups[:_MAX_GROUPS]),
        cap_inheritable=_mask(message.cap_inheritable),
        cap_permitted=_mask(message.cap_permitted),
        cap_effective=_mask(message.cap_effective),
        cap_bounding=_mask(message.cap_bounding),
        cap_ambient=0,
        no_new_privs=False,
    )


def _mask(words: Sequence[int]) -> int:
    return int.from_bytes(struct.pack("<2I", *(*words[:2], 0, 0)[:2]), "little")


def _rseq(thread: ThreadCore) -> Rseq | None:
    if not thread.HasField("rseq") or not thread.rseq.addr:
        return None
    rseq = thread.rseq
    return Rseq(
        addr=rseq.addr,
        size_bytes=rseq.size_bytes,
        signature=rseq.signature,
        flags=0,
        section_addr=rseq.section_addr,
    )


def _registers(core: Core) -> tuple[dict[str, int], bytes, bytes]:
    """user_regs_struct by name, NT_PRFPREG and NT_X86_XSTATE; empty for other machines."""
    if not core.HasField("x86"):
        return {}, b"", b""
    registers = core.x86.registers
    by_name = {
        field.name: getattr(registers, field.name) for field in registers.DESCRIPTOR.fields if field.name != "mode"
    }
    state = core.x86.floating_point
    legacy = _legacy(state)
    return by_name, legacy, _extended(state, legacy)


def _legacy(state: FloatingPoint) -> bytes:
    words = (
        *_exactly(state.st_space, _ST_WORDS),
        *_exactly(state.xmm_space, _XMM_WORDS),
        *_exactly(state.padding, _PADDING_WORDS),
    )
    head = (state.cwd & _U16, state.swd & _U16, state.ftw & _U16, state.fop & _U16)
    return _FXSAVE.pack(*head, state.rip, state.rdp, state.mxcsr, state.mxcr_mask, *words)


def _exactly(words: Sequence[int], count: int) -> list[int]:
    return [*words[:count], *([0] * max(0, count - len(words)))]


def _extended(state: FloatingPoint, legacy: bytes) -> bytes:
    if not state.HasField("xsave"):
        return b""
    xsave = state.xsave
    parts = {
        Feature.AVX: _packed("I", xsave.ymm_high),
        Feature.BNDREGS: _packed("Q", xsave.bound_registers),
        Feature.BNDCFG: _packed("Q", xsave.bound_config),
        Feature.OPMASK: _packed("Q", xsave.opmask),
        Feature.ZMM_HIGH: _packed("Q", xsave.zmm_high),
        Feature.ZMM_16: _packed("Q", xsave.zmm_16),
        Feature.PKRU: _packed("I", xsave.pkru),
    }
    return assembled(legacy, xsave.xstate_bv, parts)


def _packed(code: str, words: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(words)}{code}", *words)
