"""Where random sequences begin, said at the end of a run."""

import random

import pytest

from tests.stress.sequences import AGAIN

FIRST_SEED = pytest.StashKey[int]()


@pytest.fixture(scope="session")
def only_seed(request: pytest.FixtureRequest) -> int | None:
    """What --seed says, if anything."""
    value = request.config.getoption("--seed")
    return None if value is None else int(value)


@pytest.fixture(scope="session")
def first_seed(request: pytest.FixtureRequest, only_seed: int | None) -> int:
    """The seed of the first sequence, another one in each run; the next one has the next seed."""
    seed = random.SystemRandom().randrange(1 << 32) if only_seed is None else only_seed
    request.config.stash[FIRST_SEED] = seed
    return seed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The seed is said in any case: what failed once may be wanted again."""
    if FIRST_SEED in config.stash:
        terminalreporter.write_line(f"random sequences from seed {config.stash[FIRST_SEED]} on (again: {AGAIN})")
