// Rooms and people: where one can go, who is here, and what was not read yet.

import { avatar, find, h } from "./dom.js";

export class Sidebar {
  #visit;

  constructor(visit) {
    this.#visit = visit;
  }

  show({ rooms, people, current, user }) {
    const focused = document.activeElement?.dataset.thread;
    const entry = (thread) => this.#entry(thread, thread === current, thread.name === user);
    find("#rooms").replaceChildren(...rooms.map(entry));
    find("#people").replaceChildren(...people.map(entry));
    find("#people-count").textContent = `${people.filter((thread) => thread.isHere).length} here`;
    if (focused) find(`[data-thread="${CSS.escape(focused)}"]`)?.focus();
  }

  showUser(user) {
    find("#me").replaceChildren(avatar(user), h("b", {}, user));
  }

  #entry(thread, isCurrent, isSelf) {
    const button = h("button", { type: "button", "data-thread": thread.key });
    button.setAttribute("aria-current", String(isCurrent));
    button.append(
      thread.isRoom ? h("span", { class: "hash", "aria-hidden": "true" }, "#") : face(thread),
      h("span", { class: "name" }, thread.name),
      h("span", { class: "aside" }, thread.isRoom ? whetherJoined(thread) : whetherHere(thread, isSelf)),
    );
    if (thread.unread > 0) button.append(unread(thread.unread));
    button.addEventListener("click", () => this.#visit(thread));
    return h("li", {}, button);
  }
}

function whetherJoined({ joined }) {
  return joined ? "" : "not joined";
}

function whetherHere({ isHere }, isSelf) {
  if (isSelf) return "you";
  return isHere ? "" : "away";
}

function face({ name, isHere }) {
  const element = avatar(name);
  element.classList.toggle("away", !isHere);
  return element;
}

function unread(count) {
  return h("span", { class: "unread" }, String(count), h("span", { class: "unseen" }, " unread"));
}
