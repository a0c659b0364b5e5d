// What went in, above the heat maps and aligned with them: lines of numbers, or words to read.

import { draw, make, number, within } from "./dom.js";
import { follow } from "./heatmap.js";

/** The colours of lines, one after the other. */
export const TONES = ["model", "output", "candidate", "input", "forget", "hidden"];
const HEIGHT = 74;

/** Lines of numbers over `steps` steps; `lines`: name → values, stretched over all of them. */
export class Strip {
  constructor(lines, steps, label, on) {
    this.lines = Object.entries(lines);
    this.steps = steps;
    this.units = 0;
    this.svg = draw("svg.strip", {
      viewBox: `0 0 1000 ${HEIGHT}`,
      preserveAspectRatio: "none",
      "aria-hidden": "true",
    });
    this.upright = make("div.cross.upright");
    this.ghost = make("div.cross.upright.ghost", { hidden: true });
    this.veil = make("div.veil");
    this.plane = make(
      "div.plane",
      { style: { height: `${HEIGHT}px` } },
      this.svg,
      this.veil,
      this.upright,
      this.ghost,
    );
    this.value = make("span.value");
    this.element = make(
      "div.map",
      { style: { "--tone": "var(--ink)" }, "data-name": "x" },
      make("div.name", {}, make("b", {}, label), this.value),
      this.plane,
    );
    follow(this.plane, (event) => [this.at(event), null], on);
  }

  at(event) {
    const box = this.plane.getBoundingClientRect();
    return within(Math.floor(((event.clientX - box.left) / box.width) * this.steps), 0, this.steps - 1);
  }

  paint() {
    this.width = this.plane.clientWidth;
    const all = this.lines.flatMap(([, values]) => values.filter((value) => value !== null));
    const low = Math.min(...all),
      high = Math.max(...all),
      room = high - low || 1;
    const y = (value) => HEIGHT - 8 - ((value - low) / room) * (HEIGHT - 16);
    this.svg.replaceChildren();
    if (low < 0 && high > 0)
      this.svg.append(
        draw("path", { d: `M0 ${y(0)}H1000`, stroke: "var(--edge)", "vector-effect": "non-scaling-stroke" }),
      );
    this.lines.forEach(([, values], place) => {
      let path = "",
        pen = "M";
      values.forEach((value, t) => {
        if (value === null) pen = "M";
        else {
          path += `${pen}${(((t + 0.5) / values.length) * 1000).toFixed(2)} ${y(value).toFixed(2)}`;
          pen = "L";
        }
      });
      this.svg.append(
        draw("path", {
          d: path,
          fill: "none",
          stroke: `var(--${TONES[place % TONES.length]})`,
          "stroke-width": 1.8,
          "stroke-linejoin": "round",
          "vector-effect": "non-scaling-stroke",
        }),
      );
    });
  }

  point(step, _, veiled) {
    this.upright.style.transform = `translateX(${((step + 0.5) / this.steps) * this.width}px)`;
    this.veil.style.transform = `scaleX(${veiled ? 1 - (step + 1) / this.steps : 0})`;
    const told = this.lines.slice(0, 2).map(([, values]) => {
      const at = Math.floor(((step + 1) / this.steps) * values.length) - 1;
      return number(values[within(at, 0, values.length - 1)]);
    });
    this.value.textContent = told.join(" · ") + (this.lines.length > 2 ? " …" : "");
  }

  haunt(step) {
    this.ghost.hidden = step === null;
    if (step !== null)
      this.ghost.style.transform = `translateX(${((step + 0.5) / this.steps) * this.width}px)`;
  }
}

/** The words of a sample, as text; the present one stands out, and each can be pressed. */
export class Ribbon {
  constructor(words, pick) {
    const gap = words.every((word) => word.length === 1) ? "" : " ";
    this.spans = words.map((word, step) =>
      make("span", { onclick: () => pick(step) }, word === " " ? "␣" : word),
    );
    this.element = make("div.ribbon", { "data-name": "words" });
    for (const span of this.spans) this.element.append(span, gap || make("wbr"));
    this.last = 0;
  }

  point(step, veiled) {
    this.spans.forEach((span, at) => {
      span.className = at === step ? "now" : veiled && at > step ? "later" : "";
    });
    this.reveal(step);
  }

  /** Scroll so that a word is in view. */
  reveal(step) {
    const span = this.spans[step],
      top = span.offsetTop - this.element.offsetTop;
    if (
      top < this.element.scrollTop ||
      top + span.offsetHeight > this.element.scrollTop + this.element.clientHeight
    ) {
      this.element.scrollTop = top - 20;
    }
  }
}
