"""A round as a directory of image files that CRIU's tools read: docs/other-formats.md.

    OUT/0001/ pagemap-42.img pages-1.img                    each round that the last one builds on has its pages only
    OUT/0002/ pagemap-42.img pages-1.img parent -> ../0001
    OUT/0003/ inventory.img pstree.img core-42.img ...      parent -> ../0002

or, flattened, all of it in OUT itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from google.protobuf.message import Message

from formats.auxv import stored_auxv
from formats.criu.files import FileTable
from formats.criu.framing import Magic, write_messages
from formats.criu.leftout import left_out_of_process, left_out_of_round
from formats.criu.memory import is_shared_memory, left_out_of_memory, memory_of, private_pages, shared_id
from formats.criu.pagefiles import PageFiles, Pages, pages_of_chain, pages_of_round, pages_of_segment
from formats.criu.processes import Ids, SeccompTable, inventory, stats, time_namespace, tree_entries
from formats.criu.threads import core_of_thread, core_of_zombie
from formats.criu.values import PageFlags
from formats.errors import ImageCorrupt, StorageError
from formats.files import create_directory, sync_directory
from formats.images import Frames, Images, PageSource, Round
from formats.layout import ADDR_LIMIT, PAGE_BYTES, round_name
from formats.lineage import PageLineage
from formats.manifest import Manifest, Missing, Process
from formats.segments import Segment
from formats.sources import ObjectSources
from formats.torn import check_round
from formats.wholedirectory import whole_directory
