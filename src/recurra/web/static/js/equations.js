// The equations of one unit with its real numbers, from [h, x] to h′, stage after stage.

import { make, number, percent } from "./dom.js";
import { say } from "./strings.js";

const sub = (letter, below) => `<i>${letter}</i><sub>${below}</sub>`;
const now = (letter) => sub(letter, "<i>t</i>");
const before = (letter) => sub(letter, "<i>t</i>−1");
const summed = (gate, peep = "") =>
  [
    `${sub("W", gate)} ${now("x")}`,
    `${sub("R", gate)} ${before("h")}`,
    ...(peep ? [`${sub("p", gate)} ${peep}`] : []),
    sub("b", gate),
  ].join(" + ");

/** `a + b − c` out of numbers. */
function sum(values) {
  return values
    .map((value, place) => {
      const text = number(value);
      if (place === 0) return text;
      return text.startsWith("−") ? ` − ${text.slice(1)}` : ` + ${text}`;
    })
    .join("");
}

/** A number inside a product: in brackets where it is negative. */
const factor = (value) => (number(value).startsWith("−") ? `(${number(value)})` : number(value));

/** Texts with the result behind them, each equal to the next. */
const equal = (result, ...texts) => `${texts.join(" = ")} = <b>${number(result)}</b>`;

/** What stands in σ(…) or tanh(…) of a gate at step t. */
function terms(gate, t) {
  return [gate.wx[t], gate.rh[t], ...(gate.peep ? [gate.peep[t]] : []), gate.b_i + gate.b_h];
}

function gated(letter, name, squash, words, peep) {
  return {
    key: name,
    tone: name,
    letter,
    kind: squash === "σ" ? "gate" : "signed",
    formula: `${now(letter)} = ${squash}( ${summed(letter, peep)} )`,
    value: (d, t) => d.gates[name].value[t],
    numbers(d, t) {
      const each = terms(d.gates[name], t),
        total = each.reduce((a, b) => a + b, 0);
      return equal(this.value(d, t), `${squash}(${sum(each)})`, `${squash}(${number(total)})`);
    },
    words: (value) => say(`eq.${words}`, { share: percent(value), value: number(value) }),
  };
}

const hiddenOfCell = {
  key: "hidden",
  tone: "hidden",
  letter: "h",
  kind: "signed",
  formula: `${now("h")} = ${now("o")} · tanh( ${now("c")} )`,
  value: (d, t) => d.h[t],
  numbers(d, t) {
    const o = number(d.gates.output.value[t]);
    return equal(d.h[t], `${o} · tanh(${number(d.c[t])})`, `${o} · ${factor(Math.tanh(d.c[t]))}`);
  },
  words: () => say("eq.hidden"),
};

function cellState(input, write) {
  return {
    key: "cell",
    tone: "cell",
    letter: "c",
    kind: "signed",
    formula: `${now("c")} = ${now("f")} · ${before("c")} + ${write} · ${now("g")}`,
    value: (d, t) => d.c[t],
    numbers(d, t) {
      const f = d.gates.forget.value[t],
        i = input(d, t),
        g = d.gates.candidate.value[t];
      const parts = [f * d.c_before[t], i * g];
      const products = `${number(f)} · ${factor(d.c_before[t])} + ${number(i)} · ${factor(g)}`;
      return equal(d.c[t], products, sum(parts));
    },
    words: () => say("eq.cell"),
  };
}

function lstm(peep) {
  const old = peep ? before("c") : "",
    fresh = peep ? now("c") : "";
  return [
    gated("f", "forget", "σ", "forget", old),
    gated("i", "input", "σ", "input", old),
    gated("g", "candidate", "tanh", "candidate"),
    cellState((d, t) => d.gates.input.value[t], now("i")),
    gated("o", "output", "σ", "output", fresh),
    hiddenOfCell,
  ];
}

function gru() {
  const candidate = gated("n", "candidate", "tanh", "candidate");
  const outside = `${sub("W", "n")} ${now("x")} + ${sub("b", "in")}`;
  const inside = `${sub("R", "n")} ${before("h")} + ${sub("b", "hn")}`;
  candidate.formula = `${now("n")} = tanh( ${outside} + ${now("r")} · ( ${inside} ) )`;
  candidate.numbers = (d, t) => {
    const n = d.gates.candidate,
      r = d.gates.reset.value[t];
    const outer = n.wx[t] + n.b_i,
      inner = n.rh[t] + n.b_h;
    const parts = `tanh(${number(outer)} + ${number(r)} · ${factor(inner)})`;
    return equal(n.value[t], parts, `tanh(${number(outer + r * inner)})`);
  };
  return [
    gated("r", "reset", "σ", "reset"),
    gated("z", "update", "σ", "update"),
    candidate,
    {
      key: "hidden",
      tone: "cell",
      letter: "h",
      kind: "signed",
      formula: `${now("h")} = (1 − ${now("z")}) · ${now("n")} + ${now("z")} · ${before("h")}`,
      value: (d, t) => d.h[t],
      numbers(d, t) {
        const z = d.gates.update.value[t],
          n = d.gates.candidate.value[t];
        const products = `${number(1 - z)} · ${factor(n)} + ${number(z)} · ${factor(d.h_before[t])}`;
        return equal(d.h[t], products, sum([(1 - z) * n, z * d.h_before[t]]));
      },
      words: () => say("eq.blend"),
    },
  ];
}

function rnn(squash) {
  return [
    {
      key: "hidden",
      tone: "cell",
      letter: "h",
      kind: "signed",
      formula: `${now("h")} = ${squash}( <i>W</i> ${now("x")} + <i>R</i> ${before("h")} + <i>b</i> )`,
      value: (d, t) => d.h[t],
      numbers(d, t) {
        const each = terms(d.gates.hidden, t);
        const total = each.reduce((a, b) => a + b, 0);
        return equal(d.h[t], `${squash}(${sum(each)})`, `${squash}(${number(total)})`);
      },
      words: () => say("eq.plain"),
    },
  ];
}

/** The stages of a cell, in the order in which a step runs through them; none for a cell without any here. */
export function stages(kind) {
  if (kind === "lstm") return lstm(false);
  if (kind === "peephole") return lstm(true);
  if (kind === "coupled") {
    return [
      gated("f", "forget", "σ", "forget"),
      gated("g", "candidate", "tanh", "candidate"),
      cellState((d, t) => 1 - d.gates.forget.value[t], `(1 − ${now("f")})`),
      gated("o", "output", "σ", "output"),
      hiddenOfCell,
    ];
  }
  if (kind === "gru") return gru();
  if (kind.startsWith("rnn")) return rnn(kind === "rnn_relu" ? "relu" : "tanh");
  return [];
}

/** The equations as a list that is told which step to show, and how many stages of it. */
export class Equations {
  constructor(kind) {
    this.stages = stages(kind);
    this.rows = this.stages.map((stage) => {
      const row = { numbers: make("div.numbers"), what: make("span.what"), bar: make("i") };
      const formula = make("span.formula");
      formula.innerHTML = stage.formula;
      row.element = make(
        "div.equation",
        { style: { "--tone": `var(--${stage.tone})` }, "data-stage": stage.key },
        make("div.line", {}, formula, row.what),
        row.numbers,
        make("div.bar", {}, row.bar),
      );
      return row;
    });
    this.element = make("div.equations", {}, ...this.rows.map((row) => row.element));
  }

  /** Show step t of the numbers `d`; `stage`: the one at work, or null for all. */
  show(d, t, stage = null) {
    this.element.classList.toggle("staged", stage !== null);
    this.stages.forEach((one, place) => {
      const row = this.rows[place],
        value = one.value(d, t);
      row.numbers.innerHTML = `= ${one.numbers(d, t)}`;
      row.what.textContent = one.words(value);
      const share = Math.max(-1, Math.min(1, value));
      row.bar.style.left = one.kind === "gate" ? "0" : `${50 + Math.min(0, share) * 50}%`;
      row.bar.style.width = one.kind === "gate" ? `${share * 100}%` : `${Math.abs(share) * 50}%`;
      row.element.classList.toggle("on", stage !== null && place <= stage);
      row.element.classList.toggle("now", stage === place);
    });
  }
}
