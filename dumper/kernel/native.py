"""Loads the native library and turns its return values into errors."""

import os
from typing import Any

from dumper.kernel import _native

ABI = 25  # PD_ABI of csrc/cdef.h: a library built from other sources is refused here, not believed

ffi: Any = _native.ffi
lib: Any = _native.lib

if lib.PD_ABI != ABI:
    raise ImportError(f"the native library is ABI {lib.PD_ABI}, not {ABI}: build it again (pip install -e .)")

# Large arrays: not cleared, so that only what is used is ever touched.
_new_uncleared = ffi.new_allocator(should_clear_after_alloc=False)


def new_array(item_type: str, count: int) -> Any:
    """An uncleared C array of `count` items of `item_type`."""
    return _new_uncleared(f"{item_type}[]", count)


def checked(result: int) -> int:
    """`result` of a native call if it is >= 0.

    Raises:
        OSError: with errno -`result`.
    """
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
