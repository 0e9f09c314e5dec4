"""Property tests write files: how long an example takes says nothing about the code."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("files", deadline=None)
settings.load_profile("files")
