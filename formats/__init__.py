"""Bytes on disk: the image format of predump, written and read without touching a live process."""
