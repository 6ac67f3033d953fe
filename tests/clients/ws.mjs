// One socket of the package `ws`.
import WebSocket from "ws"

import { given, obey, tell } from "./lines.mjs"

const [url, headers, subprotocols] = given
const socket = new WebSocket(url, subprotocols, { headers })

socket.on("open", () => tell("open", socket.protocol))
socket.on("message", (data, isBinary) => tell("message", isBinary ? data : data.toString()))
socket.on("pong", () => tell("pong"))
socket.on("close", (code, reason) => tell("closed", code, reason.toString()))
socket.on("error", (error) => console.error(error.message))
socket.on("unexpected-response", async (_, response) => {
  const body = await new Response(response).text()
  tell("refused", response.statusCode, body)
})

await obey({
  send: (data) => socket.send(data),
  ping: () => socket.ping(),
  close: (code, reason) => socket.close(code, reason),
})
