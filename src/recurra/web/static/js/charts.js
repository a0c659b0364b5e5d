// Small charts as SVG: lines over steps, with a few ticks and nothing else.

import { draw, make, number, room } from "./dom.js";

const ROOM = { left: 44, right: 14, top: 10, bottom: 30 };

/**
 * A chart of `lines`: [{ label, tone, values, dash }] over `x` (numbers, default 0, 1, …).
 * `low`, `high`: the range of y; `log`: whether its axis is logarithmic; `axis`: the words under it;
 * `width`, `height` in its own units.
 */
export function lineChart({
  lines,
  x,
  low,
  high,
  log = false,
  axis = "",
  mark = null,
  width = room(),
  height = 220,
  ticks = null,
}) {
  const steps = x ?? lines[0].values.map((_, place) => place);
  const scale = (value) => (log ? Math.log10(Math.max(value, low)) : value);
  const across = (value) =>
    ROOM.left + ((value - steps[0]) / (steps.at(-1) - steps[0] || 1)) * (width - ROOM.left - ROOM.right);
  const up = (value) => {
    const share =
      (scale(Math.min(Math.max(value, low), high)) - scale(low)) / (scale(high) - scale(low) || 1);
    return height - ROOM.bottom - share * (height - ROOM.top - ROOM.bottom);
  };
  const svg = draw("svg.chart", {
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": `${axis}: ${lines.map((line) => line.label).join(", ")}`,
  });
  const levels = ticks ?? (log ? decades(low, high) : [low, (low + high) / 2, high]);
  for (const level of levels) {
    svg.append(
      draw("path.axis", { d: `M${ROOM.left} ${up(level)}H${width - ROOM.right}` }),
      draw(
        "text",
        { x: ROOM.left - 7, y: up(level) + 4, "text-anchor": "end" },
        log ? power(level) : number(level, 1),
      ),
    );
  }
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    const value = Math.round(steps[0] + share * (steps.at(-1) - steps[0]));
    svg.append(draw("text", { x: across(value), y: height - 13, "text-anchor": "middle" }, String(value)));
  }
  svg.append(draw("text", { x: (width + ROOM.left) / 2, y: height + 1, "text-anchor": "middle" }, axis));
  if (mark !== null)
    svg.append(
      draw("path", {
        d: `M${across(mark)} ${ROOM.top}V${height - ROOM.bottom}`,
        stroke: "var(--ink)",
        "stroke-dasharray": "3 3",
        opacity: 0.6,
      }),
    );
  for (const { tone, values, dash } of lines) {
    let path = "",
      pen = "M";
    values.forEach((value, place) => {
      if (value === null || Number.isNaN(value)) pen = "M";
      else {
        path += `${pen}${across(steps[place]).toFixed(1)} ${up(value).toFixed(1)}`;
        pen = "L";
      }
    });
    svg.append(
      draw("path", {
        d: path,
        fill: "none",
        stroke: `var(--${tone})`,
        "stroke-width": 2.2,
        "stroke-linejoin": "round",
        "stroke-dasharray": dash ?? null,
      }),
    );
  }
  return make("div", {}, svg, lines.length > 1 ? legend(lines) : null);
}

/** What each colour stands for. */
export const legend = (lines) =>
  make(
    "p.legend",
    {},
    ...lines.map(({ label, tone, dash }) =>
      make("span", { style: { "--tone": `var(--${tone})` } }, make(dash ? "i.dashed" : "i"), label),
    ),
  );

function decades(low, high) {
  const first = Math.ceil(Math.log10(low)),
    last = Math.floor(Math.log10(high));
  const by = Math.max(1, Math.round((last - first) / 5));
  const found = [];
  for (let place = first; place <= last; place += by) found.push(10 ** place);
  return found;
}

function power(value) {
  const place = Math.round(Math.log10(value));
  if (place >= -2 && place <= 3) return String(value >= 1 ? Math.round(value) : Number(value.toFixed(2)));
  const raised = [..."⁰¹²³⁴⁵⁶⁷⁸⁹"];
  return `10${[...String(place)].map((digit) => raised[digit] ?? "⁻").join("")}`;
}
