"""Shared memory without a name, as a descriptor."""

from dumper.kernel.native import checked, lib


def anonymous_shared(n_bytes: int, huge_page_bytes: int = 0) -> int:
    """A descriptor of the memory that mmap(2) makes with MAP_SHARED and MAP_ANONYMOUS, whole pages of it.

    Raises OSError: EPERM if the caller lacks CAP_CHECKPOINT_RESTORE, ENOMEM.
    """
    log2_bytes = huge_page_bytes.bit_length() - 1 if huge_page_bytes else 0
    return checked(lib.pd_anonymous_shared(n_bytes, log2_bytes))
