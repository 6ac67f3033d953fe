import pytest

from wsmanager import ConnectionStatus
from wsmanager.decisions.registry import MOVES, move
from wsmanager.errors import InvalidMove


def test_the_straight_way_leads_from_connecting_to_closed() -> None:
    status = ConnectionStatus.CONNECTING
    for target in (ConnectionStatus.OPEN, ConnectionStatus.DRAINING, ConnectionStatus.CLOSED):
        status = move(status, target)
    assert status is ConnectionStatus.CLOSED


@pytest.mark.parametrize("current", ConnectionStatus)
@pytest.mark.parametrize("target", ConnectionStatus)
def test_only_the_moves_of_the_table_are_allowed(current: ConnectionStatus, target: ConnectionStatus) -> None:
    if target in MOVES[current]:
        assert move(current, target) is target
    else:
        with pytest.raises(InvalidMove, match=f"from {current} to {target}"):
            move(current, target)


def test_nothing_leads_back() -> None:
    order = list(ConnectionStatus)
    assert all(order.index(target) > order.index(current) for current in order for target in MOVES[current])
