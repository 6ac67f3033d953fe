"""``python -m examples.chat``: the chat, served on http://127.0.0.1:8000."""

from __future__ import annotations

import argparse


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples.chat", description="A chat to look at.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    import uvicorn

    from .app import app

    uvicorn.run(
        app,
        host=options.host,
        port=options.port,
        ws="wsmanager.servers.uvicorn:WebSocketProtocol",
        timeout_graceful_shutdown=5,
    )


if __name__ == "__main__":
    main()
