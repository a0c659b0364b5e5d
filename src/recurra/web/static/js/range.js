// A range of steps, marked with the pointer or the arrow keys over lines of numbers, a line for each unit.

import { make, within } from "./dom.js";

const HEIGHT = 190;
const EDGE = 8;

/**
 * Lines of `variable`, (T, H), with a range over them. `state`: { start, stop }, steps that are drawn, stop
 * the one after the last; `changed(settled)` is called as the range moves, and once more when it has settled;
 * `named()`: the range in words.
 */
export class RangeMarker {
  constructor(variable, state, changed, named) {
    Object.assign(this, { variable, state, changed, named, lit: new Set(), threshold: null });
    [this.steps, this.units] = variable.shape;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.band = make("div.band", {}, make("i"), make("i"));
    this.plane = make(
      "div.plane.marker",
      {
        id: "range",
        tabindex: 0,
        role: "slider",
        "aria-valuemin": 1,
        "aria-valuemax": this.steps,
        style: { height: `${HEIGHT}px` },
        onpointerdown: (event) => this.press(event),
        onpointermove: (event) => this.drag(event),
        onpointerup: () => this.settle(),
        onpointercancel: () => this.settle(),
      },
      this.canvas,
      this.band,
    );
    this.plane.addEventListener("keydown", (event) => {
      if (this.key(event)) {
        event.preventDefault();
        event.stopPropagation();
      }
    });
    this.element = this.plane;
  }

  at(event) {
    const box = this.plane.getBoundingClientRect();
    return within(Math.floor(((event.clientX - box.left) / box.width) * this.steps), 0, this.steps - 1);
  }

  press(event) {
    const { start, stop } = this.state,
      box = this.plane.getBoundingClientRect(),
      x = event.clientX - box.left,
      each = box.width / this.steps;
    // near an edge of the range that edge is dragged, elsewhere a new range begins
    if (Math.abs(x - start * each) < EDGE) this.anchor = stop - 1;
    else if (Math.abs(x - stop * each) < EDGE) this.anchor = start;
    else this.anchor = this.at(event);
    this.plane.setPointerCapture(event.pointerId);
    this.mark(this.anchor, this.at(event));
  }

  drag(event) {
    if (this.anchor !== undefined) this.mark(this.anchor, this.at(event));
  }

  settle() {
    if (this.anchor === undefined) return;
    this.anchor = undefined;
    this.changed(true);
  }

  mark(one, other) {
    this.state.start = Math.min(one, other);
    this.state.stop = Math.max(one, other) + 1;
    this.show();
    this.changed(false);
  }

  key(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1 }[event.key];
    const { start, stop } = this.state,
      size = stop - start;
    if (event.key === "Home") this.mark(0, size - 1);
    else if (event.key === "End") this.mark(this.steps - size, this.steps - 1);
    else if (!by) return false;
    else if (event.shiftKey) this.mark(start, within(stop - 1 + by, start, this.steps - 1));
    else {
      const from = within(start + by, 0, this.steps - size);
      this.mark(from, from + size - 1);
    }
    this.changed(true);
    return true;
  }

  /** The units that stand out, and the threshold that is drawn; null: none. */
  light(units, threshold) {
    Object.assign(this, { lit: new Set(units), threshold });
    this.paint();
  }

  show() {
    const { start, stop } = this.state;
    this.band.style.left = `${(start / this.steps) * 100}%`;
    this.band.style.width = `${((stop - start) / this.steps) * 100}%`;
    this.plane.setAttribute("aria-valuenow", String(start + 1));
    this.plane.setAttribute("aria-valuetext", this.named());
    this.plane.setAttribute("aria-label", this.named());
  }

  paint() {
    const ratio = Math.min(devicePixelRatio || 1, 2),
      wide = this.plane.clientWidth;
    if (!wide) return;
    this.canvas.width = wide * ratio;
    this.canvas.height = HEIGHT * ratio;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    context.lineJoin = "round";
    const { kind, most, values, units_every: every } = this.variable;
    const [low, high] = kind === "gate" ? [0, 1] : [-(most || 1), most || 1];
    const y = (value) => HEIGHT - 8 - ((value - low) / (high - low)) * (HEIGHT - 16);
    const x = (step) => ((step + 0.5) / this.steps) * wide;
    const hue = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`);
    const line = (unit, colour, width, alpha) => {
      context.beginPath();
      for (let t = 0; t < this.steps; t++) context.lineTo(x(t), y(values[t * this.units + unit]));
      Object.assign(context, { strokeStyle: colour, lineWidth: width, globalAlpha: alpha });
      context.stroke();
    };
    const level = (value, colour, dash) => {
      context.setLineDash(dash);
      context.beginPath();
      context.moveTo(0, y(value));
      context.lineTo(wide, y(value));
      Object.assign(context, { strokeStyle: colour, lineWidth: 1, globalAlpha: 1 });
      context.stroke();
      context.setLineDash([]);
    };
    if (kind !== "gate") level(0, hue("edge"), []);
    const faint = within((14 / this.units) * Math.min(1, 300 / this.steps), 0.05, 0.5);
    for (let unit = 0; unit < this.units; unit++)
      if (!this.lit.has(unit * every)) line(unit, hue("quiet"), 1, faint);
    for (let unit = 0; unit < this.units; unit++)
      if (this.lit.has(unit * every)) line(unit, hue("positive"), 2, 0.95);
    if (this.threshold !== null) level(this.threshold, hue("ink"), [4, 4]);
    this.show();
  }
}
