// Edit and see: switch a unit off, hold a gate, and see the answer and the states change.

import { asks, kept, liveliest } from "./choose.js";
import { draw as svg, make, number, room } from "./dom.js";
import { card, findingTab, waiting } from "./finding.js";
import { HeatMap } from "./heatmap.js";
import { cells } from "./said.js";
import { Refused, trace, unpack } from "./server.js";
import { say } from "./strings.js";

const chosen = { name: null, unit: null, every: false, to: 0, from: 1, until: null };

export const edit = findingTab(async (tab) => {
  let before;
  try {
    before = await trace(asks(tab.model));
  } catch (error) {
    tab.put();
    if (error instanceof Refused) tab.complain(error);
    return;
  }
  const names = before.variables.map((variable) => variable.name);
  if (!names.includes(chosen.name)) chosen.name = names.includes("cell") ? "cell" : "hidden";
  const units = before.variables.at(-1).units;
  chosen.unit = Math.min(chosen.unit ?? kept.unit ?? liveliest(before.variables.at(-1)), units - 1);
  const result = { answer: make("div"), maps: make("div") },
    each = card(say("edit.each"), say("edit.each_about"), waiting());
  let asked = 0; // an answer that comes after a newer question is not shown
  const run = async () => {
    const turn = ++asked;
    const until = chosen.until ?? before.length;
    const whole = chosen.from <= 1 && until >= before.length;
    const steps = whole
      ? null
      : Array.from({ length: Math.max(0, until - chosen.from + 1) }, (_, place) => chosen.from - 1 + place);
    tab.mistake.hidden = true;
    const found = await tab.ask(
      "edited",
      { name: chosen.name, to: chosen.to, units: chosen.every ? null : [chosen.unit], steps },
      unpack,
    );
    if (found && turn === asked) show(tab, result, before, found);
  };
  const left = make("div.result", {}, form(before, names, units, run), result.answer);
  tab.put(make("div.edit", {}, left, result.maps), each);
  await run();
  const off = await tab.ask("ablated");
  if (off)
    each.querySelector(".busy")?.replaceWith(
      bars(off, (unit) => {
        Object.assign(chosen, { name: off.state, unit, every: false, to: 0 });
        tab.body.querySelector(".edit form").replaceWith(form(before, names, units, run));
        run();
      }),
    );
});

function form(before, names, units, run) {
  const field = (id, label, input) => make("div.field", {}, make("label", { for: id }, label), input);
  const count = (id, value, change, more = {}) => {
    const input = make("input", {
      type: "number",
      id,
      value,
      ...more,
      onchange: () => {
        change(Number(input.value));
        run();
      },
    });
    return input;
  };
  const name = make(
    "select",
    {
      id: "what",
      onchange: () => {
        chosen.name = name.value;
        run();
      },
    },
    ...names.map((one) =>
      make("option", { value: one, selected: one === chosen.name }, say(`variable.${one}`)),
    ),
  );
  const all = make("input", {
    type: "checkbox",
    id: "every",
    onchange: () => {
      chosen.every = all.checked;
      unit.disabled = all.checked;
      run();
    },
  });
  all.checked = chosen.every;
  const unit = count(
    "which",
    chosen.unit,
    (value) => {
      chosen.unit = value;
    },
    { min: 0, max: units - 1 },
  );
  unit.disabled = chosen.every;
  return make(
    "form.panel",
    {
      onsubmit: (event) => {
        event.preventDefault();
        run();
      },
    },
    make("h3", {}, say("edit.title")),
    make("p.quiet.about", {}, say("edit.about")),
    make(
      "div.choose",
      {},
      field("what", say("edit.what"), name),
      field("which", say("watch.unit"), unit),
      field("every", say("edit.every"), all),
    ),
    make(
      "div.choose",
      {},
      field(
        "to",
        say("edit.to"),
        count(
          "to",
          chosen.to,
          (value) => {
            chosen.to = value;
          },
          { step: 0.1 },
        ),
      ),
      field(
        "from",
        say("edit.from"),
        count(
          "from",
          chosen.from,
          (value) => {
            chosen.from = Math.max(1, Math.round(value));
          },
          { min: 1, max: before.length },
        ),
      ),
      field(
        "until",
        say("edit.until"),
        count(
          "until",
          chosen.until ?? before.length,
          (value) => {
            chosen.until = Math.min(before.length, Math.round(value));
          },
          { min: 1, max: before.length },
        ),
      ),
    ),
  );
}

/** The answers side by side, and the states with the edit, and what it changed in them. */
function show(tab, place, before, found) {
  const several = Boolean(found.rows) || found.before.length > 1;
  const rows = found.rows?.map((row) => make("tr", {}, ...cells(row))) ?? found.before.map((value, index) =>
    make(
      "tr",
      {},
      several ? make("th", {}, String(index)) : null,
      make("td", {}, number(value, 3)),
      make("td.after", {}, number(found.after[index], 3)),
      make("td", {}, number(found.after[index] - value, 3)),
    ),
  );
  const variable = found.variables[0],
    old = before.variables.find((one) => one.name === variable.name);
  const change = variable.values.map((value, place) => value - old.values[place]);
  const most = change.reduce((size, value) => Math.max(size, Math.abs(value)), 1e-6);
  const on = {
    hover() {},
    pick: (_, row) => {
      const input = tab.body.querySelector("#which");
      if (input && !input.disabled) {
        input.value = row;
        input.dispatchEvent(new Event("change"));
      }
    },
  };
  const maps = [
    new HeatMap({ ...old, label: say("edit.before"), tone: old.name }, on),
    new HeatMap({ ...variable, most: old.most, label: say("edit.after"), tone: variable.name }, on),
    ...(variable.values.length === old.values.length
      ? [
          new HeatMap(
            { ...variable, values: change, most, label: say("edit.change"), tone: variable.name },
            on,
          ),
        ]
      : []),
  ];
  place.answer.replaceChildren(
    card(
      say("edit.answer"),
      "",
      make(
        "table.answers",
        {},
        make(
          "tr",
          {},
          several ? make("th", {}) : null,
          make("th", {}, say("edit.before")),
          make("th", {}, say("edit.after")),
          make("th", {}, say("edit.change")),
        ),
        ...rows,
      ),
    ),
  );
  place.maps.replaceChildren(
    card(say(`variable.${variable.name}`), say("edit.maps_about"), ...maps.map((map) => map.element)),
  );
  const paint = () => {
    for (const map of maps) {
      map.paint();
      map.point(map.steps - 1, Math.min(chosen.unit, map.units - 1), false);
    }
  };
  paint();
  tab.painted = [paint];
  kept.unit = chosen.unit;
}

function bars({ moved, state }, press) {
  const wide = room(true),
    high = 150,
    each = wide / moved.length,
    most = Math.max(1e-12, ...moved);
  const chart = svg("svg.chart", {
    viewBox: `0 0 ${wide} ${high + 20}`,
    role: "group",
    "aria-label": say("edit.each"),
  });
  moved.forEach((value, unit) => {
    const size = (value / most) * (high - 18);
    const bar = svg(
      "g.unit",
      {
        tabindex: 0,
        role: "button",
        "aria-label": say("edit.bar", { unit, value: number(value, 3) }),
        onclick: () => press(unit),
        onkeydown: (event) => {
          if (event.key === "Enter") press(unit);
        },
      },
      svg("rect", { x: unit * each, y: 0, width: each, height: high, fill: "transparent" }),
      svg("rect", {
        x: unit * each + each * 0.1,
        y: high - size,
        width: each * 0.8,
        height: Math.max(1, size),
        rx: Math.min(4, each / 4),
        fill: `var(--${state})`,
      }),
      svg("title", {}, say("edit.bar", { unit, value: number(value, 3) })),
    );
    if (each > 15)
      bar.append(
        svg("text", { x: (unit + 0.5) * each, y: high + 15, "text-anchor": "middle" }, String(unit)),
      );
    chart.append(bar);
  });
  return chart;
}
