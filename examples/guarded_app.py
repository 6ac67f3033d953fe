"""An application that knows nothing of wsmanager, and the one line around it.

The poll speaks a JSON of its own; the terminal speaks no JSON at all. Behind the guard both are limited,
measured and closed cleanly at a restart, the poll's frames are validated as well, and what the HTTP route
sends through the manager reaches every voter. Run it with ``python -m examples.guarded_app``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

from wsmanager import ConnectionManager, WebSocketConfig, WebSocketMiddleware

app = FastAPI()
votes: Counter[str] = Counter()


@app.websocket("/poll")
async def poll(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            votes[(await websocket.receive_json())["vote"]] += 1
            await websocket.send_json({"standing": votes.most_common(3)})
    except WebSocketDisconnect:
        pass


@app.websocket("/terminal")
async def terminal(websocket: WebSocket) -> None:
    await websocket.accept()
    try:
        while True:
            await websocket.send_bytes(await websocket.receive_bytes())
    except WebSocketDisconnect:
        pass


# --- all that is added

manager = ConnectionManager(WebSocketConfig.from_env())
app.add_middleware(WebSocketMiddleware, manager=manager, mode={"/poll": "json", "/terminal": "opaque"})


@app.post("/close-poll")
async def close_poll() -> dict[str, Any]:
    """What the guard makes possible: every voter of this process is reached from anywhere."""
    report = await manager.broadcast({"winner": votes.most_common(1)})
    return {"reached": report.sent, "out_of_reach": report.unsupported}


def main() -> None:
    parser = argparse.ArgumentParser(description="An application that exists, guarded with one line.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    import uvicorn

    uvicorn.run(app, host=options.host, port=options.port)


if __name__ == "__main__":
    main()
