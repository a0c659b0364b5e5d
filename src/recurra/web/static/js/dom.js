// Elements, made in one call, and numbers as text.

const SVG = "http://www.w3.org/2000/svg";

/** `make("p.note", {title: "…"}, "text", child)`; a property that begins with `on` is a listener. */
export function make(what, properties = {}, ...children) {
  const [name, ...classes] = what.split(".");
  return finish(document.createElement(name), classes, properties, children);
}

/** The same for SVG. */
export function draw(what, properties = {}, ...children) {
  const [name, ...classes] = what.split(".");
  return finish(document.createElementNS(SVG, name), classes, properties, children);
}

function finish(element, classes, properties, children) {
  if (classes.length) element.setAttribute("class", classes.join(" "));
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style" && typeof value === "object") {
      for (const [key, one] of Object.entries(value)) element.style.setProperty(key, one);
    } else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A number with two digits after the point, a true minus, and no more than five characters or so. */
export function number(value, digits = 2) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  const text =
    size >= 10000
      ? value.toExponential(1)
      : value.toFixed(size >= 100 ? 0 : size >= 10 ? Math.min(digits, 1) : digits);
  return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "−");
}

/** A share as a percentage. */
export const percent = (value) => `${Math.round(100 * value)} %`;

/** `value` held within `low` and `high`. */
export const within = (value, low, high) => Math.min(high, Math.max(low, value));

/** The width of a drawing in its own units, so that its words keep their size on any screen. */
export const room = (whole = false) => (innerWidth < 760 ? 330 : whole && innerWidth > 1020 ? 1180 : 640);

/** Call `work` at most once a frame, with the latest arguments. */
export function onceAFrame(work) {
  let waiting = null;
  return (...given) => {
    if (waiting === null)
      requestAnimationFrame(() => {
        const latest = waiting;
        waiting = null;
        work(...latest);
      });
    waiting = given;
  };
}
