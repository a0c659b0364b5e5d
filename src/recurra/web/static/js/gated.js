// The lesson's second half: the cell, its gates, one step in numbers, how long it remembers, and the GRU.

import { drawCell } from "./cell.js";
import { lineChart } from "./charts.js";
import { colour } from "./colours.js";
import { make, number } from "./dom.js";
import { Equations } from "./equations.js";
import { answers, dial, title } from "./pieces.js";
import { Player } from "./player.js";
import { Sequence, cells } from "./sequence.js";
import { say } from "./strings.js";
import { rememberer, run, unitOf } from "./tiny.js";

const inputs = (state) => state.values.map((value, t) => [value, t === state.mark ? 1 : 0]);
const most = (values) => Math.max(0.5, ...values.map(Math.abs));
// The learner's own gates in the puzzle.
const own = { forget: 0.8, open: new Set([0, 9]) };
const chosen = {};

/** The unit that holds the marked number, found once for each network. */
function holder(kind, state) {
  chosen[kind] ??= rememberer(kind, state.networks[kind], state.values.length);
  return chosen[kind];
}

const cell = {
  name: "cell",
  family: "lstm",
  play(stage, state) {
    const gates = make("div.paintable"),
      chart = make("div"),
      verdict = make("p.verdict", { id: "solved" });
    const show = () => {
      const c = [];
      for (const [t, x] of state.values.entries())
        c.push(own.forget * (c.at(-1) ?? 0) + (own.open.has(t) ? x : 0));
      gates.replaceChildren(
        cells(
          [state.values.map((_, t) => (own.open.has(t) ? 1 : 0))],
          (value) => colour(value, "gate", "input"),
          say("variable.input"),
          (t) => {
            if (!own.open.delete(t)) own.open.add(t);
            show();
          },
        ),
      );
      const wanted = state.values[state.mark],
        missed = Math.abs(c.at(-1) - wanted);
      const top = Math.max(1, ...c.map(Math.abs));
      chart.replaceChildren(
        lineChart({
          lines: [
            { label: say("variable.cell"), tone: "cell", values: c },
            { label: say("learn.wanted"), tone: "output", values: c.map(() => wanted), dash: "5 5" },
          ],
          x: c.map((_, t) => t + 1),
          low: -top,
          high: top,
          axis: say("learn.axis_step"),
        }),
      );
      const solved = missed < 0.05;
      verdict.className = `verdict ${solved ? "good" : "poor"}`;
      verdict.textContent = say(solved ? "learn.solved" : "learn.unsolved", {
        held: number(c.at(-1)),
        wanted: number(wanted),
      });
    };
    const sequence = new Sequence(state, show);
    stage.append(
      title(say("learn.sequence")),
      sequence.element,
      title(say("variable.input"), say("learn.press"), "input"),
      gates,
      dial(say("variable.forget"), { id: "forget", min: 0, max: 1, value: own.forget }, (value) => {
        own.forget = value;
        show();
      }),
      chart,
      verdict,
    );
    show();
  },
};

/** Rows of one unit, each gate or state a row of colours. */
function rowsOf(numbers) {
  const tones = {
    input: "gate",
    forget: "gate",
    output: "gate",
    reset: "gate",
    update: "gate",
    candidate: "signed",
  };
  const rows = Object.entries(numbers.gates).map(([name, gate]) => [name, gate.value, tones[name]]);
  if (numbers.c) rows.push(["cell", numbers.c, "signed"]);
  rows.push(["hidden", numbers.h, "signed"]);
  return rows.flatMap(([name, values, kind]) => {
    const size = kind === "gate" ? 1 : most(values);
    return [
      title(
        say(`variable.${name}`),
        kind === "gate" ? "0 … 1" : `${number(-size, 1)} … ${number(size, 1)}`,
        name,
      ),
      cells([values], (value) => colour(value, kind, name, size), say(`variable.${name}`)),
    ];
  });
}

const gates = {
  name: "gates",
  family: "lstm",
  trained: true,
  play(stage, state) {
    const weights = state.networks.lstm,
      unit = holder("lstm", state);
    const rows = make("div"),
      told = make("div.big");
    const show = () => {
      const ran = run("lstm", weights, inputs(state));
      rows.replaceChildren(...rowsOf(unitOf(ran, weights, unit)));
      told.replaceChildren(
        ...answers(state.values[state.mark], ran.answer),
        make(
          "div",
          {},
          make("span.label", {}, say("learn.holds")),
          make("span.much", {}, String(unit)),
          make("span.small", {}, say("learn.of_units", { units: weights.top_weight.length })),
        ),
      );
    };
    stage.append(title(say("learn.sequence")), new Sequence(state, show).element, told, rows);
    show();
  },
};

const step = {
  name: "step",
  family: "lstm",
  trained: true,
  play(stage, state, steps) {
    const weights = state.networks.lstm,
      unit = holder("lstm", state);
    const drawing = drawCell("lstm", say("watch.drawing")),
      equations = new Equations("lstm");
    let place = null;
    const show = () => {
      const numbers = unitOf(run("lstm", weights, inputs(state)), weights, unit);
      drawing.show(numbers, state.step, place);
      equations.show(numbers, state.step, place);
    };
    const player = new Player(
      () => {
        place = (place ?? -1) + 1;
        if (place >= equations.stages.length) place = null;
        show();
        return place !== null;
      },
      () => 1000,
    );
    const sequence = new Sequence(
      state,
      () => {
        const input = stage.querySelector("#time");
        input.value = state.step + 1;
        input.dispatchEvent(new Event("input"));
      },
      { cursor: true },
    );
    const slider = dial(
      say("watch.step"),
      { id: "time", min: 1, max: steps, step: 1, value: state.step + 1, digits: 0 },
      (value) => {
        state.step = value - 1;
        sequence.show();
        show();
      },
    );
    const button = make(
      "button.act.main",
      {
        type: "button",
        id: "stages",
        onclick: () => {
          player.stop();
          place = null;
          player.start();
        },
      },
      say("watch.stages"),
    );
    stage.append(
      sequence.element,
      slider,
      make("div.split", {}, make("div", {}, drawing.svg, button), equations.element),
    );
    show();
    return { close: () => player.stop() };
  },
};

const memory = {
  name: "memory",
  family: "lstm",
  trained: true,
  play(stage, state, steps) {
    const curve = make("div"),
      verdict = make("p.verdict", { id: "half" });
    const show = (forget) => {
      curve.replaceChildren(
        lineChart({
          lines: [
            {
              label: say("learn.left"),
              tone: "forget",
              values: Array.from({ length: 61 }, (_, k) => forget ** k),
            },
          ],
          low: 0,
          high: 1,
          axis: say("learn.axis_later"),
          height: 190,
        }),
      );
      const half = Math.log(0.5) / Math.log(forget);
      verdict.textContent =
        forget >= 0.9995 ? say("learn.forever") : say("learn.half", { steps: number(half, 1) });
    };
    const { rnn, lstm, gru } = state.networks;
    const lines = [
      ["RNN", "quiet", rnn],
      ["LSTM", "cell", lstm],
      ["GRU", "output", gru],
    ].map(([label, tone, one]) => ({ label, tone, values: one.error_by_age }));
    stage.append(
      title(say("learn.left")),
      curve,
      dial(
        say("variable.forget"),
        { id: "forget", min: 0.3, max: 1, step: 0.005, value: 0.9, digits: 3 },
        show,
      ),
      verdict,
      title(say("learn.by_age"), say("learn.measured")),
      lineChart({ lines, low: 0, high: 0.8, axis: say("learn.axis_age") }),
    );
    show(0.9);
  },
};

const gru = {
  name: "gru",
  family: "gru",
  trained: true,
  play(stage, state) {
    const unit = holder("gru", state),
      rows = make("div"),
      told = make("div.big");
    const show = () => {
      const xs = inputs(state),
        wanted = state.values[state.mark];
      const ran = Object.fromEntries(
        ["rnn", "lstm", "gru"].map((kind) => [kind, run(kind, state.networks[kind], xs)]),
      );
      rows.replaceChildren(...rowsOf(unitOf(ran.gru, state.networks.gru, unit)));
      told.replaceChildren(
        make("div", {}, make("span.label", {}, say("learn.wanted")), make("span.much", {}, number(wanted))),
        ...Object.entries(ran).map(([kind, one]) =>
          make(
            `div.${Math.abs(one.answer - wanted) < 0.12 ? "good" : "poor"}`,
            { "data-kind": kind },
            make("span.label", {}, kind.toUpperCase()),
            make("span.much", {}, number(one.answer)),
            make("span.small", {}, say("learn.weights", { count: state.networks[kind].parameters })),
          ),
        ),
      );
    };
    stage.append(title(say("learn.sequence")), new Sequence(state, show).element, told, rows);
    show();
  },
};

/** Scenes six to ten. */
export const gatedScenes = [cell, gates, step, memory, gru];
