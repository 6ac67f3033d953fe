// socket.io on WebSockets alone, with its own rooms.
import { setImmediate } from "node:timers/promises";
import { createServer } from "node:http";
import { Server } from "socket.io";

const BURST = 10;
const DATA = { room: "general", text: "hello, everyone!", n: 12345, ok: true };
const HOUR = 3_600_000; // longer than any run: no pings

const http = createServer();
const io = new Server(http, {
  transports: ["websocket"],
  perMessageDeflate: false,
  httpCompression: false,
  serveClient: false,
  pingInterval: HOUR,
  pingTimeout: HOUR,
});

async function rounds(count, atOnce) {
  for (let round = 0; round < count; round++) {
    for (let time = 0; time < atOnce; time++) io.emit("chat.message", DATA);
    await setImmediate();
  }
}

io.on("connection", (socket) => {
  socket.join(socket.handshake.query.user);
  socket.on("chat.message", (data) => socket.emit("reply", data));
  socket.on("fan", (count) => rounds(count, 1));
  socket.on("burst", (count) => rounds(count, BURST));
  socket.on("join", () => socket.join("room"));
  socket.on("room", () => io.to("room").emit("room", DATA));
  socket.on("personal", (user) => io.to(user).emit("personal", DATA));
});

http.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: 2048 });
