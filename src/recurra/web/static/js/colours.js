// Colours of numbers: a gate from paper to its own hue, a signed number from blue over paper to orange.

const STEPS = 256;
const made = new Map();

/** The CSS variable `--name` as [r, g, b]. */
function read(name) {
  const text = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  return [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
}

/** STEPS colours as RGBA words along `stops`, evenly apart. */
function ramp(stops) {
  const table = new Uint32Array(STEPS);
  for (let i = 0; i < STEPS; i++) {
    const place = (i / (STEPS - 1)) * (stops.length - 1);
    const left = Math.min(stops.length - 2, Math.floor(place));
    const share = place - left;
    // Mixing squares keeps the middle from going muddy.
    const [r, g, b] = [0, 1, 2].map((c) =>
      Math.round(Math.sqrt(stops[left][c] ** 2 * (1 - share) + stops[left + 1][c] ** 2 * share)),
    );
    table[i] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return table;
}

/** The table of a variable: `kind` gate or signed, `tone` the name of its colour. */
export function table(kind, tone) {
  const key = `${document.documentElement.dataset.theme} ${kind} ${tone}`;
  if (!made.has(key)) {
    const stops =
      kind === "gate"
        ? [read("low"), read(tone)]
        : ["negative-deep", "negative", "middle", "positive", "positive-deep"].map(read);
    made.set(key, ramp(stops));
  }
  return made.get(key);
}

/** The colour of one number, as CSS. `most`: the size that has the deepest colour. */
export function colour(value, kind, tone, most = 1) {
  const word = table(kind, tone)[index(value, kind, most)];
  return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
}

/** Where a number stands in its table. */
export function index(value, kind, most) {
  const share = kind === "gate" ? value : 0.5 + value / (2 * (most || 1));
  return Math.max(0, Math.min(STEPS - 1, Math.round(share * (STEPS - 1)))) || 0;
}

/** A legend as a CSS gradient. */
export function gradient(kind, tone) {
  const words = table(kind, tone);
  const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => {
    const word = words[Math.round(share * (STEPS - 1))];
    return `rgb(${word & 255} ${(word >> 8) & 255} ${(word >> 16) & 255})`;
  });
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
