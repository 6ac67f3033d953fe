from wsmanager import ALL, DeliveryReport, MessagePriority
from wsmanager.messages import RoomKey, UserKey
from wsmanager.protocols import NO_CLAIMS, Claims, Enqueued, RateDecision


def test_priorities_compare_by_urgency() -> None:
    assert list(MessagePriority) == sorted(MessagePriority)
    assert MessagePriority.CRITICAL > MessagePriority.HIGH > MessagePriority.MEDIUM > MessagePriority.LOW


def test_keys_of_different_tenants_differ() -> None:
    assert UserKey(None, "a") != UserKey("t", "a")
    assert RoomKey("t", "a") != RoomKey("u", "a")
    assert ALL is not None


def test_a_report_says_whether_anybody_has_it_or_will() -> None:
    assert DeliveryReport(sent=1).delivered
    assert DeliveryReport(kept=1).delivered
    assert not DeliveryReport(dropped=1, offline=2).delivered


def test_decisions_are_true_when_allowed() -> None:
    assert RateDecision(True, 1, 2)
    assert not RateDecision(False, 0, 2, 10)
    assert Enqueued(accepted=True)
    assert not Enqueued(accepted=False)


def test_a_claim_that_is_not_kept_is_absent() -> None:
    class Kept(Claims, frozen=True):
        sub: str | None = None
        jti: str | None = None

    claims = Kept(sub="alice")
    assert claims.get("sub") == "alice"
    assert claims.get("jti") is None
    assert claims.get("email", "none") == "none"
    assert claims.get("get", "none") == "none"
    assert NO_CLAIMS.get("sub") is None
