// The memory tab's charts of single units: bars, their spread, and how open the gates stand; then and now.

import { draw as svg, make, number, room } from "./dom.js";
import { say } from "./strings.js";

/** What is told as infinite. */
export const ENDLESS = 1e300;
const LEFT = 44;
const MOST_BINS = 14;

/** Where values stand on a logarithmic scale that holds all of them: { low, top, share(value) }. */
function logarithmic(...lists) {
  const finite = lists.flat().filter((value) => value !== null && value < ENDLESS && value > 0);
  const top = Math.max(10, ...finite) * 1.3,
    low = Math.max(0.05, Math.min(0.5, ...finite));
  const share = (value) => Math.max(0, Math.log(Math.min(value, top) / low) / Math.log(top / low));
  return { low, top, share };
}

/** A bar for each unit, the longest memory first, and a mark where it stood before. `told`: steps as words. */
export function unitBars(values, before, told) {
  const ranked = values
    .map((value, unit) => [unit, value])
    .filter(([, value]) => value !== null)
    .sort((a, b) => b[1] - a[1]);
  const { top, share } = logarithmic(values, before ?? []);
  const wide = room(),
    high = 200,
    each = (wide - LEFT) / Math.max(ranked.length, 1);
  const chart = svg("svg.chart", {
    viewBox: `0 -22 ${wide} ${high + 46}`,
    role: "img",
    "aria-label": say("memory.units"),
  });
  for (let level = 1; level < top; level *= 10) {
    const y = high - share(level) * high;
    chart.append(
      svg("path.axis", { d: `M${LEFT} ${y}H${wide}` }),
      svg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, String(level)),
    );
  }
  chart.append(svg("text", { x: 0, y: -12 }, say("memory.steps")));
  ranked.forEach(([unit, value], place) => {
    const size = Math.max(0.004, share(value)) * high,
      x = LEFT + place * each;
    const then = before?.[unit] ?? null;
    const words = say("memory.bar", { unit, steps: told(value) });
    const group = svg(
      "g",
      {},
      svg("title", {}, then === null ? words : `${words} · ${say("memory.before", { value: told(then) })}`),
      svg("rect", {
        x: x + each * 0.1,
        width: each * 0.8,
        y: high - size,
        height: size,
        rx: Math.min(3, each / 4),
        fill: value >= ENDLESS ? "var(--good)" : "var(--model)",
        opacity: 0.8,
      }),
    );
    if (then !== null) {
      const y = high - share(then) * high;
      group.append(
        svg("path", {
          d: `M${x} ${y}h${each}`,
          stroke: "var(--ink)",
          "stroke-width": 2,
        }),
      );
    }
    if (each > 15)
      group.append(
        svg(
          "text",
          { x: x + each / 2, y: high + 15, "text-anchor": "middle", "font-size": 10 },
          String(unit),
        ),
      );
    chart.append(group);
  });
  return chart;
}

/** How many units have how long a memory: a bar for each stretch of time, and an outline of how it was. */
export function spread(values, before, told) {
  const { low, top } = logarithmic(values, before ?? []);
  const count = room() < 400 ? 9 : MOST_BINS;
  const edges = Array.from({ length: count + 1 }, (_, place) => low * (top / low) ** (place / count));
  const shares = (list) => {
    const known = list.filter((value) => value !== null);
    const bins = Array(count + 1).fill(0); // the last holds those without an end
    for (const value of known) {
      const place = Math.floor((Math.log(Math.max(value, low) / low) / Math.log(top / low)) * count);
      bins[value >= ENDLESS ? count : Math.min(count - 1, place)] += 1;
    }
    return bins.map((units) => ({ units, share: units / Math.max(known.length, 1) }));
  };
  const now = shares(values),
    then = before ? shares(before) : null,
    shown = now[count].units || then?.[count].units ? count + 1 : count;
  const wide = room(),
    high = 200,
    most = Math.max(...now.map((bin) => bin.share), ...(then ?? []).map((bin) => bin.share), 1e-9),
    each = (wide - LEFT) / shown;
  const chart = svg("svg.chart", {
    viewBox: `0 -12 ${wide} ${high + 36}`,
    role: "img",
    "aria-label": say("memory.spread"),
  });
  for (const share of [0, 0.5, 1]) {
    const y = high - share * (high - 6);
    chart.append(
      svg("path.axis", { d: `M${LEFT} ${y}H${wide}` }),
      svg("text", { x: LEFT - 7, y: y + 4, "text-anchor": "end" }, `${Math.round(share * most * 100)} %`),
    );
  }
  const tall = (bin) => (bin.share / most) * (high - 6);
  let outline = `M${LEFT} ${high}`;
  for (let place = 0; place < shown; place++) {
    const x = LEFT + place * each;
    const ends = place === count ? ["∞", "∞"] : [told(edges[place]), told(edges[place + 1])];
    const bar = svg("rect", {
      x: x + each * 0.06,
      width: each * 0.88,
      y: high - tall(now[place]),
      height: tall(now[place]),
      rx: Math.min(3, each / 4),
      fill: place === count ? "var(--good)" : "var(--model)",
      opacity: 0.8,
    });
    const words = say("memory.bin", {
      low: ends[0],
      high: ends[1],
      after: now[place].units,
      before: then ? then[place].units : "–",
    });
    bar.append(svg("title", {}, words));
    chart.append(bar);
    if (then) outline += `V${high - tall(then[place])}h${each}`;
    if (place === count)
      chart.append(svg("text", { x: x + each / 2, y: high + 15, "text-anchor": "middle" }, "∞"));
  }
  if (then)
    chart.append(
      svg("path", { d: `${outline}V${high}`, fill: "none", stroke: "var(--ink)", "stroke-width": 1.8 }),
    );
  for (let level = 1; level < top; level *= 10) {
    if (level < low) continue;
    const x = LEFT + (Math.log(level / low) / Math.log(top / low)) * count * each;
    chart.append(
      svg("path", { d: `M${x} ${high}v4`, stroke: "var(--quiet)" }),
      svg("text", { x, y: high + 16, "text-anchor": "middle" }, String(level)),
    );
  }
  return chart;
}

/** After Karpathy et al. (2015): each unit a point, how often its gate is open against how often shut. */
export function saturation(gates, before) {
  const size = 150;
  const dot = (gate, unit, how) =>
    svg("circle", { cx: gate.open[unit] * size, cy: size - gate.shut[unit] * size, r: 4, ...how });
  const figure = (name) => {
    const now = gates[name],
      then = before?.[name];
    const chart = svg("svg.chart", {
      viewBox: `-26 -8 ${size + 36} ${size + 36}`,
      role: "img",
      "aria-label": say(`variable.${name}`),
    });
    chart.append(
      svg("path", { d: `M0 0V${size}H${size}`, fill: "none", stroke: "var(--edge)" }),
      svg("path", { d: `M0 0L${size} ${size}`, stroke: "var(--grid)" }),
      svg("text", { x: size / 2, y: size + 20, "text-anchor": "middle" }, say("memory.open")),
      svg(
        "text",
        { x: -10, y: size / 2, "text-anchor": "middle", transform: `rotate(-90 -10 ${size / 2})` },
        say("memory.shut"),
      ),
    );
    then?.shut.forEach((value, unit) => {
      if (value !== null)
        chart.append(
          dot(then, unit, { fill: "none", stroke: "var(--quiet)", "stroke-width": 1.2, opacity: 0.7 }),
        );
    });
    now.shut.forEach((value, unit) => {
      if (value === null) return;
      const one = dot(now, unit, { fill: `var(--${name})`, opacity: 0.55 });
      const words = { unit, open: number(now.open[unit]), shut: number(value) };
      one.append(svg("title", {}, say("memory.dot", words)));
      chart.append(one);
    });
    return make(
      "figure",
      {},
      chart,
      make("figcaption", { style: { color: `var(--${name})` } }, say(`variable.${name}`)),
    );
  };
  return make("div.squares", {}, ...Object.keys(gates).map(figure));
}
