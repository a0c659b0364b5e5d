// Watch it run: a sample through one recurrent layer, heat maps over time × units, equations at the cursor.

import { make, number, onceAFrame, within } from "./dom.js";
import { HeatMap } from "./heatmap.js";
import { Player } from "./player.js";
import { Beside, toneOf } from "./beside.js";
import { Chooser, asks, kept, liveliest } from "./choose.js";
import { Refused, Unreachable, post, trace } from "./server.js";
import { say } from "./strings.js";
import { said } from "./said.js";
import { Ribbon, Strip } from "./strip.js";

const SPEEDS = [900, 350, 120, 33];
const STAGE_PAUSE = 900;
/** Fill `view` with the tab; returns how to close it and what keys do. */
export function watch(view, model) {
  const tab = new Watch(view, model);
  return { close: () => tab.close(), key: (event) => tab.key(event), recolour: () => tab.recolour() };
}

class Watch {
  constructor(view, model) {
    Object.assign(this, {
      view,
      model,
      data: null,
      numbers: null,
      maps: [],
      strips: [],
      stage: null,
      asked: 0,
    });
    this.stop = new AbortController();
    this.player = new Player(
      () => this.advance(),
      () => SPEEDS[kept.speed],
      () => {
        this.buttons();
        this.showCursor();
      },
    );
    this.stager = new Player(
      () => this.nextStage(),
      () => STAGE_PAUSE,
    );
    this.hover = onceAFrame((at, event) => this.haunt(at, event));
    this.point = onceAFrame(() => this.showCursor());
    this.build();
    this.resized = new ResizeObserver(onceAFrame(() => this.paint()));
    this.resized.observe(this.score);
    this.load();
  }

  close() {
    this.stop.abort();
    this.player.stop();
    this.stager.stop();
    this.resized.disconnect();
    this.tip.remove();
  }

  build() {
    this.tip = make("div.tip", { hidden: true });
    document.body.append(this.tip);
    this.chooser = new Chooser(this.model, () => this.load());
    this.slider = make("input", {
      type: "range",
      min: 0,
      max: 0,
      value: 0,
      "aria-label": say("watch.step"),
      oninput: () => this.go(Number(this.slider.value)),
    });
    this.clock = make("output");
    this.playButton = make("button.plain.play", { type: "button", id: "play", onclick: () => this.play() });
    this.speed = make("button.plain", {
      type: "button",
      id: "speed",
      title: say("watch.speed"),
      onclick: () => {
        kept.speed = (kept.speed + 1) % SPEEDS.length;
        this.buttons();
      },
    });
    this.transport = make(
      "div.transport",
      {},
      make(
        "button.plain",
        {
          type: "button",
          title: say("watch.back"),
          "aria-label": say("watch.back"),
          onclick: () => this.go(kept.step - 1),
        },
        "‹",
      ),
      this.playButton,
      make(
        "button.plain",
        {
          type: "button",
          title: say("watch.on"),
          "aria-label": say("watch.on"),
          onclick: () => this.go(kept.step + 1),
        },
        "›",
      ),
      this.slider,
      this.speed,
      this.clock,
    );
    this.maplist = make("div.row");
    this.notes = make("div");
    this.mistake = make("p.mistake", { role: "alert", hidden: true });
    this.answer = make("p.answer");
    this.score = make(
      "section.panel.score",
      { "aria-label": say("watch.maps") },
      this.transport,
      this.notes,
      this.maplist,
      this.answer,
    );
    this.beside = make("aside.panel.beside", { "aria-label": say("watch.equations") });
    this.grid = make("div.watch", { hidden: true }, this.score, this.beside);
    this.view.append(this.chooser.element, this.mistake, this.grid);
    this.buttons();
  }

  async load() {
    const turn = ++this.asked;
    this.player.stop();
    this.endStages();
    try {
      const data = await trace(asks(this.model), this.stop.signal);
      if (turn !== this.asked) return;
      this.data = data;
      this.numbers = null;
      this.mistake.hidden = true;
      this.grid.hidden = false;
      this.arrange();
      await this.loadUnit();
    } catch (error) {
      if (turn === this.asked) this.complain(error);
    }
  }

  complain(error) {
    if (error instanceof Unreachable || error.name === "AbortError") return;
    if (!(error instanceof Refused)) throw error;
    this.mistake.textContent = error.message;
    this.mistake.hidden = false;
    this.grid.hidden = true;
  }

  arrange() {
    const { data } = this;
    this.steps = data.variables[0].shape[0];
    if (kept.to !== null) kept.step = Math.floor(kept.to / data.every);
    kept.to = null;
    kept.step = within(kept.step ?? Math.floor(this.steps / 2), 0, this.steps - 1);
    this.units = Math.max(...data.variables.map((variable) => variable.units));
    kept.unit = within(kept.unit ?? liveliest(data.variables.at(-1)), 0, this.units - 1);
    this.slider.max = this.steps - 1;
    const on = {
      hover: (at, event) => this.hover(at, event),
      pick: (step, row) =>
        this.go(step, row === null ? undefined : row * (data.variables[0].units_every ?? 1)),
    };
    this.maps = data.variables.map(
      (variable) =>
        new HeatMap(
          {
            ...variable,
            label: say(`variable.${variable.name}`),
            tone: toneOf(variable.name),
          },
          on,
        ),
    );
    this.strips = Object.keys(data.strip).length
      ? [new Strip(data.strip, this.steps, this.stripName(), on)]
      : [];
    this.ribbon =
      this.model.kind === "words" && data.labels.length
        ? new Ribbon(data.labels, (step) => this.go(step))
        : null;
    this.times = make("div");
    this.maplist.replaceChildren(
      ...(this.ribbon ? [this.ribbon.element] : []),
      ...this.strips.map((strip) => strip.element),
      ...this.maps.map((map) => map.element),
      make("div.times", {}, make("div"), this.times),
    );
    const notes = [];
    if (data.every > 1) notes.push(say("watch.every", { steps: data.length, every: data.every }));
    if (data.variables.some((variable) => variable.units_every > 1))
      notes.push(say("watch.units_every", { units: this.units, every: data.variables[0].units_every }));
    if (data.unknown.length) notes.push(say("watch.unknown", { words: data.unknown.join(", ") }));
    if (data.calls > 1) notes.push(say("watch.calls", { calls: data.calls }));
    this.notes.replaceChildren(...notes.map((note) => make("p.note", {}, note)));
    if (data.answer.rows) this.maplist.before(this.answer);
    this.answer.replaceChildren(
      ...(data.answer.rows ? said(data.answer) : this.numbersOf(data.answer)),
    );
    this.paint();
  }

  /** What the network returned, by name. */
  numbersOf(answer) {
    return Object.entries(answer).flatMap(([name, values]) => [
      `${say(`answer.${name}`)} `,
      make("b", {}, values.map((value) => number(value, 3)).join("  ")),
    ]);
  }

  stripName() {
    const names = Object.keys(this.data.strip);
    return names.length === 1 ? names[0] : say("watch.inputs");
  }

  async loadUnit() {
    const asked = { ...asks(this.model), unit: kept.unit };
    const turn = this.asked;
    let numbers;
    try {
      numbers = await (await post("api/unit", asked)).json();
    } catch (error) {
      return this.complain(error);
    }
    if (turn !== this.asked || asked.unit !== kept.unit) return;
    this.numbers = numbers;
    this.told = new Beside(this.beside, numbers, this.units, {
      unit: (number) => this.go(kept.step, number),
      stages: () => this.playStages(),
      products: () => this.showProducts(),
    });
    this.showCursor();
  }

  paint() {
    for (const map of [...this.strips, ...this.maps]) map.paint();
    this.showTimes();
    this.showCursor();
  }

  showTimes() {
    if (!this.times || !this.data) return;
    const width = this.times.clientWidth || 600,
      count = within(Math.floor(width / 90), 2, 12);
    const marks = Array.from({ length: count }, (_, i) => Math.round((i * (this.steps - 1)) / (count - 1)));
    this.times.replaceChildren(
      ...[...new Set(marks)].map((step, i, all) =>
        make(
          i === all.length - 1 && i > 0 ? "span.end" : "span",
          {
            style: `left:${i === 0 ? 0 : i === all.length - 1 ? 100 : ((step + 0.5) / this.steps) * 100}%`,
          },
          this.stepName(step),
        ),
      ),
    );
  }

  /** A step's name: the user's own stamp, or its number from 1. */
  stepName(step) {
    const label = this.model.kind === "words" ? undefined : this.data.labels[step];
    return label ?? String(step * this.data.every + 1);
  }

  showCursor() {
    if (!this.data || kept.step === null) return;
    const { step, unit } = kept,
      veiled = this.player.playing && step < this.steps - 1;
    for (const map of this.maps) map.point(step, Math.floor(unit / map.every), veiled);
    for (const strip of this.strips) strip.point(step, null, veiled);
    this.ribbon?.point(step, veiled);
    this.slider.value = step;
    this.clock.textContent = `${step * this.data.every + 1} / ${this.data.length}`;
    if (!this.numbers || this.numbers.unit !== unit) return;
    const word = this.data.labels[step];
    const name = say("watch.at", { step: step * this.data.every + 1 }) + (word ? ` · ${word}` : "");
    this.told.show(step, name, this.stage);
    if (this.told.wantsProducts && !this.player.playing) this.showProducts();
  }

  async showProducts() {
    if (!this.told.wantsProducts) return;
    const asked = { ...asks(this.model), unit: kept.unit, step: kept.step };
    try {
      const found = await (await post("api/products", asked)).json();
      if (asked.step === kept.step && asked.unit === kept.unit) this.told.showProducts(found);
    } catch (error) {
      this.complain(error);
    }
  }

  go(step, unit = kept.unit) {
    if (!this.data) return;
    const before = kept.unit;
    kept.step = within(Math.round(step) || 0, 0, this.steps - 1);
    kept.unit = within(Math.round(unit) || 0, 0, this.units - 1);
    this.endStages();
    this.point();
    if (kept.unit !== before) {
      const input = document.getElementById("unit");
      if (input) input.value = kept.unit;
      this.loadUnit();
    }
  }

  advance() {
    if (kept.step >= this.steps - 1) return false;
    this.go(kept.step + 1);
    return kept.step < this.steps - 1;
  }

  play() {
    if (!this.data) return;
    if (!this.player.playing && kept.step >= this.steps - 1) this.go(0);
    this.player.toggle();
  }

  playStages() {
    if (!this.told?.stages) return;
    this.player.stop();
    this.stager.stop();
    this.stage = -1;
    this.stager.start();
  }

  nextStage() {
    this.stage += 1;
    if (this.stage >= this.told.stages) {
      this.endStages();
      return false;
    }
    this.showCursor();
    return true;
  }

  endStages() {
    this.stager.stop();
    if (this.stage === null) return;
    this.stage = null;
    this.showCursor();
  }

  buttons() {
    const playing = this.player.playing;
    this.playButton.textContent = playing ? "❚❚" : "▶";
    this.playButton.title = say(playing ? "watch.pause" : "watch.play");
    this.playButton.setAttribute("aria-label", this.playButton.title);
    this.speed.textContent = ["½×", "1×", "3×", "10×"][kept.speed];
  }

  haunt(at, event) {
    const step = at ? at[0] : null;
    for (const map of [...this.maps, ...this.strips]) map.haunt(step);
    this.tip.hidden = at === null;
    if (at === null || !event) return;
    const map = this.maps.find(
      (one) => one.plane === event.currentTarget || one.plane.contains(event.target),
    );
    const told =
      map && at[1] !== null
        ? say("watch.tip", {
            name: say(`variable.${map.name}`),
            value: number(map.values[at[0] * map.units + at[1]], 3),
            unit: at[1] * (map.units_every ?? 1),
            step: this.stepName(at[0]),
          })
        : this.stepName(at[0]);
    this.tip.textContent = told;
    const left = Math.min(event.clientX + 14, innerWidth - this.tip.offsetWidth - 8);
    this.tip.style.left = `${left}px`;
    this.tip.style.top = `${event.clientY + 16}px`;
  }

  key(event) {
    if (!this.data) return false;
    const onSlider = event.target.matches?.("input[type=range]");
    const far = event.shiftKey ? 10 : 1;
    const moves = {
      ArrowLeft: () => this.go(kept.step - far),
      ArrowRight: () => this.go(kept.step + far),
      ArrowUp: () => this.go(kept.step, kept.unit - far),
      ArrowDown: () => this.go(kept.step, kept.unit + far),
      Home: () => this.go(0),
      End: () => this.go(this.steps - 1),
      " ": () => this.play(),
      Enter: () => this.playStages(),
    };
    const onButton =
      event.target.matches?.("button, summary") && (event.key === " " || event.key === "Enter");
    if (!(event.key in moves) || (onSlider && event.key.startsWith("Arrow") && !event.shiftKey) || onButton)
      return false;
    if (event.key.startsWith("Arrow") || event.key === "Home" || event.key === "End") this.player.stop();
    moves[event.key]();
    return true;
  }

  recolour() {
    this.paint();
  }
}
