"""The floors of the package: imports point down, and nothing optional comes along."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "wsmanager"

FLOORS = (
    {"words"},
    {"wire"},
    {"decisions"},
    {"tasks", "servers"},
    {"auth", "connections"},
    {"handlers", "delivery"},
    {"engine"},
    {"doors"},
    {"manager"},
    {"middleware", "http"},
    {"testing"},
)
"""The rooms of the package from the ground up: a file imports from its own room and from floors below."""
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
WORDS = {"config", "errors", "logs", "messages", "names", "protocols"}
"""Files in the root that every room may import; they import nothing but each other."""
FACE = {"http", "manager", "middleware"}
"""The other files in the root: what an application talks to."""
PURE = [
    "config",
    "errors",
    "messages",
    "names",
    "protocols",
    "decisions/analytics",
    "decisions/breaker",
    "decisions/generations",
    "decisions/health",
    "decisions/patterns",
    "decisions/queue",
    "decisions/rate_limit",
    "decisions/registry",
    "decisions/trouble",
    "decisions/validation",
    "delivery/offline",
    "handlers/payloads",
    "handlers/router",
    "handlers/signatures",
    "wire/asgi",
    "wire/codecs",
    "wire/encodings",
    "wire/framing",
    "wire/outgoing",
    "wire/unreadable",
    "wire/words",
]
"""They know no event loop, no thread, no clock of their own and no file that does."""

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def room_of(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "words" if first in WORDS else first


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "/".join(parts[:-1] if parts[-1] == "__init__" else parts)


def path_of(name: str) -> Path:
    file = PACKAGE / f"{name}.py"
    return file if file.exists() else PACKAGE / name / "__init__.py"


def imports_of(path: Path) -> set[str]:
    """The files of the package that `path` imports, for type checkers only or not."""
    tree = ast.parse(path.read_text())
    here = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level + 1]
            module = "/".join((*base, *(node.module or "").split("."))).strip("/")
            inner = {f"{module}/{alias.name}".strip("/") for alias in node.names}
            files = {name for name in inner if (PACKAGE / f"{name}.py").exists()}
            found |= files or ({module} if module else set())
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            )
            assert not any((name or "").startswith("wsmanager") for name in names), (
                f"{path}: imports are relative"
            )
    return found


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in MODULES} == set(FLOOR_OF)
    assert set(FLOOR_OF) >= FACE


def test_the_guide_shows_the_rooms_from_the_ground_up() -> None:
    guide = (PACKAGE.parent / "examples" / "guide" / "inside.md").read_text()
    shown = re.findall(r"^\| `(\w+)/` \|", guide, re.MULTILINE)
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert set(shown) == folders
    assert [FLOOR_OF[room] for room in shown] == sorted(FLOOR_OF[room] for room in shown)


def test_the_root_holds_the_face_and_the_words_alone() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == {"__init__"} | FACE | WORDS


def test_no_file_is_longer_than_a_reader_can_hold() -> None:
    assert not {name_of(path) for path in MODULES if len(path.read_text().splitlines()) > 400}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    room = room_of(path)
    rooms = {room_of(path_of(name)) for name in imports_of(path)} - {room}
    above = {name for name in rooms if FLOOR_OF[name] >= FLOOR_OF[room]}
    assert not above, f"{name_of(path)} is in {room} and imports from {above}"


def test_no_imports_go_in_a_circle() -> None:
    graph = {name_of(path): imports_of(path) for path in MODULES}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, "a circle: " + " -> ".join((*way, name))
        if name in done:
            return
        for inner in graph.get(name, ()):
            visit(inner, (*way, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def imported(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    code = f"import sys; {statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    command = [sys.executable, "-c", code]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def test_the_core_brings_nothing_optional_along() -> None:
    unwanted = {"starlette", "fastapi", "pydantic", "uvicorn", "redis", "nats", "asyncpg"}
    assert not imported("import wsmanager") & unwanted


@pytest.mark.parametrize("name", PURE)
def test_pure_files_know_no_event_loop(name: str) -> None:
    # The package itself is imported with its first module, so the sources are asked and not the process.
    tree = ast.parse((PACKAGE / f"{name}.py").read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {
        node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert not {module.partition(".")[0] for module in modules} & {"asyncio", "anyio", "threading", "socket"}
    waits = any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))
    assert not waits or name == "protocols"


@pytest.mark.parametrize("name", PURE)
def test_pure_files_import_pure_files_alone(name: str) -> None:
    impure = imports_of(PACKAGE / f"{name}.py") - set(PURE)
    assert not impure
