"""Chains of rounds as a dumper would write them, beside the memory that each round stands for."""

from __future__ import annotations

from hypothesis import strategies as st

from formats.layout import RunKind
from tests.format.images import ZERO_PAGE, ImageRound, PageState, page_of, vma_of

N_PAGES = 24

Memory = dict[int, bytes]
"""Pages of the test VMA that are populated."""


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[ImageRound], list[Memory]]:
    """Rounds as a dumper would write them, and the memory each of them stands for."""
    images: list[ImageRound] = []
    memories: list[Memory] = []
    memory: Memory = {}
    seed = 0
    for number in range(draw(st.integers(1, 5))):
        changes = draw(st.dictionaries(st.integers(0, N_PAGES - 1), st.sampled_from(["data", "zero", "drop"])))
        dumped_again = draw(st.sets(st.integers(0, N_PAGES - 1)))
        earlier = memory
        memory = dict(memory)
        pages: dict[int, PageState] = {}
        for page, change in changes.items():
            if change == "drop":
                memory.pop(page, None)
                continue
            seed += 1
            memory[page] = page_of(seed) if change == "data" else ZERO_PAGE
        for page, content in memory.items():
            if number and page not in changes and page not in dumped_again and page in earlier:
                pages[page] = RunKind.PARENT
            else:
                pages[page] = RunKind.ZERO if content == ZERO_PAGE else content
        images.append(ImageRound(pages, vmas=(vma_of(0, N_PAGES),)))
        memories.append(memory)
    return images, memories
