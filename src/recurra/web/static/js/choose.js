// What is looked at, in whichever tab: a sample of the data or a typed one, and a layer of the network.

import { make, within } from "./dom.js";
import { say } from "./strings.js";

// What was chosen last, so that it is there again in another tab or language.
/** `step` and `unit` null: the one in the middle, the liveliest. `to`: a step of the sample to go to. */
export const kept = {
  sample: { index: 0 },
  place: 0,
  layer: 0,
  direction: 0,
  step: null,
  to: null,
  unit: null,
  speed: 1,
  typing: false,
};

/** The same as the server wants it. */
export const asks = (model) => ({
  sample: kept.sample,
  module: model.layers[kept.place].path,
  layer: kept.layer,
  direction: kept.direction,
});

/** The unit whose numbers vary most over time. */
export function liveliest({ shape: [steps, units], units_every, values }) {
  const spread = Array.from({ length: units }, (_, u) => {
    let sum = 0,
      squares = 0;
    for (let t = 0; t < steps; t++) {
      const value = values[t * units + u];
      sum += value;
      squares += value * value;
    }
    return squares / steps - (sum / steps) ** 2;
  });
  return spread.indexOf(Math.max(...spread)) * units_every;
}

/** The row of fields above a tab; `changed()` is called after each choice. */
export class Chooser {
  constructor(model, changed) {
    Object.assign(this, { model, changed });
    if (kept.sample.text === undefined && kept.sample.index >= model.samples.length)
      kept.sample = { index: 0 };
    kept.place = Math.min(kept.place, model.layers.length - 1);
    kept.layer = Math.min(kept.layer, model.layers[kept.place].layers - 1);
    kept.direction = Math.min(kept.direction, model.layers[kept.place].directions - 1);
    this.fields = make("div.choose");
    this.typing = model.typed ? this.typed() : null;
    this.element = make("div", {}, this.fields, this.typing);
    this.show();
  }

  choose(choice) {
    Object.assign(kept, choice);
    this.show();
    this.changed();
  }

  show() {
    const { model } = this;
    const names = model.samples.map((title, index) =>
      model.kind === "numbers" && !model.named ? say("watch.sample", { number: index + 1 }) : title,
    );
    const select = make(
      "select",
      {
        id: "sample",
        onchange: () => {
          if (Number(select.value) >= 0) this.choose({ sample: { index: Number(select.value) } });
        },
      },
      ...names.map((name, index) =>
        make("option", { value: index, selected: index === kept.sample.index }, name),
      ),
    );
    if (kept.sample.text !== undefined)
      select.prepend(make("option", { value: -1, selected: true }, say("watch.typed")));
    const turn = (by) =>
      this.choose({ sample: { index: within((kept.sample.index ?? 0) + by, 0, names.length - 1) } });
    const pager = make(
      "span.pager",
      {},
      select,
      ...[
        [-1, "‹", "watch.previous"],
        [1, "›", "watch.next"],
      ].map(([by, sign, key]) =>
        make(
          "button.plain",
          { type: "button", title: say(key), "aria-label": say(key), onclick: () => turn(by) },
          sign,
        ),
      ),
    );
    const layer = model.layers[kept.place];
    const fields = [make("div.field", {}, make("label", { for: "sample" }, say("watch.samples")), pager)];
    if (model.layers.length > 1) {
      const paths = model.layers.map((one) => `${one.path || "–"} · ${one.class}`);
      fields.push(
        this.choice("module", say("watch.module"), paths, kept.place, (place) => ({
          place,
          layer: 0,
          direction: 0,
          unit: null,
        })),
      );
    }
    if (layer.layers > 1) {
      const depths = Array.from({ length: layer.layers }, (_, index) =>
        say("watch.layer_n", { number: index + 1, of: layer.layers }),
      );
      fields.push(
        this.choice("layer", say("watch.layer"), depths, kept.layer, (place) => ({ layer: place })),
      );
    }
    if (layer.directions > 1) {
      fields.push(
        this.choice(
          "direction",
          say("watch.direction"),
          [say("watch.forward"), say("watch.reverse")],
          kept.direction,
          (place) => ({ direction: place }),
        ),
      );
    }
    if (model.typed) {
      fields.push(
        make(
          "button.act",
          {
            type: "button",
            id: "type",
            "aria-expanded": String(kept.typing),
            onclick: () => this.open(!kept.typing),
          },
          say(`watch.type_${model.kind}`),
        ),
      );
    }
    this.fields.replaceChildren(...fields);
  }

  choice(id, label, names, now, chosen) {
    const select = make(
      "select",
      { id, onchange: () => this.choose(chosen(Number(select.value))) },
      ...names.map((name, index) => make("option", { value: index, selected: index === now }, name)),
    );
    return make("div.field", {}, make("label", { for: id }, label), select);
  }

  typed() {
    const { kind, hint, features } = this.model;
    const text = make("textarea", {
      id: "text",
      spellcheck: "false",
      "aria-label": say(`watch.type_${kind}`),
    });
    text.value = kept.sample.text ?? hint;
    const run = () => this.choose({ sample: { text: text.value }, step: null });
    text.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || !(event.ctrlKey || event.metaKey || kind === "words")) return;
      event.preventDefault();
      run();
    });
    return make(
      "section.panel.typing",
      { hidden: !kept.typing },
      text,
      make(
        "div.row",
        {},
        make("button.act.main", { type: "button", id: "run", onclick: run }, say("watch.run")),
        make(
          "span.quiet",
          {},
          say(`watch.how_${kind}${kind === "numbers" && features > 1 ? "_wide" : ""}`, { features }),
        ),
      ),
    );
  }

  open(open) {
    kept.typing = open;
    this.typing.hidden = !open;
    document.getElementById("type").setAttribute("aria-expanded", String(open));
    if (open) document.getElementById("text").focus();
  }
}
