"""What all tests share: the target programs, built once, what is counted, and how long open-ended tests go on."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import settings

from tests.filesystems import loop_mounted, ran, tmpfs
from tests.harness import alone, build_targets
from tests.netns import hosts
from tests.tally import Tally

__all__ = ["hosts"]  # a fixture that lives with what it gives

HUGE_PAGES = 16
SWAP_MIB = 32

# A shell that runs the tests in the background ignores SIGINT for them, and so would each command that they interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that is busy takes longer: no test is about time.
settings.register_profile("predump", deadline=None)
settings.load_profile("predump")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--tally", type=Path, metavar="FILE", help="write what was tried and found to this file, as JSON")
    parser.addoption("--seconds", type=float, help="how long each open-ended test goes on (stress, fuzz)")
    parser.addoption("--thorough", action="store_true", help="with the cases that `make test` has no time for")
    parser.addoption("--renew-golden", action="store_true", help="write what commands show to tests/display/golden")
    parser.addoption("--seed", type=int, help="where the random cases of open-ended tests begin")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "thorough: a case much like another one, which `make test` has no time for")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what is marked thorough, unless it is asked for."""
    if config.getoption("--thorough"):
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in set(left_out)]


@pytest.fixture(scope="session")
def targets() -> None:
    """The programs of tests/targets, compiled."""
    build_targets()


@pytest.fixture(scope="session")
def tally(request: pytest.FixtureRequest) -> Iterator[Tally]:
    """What the tests count; written at the end if --tally says where."""
    counts = Tally()
    yield counts
    path = request.config.getoption("--tally")
    if path is not None:
        counts.write(path)


@pytest.fixture(scope="session")
def seconds(request: pytest.FixtureRequest) -> float | None:
    """What --seconds says, if anything."""
    value = request.config.getoption("--seconds")
    return None if value is None else float(value)


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int | None:
    """What --seed says, if anything."""
    value = request.config.getoption("--seed")
    return None if value is None else int(value)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Where a checkpoint may be made."""
    return tmp_path / "checkpoint"


@pytest.fixture
def rng(seed: int | None) -> random.Random:
    """Random choices, others in each run unless --seed says which; a failure shows what to say."""
    start = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    print(f"again: --seed {start}")
    return random.Random(start)


@pytest.fixture
def huge_pages() -> Iterator[None]:
    """A pool with some huge pages more; it has its size again afterwards."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    with alone("huge-pages"):
        before = pool.read_text()
        try:
            pool.write_text(str(int(before) + HUGE_PAGES))
        except OSError as error:
            pytest.skip(f"{pool} cannot be written: {error}")
        try:
            if int(pool.read_text()) < int(before) + HUGE_PAGES:
                pytest.skip("this machine has no room for huge pages")
            yield
        finally:
            pool.write_text(before)


@pytest.fixture(scope="session")
def file_system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Path]]:
    """Where a file system of this name is mounted: made when it is first asked for."""
    with ExitStack() as mounts:
        places: dict[str, Path] = {}

        def place_of(name: str) -> Path:
            if name not in places:
                directory = tmp_path_factory.mktemp(name)
                place = directory / name
                in_memory = name == "tmpfs"
                mount = tmpfs(place, "size=16m") if in_memory else loop_mounted(name, place, directory / "image")
                places[name] = mounts.enter_context(mount)
            return places[name]

        yield place_of


@pytest.fixture
def swap(file_system: Callable[[str], Path]) -> Iterator[None]:
    """A swap file while the test runs."""
    path = file_system("ext4") / "swap"
    with path.open("wb") as file:
        file.write(bytes(SWAP_MIB << 20))
    path.chmod(0o600)
    ran("mkswap", str(path))
    ran("swapon", str(path))
    try:
        yield
    finally:
        subprocess.run(["swapoff", str(path)], check=True)
        path.unlink()
