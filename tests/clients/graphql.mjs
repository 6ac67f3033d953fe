// One client of the protocol graphql-transport-ws.
import { createClient } from "graphql-ws"
import WebSocket from "ws"

import { given, obey, tell } from "./lines.mjs"

const [url, connectionParams] = given
const client = createClient({
  url,
  connectionParams,
  webSocketImpl: WebSocket,
  lazy: false,
  retryWait: () => new Promise((resolve) => setTimeout(resolve, 20)),
  retryAttempts: Infinity,
  onNonLazyError: () => {},
  on: {
    connected: () => tell("connected"),
    closed: ({ code, reason }) => tell("closed", code, reason),
    error: ({ message }) => tell("refused", message),
  },
})
const ends = {}

await obey({
  subscribe(id, query, variables) {
    ends[id] = client.subscribe(
      { query, variables },
      {
        next: ({ data, errors }) => tell("next", id, data, errors?.[0].message),
        error: (errors) => tell("error", id, errors[0]?.message),
        complete: () => tell("complete", id),
      },
    )
  },
  complete: (id) => ends[id](),
  leave: () => client.dispose(),
})
