"""Structs of ELF files of 64 bits: elf(5)."""

import struct
from enum import IntEnum

EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
"""Elf64_Ehdr: e_ident, e_type, e_machine, e_version, e_entry, e_phoff, e_shoff, e_flags, e_ehsize, e_phentsize,
e_phnum, e_shentsize, e_shnum, e_shstrndx."""
PHDR = struct.Struct("<IIQQQQQQ")
"""Elf64_Phdr: p_type, p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align."""
SHDR = struct.Struct("<IIQQQQIIQQ")
"""Elf64_Shdr: sh_name, sh_type, sh_flags, sh_addr, sh_offset, sh_size, sh_link, sh_info, sh_addralign, sh_entsize."""
NHDR = struct.Struct("<III")
"""Elf64_Nhdr: n_namesz, n_descsz, n_type."""
IDENT_64_LITTLE = b"\x7fELF" + bytes((2, 1))
"""What such a file begins with."""


class SegmentType(IntEnum):
    """p_type."""

    LOAD = 1
    NOTE = 4
