"""What servers are given so that a WebSocket of theirs can do more than ASGI has words for."""
