// A sequence to touch: bars that are dragged up and down, and a mark that is moved from step to step.

import { draw, make, number, room, within } from "./dom.js";
import { say } from "./strings.js";

const HEIGHT = 150,
  MARKS = 26,
  TOP = 8;
const MIDDLE = TOP + (HEIGHT - MARKS - TOP) / 2;
const REACH = (HEIGHT - MARKS - TOP) / 2 - 4;

/** `state`: { values, mark, step }; `changed()` is called after each touch; `cursor`: it has `state.step`. */
export class Sequence {
  constructor(state, changed, { cursor = false } = {}) {
    Object.assign(this, { state, changed, cursor, width: room() });
    this.svg = draw("svg.sequence", {
      viewBox: `0 0 ${this.width} ${HEIGHT}`,
      role: "group",
      "aria-label": say("learn.sequence"),
    });
    this.wide = this.width / state.values.length;
    this.svg.append(draw("path", { d: `M0 ${MIDDLE}H${this.width}`, stroke: "var(--edge)" }));
    this.now = draw("rect", {
      y: 0,
      width: this.wide,
      height: HEIGHT,
      rx: 6,
      fill: "var(--model)",
      opacity: cursor ? 0.12 : 0,
    });
    this.svg.append(this.now);
    this.bars = state.values.map((_, step) => this.addStep(step));
    this.svg.addEventListener("pointerdown", (event) => this.press(event));
    this.svg.addEventListener("pointermove", (event) => this.drag(event));
    for (const end of ["pointerup", "pointercancel"])
      this.svg.addEventListener(end, () => {
        this.held = null;
      });
    this.element = make("div.touch", {}, this.svg);
    this.show();
  }

  addStep(step) {
    const x = step * this.wide;
    const bar = draw("rect.bar", { x: x + this.wide * 0.2, width: this.wide * 0.6, rx: 4 });
    const knob = draw("circle.knob", {
      cx: x + this.wide / 2,
      r: Math.min(6, this.wide * 0.36),
      tabindex: 0,
      role: "slider",
      "aria-valuemin": -1,
      "aria-valuemax": 1,
      "aria-label": say("learn.number", { step: step + 1 }),
      onkeydown: (event) => this.key(event, step),
    });
    const mark = draw("circle.mark", {
      cx: x + this.wide / 2,
      cy: HEIGHT - MARKS / 2,
      r: Math.min(7, this.wide * 0.42),
    });
    const dot = draw("circle.dot", { cx: x + this.wide / 2, cy: HEIGHT - MARKS / 2, r: 3 });
    this.svg.append(bar, knob, dot, mark);
    return { bar, knob, mark, dot };
  }

  key(event, step) {
    const by = { ArrowUp: 0.1, ArrowDown: -0.1 }[event.key];
    if (by) this.state.values[step] = within(this.state.values[step] + by, -1, 1);
    else if (event.key === "m" || event.key === "Enter") this.state.mark = step;
    else return;
    event.preventDefault();
    event.stopPropagation();
    this.show();
    this.changed();
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * this.width,
      y = ((event.clientY - box.top) / box.height) * HEIGHT;
    return [within(Math.floor(x / this.wide), 0, this.bars.length - 1), y];
  }

  press(event) {
    const [step, y] = this.place(event);
    this.svg.setPointerCapture(event.pointerId);
    this.held = y > HEIGHT - MARKS ? "mark" : "bar";
    this.at = step;
    this.drag(event);
  }

  drag(event) {
    if (!this.held) return;
    const [step, y] = this.place(event);
    if (this.held === "mark") this.state.mark = step;
    else this.state.values[this.at] = Math.round(within((MIDDLE - y) / REACH, -1, 1) * 100) / 100;
    if (this.cursor) this.state.step = this.held === "mark" ? step : this.at;
    this.show();
    this.changed();
  }

  show() {
    const { values, mark, step } = this.state;
    this.now.setAttribute("x", step * this.wide);
    this.bars.forEach(({ bar, knob, mark: ring }, place) => {
      const size = values[place] * REACH;
      bar.setAttribute("y", size > 0 ? MIDDLE - size : MIDDLE);
      bar.setAttribute("height", Math.max(1, Math.abs(size)));
      knob.setAttribute("cy", MIDDLE - size);
      knob.setAttribute("aria-valuenow", values[place].toFixed(2));
      for (const part of [bar, knob]) part.classList.toggle("marked", place === mark);
      ring.style.display = place === mark ? "" : "none";
    });
  }
}

/** Cells in a row below a sequence, one for each step: numbers as colours. */
export function cells(rows, paint, label = "", press = null) {
  const steps = rows[0].length,
    width = room(),
    wide = width / steps,
    high = rows.length === 1 ? 30 : 17;
  const svg = draw("svg.cells", {
    viewBox: `0 0 ${width} ${rows.length * high}`,
    role: "img",
    "aria-label": label,
  });
  rows.forEach((row, place) =>
    row.forEach((value, step) => {
      const cell = draw("rect", {
        x: step * wide + 0.5,
        y: place * high + 0.5,
        width: wide - 1,
        height: high - 1,
        rx: 3,
        fill: paint(value),
      });
      cell.append(draw("title", {}, number(value)));
      if (press) cell.addEventListener("click", () => press(step, place));
      svg.append(cell);
    }),
  );
  return svg;
}
