// What the lesson's scenes are made of: dials, titles, numbers in large.

import { make, number } from "./dom.js";
import { say } from "./strings.js";

/** A labelled slider with its number beside it; `change(value)` is called as it moves. */
export function dial(label, { id, min, max, value, step = 0.01, digits = 2 }, change) {
  const output = make("output", { for: id }, number(value, digits));
  const input = make("input", {
    type: "range",
    id,
    min,
    max,
    step,
    value,
    oninput: () => {
      output.textContent = number(Number(input.value), digits);
      change(Number(input.value));
    },
  });
  return make("div.dial", {}, make("label", { for: id }, label), input, output);
}

/** A small heading, with something quiet at its other end. */
export const title = (words, aside = "", tone = "ink") =>
  make("h3.line-name", { style: { "--tone": `var(--${tone})` } }, words, make("span", {}, aside));

/** What was wanted and what was answered, the latter green or red. */
export function answers(wanted, answer) {
  const missed = Math.abs(wanted - answer);
  return [
    make("div", {}, make("span.label", {}, say("learn.wanted")), make("span.much", {}, number(wanted))),
    make(
      `div.${missed < 0.12 ? "good" : "poor"}`,
      { id: "answered" },
      make("span.label", {}, say("learn.answered")),
      make("span.much", {}, number(answer)),
      make("span.small", {}, say("learn.missed", { by: number(missed) })),
    ),
  ];
}
