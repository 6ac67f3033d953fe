"""Which handler `wsmanager.handlers.router` finds for a message, and which it does not take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsmanager.errors import ConfigurationError
from wsmanager.handlers.router import Router
from wsmanager.messages import InboundMessage, SystemType

from ...profiles import examples
from .samples import Peer, only_conn, plan, refused, typed


def test_the_options_of_a_route_are_kept() -> None:
    def allow(conn: Peer) -> bool: ...  # type: ignore[empty-body]  # never run

    route = plan(typed, scopes="admin", allow=allow, features=["a", "b"], cost=5, concurrent=True)
    assert route.type == "x"
    assert route.scopes == {"admin"}
    assert route.allow is allow
    assert route.features == {"a", "b"}
    assert route.cost == 5
    assert route.concurrent


def test_a_permission_that_cannot_answer_at_once_is_refused() -> None:
    async def allow(conn: Peer, message: InboundMessage) -> bool: ...  # type: ignore[empty-body]  # never run

    with pytest.raises(ConfigurationError, match="allow= must answer at once"):
        plan(typed, allow=allow)


def test_a_route_asks_for_nothing_by_default() -> None:
    route = plan(typed)
    assert (route.scopes, route.allow, route.features) == (frozenset(), None, frozenset())
    assert (route.cost, route.concurrent) == (1, False)


def _router(*types: str) -> Router:
    router = Router(Peer)
    for type in types:
        router.add(type, typed)
    return router


def _found(router: Router, type: str) -> str | None:
    route = router.find(type)
    return route.type if route else None


def test_a_type_without_handler_is_not_found() -> None:
    assert _found(_router("chat.message"), "chat") is None


def test_a_prefix_takes_what_lies_below_it_only() -> None:
    router = _router("chat.*")
    assert _found(router, "chat.x") == "chat.*"
    assert _found(router, "chat.x.y") == "chat.*"
    assert _found(router, "chat") is None
    assert _found(router, "chatter.x") is None


_segments = st.lists(st.sampled_from("ab"), min_size=1, max_size=3).map(".".join)
_patterns = _segments | _segments.map(lambda segments: segments + ".*") | st.just("*")


def _naive(patterns: set[str], type: str) -> str | None:
    if type in patterns:
        return type
    fitting = [one for one in patterns if one.endswith("*") and type.startswith(one[:-1])]
    return max(fitting, key=len, default=None)


@examples(30)
@given(st.sets(_patterns, max_size=8), st.lists(_segments, min_size=1, max_size=5))
def test_the_exact_type_wins_then_the_longest_prefix_then_the_asterisk(
    patterns: set[str], types: list[str]
) -> None:
    router = _router(*patterns)
    assert {route.type for route in router.routes} == patterns
    for type in types:
        assert _found(router, type) == _naive(patterns, type)


@pytest.mark.parametrize("type", ["chat", "chat.*", "*"])
def test_a_type_has_one_handler(type: str) -> None:
    router = _router("chat", "chat.*", "*")
    with pytest.raises(ConfigurationError, match="has a handler already"):
        router.add(type, only_conn)
    assert len(router.routes) == 3


@pytest.mark.parametrize("type", list(SystemType))
def test_what_the_manager_answers_cannot_be_taken_over(type: str) -> None:
    assert "answered by the manager" in refused(typed, type)
    assert _router("*", "session.*").find(type) is None


@pytest.mark.parametrize("type", ["", "x" * 256, "a\nb", "a\x7f", "a\x9f", "a\ud800"])
def test_a_type_is_a_name(type: str) -> None:
    assert "1 to 255 characters" in refused(typed, type)


@pytest.mark.parametrize("type", ["**", "a*", "*.a", "a.*.b", ".*.*", "a.**"])
def test_an_asterisk_stands_alone_or_after_the_last_dot(type: str) -> None:
    assert "asterisk" in refused(typed, type)


def test_a_long_name_of_any_script_is_a_type() -> None:
    longest = "чат." + "é" * 251
    assert _found(_router(longest), longest) == longest


def test_the_routes_are_listed_as_they_are_tried() -> None:
    types = [route.type for route in _router("*", "a.*", "z", "a.b.*", "a").routes]
    assert types == ["z", "a", "a.b.*", "a.*", "*"]
