"""The floors of the package: imports point down, and nothing optional comes along."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "wsmanager"

FLOORS = {
    0: {"messages", "errors", "names", "protocols", "config"},
    1: {
        "analytics",
        "breaker",
        "framing",
        "generations",
        "health",
        "lifecycle",
        "offline",
        "patterns",
        "payloads",
        "priority_queue",
        "rate_limit",
        "registry",
        "routing",
        "validation",
    },
    2: {"auth", "codecs", "logs", "outbound", "running", "supervision", "termination", "transport", "wire"},
    3: {
        "adoption",
        "closing",
        "congestion",
        "connection",
        "dependencies",
        "drain",
        "endpoint",
        "engine",
        "guard",
        "handshake",
        "heartbeat",
        "hooks",
        "host",
        "inbound",
        "manager",
        "middleware",
        "modes",
        "parts",
        "pipeline",
        "reports",
        "retention",
        "sending",
        "system",
    },
    4: {"http", "servers", "testing"},
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """The modules of the package that `path` imports when it runs; those for type checkers only are not."""
    tree = ast.parse(path.read_text())
    for_checkers = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    here = path.relative_to(PACKAGE).parent.parts
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in for_checkers:
            base = here[: len(here) - node.level + 1]
            found.add(".".join((*base, *(node.module or "").split("."))).strip("."))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsmanager"):
            found.add((node.module or "").removeprefix("wsmanager").strip("."))
    return found


def test_every_module_has_a_floor() -> None:
    assert {part_of(path) for path in MODULES} == set(FLOOR_OF)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_imports_point_down(path: Path) -> None:
    floor = FLOOR_OF[part_of(path)]
    above = {name for name in imports_of(path) if name and FLOOR_OF[name.split(".")[0]] > floor}
    assert not above, f"{name_of(path)} is on floor {floor} and imports {above}"


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


def test_the_decisions_need_no_event_loop() -> None:
    names = sorted(FLOORS[0] | (FLOORS[1]))
    # The package itself is imported with its first module, so the sources are asked and not the process.
    for name in names:
        source = (PACKAGE / f"{name}.py").read_text()
        tree = ast.parse(source)
        modules = {
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        }
        modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert not modules & {"asyncio", "anyio", "threading", "socket"}, name
        assert (
            not any(isinstance(node, ast.AsyncFunctionDef | ast.Await) for node in ast.walk(tree))
            or name == "protocols"
        )
