// Gradients: how they live through time in this network, and in new ones of each kind beside it.

import { lineChart } from "./charts.js";
import { kept } from "./choose.js";
import { make, number } from "./dom.js";
import { card, findingTab, waiting } from "./finding.js";
import { say } from "./strings.js";

const TONES = { RNN: "quiet", GRU: "output", LSTM: "cell", "LSTM, b_f = 4": "good" };

export const gradients = findingTab(async (tab) => {
  const found = await tab.ask("gradients");
  if (!found) return;
  const here = found.lines.find(
    (line) => line.layer === kept.layer && line.direction === ["forward", "reverse"][kept.direction],
  );
  const { path } = tab.model.layers[kept.place];
  const matters = (one) => one.word !== "healthy" || one.module === path || !one.module;
  const others = found.verdicts.filter((one) => !matters(one));
  const told = make("div.verdicts", {}, ...found.verdicts.filter(matters).map(verdict));
  const well = others.length
    ? make(
        "details.others",
        {},
        make("summary", {}, say("gradients.others", { count: others.length })),
        make("div.verdicts", {}, ...others.map(verdict)),
      )
    : null;
  const beside = card(say("gradients.beside"), say("gradients.beside_about"), waiting());
  tab.put(
    ...[told, well].filter(Boolean),
    make(
      "div.cards",
      {},
      here ? card(say("gradients.own"), say("gradients.own_about"), norms(here)) : null,
      beside,
    ),
  );
  const compared = await tab.ask("compared");
  if (!compared) return;
  const lines = Object.entries(compared).map(([label, values]) => ({ label, tone: TONES[label], values }));
  beside.querySelector(".busy").replaceWith(chart(lines));
});

function norms(line) {
  return chart(
    ["cell", "hidden"]
      .filter((name) => line[name])
      .map((name) => ({ label: say(`gradients.${name}`), tone: name, values: line[name] })),
  );
}

function chart(lines) {
  const all = lines.flatMap((line) => line.values).filter((value) => value > 0);
  if (!all.length) return make("p.quiet", {}, say("gradients.nothing"));
  const low = Math.max(1e-30, Math.min(...all)),
    high = Math.max(...all, low * 10);
  const floor = 10 ** Math.floor(Math.log10(low)),
    top = 10 ** Math.ceil(Math.log10(high));
  return lineChart({
    lines: lines.map((line) => ({ ...line, values: line.values.map((value) => (value > 0 ? value : null)) })),
    x: lines[0].values.map((_, place) => place + 1),
    low: floor,
    high: Math.max(top, floor * 10),
    log: true,
    axis: say("learn.axis_step"),
  });
}

/** A module's path; the lens counts its further calls as "path (call 2)". */
function nameOf(module) {
  const [, path, call] = /^(.*) \(call (\d+)\)$/.exec(module) ?? [];
  return call ? say("gradients.call", { module: path, call }) : module;
}

function verdict(one) {
  const where = [
    ...(one.module ? [nameOf(one.module)] : []),
    say("gradients.layer", { number: one.layer + 1 }),
    say(`watch.${one.direction}`),
  ].join(" · ");
  const good = one.word === "healthy";
  const more =
    one.word === "none"
      ? ""
      : say(one.back === null ? "gradients.rate" : `gradients.${one.word}_back`, {
          rate: number(one.rate, 3),
          back: one.back,
        });
  return make(
    `div.verdict.${good ? "good" : one.word === "none" ? "level" : "poor"}`,
    { "data-word": one.word },
    make("b", {}, say(`gradients.${one.word}`)),
    make("span.quiet", {}, ` ${where}`),
    make("div", {}, more),
    one.advice.length ? make("div.advice", {}, say("gradients.try"), " ", one.advice.join("; ")) : null,
  );
}
