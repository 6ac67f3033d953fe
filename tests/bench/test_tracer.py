"""What counts as a call, and what as going on."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .tracer import Walk, traced
from .walks import WALKS, _walk

TOY = """
import asyncio
from .other import helper, leaf

def plain():
    helper()
    return leaf()

async def patient():
    await asyncio.sleep(0)
    leaf()

async def cancelled():
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        leaf()

def counting():
    yield 1
    yield 2
"""
OTHER = """
def helper():
    leaf()
    len("a call of C is none")

def leaf():
    pass
"""


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Any]:
    """A package of two files."""
    folder = tmp_path / "toy"
    folder.mkdir()
    for name, text in (("__init__", TOY), ("other", OTHER)):
        (folder / f"{name}.py").write_text(text)
    spec = importlib.util.spec_from_file_location("toy", folder / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "toy", module)
        patch.delitem(sys.modules, "toy.other", raising=False)  # of another test
        spec.loader.exec_module(module)
        yield module


def walk_in(toy: Any) -> Walk:
    return Walk(Path(toy.__file__).parent)


def test_calls_files_and_changes_of_file_are_counted(toy: Any) -> None:
    with traced(walk_in(toy)) as walk:
        toy.plain()
    assert [(step.file, step.name) for step in walk.steps] == [
        ("__init__", "plain"),
        ("other", "helper"),
        ("other", "leaf"),
        ("other", "leaf"),
    ]
    assert (walk.calls, walk.resumed, walk.files, walk.switches) == (4, 0, 2, 1)


def test_a_coroutine_that_goes_on_is_no_call(toy: Any) -> None:
    with traced(walk_in(toy)) as walk:
        asyncio.run(toy.patient())
    assert [(step.name, step.is_resumed) for step in walk.steps] == [
        ("patient", False),
        ("patient", True),
        ("leaf", False),
    ]


def test_neither_is_one_that_an_exception_is_thrown_into(toy: Any) -> None:
    async def run() -> None:
        task = asyncio.ensure_future(toy.cancelled())
        await asyncio.sleep(0)
        task.cancel()
        await task

    with traced(walk_in(toy)) as walk:
        asyncio.run(run())
    assert [(step.name, step.is_resumed) for step in walk.steps] == [
        ("cancelled", False),
        ("cancelled", True),
        ("leaf", False),
    ]


def test_nor_a_generator_that_goes_on(toy: Any) -> None:
    with traced(walk_in(toy)) as walk:
        assert list(toy.counting()) == [1, 2]
    assert (walk.calls, walk.resumed) == (1, 2)


def test_a_close_is_a_short_walk() -> None:
    walk = _walk("close by the application")
    assert walk.calls <= 33
    assert walk.files <= 8


@pytest.mark.parametrize("name", WALKS)
def test_every_walk_leads_somewhere_and_meets_no_heartbeat(name: str) -> None:
    files = [step.file for step in _walk(name).steps]
    assert len(files) > 10
    assert "connections/heartbeat" not in files or name == "connect, door 2"
