"""The public names are deliberate: a new one, or one that goes, is a line in this file and the changelog."""

from __future__ import annotations

import re
from pathlib import Path

import wsmanager
import wsmanager.testing

NAMES = """
ALL AdaptiveRateLimiter AuthenticationError CloseCode ConfigurationError Connection ConnectionClosed
ConnectionHealthMonitor ConnectionManager ConnectionStatus Delivery DeliveryReport Disconnect
DuplicateConnectionId EncodeError FailureKind Forbidden HealthStatus InboundMessage InvalidMessage
InvalidName InvalidPayload JWTAuth MessageAnalytics MessagePriority MessagePriorityQueue Provide Pushed
RateLimited Refused ReplyError RoomLimitReached SecurityValidator SuspiciousMessage Tier Unavailable
WSManagerError WebSocketConfig WebSocketMiddleware WeightedHealthScorer WrongEventLoop
"""

METHODS = """
aclose analytics broadcast config connect connection_of connections disconnect dispatch drain endpoint engine
get_analytics get_connection get_connection_health join_session leave_session lifespan on on_connect
on_disconnect send_personal_message send_to_connection send_to_session
"""

CONNECTION = """
claims close health id metadata rooms scopes send status tenant tier user_id
"""
"""For applications."""

LINE = """
address ahead answer close_soon codec congestion direct ending flags give_trouble guard is_spoken_to joined
key lane caught_up not_taken owner peer_failed push reader receive send_event send_raw trouble waiting weigh
write
"""
"""For the rest of the package: see `wsmanager.connections.seams`."""


def test_the_names_of_the_package() -> None:
    assert sorted(wsmanager.__all__) == sorted(NAMES.split())
    assert all(hasattr(wsmanager, name) for name in NAMES.split())


def test_the_methods_of_the_manager() -> None:
    manager = wsmanager.ConnectionManager()
    assert sorted(name for name in dir(manager) if not name.startswith("_")) == sorted(METHODS.split())


def test_a_connection_has_forty_names_at_most() -> None:
    names = {name for name in dir(wsmanager.Connection) if not name.startswith("_")}
    assert names == {*CONNECTION.split(), *LINE.split()}
    assert len(names) <= 40


def test_the_names_for_applications_are_documented() -> None:
    documented = re.findall(r"`(\w+)`", wsmanager.Connection.__doc__ or "")
    assert sorted(documented) == sorted(CONNECTION.split())


def test_the_version_is_that_of_the_project() -> None:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    assert re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1] == wsmanager.__version__  # type: ignore[index]


def test_the_names_of_the_test_kit_exist() -> None:
    assert all(hasattr(wsmanager.testing, name) for name in wsmanager.testing.__all__)
