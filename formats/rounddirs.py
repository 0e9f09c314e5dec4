"""Which rounds a checkpoint directory holds, by the names in it."""

from __future__ import annotations

from pathlib import Path

from formats.errors import StorageError
from formats.layout import MANIFEST_NAME, ROUND_NAME


def list_round_paths(checkpoint: Path) -> list[Path]:
    """The round directories, committed or not, ascending by number; raises StorageError.

    A checkpoint that does not exist or is no directory has none.
    """
    try:
        paths = [path for path in checkpoint.iterdir() if ROUND_NAME.fullmatch(path.name)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StorageError.from_os_error("list", checkpoint, error) from error
    return sorted(paths, key=lambda path: int(path.name))


def is_committed(round_path: Path) -> bool:
    """Whether the round exists, that is, has a manifest; raises StorageError if nobody can tell.

    A link in the place of a round counts, wherever it leads: it is damage to whoever reads the round, and nothing that
    a writer may tidy up.
    """
    path = round_path / MANIFEST_NAME
    try:
        if round_path.is_symlink():
            return True
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise StorageError.from_os_error("look for", path, error) from error
    return True
