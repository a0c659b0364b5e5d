// The lesson's small networks, run in the browser, so that a number that is dragged has its effect at once.
// The weights are those that the server trained; the equations are those of `recurra.engine.cells`.

const sigmoid = (value) => 1 / (1 + Math.exp(-value));
const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
const GATES = {
  lstm: ["input", "forget", "candidate", "output"],
  gru: ["reset", "update", "candidate"],
  rnn: ["hidden"],
};

/**
 * Run one of them over `xs` (T of [value, mark]). Returns `answer`, and over time `h` (T, H), for an LSTM
 * `c` (T, H), and `gates`: name → { value, wx, rh }, each (T, H).
 */
export function run(kind, weights, xs) {
  const size = weights.top_weight.length;
  const names = GATES[kind];
  const found = { kind, h: [], c: kind === "lstm" ? [] : null, gates: {} };
  for (const name of names) found.gates[name] = { value: [], wx: [], rh: [] };
  let h = Array(size).fill(0),
    c = Array(size).fill(0);
  for (const x of xs) {
    const wx = weights.weight_ih_l0.map((row) => dot(row, x));
    const rh = weights.weight_hh_l0.map((row) => dot(row, h));
    const total = wx.map((value, row) => value + rh[row] + weights.bias_ih_l0[row] + weights.bias_hh_l0[row]);
    const part = (list, place) => list.slice(place * size, (place + 1) * size);
    let values;
    if (kind === "lstm") {
      const [i, f, g, o] = [0, 1, 2, 3].map((place) =>
        part(total, place).map(place === 2 ? Math.tanh : sigmoid),
      );
      c = c.map((old, u) => f[u] * old + i[u] * g[u]);
      h = c.map((cell, u) => o[u] * Math.tanh(cell));
      found.c.push(c);
      values = [i, f, g, o];
    } else if (kind === "gru") {
      const [r, z] = [0, 1].map((place) => part(total, place).map(sigmoid));
      const n = r.map((gate, u) => {
        const row = 2 * size + u;
        return Math.tanh(wx[row] + weights.bias_ih_l0[row] + gate * (rh[row] + weights.bias_hh_l0[row]));
      });
      h = h.map((old, u) => (1 - z[u]) * n[u] + z[u] * old);
      values = [r, z, n];
    } else {
      h = total.map(Math.tanh);
      values = [h];
    }
    found.h.push(h);
    names.forEach((name, place) => {
      found.gates[name].value.push(values[place]);
      found.gates[name].wx.push(part(wx, place));
      found.gates[name].rh.push(part(rh, place));
    });
  }
  found.answer = dot(weights.top_weight, h) + weights.top_bias;
  return found;
}

/** One unit of a run, in the form in which the server tells a unit's numbers. */
export function unitOf(ran, weights, unit) {
  const size = weights.top_weight.length,
    column = (rows) => rows.map((row) => row[unit]);
  const gates = {};
  GATES[ran.kind].forEach((name, place) => {
    const row = place * size + unit;
    const { value, wx, rh } = ran.gates[name];
    gates[name] = {
      value: column(value),
      wx: column(wx),
      rh: column(rh),
      b_i: weights.bias_ih_l0[row],
      b_h: weights.bias_hh_l0[row],
    };
  });
  const h = column(ran.h),
    told = {
      kind: ran.kind === "rnn" ? "rnn_tanh" : ran.kind,
      unit,
      gates,
      h,
      h_before: [0, ...h.slice(0, -1)],
    };
  if (!ran.c) return told;
  const c = column(ran.c);
  return { ...told, c, c_before: [0, ...c.slice(0, -1)] };
}

/** The unit whose state says most of the marked number from the mark on: by correlation, over many draws. */
export function rememberer(kind, weights, steps) {
  const size = weights.top_weight.length,
    draws = 60;
  let state = 7;
  const random = () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
  const wanted = [],
    ends = [];
  for (let n = 0; n < draws; n++) {
    const marked = Math.floor(random() * (steps - 4));
    const xs = Array.from({ length: steps }, (_, t) => [random() * 2 - 1, t === marked ? 1 : 0]);
    const ran = run(kind, weights, xs);
    for (const held of (ran.c ?? ran.h).slice(marked)) {
      wanted.push(xs[marked][0]);
      ends.push(held);
    }
  }
  const strength = Array.from({ length: size }, (_, u) =>
    Math.abs(
      correlation(
        wanted,
        ends.map((end) => end[u]),
      ),
    ),
  );
  return strength.indexOf(Math.max(...strength));
}

function correlation(a, b) {
  const mean = (list) => list.reduce((x, y) => x + y, 0) / list.length;
  const ma = mean(a),
    mb = mean(b);
  const cross = mean(a.map((value, place) => (value - ma) * (b[place] - mb)));
  return (
    cross /
    Math.sqrt(mean(a.map((value) => (value - ma) ** 2)) * mean(b.map((value) => (value - mb) ** 2)) + 1e-12)
  );
}
