import pytest

import wsmanager.errors as errors
from wsmanager.errors import (
    CloseCode,
    Disconnect,
    HandlerFailed,
    Refused,
    ReplyError,
    should_reconnect,
    to_client,
)


@pytest.mark.parametrize(
    ("code", "answer"),
    [
        *[(1000, False), (1001, True), (1006, True), (1012, True), (3999, False)],
        *[(4000, True), (4499, True), (4500, False), (4999, False), (5000, False)],
    ],
)
def test_the_range_of_a_close_code_says_whether_to_come_back(code: int, answer: bool) -> None:
    assert should_reconnect(code) is answer


@pytest.mark.parametrize("code", [code for code in CloseCode if code >= 4000])
def test_terminal_codes_are_those_that_a_reconnect_cannot_mend(code: CloseCode) -> None:
    terminal = {"BAD_TOKEN", "BAD_REQUEST", "NEVER_AUTHENTICATED", "REPLACED"}
    terminal |= {"CONNECTION_LIMIT", "FORBIDDEN", "TOO_MANY_ERRORS"}
    assert should_reconnect(code) is (code.name not in terminal)


def test_a_bug_is_answered_without_its_text() -> None:
    answer = to_client(ValueError("password=hunter2"))
    assert isinstance(answer, HandlerFailed)
    assert answer.code == "internal_error"
    assert "hunter2" not in str(answer)


def test_errors_of_the_reply_and_disconnect_families_pass_as_they_are() -> None:
    reply, leave = ReplyError("no such room", code="room_not_found"), Disconnect(4503, "replaced")
    assert to_client(reply) is reply
    assert to_client(leave) is leave
    assert str(leave) == "4503 replaced"


def test_a_refusal_after_the_accept_is_a_close_with_its_code() -> None:
    answer = to_client(errors.AuthenticationError("expired", code="token_expired"))
    assert isinstance(answer, Disconnect)
    assert (answer.code, answer.reason) == (CloseCode.BAD_TOKEN, "token_expired")


def test_a_closed_connection_of_somebody_else_is_no_reason_to_disconnect() -> None:
    answer = to_client(errors.ConnectionClosed("closed"))
    assert isinstance(answer, HandlerFailed)


def test_every_reply_and_refusal_has_a_code_of_its_own() -> None:
    families = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, ReplyError | Refused)
    ]
    codes = [kind.default_code for kind in families]
    assert len(codes) == len(set(codes)) > 12


def test_a_code_and_a_pause_can_be_given() -> None:
    error = errors.RateLimited("slow down", retry_after_ms=250)
    assert (error.code, error.temporary, error.retry_after_ms) == ("rate_limited", True, 250)
    assert errors.Refused("no", code="maintenance").code == "maintenance"


@pytest.mark.parametrize("code", [999, 1004, 1005, 1006, 1015, 2999, 5000, "4000", None])
def test_a_code_that_no_close_frame_may_carry_is_refused(code: object) -> None:
    with pytest.raises(errors.ConfigurationError, match="a close code is 1000 to 1014 or 3000 to 4999"):
        errors.require_close_code(code)


@pytest.mark.parametrize("code", [1000, 1014, 3000, 4999, CloseCode.SLOW])
def test_a_code_that_a_close_frame_may_carry_is_a_plain_number(code: int) -> None:
    assert errors.require_close_code(code) == code
    assert type(errors.require_close_code(code)) is int


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.HandlerTimeout(""), "transient"),
        (errors.ConnectionClosed(), "transient"),
        (errors.InvalidPayload(""), "client"),
        (errors.AuthenticationError(""), "auth"),
        (errors.Forbidden(""), "auth"),
        (errors.RateLimited(""), "capacity"),
        (errors.ConnectionLimitReached(""), "capacity"),
        (errors.Unavailable(), "backend"),
        (ConnectionResetError(), "backend"),
        (TimeoutError(), "backend"),
        (FileNotFoundError(), "bug"),
        (KeyError(), "bug"),
        (errors.ConfigurationError(), "bug"),
    ],
)
def test_every_error_is_of_one_kind(error: Exception, kind: str) -> None:
    assert errors.kind_of(error) == kind


def test_what_a_handler_cannot_reach_is_unavailable_and_its_text_is_nobodys_business() -> None:
    answer = to_client(ConnectionRefusedError("db.internal:5432"))
    assert isinstance(answer, errors.Unavailable)
    assert (answer.code, answer.temporary) == ("unavailable", True)
    assert "5432" not in str(answer)
