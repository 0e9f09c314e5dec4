"""The face of the compiled library; `csrc/cdef.h` declares and documents each name."""

from typing import Any

from cffi import FFI

ffi: FFI
lib: Any
