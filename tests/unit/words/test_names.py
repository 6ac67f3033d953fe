import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.errors import InvalidName
from wsmanager.names import is_name, require_name


@pytest.mark.parametrize("name", ["a", "general chat", "日本語", "👩‍👩‍👧", "x" * 255, "a/b:c"])
def test_ordinary_names_are_good(name: str) -> None:
    assert is_name(name)
    assert require_name("room", name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 256, "a\nb", "a\x00", "\x7f", "\x85", "\u2028", "\ud800", None, 5]
)
def test_empty_long_and_unprintable_names_are_refused_without_being_repeated(name: object) -> None:
    assert not is_name(name)
    with pytest.raises(InvalidName, match="A room name is a text of 1 to 255 characters") as caught:
        require_name("room", name)
    assert caught.value.code == "invalid_name"


@given(st.text(min_size=1, max_size=20))
def test_a_good_name_encodes_and_stays_on_one_line(name: str) -> None:
    if is_name(name):
        assert len(name.encode().decode().splitlines()) == 1
