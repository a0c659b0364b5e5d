// What mattered: which inputs moved one number of the answer, and which way.

import { colour } from "./colours.js";
import { draw as svg, make, number, room } from "./dom.js";
import { kept } from "./choose.js";
import { card, findingTab } from "./finding.js";
import { say } from "./strings.js";

/** `component` null: the usual one of the sample; `of`: the sample it was chosen for. */
const chosen = { method: "gradients", component: null, of: null };

export const mattered = findingTab(async (tab) => {
  const now = JSON.stringify(kept.sample);
  if (tab.model.named && now !== chosen.of) chosen.component = null;
  chosen.of = now;
  const found = await tab.ask("mattered", { method: chosen.method, component: chosen.component });
  const method = make(
    "select",
    {
      id: "method",
      onchange: () => {
        chosen.method = method.value;
        tab.load();
      },
    },
    ...["gradients", "occlusion"].map((name) =>
      make("option", { value: name, selected: name === chosen.method }, say(`mattered.${name}`)),
    ),
  );
  const component = make("input", {
    type: "number",
    id: "component",
    min: 0,
    value: chosen.component ?? 0,
    onchange: () => {
      chosen.component = Math.max(0, Math.round(Number(component.value)) || 0);
      tab.load();
    },
  });
  const fields = make(
    "div.choose",
    {},
    make("div.field", {}, make("label", { for: "method" }, say("mattered.method")), method),
    ...(found?.choices
      ? named(found, tab)
      : [make("div.field", {}, make("label", { for: "component" }, say("mattered.component")), component)]),
  );
  if (!found) return tab.put(fields);
  const rows = Array.isArray(found.values[0])
    ? found.values[0].map((_, f) => found.values.map((step) => step[f]))
    : [found.values];
  const most = Math.max(1e-12, ...rows.flat().map((value) => Math.abs(value ?? 0)));
  const words = tab.model.kind === "words" ? found.labels : [];
  const bySteps = rows[0].map((_, t) => rows.reduce((sum, row) => sum + (row[t] ?? 0), 0));
  tab.put(
    fields,
    card(
      say("mattered.title"),
      say(found.choices ? `mattered.named_${chosen.method}` : `mattered.about_${chosen.method}`),
      make("p.answer", {}, say(found.kind ? `mattered.is_${found.kind}` : "mattered.output"), " ", make("b", {}, number(found.output, 3))),
      words.length === bySteps.length ? wordsOf(words, bySteps, most) : bars(bySteps),
      rows.length > 1 ? grid(rows, most) : null,
      make(
        "p.legend",
        {},
        swatch("positive", say("mattered.raises")),
        swatch("negative", say("mattered.lowers")),
      ),
    ),
  );
});

const swatch = (tone, words) => make("span", { style: { "--tone": `var(--${tone})` } }, make("i"), words);

function wordsOf(words, values, most) {
  return make(
    "p.marked",
    {},
    ...words.map((word, t) =>
      make(
        "span",
        {
          style: `background:${colour(values[t] * 0.6, "signed", "", most)}`,
          title: number(values[t], 3),
        },
        word,
      ),
    ),
  );
}

function bars(values) {
  const wide = room(true),
    high = 170,
    each = wide / values.length,
    most = Math.max(1e-12, ...values.map(Math.abs));
  const chart = svg(
    "svg.chart",
    { viewBox: `0 0 ${wide} ${high + 20}`, role: "img", "aria-label": say("mattered.title") },
    svg("path.axis", { d: `M0 ${high / 2}H${wide}` }),
  );
  values.forEach((value, t) => {
    const size = (Math.abs(value) / most) * (high / 2 - 4);
    const bar = svg("rect", {
      x: t * each + each * 0.1,
      width: Math.max(0.6, each * 0.8),
      y: value > 0 ? high / 2 - size : high / 2,
      height: Math.max(0.5, size),
      rx: Math.min(3, each / 4),
      fill: `var(--${value > 0 ? "positive" : "negative"})`,
    });
    bar.append(svg("title", {}, say("mattered.bar", { step: t + 1, value: number(value, 3) })));
    chart.append(bar);
  });
  for (const share of [0, 0.5, 1]) {
    const t = Math.round(share * (values.length - 1));
    chart.append(
      svg(
        "text",
        { x: share * wide, y: high + 15, "text-anchor": ["start", "middle", "end"][share * 2] },
        String(t + 1),
      ),
    );
  }
  return chart;
}

/** Fields for what can be asked about by name: one list, or one of words and one of their tags. */
function named({ choices, chosen: at }, tab) {
  const names = choices.length > 1 ? ["word", "tag"] : ["answer"];
  return choices.map((choice, place) => {
    const select = make(
      "select",
      {
        id: `asked-${names[place]}`,
        onchange: () => {
          at[place] = Number(select.value);
          chosen.component = at.reduce((sum, one) => sum + one, 0);
          tab.load();
        },
      },
      ...choice.map(([value, name]) => make("option", { value, selected: value === at[place] }, name)),
    );
    return make(
      "div.field",
      {},
      make("label", { for: `asked-${names[place]}` }, say(`mattered.${names[place]}`)),
      select,
    );
  });
}

function grid(rows, most) {
  const steps = rows[0].length,
    width = room(true),
    wide = width / steps,
    shown = rows.slice(0, 12);
  const chart = svg("svg.chart", {
    viewBox: `0 0 ${width} ${shown.length * 20}`,
    role: "img",
    "aria-label": say("mattered.grid"),
  });
  shown.forEach((row, f) =>
    row.forEach((value, t) => {
      const cell = svg("rect", {
        x: t * wide,
        y: f * 20 + 1,
        width: Math.max(0.5, wide - (wide > 4 ? 1 : 0)),
        height: 18,
        rx: wide > 8 ? 3 : 0,
        fill: colour(value ?? 0, "signed", "", most),
      });
      cell.append(svg("title", {}, `x${f + 1}, ${t + 1}: ${number(value, 3)}`));
      chart.append(cell);
    }),
  );
  return make(
    "div",
    {},
    make("h3.line-name", {}, say("mattered.grid"), make("span", {}, `x1 … x${shown.length}`)),
    chart,
  );
}
