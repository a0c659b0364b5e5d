// Memory: how long each unit remembers, how open its gates stand, and how far back the network looks, now and
// before it was trained.

import { lineChart } from "./charts.js";
import { make, number } from "./dom.js";
import { card, findingTab, waiting } from "./finding.js";
import { ENDLESS, saturation, spread, unitBars } from "./memory_charts.js";
import { say } from "./strings.js";

const steps = (value) => (value === null ? "–" : value >= ENDLESS ? "∞" : number(value, 1));
const whole = (value) => (value === null ? "–" : String(Math.round(value)));
const median = (values) => {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[Math.floor((known.length - 1) / 2)] : null;
};
const halvesOf = (found) => found.cell_half_life ?? found.hidden_half_life;

export const memory = findingTab(async (tab) => {
  const found = await tab.ask("memory");
  if (!found) return;
  const { before } = found,
    times = found.time_constant,
    values = times ?? halvesOf(found),
    old = before && (times ? before.time_constant : halvesOf(before)),
    same = old?.length === values.length;
  const context = card(say("memory.context"), say("memory.context_about"), waiting());
  tab.put(
    make("p.note.origin", {}, ...origin(found)),
    facts(found),
    make(
      "div.cards",
      {},
      card(
        say("memory.units"),
        say(times ? "memory.units_gates" : "memory.units_measured"),
        unitBars(values, same ? old : null, steps),
        same ? pair("model") : null,
      ),
      card(
        say("memory.spread"),
        say("memory.spread_about"),
        spread(values, old, steps),
        old ? pair("model") : null,
      ),
      card(say("memory.fade"), say("memory.fade_about"), fade(found)),
      context,
      Object.keys(found.gates).length
        ? wide(
            card(
              say("memory.saturation"),
              say("memory.saturation_about"),
              saturation(found.gates, before?.gates),
              before ? pair("cell", "hollow") : null,
            ),
          )
        : null,
    ),
  );
  const now = await tab.ask("context");
  if (now) await reach(tab, context, now, before);
});

const wide = (made) => {
  made.classList.add("wide");
  return made;
};

/** What the comparison is made with. */
function origin({ origin, before, longer }) {
  const { origin: kind, title, seed, kept } = origin;
  const told = [say(`memory.origin_${kind}`, { title, seed })];
  if (kept.length) told.push(" ", say("memory.origin_kept", { names: kept.join(", ") }));
  if (!before) told.push(" ", say("memory.no_before"));
  else if (longer === null) told.push(" ", say("memory.sizes"));
  return told;
}

function facts(found) {
  const { before, longer } = found,
    halves = halvesOf(found);
  const was = (value) => (before ? say("memory.before", { value }) : null);
  return make(
    "div.big",
    {},
    fact(
      say("memory.median"),
      steps(median(halves)),
      was(before && steps(median(halvesOf(before)))),
      say("memory.measured", { rows: found.rows }),
    ),
    found.time_constant
      ? fact(
          say("memory.gates"),
          steps(median(found.time_constant)),
          was(before?.time_constant ? steps(median(before.time_constant)) : "–"),
          say("memory.tau"),
        )
      : null,
    longer === null
      ? null
      : fact(
          say("memory.longer_fact"),
          String(longer),
          null,
          say("memory.of_units", { units: halves.length }),
        ),
    fact(
      say("memory.dead"),
      String(found.dead),
      was(before && String(before.dead)),
      say("memory.of", { units: halves.length }),
    ),
  );
}

const fact = (label, much, was, small) =>
  make(
    "div",
    {},
    make("span.label", {}, label),
    make("span.much", {}, much, was ? make("span.was", {}, was) : null),
    make("span.small", {}, small),
  );

/** What is drawn in colour and what in grey. */
const pair = (tone, how = "") =>
  make(
    `p.legend.pair${how ? `.${how}` : ""}`,
    {},
    make("span", { style: { "--tone": `var(--${tone})` } }, make("i"), say("memory.is_after")),
    make("span", { style: { "--tone": "var(--ink)" } }, make("i.then"), say("memory.is_before")),
  );

/** How many of the numbers, at these lags, are worth seeing: until all is below a hundredth, and some room. */
const worthSeeing = (values, lags = values.map((_, lag) => lag)) => {
  const last = values.findLastIndex((value) => value !== null && Math.abs(value) > 0.01);
  const most = Math.max(10, 1.3 * lags[Math.max(last, 0)]);
  return lags.filter((lag) => lag <= most).length;
};

function fade(found) {
  const lines = [
    ["hidden", "hidden"],
    ["cell", "cell"],
  ].filter(([name]) => found[`${name}_fade`]);
  const now = lines.map(([name, tone]) => ({
    label: say(`variable.${name}`),
    tone,
    values: found[`${name}_fade`],
  }));
  const then = lines
    .filter(([name]) => found.before?.[`${name}_fade`])
    .map(([name, tone]) => ({
      label: `${say(`variable.${name}`)}, ${say("memory.is_before")}`,
      tone,
      dash: "4 4",
      values: found.before[`${name}_fade`],
    }));
  const all = [...then, ...now],
    shown = Math.max(...all.map((line) => worthSeeing(line.values)));
  return lineChart({
    lines: all.map((line) => ({ ...line, values: line.values.slice(0, shown) })),
    low: 0,
    high: 1,
    axis: say("memory.lag"),
  });
}

async function reach(tab, place, now, before) {
  const then = before ? await tab.ask("context_before") : null;
  if (before && !then) return;
  const blind = then && !then.relative.some((value) => value > 0);
  const lines = [{ label: say("memory.is_after"), tone: "model", values: now.relative }];
  if (then && !blind)
    lines.unshift({ label: say("memory.is_before"), tone: "quiet", dash: "4 4", values: then.relative });
  const known = lines.flatMap((line) => line.values).filter((value) => value !== null);
  const shown = Math.max(...lines.map((line) => worthSeeing(line.values, now.lags)));
  const curve = lineChart({
    lines: lines.map((line) => ({ ...line, values: line.values.slice(0, shown) })),
    x: now.lags.slice(0, shown),
    low: 0,
    high: Math.max(1, ...known),
    axis: say("memory.lag_back"),
    mark: now.context,
  });
  const told = [say("memory.reach", { steps: whole(now.context) })];
  if (blind) told.push(" ", say("memory.blind"));
  else if (then) told.push(" ", say("memory.reach_before", { steps: whole(then.context) }));
  place.querySelector(".busy")?.replaceWith(curve, make("p.verdict", {}, ...told));
}
