// The only way in which this page makes elements. Texts become text nodes, so that whatever somebody
// wrote is shown and never run.

export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "class") element.className = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

// One of the symbols of index.html. The text beside it, or the label of its button, says what it means.
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

export const find = (selector) => document.querySelector(selector);

// An initial on a colour of one's own: the same name has the same colour in every tab.
export function avatar(name) {
  const initial = [...name][0].toUpperCase();
  const element = h("span", { class: "avatar", "aria-hidden": "true" }, initial);
  element.style.setProperty("--hue", hue(name));
  return element;
}

// FNV-1a, in steps that an eye can tell apart.
function hue(name) {
  let hash = 0x811c9dc5;
  for (const character of name) hash = Math.imul(hash ^ character.codePointAt(0), 0x01000193) >>> 0;
  return ((hash >>> 8) % 24) * 15;
}
