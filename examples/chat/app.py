"""A chat: rooms, private messages, who is here, emotions, and how one's own connection does.

FastAPI serves the page and the log-in; ``manager.endpoint`` serves the socket. Each message has a
Struct in `messages` that says what may be in it, and a handler here that says what becomes of it. What
the manager does by itself is not here: authentication, limits, validation, heartbeats, and keeping what
was written to somebody who is away.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

import jwt
import msgspec
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse
from msgspec import Struct
from starlette.routing import WebSocketRoute

from wsmanager import (
    AdaptiveRateLimiter,
    CloseCode,
    Connection,
    ConnectionManager,
    Delivery,
    Disconnect,
    JWTAuth,
    ReplyError,
    WebSocketConfig,
)

from .messages import (
    Emotion,
    Feel,
    Felt,
    Join,
    Message,
    Person,
    Receipt,
    Room,
    Say,
    Tell,
    Vitals,
)

# Whoever restarts the server without this variable logs everybody out: the key is a new one.
SECRET = os.environ.get("CHAT_SECRET") or secrets.token_urlsafe(32)

# Figures that move while one looks, and a limit that can be reached by hand.
LIVELY = {
    "WSMANAGER_HEARTBEAT_INTERVAL": "5",
    "WSMANAGER_HEALTH_CHECK_INTERVAL": "5",
    "WSMANAGER_RATE_LIMIT_MAX": "40",
    "WSMANAGER_RATE_LIMIT_WINDOW": "20",
}
config = WebSocketConfig.from_env(environ={**LIVELY, **os.environ})
limiter = AdaptiveRateLimiter(config.rate_limit_max, config.rate_limit_window, config.rate_limit_bonus)
manager = ConnectionManager(config, auth=JWTAuth(key=SECRET, algorithms=["HS256"]), limiter=limiter)


# --- rooms

TOPICS: dict[Room, str] = {
    "general": "Whatever there is to say",
    "music": "What is playing",
    "garden": "What grows, and what does not",
}
LAST = 50
history: dict[Room, dict[str, Message]] = {room: {} for room in TOPICS}
"""The last messages of each room by id, for those who come later."""


def remember(room: Room, message: Message) -> None:
    log = history[room]
    log.setdefault(message.id, message)
    if len(log) > LAST:
        del log[next(iter(log))]


@manager.on("chat.join")
async def join(conn: Connection, data: Join) -> list[Message]:
    await manager.join_session(conn, data.room)
    await announce()
    return list(history[data.room].values())


@manager.on("chat.leave")
async def leave(conn: Connection, data: Join) -> None:
    await manager.leave_session(conn, data.room)
    await announce()


@manager.on("chat.say")
async def say(conn: Connection, data: Say) -> Receipt:
    message = Message(id_of(conn, data.key), conn.user_id, data.text, time.time(), room=data.room)
    report = await manager.send_to_session(data.room, {"type": "chat.message", "data": message}, sender=conn)
    remember(data.room, message)
    return Receipt(report.sent + report.queued, report.kept)


def id_of(conn: Connection, key: str) -> str:
    """Nobody can write under the id of somebody else's message."""
    return f"{key}@{conn.user_id}"


# --- between two


@manager.on("chat.tell")
async def tell(conn: Connection, data: Tell) -> Receipt:
    to = require_name(data.to)
    message = Message(id_of(conn, data.key), conn.user_id, data.text, time.time(), to=to)
    report = await manager.send_personal_message(to, {"type": "chat.message", "data": message})
    copy = msgspec.structs.replace(message, kept=report.kept > 0)
    await show_own_tabs(conn, to, {"type": "chat.message", "data": copy})
    return Receipt(report.sent + report.queued, report.kept)


async def show_own_tabs(conn: Connection, to: str, message: Mapping[str, object]) -> None:
    """What went to somebody else appears in all tabs of its author, now or never."""
    if to != conn.user_id:
        await manager.send_personal_message(conn.user_id, message, delivery=Delivery.VOLATILE)


# --- emotions: an event of this application's own


@manager.on("chat.feel")
async def feel(conn: Connection, data: Feel) -> None:
    to = None if data.to is None else require_name(data.to)
    felt = {"type": "chat.felt", "data": Felt(data.id, conn.user_id, data.emotion, data.room, to)}
    if data.room is not None:
        await manager.send_to_session(data.room, felt, sender=conn)
        note(history[data.room].get(data.id), conn.user_id, data.emotion)
    elif to is not None:
        await manager.send_personal_message(to, felt)
        await show_own_tabs(conn, to, felt)


def note(message: Message | None, user: str, emotion: Emotion | None) -> None:
    """So that those who come later see it beside the message."""
    if message is not None and emotion is not None:
        message.emotions[user] = emotion
    elif message is not None:
        message.emotions.pop(user, None)


# --- who is here


@manager.on_connect
async def arrived(conn: Connection) -> None:
    await conn.send({"type": "chat.rooms", "data": TOPICS})
    await announce()


@manager.on_disconnect
async def left(_: Connection) -> None:
    await announce()


async def announce() -> None:
    """Tell everybody who is here: one entry for a user, however many tabs there are."""
    rooms: dict[str, set[str]] = {}
    for conn in manager.connections():
        rooms.setdefault(conn.user_id, set()).update(conn.rooms)
    here = [Person(user, sorted(names)) for user, names in sorted(rooms.items())]
    await manager.broadcast({"type": "chat.here", "data": here}, conflate="here")


# --- one's own connection


@manager.on("me")
async def me(conn: Connection) -> Vitals | None:
    tabs = manager.get_connection_health(conn.user_id).connections
    own = next((tab for tab in tabs if tab.connection_id == conn.id), None)
    if own is None:  # closed meanwhile
        return None
    limit = limiter.peek(conn.key)
    return Vitals(
        own.score,
        own.status,
        own.latency_ms,
        limit.remaining,
        limit.limit,
        config.rate_limit_window,
        len(tabs),
    )


@manager.on("me.drop")
async def drop(_: Connection) -> None:
    """Break the connection, to see how the page mends it."""
    raise Disconnect(CloseCode.CLOSED, "as you wished")


# --- the page, and the way in

STATIC = Path(__file__).parent / "static"
MEDIA = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
FILES = {path.name: path for path in STATIC.iterdir() if path.suffix in MEDIA}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
TOKEN_LIFE = 12 * 3600

# The pages that FastAPI generates load scripts from elsewhere.
app = FastAPI(lifespan=manager.lifespan, docs_url=None, redoc_url=None, openapi_url=None)
app.router.routes.append(WebSocketRoute("/ws", manager.endpoint))


class Login(Struct):
    user: str


def require_name(text: str) -> str:
    """The name in `text`, without the spaces around it."""
    name = text.strip()
    if not (1 <= len(name) <= 32 and name.isprintable()):
        raise ReplyError("A name has 1 to 32 printable characters.", code="bad_name")
    return name


@app.post("/login")
async def login(request: Request) -> JSONResponse:
    """A token for whoever says a name. There is no password: this is a demo, and anybody may be anybody."""
    try:
        user = require_name(msgspec.json.decode(await request.body(), type=Login).user)
    # No JSON, no name in it, no end of brackets. The errors of msgspec before 0.23 are no ValueErrors.
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return refusal("bad_request", 'Say who you are: {"user": "your name"}.')
    except ReplyError as error:
        return refusal(error.code, error.message)
    token = jwt.encode({"sub": user, "exp": int(time.time()) + TOKEN_LIFE}, SECRET)
    return JSONResponse({"token": token, "user": user})


def refusal(code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message}}, status_code=422)


@app.get("/")
async def index() -> FileResponse:
    return await page("index.html")


@app.get("/{name}")
async def page(name: str) -> FileResponse:
    if name not in FILES:
        raise HTTPException(404)
    path = FILES[name]
    return FileResponse(path, media_type=MEDIA[path.suffix], headers=HEADERS)
