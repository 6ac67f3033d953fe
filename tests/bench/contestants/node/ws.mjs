// The `ws` server, and the loop over its clients that its documentation shows.
import { setImmediate } from "node:timers/promises";
import { WebSocketServer } from "ws";

const BURST = 10;
const DATA = { room: "general", text: "hello, everyone!", n: 12345, ok: true };
const message = (type) => JSON.stringify({ type, data: DATA, id: 17 });
const [FRAME, ROOM, PERSONAL] = ["chat.message", "room", "personal"].map(message);

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(process.argv[2]),
  perMessageDeflate: false,
  backlog: 2048,
});
const room = new Set();
const users = new Map();

async function rounds(count, atOnce) {
  for (let round = 0; round < count; round++) {
    for (let time = 0; time < atOnce; time++) {
      for (const client of server.clients) client.send(FRAME);
    }
    await setImmediate();
  }
}

const commands = {
  "chat.message": (socket, data, id) => socket.send(JSON.stringify({ type: "reply", re: id, data })),
  fan: (_, count) => rounds(count, 1),
  burst: (_, count) => rounds(count, BURST),
  join: (socket) => room.add(socket),
  room: () => room.forEach((socket) => socket.send(ROOM)),
  personal: (_, user) => users.get(user).send(PERSONAL),
};

server.on("connection", (socket, request) => {
  const user = new URL(request.url, "ws://host").searchParams.get("user");
  users.set(user, socket);
  socket.on("error", () => {}); // clients leave without a farewell
  socket.on("close", () => {
    users.delete(user);
    room.delete(socket);
  });
  socket.on("message", (text) => {
    const { type, data, id } = JSON.parse(text);
    commands[type](socket, data, id);
  });
});
