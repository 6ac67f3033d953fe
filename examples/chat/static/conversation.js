// The middle of the page: one conversation, and the field to write into it.

import { avatar, find, h, icon } from "./dom.js";

const EMOTIONS = {
  joy: "😊",
  love: "❤️",
  laughter: "😂",
  surprise: "😮",
  sadness: "😢",
  anger: "😠",
};
const TOGETHER = 300; // seconds within which messages of one author stand together

export class Conversation {
  #user = "";
  #act;
  #thread = null;
  #shown = new Map(); // by id: the elements of a message that change
  #log = find("#log");
  #list = find("#messages");
  #text = find("#text");
  #below = find("#below");

  // act: send(text), feel(message, emotion), edit(message), draft(text)
  constructor(act) {
    this.#act = act;
    find("#composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.#text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    });
    this.#text.addEventListener("input", () => this.#act.draft(this.#text.value));
    this.#log.addEventListener("scroll", () => this.#isAtEnd() && this.#toEnd());
    this.#below.addEventListener("click", () => this.#toEnd());
  }

  #send() {
    const text = this.#text.value.trim();
    if (text === "") return;
    this.#text.value = "";
    this.#act.draft("");
    this.#act.send(text);
  }

  // --- the whole

  show(thread, user) {
    this.#thread = thread;
    this.#user = user;
    find("#title").textContent = thread.title;
    find("#text-label").textContent = `Message to ${thread.title}`;
    this.#text.placeholder = thread.isRoom ? `Say something in ${thread.title}` : `Write to ${thread.name}`;
    this.#text.value = thread.draft;
    this.showFault();
    this.fill();
  }

  // All messages anew. A reader is not told of each: they are no news.
  fill() {
    this.#log.setAttribute("aria-busy", "true");
    this.#list.replaceChildren();
    this.#shown.clear();
    for (const message of this.#thread.messages.values()) this.#append(message);
    this.#showEmpty();
    this.#toEnd();
    requestAnimationFrame(() => this.#log.removeAttribute("aria-busy"));
  }

  #showEmpty() {
    const [title, hint] = whyEmpty(this.#thread);
    find("#empty").hidden = this.#thread.messages.size > 0;
    find("#empty-title").textContent = title;
    find("#empty-hint").textContent = hint;
  }

  showHeadline(topic, members) {
    const { joined } = this.#thread;
    find("#topic").textContent = topic;
    const faces = members.slice(0, 4).map((name) => avatar(name));
    find("#members").replaceChildren(...faces, h("span", {}, members.length ? `${members.length} here` : ""));
    find("#members").title = members.join(", ");
    find("#leave").hidden = !(this.#thread.isRoom && joined);
    find("#composer").hidden = find("#keys").hidden = !joined;
    find("#join").hidden = joined;
    find("#join").textContent = `Join ${this.#thread.title}`;
    this.#showEmpty();
  }

  // Why the text in the field was not taken.
  showFault() {
    const { fault } = this.#thread;
    const strip = find("#fault");
    this.#text.setAttribute("aria-invalid", String(Boolean(fault)));
    strip.hidden = !fault;
    strip.replaceChildren();
    if (fault) strip.append(h("b", {}, "Not sent."), fault.message, h("code", {}, fault.code));
  }

  showDraft() {
    this.#text.value = this.#thread.draft;
    this.#text.focus();
  }

  focusText() {
    if (!find("#composer").hidden) this.#text.focus();
  }

  // --- one message

  put(message) {
    const atEnd = this.#isAtEnd();
    const shown = this.#shown.get(message.id);
    if (shown) this.#update(shown, message);
    else this.#append(message);
    this.#showEmpty();
    if (atEnd || (!shown && message.author === this.#user)) this.#toEnd();
    else if (!shown) this.#below.hidden = false;
  }

  #isAtEnd() {
    return this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
  }

  #toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#below.hidden = true;
  }

  remove(message) {
    this.#shown.get(message.id)?.item.remove();
    this.#shown.delete(message.id);
    this.#showEmpty();
  }

  #append(message) {
    const { id, author, at, text } = message;
    const chips = h("ul", { class: "chips", "aria-label": "Emotions" });
    const feel = this.#feelButton(message);
    const note = h("p", { class: "note" });
    const by = h("p", { class: "by" }, h("b", {}, author), h("time", {}, clock(at)));
    const line = h("div", { class: "line" }, h("p", { class: "bubble" }, text), chips, feel);
    const item = h("li", { class: "message", "data-author": author, "data-at": at });
    const last = this.#list.lastElementChild;
    item.classList.toggle("own", author === this.#user);
    item.classList.toggle("again", last?.dataset.author === author && at - last.dataset.at < TOGETHER);
    item.append(avatar(author), h("div", { class: "body" }, by, line, note));
    this.#list.append(item);
    this.#shown.set(id, { item, chips, note, feel });
    this.#update(this.#shown.get(id), message);
  }

  #update({ item, chips, note, feel }, message) {
    item.classList.toggle("waiting", message.state === "waiting");
    item.classList.toggle("refused", message.state === "refused");
    feel.hidden = message.state !== undefined;
    chips.replaceChildren(...chipsOf(message.emotions));
    chips.hidden = chips.childElementCount === 0;
    note.replaceChildren(...this.#noteOf(message));
    note.hidden = note.childElementCount === 0;
  }

  #noteOf(message) {
    if (message.state === "waiting") return [icon("wait"), h("span", {}, "Waits to be sent")];
    if (message.kept) return [icon("kept"), h("span", {}, keptNote(message.to, this.#thread.isHere))];
    if (message.state !== "refused") return [];
    const onclick = () => this.#act.edit(message);
    const edit = h("button", { class: "quiet", type: "button", onclick }, "Edit");
    return [h("span", {}, message.fault.message), h("code", {}, message.fault.code), edit];
  }

  // --- emotions

  #feelButton(message) {
    const label = `Show how you feel about what ${message.author} wrote`;
    const button = h("button", { class: "feel", type: "button", "aria-label": label }, icon("feel"));
    button.setAttribute("aria-expanded", "false");
    button.addEventListener("click", () => {
      const isOpen = button.getAttribute("aria-expanded") === "true";
      this.#closeChoice();
      if (!isOpen) this.#openChoice(button, message);
    });
    return button;
  }

  #openChoice(button, message) {
    const own = message.emotions[this.#user];
    const close = () => {
      this.#closeChoice();
      button.focus();
    };
    const choices = Object.entries(EMOTIONS).map(([name, emoji]) => {
      const choose = () => {
        close();
        this.#act.feel(message, name === own ? null : name);
      };
      const pressed = String(name === own);
      const labels = { type: "button", title: name, "aria-label": name, "aria-pressed": pressed };
      return h("button", { ...labels, onclick: choose }, emoji);
    });
    const labels = { class: "choice", role: "group", "aria-label": "How do you feel about it?" };
    const choice = h("div", { ...labels, onkeydown: ({ key }) => key === "Escape" && close() }, ...choices);
    button.setAttribute("aria-expanded", "true");
    button.after(choice);
    choices[0].focus();
  }

  #closeChoice() {
    this.#list.querySelector(".choice")?.remove();
    this.#list.querySelector('.feel[aria-expanded="true"]')?.setAttribute("aria-expanded", "false");
  }
}

function chipsOf(emotions) {
  return Object.entries(EMOTIONS).flatMap(([name, emoji]) => {
    const who = Object.keys(emotions).filter((user) => emotions[user] === name);
    if (who.length === 0) return [];
    const words = `${name}: ${who.join(", ")}`;
    const sign = h("span", { class: "sign", "aria-hidden": "true" }, emoji);
    const count = who.length > 1 && h("span", { "aria-hidden": "true" }, String(who.length));
    return h("li", { title: words }, sign, count, h("span", { class: "unseen" }, words));
  });
}

function keptNote(name, isHere) {
  return isHere ? `Was kept until ${name} came` : `Kept for ${name}, who is offline`;
}

function whyEmpty({ isRoom, joined, name }) {
  if (!joined) return ["You are not in this room.", "What is said here is for those who are."];
  if (isRoom) return ["Nobody has said anything here yet.", "Say hello, then open a second tab and answer."];
  return [`Nothing between you and ${name} yet.`, "What you write to somebody who is away is kept."];
}

function clock(at) {
  return new Date(at * 1000).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
}
