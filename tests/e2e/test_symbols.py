"""Names for addresses and addresses for names: compared with what the program itself, nm, and gdb say."""

from __future__ import annotations

import random
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from analysis.expressions import whereabouts
from analysis.files.mappedfiles import MappedFiles
from analysis.places import Places, vma_name
from analysis.symbols.symbols import Symbols
from analysis.symbols.symboltable import SymbolKind
from formats.chain import Checkpoint, MemoryView
from formats.errors import UsageError
from tests.e2e.test_core import gdb
from tests.harness import Event, Target, predump
from tests.redisserver import SERVER, needs_redis, redis_server
from tests.symbolprogram import LIBRARY, PROGRAM, WAYS, Dumped, dump, listed

pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("gcc", "nm", "objcopy", "readelf", "strip")),
    reason="gcc and binutils are not installed",
)
GDB = shutil.which("gdb")
ADDRESSES = 400


Dumps = Callable[[str], Dumped]


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory) -> Dumps:
    """A dump by the way in which the program was compiled, made when it is asked for."""
    return cache(lambda way: dump(tmp_path_factory.mktemp(way), way))


@pytest.fixture(params=list(WAYS))
def dumped(request: pytest.FixtureRequest, dumps: Dumps) -> Dumped:
    return dumps(str(request.param))


@pytest.fixture
def pie(dumps: Dumps) -> Dumped:
    return dumps("pie")


@contextmanager
def places_of(checkpoint: Path, sysroot: Path = Path("/"), notices: list[str] | None = None) -> Iterator[Places]:
    """Names in the process; what is noticed goes to `notices`, or fails the test."""

    def notice(_subject: str, message: str) -> None:
        assert notices is not None, message
        notices.append(message)

    images = Checkpoint.open(checkpoint)
    with MemoryView(images) as view:
        files = MappedFiles(images.round().manifest, view, sysroot)
        yield Places(view.vmas, Symbols(view, files, notice))


def bias_of(dumped: Dumped, file: str) -> int:
    """Where a file was loaded, by what the program says of one of its symbols."""
    name = "main" if file == PROGRAM else "library_function"
    ((value, _),) = listed(dumped.unstripped[file])[name]
    return dumped.places[name] - value


def read(dumped: Dumped, *words: object) -> Event:
    """The result of `predump read`."""
    return predump("read", dumped.checkpoint, *words, "--sysroot", dumped.sysroot, "--json").result


def test_what_the_program_says(dumped: Dumped) -> None:
    with places_of(dumped.checkpoint, dumped.sysroot) as places:
        for name, addr in dumped.places.items():
            # The program has a copy of library_number, which it and the library use: R_X86_64_COPY.
            file = LIBRARY if name in {"library_function", "library_same_name"} else PROGRAM
            label = f"{file}:{'same_name' if name.endswith('_same_name') else name}"
            assert whereabouts(label, places).addr == addr, label
            assert places.name(addr) == label
            assert places.name(addr + 3) == f"{label}+0x3"


@pytest.mark.parametrize("file", [PROGRAM, LIBRARY])
def test_what_nm_says(dumped: Dumped, file: str) -> None:
    bias_addr = bias_of(dumped, file)
    with places_of(dumped.checkpoint, dumped.sysroot) as places:
        symbols = places.symbols
        assert symbols is not None
        vmas = places.vmas_named(file)
        expected = listed(dumped.unstripped[file])
        assert len(expected) > 15
        for name, found in expected.items():
            assert {(one.start_addr - bias_addr, one.size_bytes) for one in symbols.named(name, vmas)} == found, name
            for value, size_bytes in found:
                for offset in {0, size_bytes // 2, size_bytes - 1} if size_bytes else ():
                    at = symbols.at(bias_addr + value + offset)
                    # Another one may begin at the same place, or inside.
                    assert at is not None, name
                    assert name in at.name or (at.start_addr - bias_addr, at.size_bytes) in expected[at.name], name


@pytest.mark.skipif(GDB is None, reason="gdb is not installed")
@pytest.mark.parametrize("way", ["fixed", "linked"])
def test_what_gdb_says_of_the_core(way: str, dumps: Dumps, tmp_path: Path) -> None:
    dumped = dumps(way)
    core = tmp_path / "core"
    predump("export", dumped.checkpoint, "--to", "core", "-o", core, "-q")
    with places_of(dumped.checkpoint) as places:
        addrs = [
            bias_of(dumped, file) + value + offset
            for file in (PROGRAM, LIBRARY)
            for name, values in listed(dumped.unstripped[file]).items()
            if name != "library_number"  # of which the program has a copy: gdb gives that one's address for both
            for value, size_bytes in values
            for offset in {0, size_bytes - 1}
            if size_bytes
        ]
        asked = [command for addr in addrs for command in (f"echo {addr:#x}:", f"info symbol {addr:#x}")]
        told = gdb(dumped.home / PROGRAM, core, commands=asked)
        names = dict(re.findall(r"(0x[0-9a-f]+):([\w.]+(?: \+ \d+)?) in section", told))
        assert len(names) > 0.9 * len(set(addrs)), told
        for text, found in names.items():
            name, _, offset = found.partition(" + ")
            symbol = places.symbols.at(int(text, 16)) if places.symbols else None
            assert symbol is not None
            assert int(text, 16) - symbol.start_addr == int(offset or 0), name
            if "." not in symbol.name:  # gdb goes by debug information: completed, not completed.0
                # Several may begin there: gdb may prefer another.
                assert whereabouts(f"{vma_name(symbol.vma)}:{name}", places).addr == symbol.start_addr


def test_names_and_back(dumped: Dumped) -> None:
    with places_of(dumped.checkpoint, dumped.sysroot, []) as places:
        chosen = random.Random(1)
        addrs = [chosen.randrange(vma.start_addr, vma.end_addr) for vma in places.vmas for _ in range(8)]
        named = 0
        for addr in chosen.sample(addrs, min(ADDRESSES, len(addrs))):
            name = places.name(addr)
            try:
                found = {whereabouts(name, places).addr}
                named += ":" in name
            except UsageError as error:  # several symbols of one file have that name
                offset = int(name.partition("+")[2] or "0", 16)
                found = {int(start, 16) + offset for start in re.findall("0x[0-9a-f]+", error.hint)}
            assert addr in found, name
        assert named > 10


def test_what_is_no_address(pie: Dumped) -> None:
    with places_of(pie.checkpoint) as places:
        with pytest.raises(UsageError, match="thread-local"):
            whereabouts("own", places)
        with pytest.raises(UsageError, match=r"absolute, with the value 0x1234"):
            whereabouts("program:absolute_value", places)
        with pytest.raises(UsageError, match="several") as ambiguous:
            whereabouts("same_name+4", places)
        for label in ("program_same_name", "library_same_name"):
            assert f"{pie.places[label]:#x}" in ambiguous.value.hint
        with pytest.raises(UsageError, match="'nowhere'"):
            whereabouts("nowhere+0x10", places)
        assert places.symbols is not None
        (indirect,) = places.symbols.named("indirect", places.vmas)
        assert indirect.kind is SymbolKind.RESOLVER


def test_symbols_of_another_file_are_left_out(dumps: Dumps, tmp_path: Path) -> None:
    pie, other = dumps("pie"), dumps("fixed")
    sysroot = tmp_path / "other"
    place = sysroot / pie.home.relative_to("/")
    place.mkdir(parents=True)
    shutil.copyfile(other.home / PROGRAM, place / PROGRAM)
    (place / LIBRARY).write_bytes(b"\x7fELF" + bytes(200))
    notices: list[str] = []
    with places_of(pie.checkpoint, sysroot, notices) as places:
        assert places.name(pie.places["main"]).startswith("program+0x")
        assert places.name(pie.places["library_function"]).startswith("libsymbols.so+0x")
        with pytest.raises(UsageError) as unknown:
            whereabouts("main", places)
        assert "--sysroot" in unknown.value.hint
    assert len(notices) == 2
    assert all("is not the file that was mapped" in notice for notice in notices)


def test_reading_by_symbol(dumps: Dumps) -> None:
    dumped = dumps("stripped")
    number = read(dumped, "global_number")
    assert (number["hex"], number["length"]) == ("07000000", 4)
    assert read(dumped, "program:local_text+4", "--string")["text"] == "text of the program"
    words = read(dumped, "pointers", "--words")["words"]
    assert isinstance(words, list)
    assert [word["value_place"] for word in words] == [
        "program:local_text",
        "program:local_text+0x4",
        "program:long_text",
        "",
    ]
    constant = predump("read", dumped.checkpoint, "constant", "--sysroot", dumped.sysroot, "--json")
    assert constant.result["hex"] == b"constant".ljust(20, b"\0").hex()
    assert [event["subject"] for event in constant.events if event["type"] == "notice"] == ["file"]
    chosen = predump("read", dumped.checkpoint, "indirect", "--sysroot", dumped.sysroot, "--json")
    assert any("chosen at run time" in str(event["message"]) for event in chosen.events if event["type"] == "notice")
    middle = read(dumped, "long_text+4088", 12)
    assert bytes.fromhex(str(middle["hex"])) == b"\0\0" + b"x" * 10


def test_registers(pie: Dumped) -> None:
    thread = Checkpoint.open(pie.checkpoint).round().manifest.processes[0].threads[0]
    assert read(pie, "rsp", 16, "--thread", thread.tid)["addr"] == thread.registers["rsp"]
    assert read(pie, "rsp", 16)["addr"] == thread.registers["rsp"], "the main thread is meant"
    assert read(pie, "$rsp+8", 8, "--thread", thread.tid)["addr"] == thread.registers["rsp"] + 8
    done = predump("read", pie.checkpoint, "rsp", "--thread", thread.tid + 1, expect=2)
    assert str(thread.tid) in done.stderr


def test_python(tmp_path: Path) -> None:
    names = ("_PyRuntime", "PyExc_ValueError", "PyList_Type", "Py_BuildValue", "PyObject_Repr", "_Py_NoneStruct")
    script = tmp_path / "script.py"
    places = "*(ctypes.addressof(ctypes.c_char.in_dll(ctypes.pythonapi, name)) for name in sys.argv[1:])"
    script.write_text(f"import ctypes, sys, time\nprint('ready', {places}, flush=True)\ntime.sleep(600)\n")
    with Target.spawn(sys.executable, script, *names) as target:
        predump("dump", "-p", target.pid, "-D", tmp_path / "checkpoint", "--leave-stopped")
        addrs = map(int, target.ready.split()[1:])
    with places_of(tmp_path / "checkpoint") as named:
        assert {name: whereabouts(name, named).addr for name in names} == dict(zip(names, addrs, strict=True))


@needs_redis
def test_redis(tmp_path: Path) -> None:
    with redis_server(tmp_path, 0) as (server, _):
        predump("dump", "-p", server.pid, "-D", tmp_path / "checkpoint", "--leave-stopped")
    expected = listed(Path(str(SERVER)).resolve(), "--dynamic")
    with places_of(tmp_path / "checkpoint") as places:
        symbols, vmas = places.symbols, places.vmas_named(Path(str(SERVER)).resolve().name)
        assert symbols is not None
        biases = {
            one.start_addr - min(expected[name])[0]
            for name in list(expected)[:200]
            if len(expected[name]) == 1
            for one in symbols.named(name, vmas)
        }
        assert len(biases) == 1
        assert places.name(whereabouts("server", places).addr).endswith(":server")
