// One unit of a cell as a drawing: lanes, valves and sums, each with its number of the step at the cursor.

import { draw, number } from "./dom.js";

const BOX = { width: 50, height: 46 };

/** A drawing with parts; each part belongs to a stage of the equations. */
class Drawing {
  constructor(width, height, title) {
    this.svg = draw("svg.drawing", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": title });
    this.parts = [];
    this.updates = [];
  }

  part(stage, tone) {
    const group = draw("g.part", { style: { "--tone": `var(--${tone})` } });
    this.parts.push([stage, group]);
    this.svg.append(group);
    return group;
  }

  wire(part, path, value = null) {
    const line = draw("path.wire", { d: path });
    part.append(line);
    if (value)
      this.updates.push((d, t) => {
        line.style.strokeWidth = 1.6 + 3.2 * Math.min(1, Math.abs(value(d, t)));
      });
  }

  text(part, x, y, words, small = true) {
    const text = draw(small ? "text.small" : "text", { x, y });
    if (typeof words === "string") {
      const [letter, below] = words.split("_");
      text.append(letter);
      if (below) text.append(draw("tspan", { dy: 4, "font-size": 9 }, below));
    } else
      this.updates.push((d, t) => {
        text.textContent = words(d, t);
      });
    part.append(text);
  }

  value(part, x, y, value) {
    this.text(part, x, y, (d, t) => number(value(d, t)), false);
  }

  node(part, x, y, sign) {
    part.append(draw("circle.node", { cx: x, cy: y, r: 12 }));
    this.text(part, x, y, sign, false);
  }

  /** A gate: its fill is as high as its value; a signed one is filled from the middle. */
  box(part, x, y, letter, value, signed = false) {
    const left = x - BOX.width / 2,
      top = y - BOX.height / 2;
    const fill = draw("rect.fill", { x: left, width: BOX.width, y: top, height: 0, rx: 6 });
    part.append(draw("rect.box", { x: left, y: top, width: BOX.width, height: BOX.height, rx: 8 }), fill);
    this.text(part, x, y - 11, letter);
    this.value(part, x, y + 8, value);
    this.updates.push((d, t) => {
      const share = Math.max(-1, Math.min(1, value(d, t)));
      const size = Math.abs(share) * (signed ? BOX.height / 2 : BOX.height);
      const bottom = signed ? y - Math.min(0, share) * (BOX.height / 2) : y + BOX.height / 2;
      fill.setAttribute("height", size.toFixed(1));
      fill.setAttribute("y", (bottom - size).toFixed(1));
    });
  }

  show(d, t, stage = null) {
    for (const update of this.updates) update(d, t);
    this.svg.classList.toggle("staged", stage !== null);
    for (const [place, group] of this.parts) {
      group.classList.toggle("on", stage !== null && place <= stage);
      group.classList.toggle("now", place === stage);
    }
  }
}

function drawLstm(title, coupled) {
  const made = new Drawing(400, 236, title);
  const gate = (name) => (d, t) => d.gates[name].value[t];
  const i = coupled ? (d, t) => 1 - d.gates.forget.value[t] : gate("input");
  const stage = coupled ? { f: 0, i: 0, g: 1, c: 2, o: 3, h: 4 } : { f: 0, i: 1, g: 2, c: 3, o: 4, h: 5 };
  const lane = made.part(-1, "cell");
  made.wire(lane, "M30 46H68", (d, t) => d.c_before[t]);
  made.text(lane, 26, 22, "c_t−1");
  made.value(lane, 26, 64, (d, t) => d.c_before[t]);
  made.wire(lane, "M14 216H292");
  for (const x of [80, 150, 220, 292]) made.wire(lane, `M${x} 216V184`);
  made.text(lane, 24, 203, "[h, x]");

  const f = made.part(stage.f, "forget");
  made.wire(f, "M80 138V58", gate("forget"));
  made.box(f, 80, 161, "f σ", gate("forget"));
  made.node(f, 80, 46, "×");
  const into = made.part(stage.i, "input");
  made.wire(into, "M150 138V104H173", i);
  made.box(into, 150, 161, coupled ? "1 − f" : "i σ", i);
  const g = made.part(stage.g, "candidate");
  made.wire(g, "M220 138V104H197", gate("candidate"));
  made.box(g, 220, 161, "g tanh", gate("candidate"), true);
  made.node(g, 185, 104, "×");
  const c = made.part(stage.c, "cell");
  made.wire(c, "M92 46H173", (d, t) => d.gates.forget.value[t] * d.c_before[t]);
  made.wire(c, "M185 92V58", (d, t) => i(d, t) * d.gates.candidate.value[t]);
  made.wire(c, "M197 46H386", (d, t) => d.c[t]);
  made.node(c, 185, 46, "+");
  made.value(c, 132, 32, (d, t) => d.gates.forget.value[t] * d.c_before[t]);
  made.value(c, 214, 76, (d, t) => i(d, t) * d.gates.candidate.value[t]);
  made.text(c, 372, 22, "c_t");
  made.value(c, 372, 64, (d, t) => d.c[t]);
  const o = made.part(stage.o, "output");
  made.wire(o, "M292 138V128H316", gate("output"));
  made.box(o, 292, 161, "o σ", gate("output"));
  const h = made.part(stage.h, "hidden");
  made.wire(h, "M328 46V72", (d, t) => d.c[t]);
  made.wire(h, "M328 92V116", (d, t) => Math.tanh(d.c[t]));
  made.wire(h, "M340 128H386", (d, t) => d.h[t]);
  h.append(draw("rect.box", { x: 304, y: 72, width: 48, height: 20, rx: 10 }));
  made.text(h, 328, 82, "tanh");
  made.node(h, 328, 128, "×");
  made.text(h, 372, 112, "h_t");
  made.value(h, 372, 146, (d, t) => d.h[t]);
  return made;
}

function drawGru(title) {
  const made = new Drawing(400, 236, title);
  const gate = (name) => (d, t) => d.gates[name].value[t];
  const lane = made.part(-1, "cell");
  made.wire(lane, "M30 46H98", (d, t) => d.h_before[t]);
  made.text(lane, 26, 22, "h_t−1");
  made.value(lane, 26, 64, (d, t) => d.h_before[t]);
  made.wire(lane, "M14 216H316");
  for (const x of [110, 214, 316]) made.wire(lane, `M${x} 216V184`);
  made.text(lane, 28, 203, "[h, x]");
  const r = made.part(0, "reset");
  made.wire(r, "M291 161H239", gate("reset"));
  made.box(r, 316, 161, "r σ", gate("reset"));
  made.text(r, 266, 150, "r · Rh");
  const z = made.part(1, "update");
  made.wire(z, "M110 138V58", gate("update"));
  made.wire(z, "M110 104H202", (d, t) => 1 - d.gates.update.value[t]);
  made.box(z, 110, 161, "z σ", gate("update"));
  made.node(z, 110, 46, "×");
  made.text(z, 156, 93, "1 − z");
  const n = made.part(2, "candidate");
  made.wire(n, "M214 138V116", gate("candidate"));
  made.box(n, 214, 161, "n tanh", gate("candidate"), true);
  const h = made.part(3, "cell");
  made.node(h, 214, 104, "×");
  made.wire(h, "M122 46H202", (d, t) => d.gates.update.value[t] * d.h_before[t]);
  made.wire(h, "M214 92V58", (d, t) => (1 - d.gates.update.value[t]) * d.gates.candidate.value[t]);
  made.wire(h, "M226 46H386", (d, t) => d.h[t]);
  made.node(h, 214, 46, "+");
  made.value(h, 160, 32, (d, t) => d.gates.update.value[t] * d.h_before[t]);
  made.value(h, 246, 76, (d, t) => (1 - d.gates.update.value[t]) * d.gates.candidate.value[t]);
  made.text(h, 372, 22, "h_t");
  made.value(h, 372, 64, (d, t) => d.h[t]);
  return made;
}

function drawRnn(title) {
  const made = new Drawing(400, 150, title);
  const part = (d, name, t) => d.gates.hidden[name][t];
  const lane = made.part(-1, "cell");
  const sum = made.part(0, "cell");
  [
    ["W x_t", "wx", 26],
    ["R h_t−1", "rh", 75],
    ["b", null, 124],
  ].forEach(([words, name, y]) => {
    const value = (d, t) => (name ? part(d, name, t) : d.gates.hidden.b_i + d.gates.hidden.b_h);
    made.text(lane, 30, y, words);
    made.value(lane, 78, y, value);
    made.wire(lane, `M104 ${y}C140 ${y} 140 75 166 75`, value);
  });
  const total = (d, t) => part(d, "wx", t) + part(d, "rh", t) + d.gates.hidden.b_i + d.gates.hidden.b_h;
  made.node(sum, 180, 75, "Σ");
  made.wire(sum, "M192 75H245", total);
  made.value(sum, 218, 58, total);
  made.box(sum, 270, 75, "h", (d, t) => d.h[t], true);
  made.wire(sum, "M295 75H386", (d, t) => d.h[t]);
  made.text(sum, 350, 58, "h_t");
  return made;
}

/** The drawing of a unit of this cell, with `show(numbers, step, stage)`; null where there is none. */
export function drawCell(kind, title) {
  if (kind === "lstm" || kind === "peephole") return drawLstm(title, false);
  if (kind === "coupled") return drawLstm(title, true);
  if (kind === "gru") return drawGru(title);
  if (kind.startsWith("rnn")) return drawRnn(title);
  return null;
}
