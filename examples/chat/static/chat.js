// The chat: what happens when somebody speaks, comes or goes, and when the connection breaks.

import { Conversation } from "./conversation.js";
import { find } from "./dom.js";
import { Link } from "./link.js";
import { Panel } from "./panel.js";
import { Sidebar } from "./sidebar.js";
import { Threads } from "./threads.js";

const ASK_EVERY = 5000;
const STORE = "wsmanager.chat";

const link = new Link(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
const panel = new Panel();
const sidebar = new Sidebar(visit);
const conversation = new Conversation({ send, feel, edit, draft });

let token = "";
let threads = new Threads("");
let current = threads.of("#general");

// --- going about

function visit(thread) {
  if (!thread.joined) join(thread);
  open(thread);
}

function open(thread) {
  current = thread;
  thread.unread = 0;
  conversation.show(thread, threads.user);
  paint();
  view("talk");
}

function paint() {
  const { rooms, user, unread } = threads;
  sidebar.show({ rooms, people: threads.peopleBeside(current), current, user });
  conversation.showHeadline(topicOf(current), current.isRoom ? threads.membersOf(current.name) : []);
  document.title = `${unread ? `(${unread}) ` : ""}${current.title} | wsmanager chat`;
}

function topicOf({ isRoom, topic, name, isHere }) {
  if (isRoom) return topic;
  if (name === threads.user) return "Notes to yourself, in all your tabs";
  return isHere ? "Here now" : "Not here: what you write is kept";
}

async function join(thread) {
  thread.joined = true;
  try {
    thread.recall(await link.request("chat.join", { room: thread.name }, { first: true }));
    if (thread === current) conversation.fill();
  } catch (fault) {
    if (fault.code === "offline") return; // it is joined with the others once there is a connection
    thread.joined = false;
    setFault(thread, fault);
  }
  paint();
}

async function leave(thread) {
  thread.joined = false;
  paint();
  find("#join").focus();
  await link.request("chat.leave", { room: thread.name }).catch(() => {}); // nobody is in a room offline
}

// --- speaking

function draft(text) {
  current.draft = text;
  if (current.fault) setFault(current, null);
}

function send(text) {
  const { user } = threads;
  const key = randomKey();
  const id = `${key}@${user}`; // as the server will call it
  const message = { id, key, author: user, text, at: Date.now() / 1000, state: "waiting", ...current.target };
  put(current, message);
  post(current, message);
}

async function post(thread, message) {
  const { id, key, text } = message;
  const type = thread.isRoom ? "chat.say" : "chat.tell";
  try {
    const receipt = await link.request(type, { ...thread.target, text, key }, { keep: true });
    put(thread, { id, kept: receipt.kept > 0 });
  } catch (fault) {
    takeBack(thread, message, fault);
  }
  askSoon();
}

// What the server refused goes back to where it can be mended, unless something else is written there.
function takeBack(thread, message, fault) {
  if (thread.draft.trim() !== "") return put(thread, { ...message, state: "refused", fault });
  remove(thread, message);
  thread.draft = message.text;
  setFault(thread, fault);
  if (thread === current) conversation.showDraft();
}

function edit(message) {
  remove(current, message);
  current.draft = `${message.text}\n${current.draft}`.trim();
  setFault(current, message.fault);
  conversation.showDraft();
}

async function feel({ id }, emotion) {
  const thread = current;
  await link.request("chat.feel", { id, emotion, ...thread.target }).catch((fault) => setFault(thread, fault));
  askSoon();
}

function setFault(thread, fault) {
  thread.fault = fault;
  if (thread === current) conversation.showFault();
}

function put(thread, message) {
  const merged = thread.put(message);
  if (thread === current) conversation.put(merged);
}

function remove(thread, message) {
  thread.messages.delete(message.id);
  if (thread === current) conversation.remove(message);
}

// Not crypto.randomUUID: a page that came over plain HTTP from another machine does not have it.
function randomKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// --- hearing

const answers = {
  "chat.message": heard,
  "chat.felt": felt,
  "chat.rooms": roomsAre,
  "chat.here": hereAre,
};

function heard(message) {
  const thread = threads.placeOf(message);
  const isNew = !thread.messages.has(message.id);
  put(thread, message);
  if (!isNew) return;
  if (message.author !== threads.user && (thread !== current || document.hidden)) {
    const where = thread.isRoom ? `in ${thread.title}` : "to you";
    find("#elsewhere").textContent = `${message.author} wrote ${where}`;
    thread.unread += 1;
  }
  paint();
}

function felt({ id, author, emotion, ...place }) {
  const thread = threads.placeOf({ author, ...place });
  const message = thread.feel(id, author, emotion);
  if (message && thread === current) conversation.put(message);
}

function roomsAre(topics) {
  for (const [name, topic] of Object.entries(topics)) threads.of(`#${name}`).topic = topic;
  paint();
}

function hereAre(people) {
  threads.here = new Map(people.map(({ user, rooms }) => [user, rooms]));
  for (const { user } of people) threads.of(`@${user}`);
  for (const message of current.messages.values()) if (message.kept) conversation.put(message);
  paint();
}

// --- the connection

link.addEventListener("message", ({ detail }) => answers[detail.type]?.(detail.data));
link.addEventListener("latency", ({ detail }) => panel.showLatency(detail));
link.addEventListener("refused", ({ detail: { error, text } }) => panel.showRefusal(error, text));

link.addEventListener("state", ({ detail }) => {
  showState(detail);
  if (detail.state === "open") rejoin(detail.connection_id);
  else if (detail.state === "closed" && detail.code === 4500) logInAgain();
});

function rejoin(connectionId) {
  panel.showConnection(connectionId, link.reconnects);
  for (const thread of threads.rooms) if (thread.joined) join(thread);
  ask();
}

const WORDS = { connecting: "Connecting", open: "Connected", waiting: "No connection", closed: "Disconnected" };

function showState({ state, again, code, reason, wait }) {
  find("#app").dataset.link = state;
  find("#link-text").textContent = WORDS[state];
  find("#cut").hidden = !(again || code);
  find("#hurry").hidden = state === "connecting";
  if (code) find("#cut-text").textContent = whatBroke(state, reason || code);
  countDown(find("#cut-wait"), state === "waiting" ? Date.now() + wait : 0);
}

function whatBroke(state, reason) {
  if (state === "closed") return `The server closed the connection for good: ${reason}.`;
  return "The connection broke. What you write is kept here and goes out later.";
}

link.addEventListener("hold", () => {
  const isHeld = link.heldUntil > 0;
  if (isHeld) panel.showLimit(0);
  find("#hold").hidden = !isHeld;
  find("#hold-text").textContent = isHeld ? "Too many messages. What you write goes out by itself." : "";
  countDown(find("#hold-wait"), link.heldUntil);
  askSoon();
});

const countdowns = new Map();

// The seconds are not read aloud: who listens heard once what is going on.
function countDown(element, until) {
  const show = () => (element.textContent = `${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`);
  clearInterval(countdowns.get(element));
  element.textContent = "";
  if (!until) return;
  show();
  countdowns.set(element, setInterval(show, 250));
}

let asking = 0;

async function ask() {
  askSoon(ASK_EVERY);
  if (link.state !== "open" || link.heldUntil || document.hidden) return;
  const vitals = await link.request("me").catch(() => null);
  if (vitals) panel.show(vitals);
}

function askSoon(wait = 400) {
  clearTimeout(asking);
  asking = setTimeout(ask, wait);
}

// --- in and out

function enter(answer) {
  if (answer.user !== threads.user) startAnew(answer.user);
  token = answer.token;
  sidebar.showUser(answer.user);
  find("#login").hidden = true;
  find("#app").hidden = false;
  open(current);
  link.open(token);
}

function startAnew(user) {
  link.close();
  token = "";
  threads = new Threads(user);
  current = threads.of("#general");
  panel.forget();
}

function showLogin(why = "") {
  find("#app").hidden = true;
  find("#login").hidden = false;
  find("#login-why").hidden = why === "";
  find("#login-why").textContent = why;
  find("#name").value = threads.user;
  find("#name").focus();
  document.title = "wsmanager chat";
}

function logInAgain() {
  showLogin(
    "You were logged out: the server does not know your token any more. It was started anew, or the " +
      "token has expired. What you wrote is still in this tab.",
  );
}

function logOut() {
  startAnew("");
  sessionStorage.removeItem(STORE);
  showLogin();
}

async function logIn(user) {
  const headers = { "Content-Type": "application/json" };
  try {
    const response = await fetch("login", { method: "POST", headers, body: JSON.stringify({ user }) });
    const answer = await response.json();
    return response.ok ? answer : { fault: answer.error.message };
  } catch {
    return { fault: "The server does not answer." };
  }
}

find("#login-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const answer = await logIn(find("#name").value);
  find("#login-fault").textContent = answer.fault ?? "";
  find("#name").setAttribute("aria-invalid", String(Boolean(answer.fault)));
  if (answer.fault) find("#name").focus();
  else enter(answer);
});

// A tab is one visitor: two tabs can be two users, and a reload is nobody new.

addEventListener("pagehide", () => {
  if (!token) return;
  const state = { user: threads.user, token, current: current.key, threads };
  sessionStorage.setItem(STORE, JSON.stringify(state));
});

function restore(stored) {
  threads = Threads.restore(stored.user, stored.threads);
  current = threads.of(stored.current);
  enter(stored);
  for (const [thread, message] of threads.unsent) post(thread, message);
}

// --- buttons

function view(name) {
  find("#app").dataset.view = name;
  const isNarrow = matchMedia("(max-width: 45rem)").matches;
  if (name === "panel") find("#panel-title").focus();
  else if (name === "list") find("#list button").focus();
  else if (isNarrow) find("#title").focus(); // the field would bring up the keyboard
  else conversation.focusText();
}

const onClick = (selector, act) => find(selector).addEventListener("click", act);

onClick("#back", () => view("list"));
onClick("#to-panel", () => view("panel"));
onClick("#panel-back", () => view("talk"));
onClick("#leave", () => leave(current));
onClick("#join", () => visit(current));
onClick("#logout", logOut);
onClick("#hurry", () => link.hurry());
onClick("#drop", () => link.request("me.drop").catch(() => {}));
onClick("#try", () => {
  current.draft = "<script>alert(1)</script>";
  view("talk");
  conversation.showDraft();
});

find("#write").addEventListener("submit", (event) => {
  event.preventDefault();
  const name = find("#to").value.trim();
  find("#write-fault").textContent = name ? "" : "Write a name first.";
  if (!name) return find("#to").focus();
  find("#to").value = "";
  open(threads.of(`@${name}`));
});

function hurry() {
  if (link.state === "waiting") link.hurry();
}

addEventListener("online", hurry);

document.addEventListener("visibilitychange", () => {
  if (document.hidden || !token) return;
  current.unread = 0;
  hurry();
  paint();
  askSoon();
});

const stored = JSON.parse(sessionStorage.getItem(STORE) ?? "null");
if (stored) restore(stored);
else showLogin();
