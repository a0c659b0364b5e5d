// The lesson's first half: a task, a network that remembers one number, and why it forgets.

import { lineChart } from "./charts.js";
import { colour } from "./colours.js";
import { draw, make, number, room } from "./dom.js";
import { gatedScenes } from "./gated.js";
import { answers, dial, title } from "./pieces.js";
import { Player } from "./player.js";
import { Sequence, cells } from "./sequence.js";
import { say } from "./strings.js";
import { run } from "./tiny.js";

// The weights that the learner sets in the second scene; the third and fourth go on with them.
const unit = { w: 1.0, r: 0.8 };

/** The states of one plain unit over the numbers: h = tanh(w x + r h′). */
function remember(values) {
  const found = [];
  for (const x of values) found.push(Math.tanh(unit.w * x + unit.r * (found.at(-1) ?? 0)));
  return found;
}

const task = {
  name: "task",
  family: "task",
  play(stage, state) {
    const told = make("div.big");
    const show = () =>
      told.replaceChildren(
        make(
          "div",
          {},
          make("span.label", {}, say("learn.wanted")),
          make("span.much", { id: "wanted" }, number(state.values[state.mark])),
          make("span.small", {}, say("learn.ago", { steps: state.values.length - 1 - state.mark })),
        ),
      );
    const sequence = new Sequence(state, show);
    stage.append(title(say("learn.sequence")), sequence.element, told);
    show();
  },
};

const neuron = {
  name: "neuron",
  family: "rnn",
  play(stage, state) {
    const formula = make("p.verdict.mono"),
      chart = make("div");
    const show = () => {
      formula.textContent = `h = tanh( ${number(unit.w)} · x + ${number(unit.r)} · h′ )`;
      chart.replaceChildren(
        lineChart({
          lines: [
            { label: say("learn.x"), tone: "quiet", values: state.values, dash: "4 4" },
            { label: say("learn.h"), tone: "cell", values: remember(state.values) },
          ],
          x: state.values.map((_, place) => place + 1),
          low: -1,
          high: 1,
          axis: say("learn.axis_step"),
        }),
      );
    };
    const sequence = new Sequence(state, show);
    stage.append(
      title(say("learn.sequence")),
      sequence.element,
      dial(say("learn.w"), { id: "w", min: -2, max: 2, value: unit.w }, (value) => {
        unit.w = value;
        show();
      }),
      dial(say("learn.r"), { id: "r", min: -1.5, max: 1.5, value: unit.r }, (value) => {
        unit.r = value;
        show();
      }),
      formula,
      chart,
    );
    show();
  },
};

const unrolled = {
  name: "unrolled",
  family: "rnn",
  play(stage, state, steps) {
    const wide = room() / steps,
      size = Math.min(13, wide * 0.42);
    const chain = draw("svg.chain", {
      viewBox: `0 0 ${wide * steps} 132`,
      role: "img",
      "aria-label": say("learn.unrolled.title"),
    });
    const formula = make("p.verdict.mono");
    const show = () => {
      const h = remember(state.values),
        now = state.step;
      chain.replaceChildren(
        ...h.flatMap((value, t) => {
          const x = (t + 0.5) * wide,
            seen = t <= now;
          return [
            t > 0
              ? draw("path", {
                  d: `M${x - wide + size} 42H${x - size - 1}`,
                  stroke: "var(--cell)",
                  "stroke-width": 2,
                  opacity: seen ? 1 : 0.15,
                })
              : null,
            draw("path", {
              d: `M${x} 104V60`,
              stroke: "var(--quiet)",
              "stroke-width": 1.6,
              opacity: seen ? 0.8 : 0.15,
            }),
            draw("circle", {
              cx: x,
              cy: 42,
              r: size,
              fill: seen ? colour(value, "signed", "", 1) : "var(--ground)",
              stroke: t === now ? "var(--ink)" : "var(--edge)",
              "stroke-width": t === now ? 2.6 : 1.2,
            }),
            wide > 24 || t % 3 === 0
              ? draw("text", { x, y: 116, fill: "var(--quiet)" }, number(state.values[t], 1))
              : null,
            t === now
              ? draw(
                  "text",
                  { x: Math.min(wide * steps - 30, Math.max(30, x)), y: 12, fill: "var(--ink)" },
                  `h = ${number(value)}`,
                )
              : null,
          ].filter(Boolean);
        }),
      );
      const x = state.values[now],
        before = h[now - 1] ?? 0;
      const sum = `${number(unit.w)} · ${bracket(x)} + ${number(unit.r)} · ${bracket(before)}`;
      formula.textContent = `h = tanh( ${sum} ) = ${number(h[now])}`;
    };
    const slider = dial(
      say("watch.step"),
      { id: "time", min: 1, max: steps, step: 1, value: state.step + 1, digits: 0 },
      (value) => {
        state.step = value - 1;
        show();
      },
    );
    const input = slider.querySelector("input");
    const player = new Player(
      () => {
        state.step = (state.step + 1) % steps;
        input.value = state.step + 1;
        input.dispatchEvent(new Event("input"));
        return state.step < steps - 1;
      },
      () => 320,
      (playing) => {
        button.textContent = say(playing ? "watch.pause" : "watch.play");
      },
    );
    const button = make(
      "button.act",
      { type: "button", id: "play", onclick: () => player.toggle() },
      say("watch.play"),
    );
    const shared = make("p.quiet", {}, say("learn.shared", { w: number(unit.w), r: number(unit.r) }));
    stage.append(chain, slider, button, formula, shared);
    show();
    return { close: () => player.stop() };
  },
};

const bracket = (value) => (value < 0 ? `(${number(value)})` : number(value));

const fade = {
  name: "fade",
  family: "rnn",
  play(stage, state, steps) {
    const chart = make("div"),
      verdict = make("p.verdict", { id: "fate" });
    const show = (r) => {
      const left = Math.abs(r) ** steps;
      chart.replaceChildren(
        lineChart({
          lines: [
            {
              label: say("learn.influence"),
              tone: "cell",
              values: Array.from({ length: steps + 1 }, (_, k) => Math.abs(r) ** k),
            },
          ],
          low: 1e-6,
          high: 1e4,
          log: true,
          axis: say("learn.axis_back"),
        }),
      );
      const fate = left < 0.01 ? "vanishes" : left > 10 ? "explodes" : "stays";
      verdict.className = `verdict ${fate === "stays" ? "good" : "poor"}`;
      verdict.textContent = say(`learn.${fate}`, {
        steps,
        times: left >= 0.01 ? number(left) : left.toExponential(0).replace("-", "−"),
      });
    };
    const start = Math.max(0.2, Math.min(1.5, Math.abs(unit.r)));
    stage.append(
      title(say("learn.influence")),
      chart,
      dial(say("learn.r_size"), { id: "recurrent", min: 0.2, max: 1.5, value: start }, show),
      verdict,
    );
    show(start);
  },
};

const plain = {
  name: "rnn",
  family: "rnn",
  trained: true,
  play(stage, state) {
    const weights = state.networks.rnn,
      told = make("div.big"),
      map = make("div");
    const show = () => {
      const ran = run(
        "rnn",
        weights,
        state.values.map((value, t) => [value, t === state.mark ? 1 : 0]),
      );
      map.replaceChildren(
        cells(
          ran.h[0].map((_, u) => ran.h.map((h) => h[u])),
          (value) => colour(value, "signed", "", 1),
          say("learn.hidden_all"),
        ),
      );
      told.replaceChildren(
        ...answers(state.values[state.mark], ran.answer),
        make(
          "div",
          {},
          make("span.label", {}, say("learn.usual")),
          make("span.much", {}, `±${number(weights.error)}`),
          make("span.small", {}, say("learn.guess")),
        ),
      );
    };
    const sequence = new Sequence(state, show);
    stage.append(title(say("learn.sequence")), sequence.element, title(say("learn.hidden_all")), map, told);
    show();
  },
};

/** The ten scenes, in order. */
export const scenes = [task, neuron, unrolled, fade, plain, ...gatedScenes];
