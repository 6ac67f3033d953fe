// One client of socket.io.
import { io } from "socket.io-client"

import { given, obey, tell } from "./lines.mjs"

const [url, auth] = given
const socket = io(url, { auth, transports: ["websocket"], reconnectionDelay: 20, reconnectionDelayMax: 50 })

socket.on("connect", () => tell("connected"))
socket.on("connect_error", (error) => tell("refused", error.description?.message ?? error.message))
socket.on("disconnect", () => tell("left"))
socket.on("news", (data) => tell("news", data))
socket.on("question", (data, answer) => answer(["re", data]))

await obey({
  call: async (name, data) => tell("answer", await socket.emitWithAck(name, data)),
  emit: (name, data) => socket.emit(name, data),
  leave: () => socket.disconnect(),
})
