// Beside the heat maps: one unit as a drawing and as equations, with its numbers of the step at the cursor.

import { drawCell } from "./cell.js";
import { make, number } from "./dom.js";
import { Equations } from "./equations.js";
import { say } from "./strings.js";

const TONED = ["input", "forget", "candidate", "output", "cell", "hidden", "reset", "update"];
const PRODUCTS = 3;

/** The name of the colour of a gate or state. */
export const toneOf = (name) => (TONED.includes(name) ? name : "gate");

/**
 * The panel for the `numbers` of one unit out of `units`. `on.unit(number)`: another one is asked for;
 * `on.stages()`: the inside of the step is to be played; `on.products()`: the products of sums are wanted.
 */
export class Beside {
  constructor(panel, numbers, units, on) {
    this.numbers = numbers;
    this.place = make("h3");
    const unit = make("input", {
      type: "number",
      id: "unit",
      min: 0,
      max: units - 1,
      value: numbers.unit,
      "aria-label": say("watch.unit"),
      onchange: () => on.unit(Number(unit.value)),
    });
    const head = make("div.head", {}, this.place, make("label", { for: "unit" }, say("watch.unit")), unit);
    this.equations = numbers.written ? new Equations(numbers.kind) : null;
    panel.replaceChildren(head, ...(this.equations ? this.written(on) : this.unwritten()));
  }

  written(on) {
    this.drawing = drawCell(this.numbers.kind, say("watch.drawing"));
    this.products = make("div");
    const play = make(
      "button.act",
      { type: "button", id: "stages", onclick: on.stages },
      say("watch.stages"),
    );
    const summary = make("summary", {}, say("watch.products"));
    this.details = make(
      "details.products",
      { id: "products", ontoggle: on.products },
      summary,
      this.products,
    );
    const inexact = this.numbers.exact ? null : make("p.note", {}, say("watch.inexact"));
    return [
      this.drawing.svg,
      make("div.transport", {}, play),
      this.equations.element,
      this.details,
      ...(inexact ? [inexact] : []),
    ];
  }

  unwritten() {
    this.plain = make("div");
    return [make("p.note", {}, say("watch.unwritten")), this.plain];
  }

  /** How many stages a step has. */
  get stages() {
    return this.equations?.stages.length ?? 0;
  }

  /** Whether the products are open to the eye. */
  get wantsProducts() {
    return Boolean(this.details?.open);
  }

  /** Show a step; `name`: what it is called, `stage`: the one at work, or null for all. */
  show(step, name, stage) {
    this.place.textContent = name;
    if (this.equations) {
      this.drawing.show(this.numbers, step, stage);
      this.equations.show(this.numbers, step, stage);
      return;
    }
    const { gates, c, h } = this.numbers;
    const values = Object.entries(gates).map(([gate, one]) => [gate, one.value]);
    const rows = [...values, ["cell", c], ["hidden", h]].filter(([, one]) => one);
    this.plain.replaceChildren(
      ...rows.map(([variable, one]) =>
        make(
          "div.equation",
          { style: { "--tone": `var(--${toneOf(variable)})` } },
          make("div.line", {}, say(`variable.${variable}`), make("span.what.mono", {}, number(one[step], 4))),
        ),
      ),
    );
  }

  /** Show the largest products: gate → { x, h } of [index, weight, value]. */
  showProducts(found) {
    const row = (letter, [index, weight, value]) =>
      make(
        "tr",
        {},
        make("td", {}, `${letter}[${index}]`),
        make("td", {}, `${number(weight)} · ${number(value)}`),
        make("td", {}, `= ${number(weight * value)}`),
      );
    this.products.replaceChildren(
      ...Object.entries(found).map(([name, { x, h }]) =>
        make(
          "table",
          { style: { "--tone": `var(--${toneOf(name)})` } },
          make("caption", {}, say(`variable.${name}`)),
          ...x.slice(0, PRODUCTS).map((one) => row("x", one)),
          ...h.slice(0, PRODUCTS).map((one) => row("h′", one)),
        ),
      ),
    );
  }
}
