// What one user knows of the conversations, and nothing of how that is shown.

const MOST_MESSAGES = 200; // of a conversation, in this tab

class Thread {
  messages = new Map();
  unread = 0;
  draft = "";
  fault = null; // why the server refused what stands in the draft
  topic = "";

  #threads;

  // "#room" or "@user"
  constructor(key, threads) {
    this.key = key;
    this.isRoom = key.startsWith("#");
    this.name = key.slice(1);
    this.title = this.isRoom ? key : this.name;
    this.joined = !this.isRoom || this.name === "general";
    this.#threads = threads;
  }

  get isHere() {
    return this.#threads.here.has(this.name);
  }

  // What a message names to come here.
  get target() {
    return this.isRoom ? { room: this.name } : { to: this.name };
  }

  // A message is one by its id, however often it comes: when it is sent, by itself, in the reply, and
  // again after a break.
  put(message) {
    const known = this.messages.get(message.id);
    const merged = { emotions: {}, ...known, state: undefined, ...message };
    this.messages.set(message.id, merged);
    if (this.messages.size > MOST_MESSAGES) this.messages.delete(this.messages.keys().next().value);
    return merged;
  }

  // What was said while this tab was not there, in the order in which it was said.
  recall(messages) {
    for (const message of messages) this.put({ emotions: {}, ...message });
    this.messages = new Map([...this.messages].sort(([, one], [, other]) => one.at - other.at));
  }

  feel(id, author, emotion) {
    const message = this.messages.get(id);
    if (message && emotion === null) delete message.emotions[author];
    else if (message) message.emotions[author] = emotion;
    return message;
  }
}

export class Threads {
  here = new Map(); // the rooms of each user who is here

  #all = new Map();

  constructor(user) {
    this.user = user;
    this.of("#general");
  }

  [Symbol.iterator]() {
    return this.#all.values();
  }

  of(key) {
    if (!this.#all.has(key)) this.#all.set(key, new Thread(key, this));
    return this.#all.get(key);
  }

  // Where a message belongs: its room, or the one at the other end.
  placeOf({ room, to, author }) {
    return this.of(room ? `#${room}` : `@${author === this.user ? to : author}`);
  }

  get rooms() {
    return [...this].filter((thread) => thread.isRoom);
  }

  // Those who are here, then those with whom there is something to read.
  peopleBeside(current) {
    return [...this]
      .filter((thread) => !thread.isRoom)
      .filter((thread) => thread.isHere || thread.messages.size > 0 || thread === current)
      .sort((one, other) => other.isHere - one.isHere || one.name.localeCompare(other.name));
  }

  membersOf(room) {
    return [...this.here].filter(([, rooms]) => rooms.includes(room)).map(([user]) => user);
  }

  get unread() {
    return [...this].reduce((sum, thread) => sum + thread.unread, 0);
  }

  get unsent() {
    const all = [...this].flatMap((thread) => [...thread.messages.values()].map((message) => [thread, message]));
    return all.filter(([, { state }]) => state === "waiting");
  }

  toJSON() {
    const row = ({ key, joined, draft, messages }) => [key, { joined, draft }, [...messages.values()]];
    return [...this].map(row);
  }

  static restore(user, rows) {
    const threads = new Threads(user);
    for (const [key, state, messages] of rows) {
      const thread = Object.assign(threads.of(key), state);
      for (const message of messages) thread.messages.set(message.id, message);
    }
    return threads;
  }
}
