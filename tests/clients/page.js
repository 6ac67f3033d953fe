// One socket of the browser's own, with the commands and events of the scripts on Node.
([url, subprotocols, timeout]) => {
  const socket = new WebSocket(url, subprotocols)
  const events = []
  let wake = () => {}
  const tell = (...event) => {
    events.push(event)
    wake()
  }
  socket.binaryType = "arraybuffer"
  socket.onopen = () => tell("open", socket.protocol)
  socket.onmessage = ({ data }) => tell("message", typeof data === "string" ? data : [...new Uint8Array(data)])
  socket.onclose = ({ code, reason }) => tell("closed", code, reason)
  return {
    send: (data) => socket.send(typeof data === "string" ? data : Uint8Array.from(data)),
    close: (code, reason) => socket.close(code, reason),
    async next() {
      if (!events.length)
        await new Promise((resolve, reject) => {
          wake = resolve
          setTimeout(reject, timeout, new Error("nothing happens"))
        })
      return events.shift()
    },
  }
}
