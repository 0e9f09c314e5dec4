"""Imports run one way: cli -> commands -> display -> restorer -> dumper -> streams -> formats.

Within the engine, dumper -> dumper.kernel, .proc; beside the engine, display -> analysis -> formats.
"""

import ast
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
OURS = {"analysis", "cli", "commands", "display", "dumper", "formats", "restorer", "streams"}

# Which of our packages a place may import, and which third-party ones.
RULES: dict[str, tuple[set[str], set[str]]] = {
    "formats": ({"formats"}, {"zstandard"}),
    "formats/criu": ({"formats"}, {"google"}),
    "analysis": ({"analysis", "formats"}, {"elftools"}),
    "streams": ({"streams", "formats"}, {"cryptography"}),
    "dumper/kernel": ({"dumper.kernel", "formats"}, {"cffi"}),
    "dumper/proc": ({"dumper.proc"}, set()),
    "dumper": ({"dumper", "streams", "formats"}, set()),
    "restorer": ({"restorer", "dumper", "streams", "formats"}, set()),
    "display": ({"display", "analysis", "restorer", "dumper", "streams", "formats"}, {"rich"}),
    "commands": (OURS - {"cli"}, {"click"}),
    "cli.py": (OURS, {"click"}),
}
THIRD_PARTY = {"cffi", "click", "cryptography", "elftools", "google", "rich", "zstandard"}


def place_of(path: Path) -> str:
    """The most specific rule for a file."""
    name = path.relative_to(REPO).as_posix()
    return max((place for place in RULES if name == place or name.startswith(f"{place}/")), key=len)


def sources() -> list[Path]:
    """Every Python file that is shipped."""
    found = [REPO / "cli.py"]
    for package in sorted(OURS - {"cli"}):
        found += sorted((REPO / package).rglob("*.py"))
    return found


def imports_of(source: str) -> set[str]:
    """Absolute names of the modules that the source imports, wherever it does."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where a module comes from"
            assert node.module is not None
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def forbidden(place: str, imported: set[str]) -> set[str]:
    """Those imports that the place's rule does not allow."""
    allowed, third_party = RULES[place]

    def is_allowed(name: str) -> bool:
        root = name.split(".", maxsplit=1)[0]
        if root in OURS:
            # `from dumper import x` names dumper and dumper.x: where x may be, the latter decides
            packages = {a.split(".")[0] for a in allowed}
            return name in packages or any(name == a or name.startswith(a + ".") for a in allowed)
        return root not in THIRD_PARTY or root in third_party

    return {name for name in imported if not is_allowed(name)}


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(REPO)))
def test_imports_run_one_way(path: Path) -> None:
    assert forbidden(place_of(path), imports_of(path.read_text())) == set()


def test_the_rules_can_fail() -> None:
    assert forbidden("formats", imports_of("from dumper.target import Target")) == {
        "dumper.target",
        "dumper.target.Target",
    }
    assert forbidden("formats", imports_of("import dumper")) == {"dumper"}
    assert forbidden("dumper", imports_of("import rich.table")) == {"rich.table"}
    assert forbidden("dumper/proc", imports_of("import formats.layout")) == {"formats.layout"}
    assert forbidden("commands", imports_of("import cli")) == {"cli"}
    assert forbidden("dumper", imports_of("def f():\n    import click")) == {"click"}


def test_only_the_kernel_wrappers_use_any() -> None:
    users = [path.relative_to(REPO).as_posix() for path in sources() if "typing.Any" in imports_of(path.read_text())]
    assert [name for name in users if not name.startswith("dumper/kernel/")] == []
