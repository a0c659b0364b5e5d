// Search, after LSTMVis (Strobelt et al. 2018): mark a range; which units are on over it, and where else.

import { toneOf } from "./beside.js";
import { asks, kept } from "./choose.js";
import { draw as svg, make, number, percent, within } from "./dom.js";
import { card, findingTab } from "./finding.js";
import { RangeMarker } from "./range.js";
import { Refused, trace } from "./server.js";
import { say } from "./strings.js";
import { Ribbon, Strip, TONES } from "./strip.js";

/** `start`, `stop`: steps of the sample, null: a range in its middle; `threshold` null: by the numbers. */
const chosen = { variable: null, start: null, stop: null, threshold: null, only: true };
const PAUSE = 220;

export const search = findingTab(async (tab) => {
  let data;
  try {
    data = await trace(asks(tab.model));
  } catch (error) {
    tab.put();
    if (error instanceof Refused) tab.complain(error);
    return;
  }
  const names = data.variables.map((variable) => variable.name);
  if (!names.includes(chosen.variable)) chosen.variable = "hidden";
  settle(
    data,
    data.variables.find((one) => one.name === chosen.variable),
  );
  new Search(tab, data).find();
});

/** The size of the deepest colour, and the threshold to begin with. */
const most = (variable) => (variable.kind === "gate" ? 1 : variable.most || 1);
const usual = (variable) => (variable.kind === "gate" ? 0.5 : 0.3 * most(variable));

/** A range that this sample has: where a unit is on for a while and off around it, or one in the middle. */
function settle(data, variable) {
  const { length, every } = data;
  if (chosen.start !== null && chosen.stop <= length) return;
  const wide = within(Math.round(length / 8), 1, 50),
    middle = Math.floor((length - wide) / 2);
  const clear = every === 1 ? clearest(variable, chosen.threshold ?? usual(variable)) : null;
  [chosen.start, chosen.stop] = clear ?? [middle, middle + wide];
}

/** [start, stop] of the run above a threshold that stands out most, or null. */
function clearest({ shape: [steps, units], values }, threshold) {
  let best = 0,
    found = null;
  for (let unit = 0; unit < units; unit++) {
    const at = (t) => values[t * units + unit];
    let start = null,
      sum = 0;
    for (let t = 0; t < steps; t++) {
      if (at(t) >= threshold) {
        if (start === null) [start, sum] = [t, 0];
        sum += at(t);
        continue;
      }
      const size = t - start;
      if (start > 0 && size > 1 && size <= steps / 3) {
        const clear = (sum / size - (at(start - 1) + at(t)) / 2) * Math.sqrt(size);
        if (clear > best) [best, found] = [clear, [start, t]];
      }
      start = null;
    }
  }
  return found;
}

class Search {
  constructor(tab, data) {
    Object.assign(this, { tab, data, turn: 0 });
    this.variable = data.variables.find((one) => one.name === chosen.variable);
    this.most = most(this.variable);
    chosen.threshold = within(chosen.threshold ?? usual(this.variable), -this.most, this.most);
    const state = {
      start: Math.floor(chosen.start / data.every),
      stop: Math.max(Math.floor(chosen.start / data.every) + 1, Math.ceil(chosen.stop / data.every)),
    };
    this.marker = new RangeMarker(
      this.variable,
      state,
      (settled) => this.moved(settled),
      () => say("search.range", { from: chosen.start + 1, until: chosen.stop }),
    );
    this.results = make("div.hits");
    this.read = this.whatWentIn();
    const thinned = { steps: data.length, every: data.every };
    const notes = data.every > 1 ? make("p.note", {}, say("watch.every", thinned)) : null;
    tab.put(
      card(
        say("search.mark"),
        say("search.mark_about"),
        this.fields(),
        notes,
        ...this.read.map((one) => one.element),
        make("div.map", { style: { "--tone": `var(--${this.tone})` } }, this.head(), this.marker.element),
        make("div.times", {}, make("div"), this.ends()),
      ),
      this.results,
    );
    const paint = () => {
      for (const one of this.read) one.paint?.();
      this.marker.paint();
      this.shade();
    };
    paint();
    tab.painted = [paint];
  }

  get lowest() {
    return this.variable.kind === "gate" ? 0 : -this.most;
  }

  get tone() {
    return toneOf(this.variable.name);
  }

  whatWentIn() {
    const { labels, strip } = this.data,
      steps = this.data.variables[0].shape[0];
    const on = { hover() {}, pick: (step) => this.marker.mark(step, step) };
    if (this.tab.model.kind === "words" && labels.length)
      return [new Ribbon(labels, (step) => (this.marker.mark(step, step), this.moved(true)))];
    const names = Object.keys(strip);
    return names.length
      ? [new Strip(strip, steps, names.length === 1 ? names[0] : say("watch.inputs"), on)]
      : [];
  }

  head() {
    return make(
      "div.name",
      {},
      make("b", {}, say(`variable.${this.variable.name}`)),
      make("span.quiet", {}, `${number(this.lowest, 1)} … ${number(this.most, 1)}`),
    );
  }

  ends() {
    const stamps = this.tab.model.kind === "words" ? [] : this.data.labels;
    const name = (step) => stamps[step] ?? step * this.data.every + 1;
    const steps = this.variable.shape[0];
    return make(
      "div",
      {},
      make("span", { style: "left:0" }, String(name(0))),
      make("span.end", { style: "left:100%" }, String(name(steps - 1))),
    );
  }

  fields() {
    const field = (id, label, ...input) => make("div.field", {}, make("label", { for: id }, label), ...input);
    const variable = make(
      "select",
      {
        id: "variable",
        onchange: () => {
          Object.assign(chosen, { variable: variable.value, threshold: null });
          this.tab.load();
        },
      },
      ...this.data.variables.map(({ name }) =>
        make("option", { value: name, selected: name === chosen.variable }, say(`variable.${name}`)),
      ),
    );
    const told = make("output", { for: "threshold" }, number(chosen.threshold));
    const threshold = make("input", {
      type: "range",
      id: "threshold",
      min: this.lowest,
      max: this.most,
      step: this.most / 100,
      value: chosen.threshold,
      oninput: () => {
        chosen.threshold = Number(threshold.value);
        told.textContent = number(chosen.threshold);
        this.later();
      },
    });
    const only = make("input", {
      type: "checkbox",
      id: "only",
      onchange: () => {
        chosen.only = only.checked;
        this.find();
      },
    });
    only.checked = chosen.only;
    const step = (id, value, change) => {
      const input = make("input", {
        type: "number",
        id,
        value,
        min: 1,
        max: this.data.length,
        onchange: () => {
          change(within(Math.round(Number(input.value)) || 1, 1, this.data.length));
          this.typed();
        },
      });
      return input;
    };
    this.from = step("from", chosen.start + 1, (value) => {
      chosen.start = value - 1;
      chosen.stop = Math.max(chosen.stop, value);
    });
    this.until = step("until", chosen.stop, (value) => {
      chosen.stop = value;
      chosen.start = Math.min(chosen.start, value - 1);
    });
    return make(
      "div.choose",
      {},
      field("variable", say("search.variable"), variable),
      field("from", say("search.from"), this.from),
      field("until", say("search.until"), this.until),
      field("threshold", say("search.threshold"), make("span.level", {}, threshold, told)),
      field("only", say("search.only"), only),
    );
  }

  /** The range was typed. */
  typed() {
    const { every } = this.data,
      state = this.marker.state;
    state.start = Math.floor(chosen.start / every);
    state.stop = Math.max(state.start + 1, Math.ceil(chosen.stop / every));
    this.tellRange();
    this.marker.show();
    this.find();
  }

  /** The range was dragged or moved by keys. */
  moved(settled) {
    const { every, length } = this.data,
      { start, stop } = this.marker.state;
    chosen.start = start * every;
    chosen.stop = Math.min(stop * every, length);
    this.tellRange();
    this.marker.show();
    if (settled) this.later();
  }

  tellRange() {
    this.from.value = chosen.start + 1;
    this.until.value = chosen.stop;
    this.shade();
  }

  /** The range over what went in. */
  shade() {
    const { start, stop } = this.marker.state;
    for (const one of this.read) {
      if (one instanceof Ribbon) {
        one.spans.forEach((span, at) => span.classList.toggle("within", at >= start && at < stop));
        one.reveal(start);
      } else {
        one.range ??= one.plane.appendChild(make("div.band.thin"));
        one.range.style.left = `${(start / one.steps) * 100}%`;
        one.range.style.width = `${((stop - start) / one.steps) * 100}%`;
        one.upright.hidden = one.veil.hidden = true;
      }
    }
  }

  later() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.find(), PAUSE);
  }

  async find() {
    // one that still waits would put new buttons under the finger that presses these
    clearTimeout(this.waiting);
    const turn = ++this.turn;
    this.results.classList.add("busy");
    this.tab.mistake.hidden = true;
    const found = await this.tab.ask("search", { ...chosen });
    if (turn !== this.turn) return;
    this.results.classList.remove("busy");
    if (!found) return this.results.replaceChildren();
    this.marker.light(
      found.on.map(({ unit }) => unit),
      chosen.threshold,
    );
    this.results.replaceChildren(
      make("div", {}, this.on(found), this.following(found)),
      this.ranges(found),
      this.nearest(found),
    );
  }

  on({ on }) {
    const chips = on.map(({ unit, mean }) =>
      make(
        "button.chip",
        {
          type: "button",
          "data-unit": unit,
          title: say("search.unit", { unit, value: number(mean) }),
          onclick: () => jump({ step: chosen.start, unit }),
        },
        make("b", {}, String(unit)),
        make("span", {}, number(mean)),
      ),
    );
    return section(
      "on",
      say("search.on"),
      chips.length ? say(chosen.only ? "search.on_only" : "search.on_about") : say("search.on_none"),
      make("div.chips", {}, ...chips),
    );
  }

  following({ following }) {
    const rows = following.map(({ unit, score }) =>
      make(
        "button.score",
        {
          type: "button",
          "data-unit": unit,
          title: say("search.follows", { unit, value: number(score) }),
          onclick: () => jump({ step: chosen.start, unit }),
        },
        make("b", {}, `${say("watch.unit")} ${unit}`),
        make(
          "span.track",
          {},
          make(score < 0 ? "i.down" : "i.up", { style: `width:${Math.abs(score) * 50}%` }),
        ),
        make("span.mono", {}, number(score)),
      ),
    );
    const about = say(rows.length ? "search.following_about" : "search.following_none");
    return section("following", say("search.following"), about, make("div.scores", {}, ...rows));
  }

  ranges({ ranges, searched, all }) {
    const about = ranges.length ? say("search.ranges_about") : say("search.ranges_none");
    const note = say(all ? "search.searched" : "search.not_all", { count: searched });
    const rows = ranges.map((hit) => this.hit(hit, say("search.share", { share: percent(hit.share) })));
    return section("ranges", say("search.ranges"), `${about} ${note}`, make("div.places", {}, ...rows));
  }

  nearest({ nearest }) {
    const far = (distance) => (distance < 0.0005 ? "< 0.001" : number(distance, 3));
    const rows = nearest.map((hit) => this.hit(hit, say("search.distance", { value: far(hit.distance) })));
    const about = say("search.nearest_about");
    return section("nearest", say("search.nearest"), about, make("div.places", {}, ...rows));
  }

  hit(hit, told) {
    const { model } = this.tab;
    const name =
      hit.sample === null
        ? say("watch.typed")
        : model.kind === "numbers"
          ? say("watch.sample", { number: hit.sample + 1 })
          : model.samples[hit.sample];
    const where =
      hit.stop - hit.start === 1
        ? say("watch.at", { step: hit.start + 1 })
        : say("search.steps", { from: hit.start + 1, until: hit.stop });
    return make(
      "button.place",
      {
        type: "button",
        "data-step": hit.start,
        onclick: () => jump({ step: hit.start, sample: hit.sample }),
      },
      make(
        "span.where",
        {},
        make("b", {}, where),
        make("span.quiet", {}, model.kind === "words" ? "" : name),
      ),
      hit.words.length ? words(hit) : spark(hit),
      make("span.fit.quiet", {}, told),
    );
  }
}

const section = (name, title, about, ...children) => {
  const made = card(title, about, ...children);
  made.dataset.found = name;
  return made;
};

/** To Watch, at this step, and where given at this unit and in this sample. */
function jump({ step, unit, sample }) {
  if (Number.isInteger(sample)) kept.sample = { index: sample };
  kept.to = step;
  if (unit !== undefined) kept.unit = unit;
  location.hash = "watch";
}

function words({ words, from, start, stop }) {
  return make(
    "span.context",
    {},
    ...words.flatMap((word, place) => [
      make(from + place >= start && from + place < stop ? "mark" : "span", {}, word),
      " ",
    ]),
  );
}

/** A piece of what went in, with the hit shaded. */
function spark({ lines, from, to, start, stop }) {
  const wide = 200,
    high = 34,
    known = lines.flat().filter((value) => value !== null),
    low = Math.min(...known),
    room = Math.max(...known) - low || 1;
  const x = (step) => ((step - from) / (to - from)) * wide;
  const path = (line) => {
    let drawn = "",
      pen = "M";
    line.forEach((value, place) => {
      if (value !== null) {
        const y = high - 4 - ((value - low) / room) * (high - 8);
        drawn += `${pen}${(((place + 0.5) / line.length) * wide).toFixed(1)} ${y.toFixed(1)}`;
      }
      pen = value === null ? "M" : "L";
    });
    return drawn;
  };
  return svg(
    "svg.spark",
    { viewBox: `0 0 ${wide} ${high}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", {
      x: x(start),
      width: Math.max(1.5, x(stop) - x(start)),
      y: 0,
      height: high,
      fill: "var(--model)",
      opacity: 0.18,
    }),
    ...lines.map((line, place) =>
      svg("path", {
        d: path(line),
        fill: "none",
        stroke: `var(--${TONES[place % TONES.length]})`,
        "stroke-width": 1.6,
        "vector-effect": "non-scaling-stroke",
      }),
    ),
  );
}
