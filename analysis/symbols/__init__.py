"""Symbols of the ELF files that a process had mapped."""
