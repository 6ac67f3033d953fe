// One connection to the server that mends itself, and the requests that wait for it.
//
// Requests go out one at a time, in order. So an error that names no request is about the one under
// way, and after a break it is clear what to send again. What may arrive twice by that has a key by
// which the receivers know it.
//
// Events: "state" ({state, again, wait, code, reason}), "message" (what the server says by itself),
// "latency" (milliseconds), "refused" ({error, text}), "hold".

const SUBPROTOCOL = "wsmanager.v1.json"; // with it the server welcomes us, and a refusal can be read
const FIRST_PING = 500;
const PING_EVERY = 2500;
const MOST_UNANSWERED = 3;
const FIRST_WAIT = 500;
const LONGEST_WAIT = 15000;

export function shouldReconnect(code) {
  return (code >= 4000 && code < 4500) || code === 1001 || code === 1006 || code === 1012;
}

// Twice as long after each failure, and never the same for all: a server that restarts would meet
// everybody at once.
function waitAfter(failures) {
  const longest = Math.min(LONGEST_WAIT, FIRST_WAIT * 2 ** failures);
  return longest / 2 + (Math.random() * longest) / 2;
}

export class Link extends EventTarget {
  state = "closed"; // connecting, open, waiting (for the next try), closed
  heldUntil = 0; // too many messages: nothing goes out before
  reconnects = 0;

  #url;
  #token = "";
  #socket = null;
  #farewell = null;
  #failures = 0;
  #retry = 0;
  #release = 0;
  #unanswered = 0;
  #queue = [];
  #underWay = null;
  #lastId = 0;

  constructor(url) {
    super();
    this.#url = url;
    setInterval(() => this.#beat(), PING_EVERY);
  }

  open(token) {
    this.#token = token;
    this.#failures = 0;
    this.reconnects = 0;
    this.#connect();
  }

  // Try now instead of later.
  hurry() {
    if (this.state === "waiting" || this.state === "closed") this.#connect();
  }

  // End the connection, and forget what waits.
  close() {
    clearTimeout(this.#retry);
    this.#detach();
    this.#queue = [];
    this.#underWay = null;
    this.#become("closed");
  }

  // The reply of the server; rejects with the data of its error. What came too fast is sent again when the
  // server said. What must not get lost is kept while there is no connection; the rest is given up then.
  request(type, data, { keep = false, first = false } = {}) {
    return new Promise((resolve, reject) => {
      const request = { id: ++this.#lastId, type, data, keep, resolve, reject };
      if (!keep && this.state !== "open") return this.#giveUp(request);
      if (first) this.#queue.unshift(request);
      else this.#queue.push(request);
      this.#pump();
    });
  }

  // --- the connection

  #connect() {
    clearTimeout(this.#retry);
    this.#detach();
    this.#farewell = null;
    const socket = new WebSocket(`${this.#url}?token=${encodeURIComponent(this.#token)}`, [SUBPROTOCOL]);
    socket.onmessage = (event) => this.#hear(JSON.parse(event.data));
    socket.onclose = (event) => this.#lost(event.code, event.reason);
    this.#socket = socket;
    this.#become("connecting", { again: this.#failures > 0 });
  }

  #detach() {
    if (this.#socket === null) return;
    this.#socket.onmessage = this.#socket.onclose = null;
    this.#socket.close();
    this.#socket = null;
  }

  #lost(code, reason) {
    this.#socket = null;
    this.#takeBack();
    const again = this.#farewell?.reconnect ?? shouldReconnect(code);
    if (!again) return this.#become("closed", { code, reason });
    const wait = Math.max(waitAfter(this.#failures++), this.#farewell?.after_ms ?? 0);
    this.#retry = setTimeout(() => this.#connect(), wait);
    this.#become("waiting", { code, reason, wait });
  }

  // A network that is gone says nothing: silence tells.
  #beat() {
    if (this.state !== "open") return;
    if (this.#unanswered >= MOST_UNANSWERED) {
      this.#detach();
      this.#lost(1006, "no answer");
      return;
    }
    this.#unanswered += 1;
    this.#write({ type: "ping", data: { at: performance.now() } });
  }

  #become(state, detail = {}) {
    this.state = state;
    this.#tell("state", { state, ...detail });
  }

  #tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  // --- what comes in

  #hear(message) {
    switch (message.type) {
      case "welcome":
        if (this.#failures > 0) this.reconnects += 1;
        this.#unanswered = 0;
        this.#become("open", message.data);
        setTimeout(() => this.#beat(), FIRST_PING); // not while the page is busy with what it just heard
        this.#pump();
        break;
      case "ping":
        this.#write({ type: "pong", data: message.data });
        break;
      case "pong":
        this.#failures = this.#unanswered = 0;
        this.#tell("latency", performance.now() - message.data.at);
        break;
      case "reply":
      case "error":
        this.#settle(message);
        break;
      case "disconnect":
        this.#farewell = message.data;
        break;
      default:
        this.#tell("message", message);
    }
  }

  // --- requests

  #pump() {
    if (this.state !== "open" || this.#underWay !== null || Date.now() < this.heldUntil) return;
    const request = this.#queue.shift();
    if (request === undefined) return;
    this.#underWay = request;
    this.#write({ type: request.type, data: request.data, id: request.id });
  }

  #write(message) {
    this.#socket.send(JSON.stringify(message));
  }

  #settle({ type, re, data }) {
    const request = this.#underWay;
    if (request === null || (re !== undefined && re !== request.id)) return;
    this.#underWay = null;
    if (type === "reply") request.resolve(data);
    else this.#refused(request, data);
    this.#pump();
  }

  #refused(request, error) {
    this.#tell("refused", { error, text: request.data?.text });
    if (!error.retry_after_ms) return request.reject(error);
    this.#queue.unshift(request);
    this.#hold(error.retry_after_ms);
  }

  #hold(milliseconds) {
    this.heldUntil = Date.now() + milliseconds;
    clearTimeout(this.#release);
    this.#release = setTimeout(() => {
      this.heldUntil = 0;
      this.#tell("hold");
      this.#pump();
    }, milliseconds);
    this.#tell("hold");
  }

  #takeBack() {
    if (this.#underWay !== null) this.#queue.unshift(this.#underWay);
    this.#underWay = null;
    const waiting = this.#queue;
    this.#queue = waiting.filter((request) => request.keep);
    for (const request of waiting) if (!request.keep) this.#giveUp(request);
  }

  #giveUp(request) {
    request.reject({ code: "offline", message: "There is no connection.", temporary: true });
  }
}
