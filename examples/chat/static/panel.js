// The instrument: how one's own connection does, as the server and this page see it.

import { find, h } from "./dom.js";

const SAMPLES = 40;
const FLOOR = 10; // milliseconds at the top of the curve of a fast connection
const LIST = 6;

export class Panel {
  #latencies = [];

  constructor() {
    const ticks = [0, 0.4, 0.7, 1].map((score) => tick(score));
    find("#gauge-ticks").append(...ticks);
  }

  // What the server answered to "me".
  show({ score, status, latency_ms, remaining, limit, window, tabs }) {
    find("#score").textContent = score.toFixed(2);
    find("#status").textContent = status;
    find("#gauge").dataset.status = status;
    const words = `Health: ${score.toFixed(2)} of 1, ${status} at the last check`;
    find("#gauge").setAttribute("aria-label", words);
    find("#gauge-value").style.strokeDasharray = `${score * 100} 101`;
    if (latency_ms !== null) find("#server-latency").textContent = `The server measures ${round(latency_ms)} ms.`;
    find("#window").textContent = round(window);
    find("#tabs").textContent = tabs;
    this.showLimit(remaining, limit);
  }

  showLimit(remaining, limit = Number(find("#limit").textContent)) {
    find("#remaining").textContent = remaining;
    find("#limit").textContent = limit;
    const meter = find("#meter");
    meter.setAttribute("aria-valuemax", limit);
    meter.setAttribute("aria-valuenow", remaining);
    meter.classList.toggle("low", remaining < limit / 4);
    meter.firstElementChild.style.inlineSize = `${(remaining / limit) * 100}%`;
  }

  showLatency(milliseconds) {
    this.#latencies = [...this.#latencies, milliseconds].slice(-SAMPLES);
    const most = Math.max(FLOOR, ...this.#latencies);
    const points = this.#latencies.map((value, i) => {
      const x = 240 - (this.#latencies.length - 1 - i) * (240 / (SAMPLES - 1));
      return `${x.toFixed(1)},${(37 - (value / most) * 33).toFixed(1)}`;
    });
    find("#latency").textContent = round(milliseconds);
    const [first] = points[0].split(",");
    find("#spark polyline").setAttribute("points", points.join(" "));
    find("#spark polygon").setAttribute("points", `${first},40 ${points.join(" ")} 240,40`);
    const longest = round(Math.max(...this.#latencies));
    find("#spark").setAttribute("aria-label", `The last ${points.length} answers took up to ${longest} ms`);
  }

  showRefusal({ code, message }, text) {
    const item = h("li", {}, h("code", {}, code), h("span", {}, text ?? message));
    find("#refused").prepend(item);
    find("#refused").children[LIST]?.remove();
    find("#refused-none").hidden = true;
  }

  showConnection(id, reconnects) {
    find("#connection").textContent = id;
    find("#reconnects").textContent = reconnects;
  }

  forget() {
    this.#latencies = [];
    find("#refused").replaceChildren();
    find("#refused-none").hidden = false;
  }
}

// Where one status becomes another: the arc begins at 225 degrees and spans 270.
function tick(score) {
  const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
  const angle = ((225 - 270 * score) * Math.PI) / 180;
  const at = (radius) => [60 + radius * Math.cos(angle), 58 - radius * Math.sin(angle)];
  const [[x1, y1], [x2, y2]] = [at(42), at(38)];
  for (const [name, value] of Object.entries({ x1, y1, x2, y2 })) line.setAttribute(name, value.toFixed(1));
  return line;
}

function round(number) {
  return number < 10 ? number.toFixed(1) : Math.round(number);
}
