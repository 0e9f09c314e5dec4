"""/proc/cpuinfo: which sets of instructions the processors have."""

from pathlib import Path

_FLAGS = """
3dnowprefetch abm adx aes amx_bf16 amx_complex amx_fp16 amx_int8 amx_tile avx avx2 avx512_4fmaps avx512_4vnniw
avx512_bf16 avx512_bitalg avx512_fp16 avx512_vbmi2 avx512_vnni avx512_vp2intersect avx512_vpopcntdq avx512bw avx512cd
avx512dq avx512er avx512f avx512ifma avx512pf avx512vbmi avx512vl avx_ifma avx_ne_convert avx_vnni avx_vnni_int8 bmi1
bmi2 cldemote clflush clflushopt clwb clzero cmov cmpccxadd cx16 cx8 enqcmd erms f16c fma fma4 fsgsbase fsrm fxsr gfni
hle lahf_lm lwp mmx monitor movbe movdir64b movdiri ospke pclmulqdq pni popcnt prefetchi ptwrite rdpid rdpru rdrand
rdseed rdtscp rtm serialize sha_ni sse sse2 sse4_1 sse4_2 sse4a ssse3 syscall tbm tsxldtrk vaes vpclmulqdq waitpkg xop
xgetbv1 xsave xsavec xsaveopt
"""
INSTRUCTIONS = frozenset(_FLAGS.split())
"""Flags of programs' concern: arch/x86/include/asm/cpufeatures.h has them all."""


def parse_instructions(text: bytes) -> list[str]:
    """Those that the first processor has, sorted."""
    for line in text.splitlines():
        name, colon, value = line.partition(b":")
        if colon and name.strip() == b"flags":
            return sorted(INSTRUCTIONS.intersection(value.decode("ascii", "replace").split()))
    return []


def read_instructions() -> list[str]:
    """Of this machine; empty where the kernel does not tell."""
    try:
        with Path("/proc/cpuinfo").open("rb") as file:
            return parse_instructions(file.read(1 << 16))
    except OSError:
        return []
