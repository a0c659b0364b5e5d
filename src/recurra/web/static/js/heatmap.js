// One heat map, time × units, on a canvas. The cursor lies above it as elements that only move, so that
// stepping paints no pixel of the map again.

import { index, table, gradient } from "./colours.js";
import { make, number, within } from "./dom.js";

/** The most pixels that a map is high, and the fewest. */
const HIGHEST = 124;
const LOWEST = 80;

/**
 * A map of `values` (T, H), row after row. `kind`: gate (0…1) or signed; `tone`: its colour's name.
 * `on.hover(step, unit | null, event)`, `on.pick(step, unit)` tell where the pointer is.
 */
export class HeatMap {
  constructor({ name, label, kind, tone, most, shape, values, units_every = 1 }, on) {
    Object.assign(this, { name, kind, tone, most, values, every: units_every });
    [this.steps, this.units] = shape;
    this.canvas = make("canvas", { "aria-hidden": "true" });
    this.veil = make("div.veil");
    this.across = make("div.cross.across");
    this.upright = make("div.cross.upright");
    this.ghost = make("div.cross.upright.ghost", { hidden: true });
    this.here = make("div.cross.here");
    this.plane = make(
      "div.plane",
      {},
      this.canvas,
      this.veil,
      this.across,
      this.upright,
      this.ghost,
      this.here,
    );
    this.plane.style.height = `${within(this.units * 8, LOWEST, HIGHEST)}px`;
    this.value = make("span.value");
    const low = kind === "gate" ? "0" : number(-most, 1);
    const high = kind === "gate" ? "1" : number(most, 1);
    this.scale = make("span.scale");
    this.element = make(
      "div.map",
      { style: { "--tone": `var(--${tone})` }, "data-name": name },
      make(
        "div.name",
        {},
        make("b", {}, label),
        this.value,
        make(
          "span.key",
          {},
          this.scale,
          make("span.ends", {}, make("span", {}, low), make("span", {}, high)),
        ),
      ),
      this.plane,
    );
    follow(this.plane, (event) => this.at(event), on);
  }

  /** [step, unit] under a pointer. */
  at(event) {
    const box = this.plane.getBoundingClientRect();
    const step = Math.floor(((event.clientX - box.left) / box.width) * this.steps);
    const unit = Math.floor(((event.clientY - box.top) / box.height) * this.units);
    return [within(step, 0, this.steps - 1), within(unit, 0, this.units - 1)];
  }

  /** Paint it, after a change of size or colours. */
  paint() {
    const { steps, units, values, kind, most } = this;
    const words = table(kind, this.tone);
    const image = new ImageData(steps, units);
    const pixels = new Uint32Array(image.data.buffer);
    for (let t = 0; t < steps; t++) {
      for (let u = 0; u < units; u++) pixels[u * steps + t] = words[index(values[t * units + u], kind, most)];
    }
    const small = new OffscreenCanvas(steps, units);
    small.getContext("2d").putImageData(image, 0, 0);
    this.measure();
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    const context = this.canvas.getContext("2d");
    context.imageSmoothingEnabled = steps > this.canvas.width || units > this.canvas.height;
    context.imageSmoothingQuality = "high";
    context.drawImage(small, 0, 0, this.canvas.width, this.canvas.height);
    this.scale.style.background = gradient(kind, this.tone);
  }

  measure() {
    this.width = this.plane.clientWidth;
    this.height = this.plane.clientHeight;
  }

  /** Move the cursor; `unit` counts the rows that are drawn. */
  point(step, unit, veiled) {
    const x = ((step + 0.5) / this.steps) * this.width;
    const y = ((unit + 0.5) / this.units) * this.height;
    this.upright.style.transform = `translateX(${x}px)`;
    this.across.style.transform = `translateY(${y}px)`;
    this.here.style.transform = `translate(${x}px, ${y}px)`;
    this.across.hidden = this.here.hidden = unit >= this.units;
    this.veil.style.transform = `scaleX(${veiled ? 1 - (step + 1) / this.steps : 0})`;
    this.value.textContent = unit < this.units ? number(this.values[step * this.units + unit]) : "–";
  }

  /** The second, dashed cursor, where the pointer hovers over any of the maps; null takes it away. */
  haunt(step) {
    this.ghost.hidden = step === null;
    if (step !== null)
      this.ghost.style.transform = `translateX(${((step + 0.5) / this.steps) * this.width}px)`;
  }
}

/** Tell `on` of a pointer that hovers over, presses on and is dragged across `plane`. */
export function follow(plane, at, on) {
  let pressed = false;
  plane.addEventListener("pointerdown", (event) => {
    pressed = true;
    plane.setPointerCapture(event.pointerId);
    on.pick(...at(event));
  });
  plane.addEventListener("pointermove", (event) => {
    if (pressed) on.pick(...at(event));
    if (event.pointerType === "mouse") on.hover(at(event), event);
  });
  for (const end of ["pointerup", "pointercancel"])
    plane.addEventListener(end, () => {
      pressed = false;
    });
  plane.addEventListener("pointerleave", () => on.hover(null));
}
