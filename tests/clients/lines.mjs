// How a script talks with the tests: it tells events and obeys commands. Both are JSON lists, one a line.
// Buffers are written as Node writes them, and read.
import { createInterface } from "node:readline"

export const given = JSON.parse(process.argv[2])

export function tell(...event) {
  process.stdout.write(JSON.stringify(event) + "\n")
}

export async function obey(actions) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [action, ...values] = JSON.parse(line, (_, value) => (value?.type === "Buffer" ? Buffer.from(value) : value))
    actions[action](...values)
  }
  process.exit()
}
