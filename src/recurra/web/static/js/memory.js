// Memory: how long each unit remembers, how open its gates stand, and how far back the network looks.

import { lineChart } from "./charts.js";
import { draw as svg, make, number, room } from "./dom.js";
import { card, findingTab, waiting } from "./finding.js";
import { say } from "./strings.js";

const ENDLESS = 1e300;
const steps = (value) => (value === null ? "–" : value >= ENDLESS ? "∞" : number(value, 1));
const median = (values) => {
  const known = values.filter((value) => value !== null).sort((a, b) => a - b);
  return known.length ? known[Math.floor((known.length - 1) / 2)] : null;
};

export const memory = findingTab(async (tab) => {
  const found = await tab.ask("memory");
  if (!found) return;
  const times = found.time_constant,
    halves = found.cell_half_life ?? found.hidden_half_life;
  const facts = make(
    "div.big",
    {},
    fact(say("memory.median"), steps(median(halves)), say("memory.measured", { rows: found.rows })),
    times ? fact(say("memory.gates"), steps(median(times)), say("memory.tau")) : null,
    fact(say("memory.dead"), String(found.dead), say("memory.of", { units: halves.length })),
  );
  const context = card(say("memory.context"), say("memory.context_about"), waiting());
  tab.put(
    facts,
    make(
      "div.cards",
      {},
      card(
        say("memory.units"),
        say(times ? "memory.units_gates" : "memory.units_measured"),
        unitBars(times ?? halves),
      ),
      card(say("memory.fade"), say("memory.fade_about"), fade(found)),
      Object.keys(found.gates).length
        ? card(say("memory.saturation"), say("memory.saturation_about"), saturation(found.gates))
        : null,
      context,
    ),
  );
  const reach = await tab.ask("context");
  if (!reach) return;
  const curve = lineChart({
    lines: [{ label: say("memory.context"), tone: "model", values: reach.relative }],
    x: reach.lags,
    low: 0,
    high: Math.max(1, ...reach.relative.filter((value) => value !== null)),
    axis: say("memory.lag"),
    mark: reach.context,
  });
  context
    .querySelector(".busy")
    .replaceWith(curve, make("p.verdict", {}, say("memory.reach", { steps: steps(reach.context) })));
});

const fact = (label, much, small) =>
  make("div", {}, make("span.label", {}, label), make("span.much", {}, much), make("span.small", {}, small));

/** A bar for each unit, the longest memory first, on a logarithmic scale. */
function unitBars(values) {
  const ranked = values
    .map((value, unit) => [unit, value])
    .filter(([, value]) => value !== null)
    .sort((a, b) => b[1] - a[1]);
  const finite = ranked.map(([, value]) => value).filter((value) => value < ENDLESS && value > 0);
  const top = Math.max(10, ...finite) * 1.3,
    low = Math.max(0.05, Math.min(0.5, ...finite));
  const share = (value) => Math.max(0.004, Math.log(Math.min(value, top) / low) / Math.log(top / low));
  const wide = room(),
    high = 200,
    left = 44,
    each = (wide - left) / Math.max(ranked.length, 1);
  const chart = svg("svg.chart", {
    viewBox: `0 0 ${wide} ${high + 24}`,
    role: "img",
    "aria-label": say("memory.units"),
  });
  for (let level = 1; level < top; level *= 10) {
    const y = high - share(level) * high;
    chart.append(
      svg("path.axis", { d: `M${left} ${y}H${wide}` }),
      svg("text", { x: left - 6, y: y + 4, "text-anchor": "end" }, String(level)),
    );
  }
  chart.append(svg("text", { x: 0, y: 4 }, say("memory.steps")));
  ranked.forEach(([unit, value], place) => {
    const size = share(value) * high;
    const bar = svg("rect", {
      x: left + place * each + each * 0.08,
      width: each * 0.84,
      y: high - size,
      height: size,
      rx: Math.min(3, each / 4),
      fill: value >= ENDLESS ? "var(--good)" : "var(--forget)",
      opacity: 0.85,
    });
    bar.append(svg("title", {}, say("memory.bar", { unit, steps: steps(value) })));
    chart.append(bar);
    if (each > 15)
      chart.append(
        svg(
          "text",
          { x: left + (place + 0.5) * each, y: high + 15, "text-anchor": "middle", "font-size": 10 },
          String(unit),
        ),
      );
  });
  return chart;
}

function fade(found) {
  const lines = [
    ["hidden", "hidden"],
    ["cell", "cell"],
  ]
    .filter(([name]) => found[`${name}_fade`])
    .map(([name, tone]) => ({ label: say(`variable.${name}`), tone, values: found[`${name}_fade`] }));
  return lineChart({ lines, low: 0, high: 1, axis: say("memory.lag") });
}

/** After Karpathy et al. (2015): each unit a point, how often its gate is open against how often shut. */
function saturation(gates) {
  const names = Object.keys(gates),
    size = 150;
  return make(
    "div.squares",
    {},
    ...names.map((name) => {
      const { shut, open } = gates[name];
      const chart = svg("svg.chart", {
        viewBox: `-26 -6 ${size + 34} ${size + 34}`,
        role: "img",
        "aria-label": say(`variable.${name}`),
      });
      chart.append(
        svg("path", { d: `M0 0V${size}H${size}`, fill: "none", stroke: "var(--edge)" }),
        svg("path", { d: `M0 0L${size} ${size}`, stroke: "var(--grid)" }),
        svg("text", { x: size / 2, y: size + 18, "text-anchor": "middle" }, say("memory.open")),
        svg(
          "text",
          { x: -10, y: size / 2, "text-anchor": "middle", transform: `rotate(-90 -10 ${size / 2})` },
          say("memory.shut"),
        ),
      );
      shut.forEach((value, unit) => {
        if (value === null) return;
        const dot = svg("circle", {
          cx: open[unit] * size,
          cy: size - value * size,
          r: 4,
          fill: `var(--${name})`,
          opacity: 0.5,
        });
        dot.append(
          svg("title", {}, say("memory.dot", { unit, open: number(open[unit]), shut: number(value) })),
        );
        chart.append(dot);
      });
      return make(
        "figure",
        {},
        chart,
        make("figcaption", { style: { color: `var(--${name})` } }, say(`variable.${name}`)),
      );
    }),
  );
}
