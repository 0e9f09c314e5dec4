"""Where random sequences begin, said at the end of a run."""

import random

import pytest

from tests.stress.sequences import AGAIN

FIRST_SEED = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def first_seed(request: pytest.FixtureRequest, seed: int | None) -> int:
    """The seed of the first sequence, another one in each run unless --seed says it; the next one has the next seed."""
    first = random.SystemRandom().randrange(1 << 32) if seed is None else seed
    request.config.stash[FIRST_SEED] = first
    return first


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The seed is said in any case: what failed once may be wanted again."""
    if FIRST_SEED in config.stash:
        terminalreporter.write_line(f"random sequences from seed {config.stash[FIRST_SEED]} on (again: {AGAIN})")
