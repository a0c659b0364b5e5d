"use strict";
(() => {
  const { dark, figures } = JSON.parse(document.getElementById("figures").textContent);
  const night = window.matchMedia("(prefers-color-scheme: dark)");
  const mouse = window.matchMedia("(pointer: fine)").matches;
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: "reset" };
  const numbers = new Set(["x", "y", "text"]);
  const small = window.matchMedia("(max-width: 600px)").matches;
  const brief = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  let chosen = 0;
  let origin = 0;

  // Every colour of a figure, wherever it stands, swapped for its dark counterpart at night.
  const painted = (value, key) => {
    if (typeof value === "string") return night.matches && Object.hasOwn(dark, value) ? dark[value] : value;
    if (numbers.has(key) && Array.isArray(value)) return value;
    if (Array.isArray(value)) return value.map((one) => painted(one));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, one]) => [name, painted(one, name)]));
    return value;
  };

  const moment = (value) => (typeof value === "number" ? value : Date.parse(String(value).replace(" ", "T")));

  // plotly fits the y axis to all of the data; a reader wants it fitted to the stretch in view.
  const fitted = (plot) => {
    const [from, to] = plot.layout.xaxis.range.map(moment);
    let low = Infinity;
    let high = -Infinity;
    for (const trace of plot.data)
      trace.x.forEach((x, at) => {
        const y = trace.y[at];
        if (y === null || y === undefined || moment(x) < from || moment(x) > to) return;
        low = Math.min(low, y);
        high = Math.max(high, y);
      });
    const room = (high - low || Math.abs(high) || 1) * 0.06;
    if (low <= high) Plotly.relayout(plot, { "yaxis.range": [low - room, high + room] });
  };

  // A frame becomes the outline of each interval, there and back, and the median with both in its hover text.
  const filled = (figure, at) => {
    if (!figure.frames) return figure.data;
    const { x, median, bands } = figure.frames[at];
    const spans = [...bands].reverse();
    const text = x.map((_, step) =>
      spans.map(([size, low, high]) => `<br>${size} %: ${brief.format(low[step])} to ${brief.format(high[step])}`).join(""),
    );
    const shades = bands.map(([, low, high]) => ({ x: [...x, ...[...x].reverse()], y: [...low, ...[...high].reverse()] }));
    return figure.data.map((trace, at) =>
      at < bands.length ? { ...trace, ...shades[at] } : at === bands.length ? { ...trace, x, y: median, text } : trace,
    );
  };

  const draw = async (name) => {
    const plot = document.getElementById(`plot-${name}`);
    if (!plot) return;
    const figure = Array.isArray(figures[name]) ? figures[name][chosen] : figures[name];
    const absent = plot.parentElement.querySelector(".absent");
    if (absent) absent.hidden = figure !== null;
    plot.hidden = figure === null;
    if (figure === null) return;
    const { data, layout } = painted({ data: filled(figure, name === "origins" ? origin : 0), layout: figure.layout });
    layout.font.family = getComputedStyle(document.body).fontFamily;
    if (small && layout.xaxis.rangeslider) {
      const [from, to] = layout.xaxis.range.map(moment);
      const middle = from + 0.55 * (to - from);
      layout.xaxis.range[0] = layout.xaxis.type === "date" ? new Date(middle).toISOString() : middle;
    }
    if (mouse && !layout.xaxis.rangeslider) layout.dragmode = "zoom";
    await Plotly.react(plot, data, layout, config);
    if (layout.xaxis.rangeslider) {
      plot.removeAllListeners("plotly_relayout");
      plot.on("plotly_relayout", (change) => {
        if (Object.keys(change).some((key) => key.startsWith("xaxis"))) fitted(plot);
      });
      fitted(plot);
    }
  };

  const slider = document.getElementById("origin");
  const said = () => {
    const { words } = figures.origins[chosen].frames[origin];
    document.getElementById("origin-words").textContent = words;
    slider.setAttribute("aria-valuetext", words);
  };
  const move = () => {
    origin = Number(slider.value);
    said();
    draw("origins");
  };
  const rewind = () => {
    if (!slider) return;
    const figure = figures.origins[chosen];
    origin = figure ? figure.frames.length - 1 : 0;
    slider.closest(".control").hidden = origin < 1;
    if (!figure) return;
    slider.max = origin;
    slider.value = origin;
    said();
  };
  if (slider) slider.addEventListener("input", move);

  const pickers = document.querySelectorAll("select.series");
  pickers.forEach((picker) =>
    picker.addEventListener("change", async () => {
      chosen = Number(picker.value);
      pickers.forEach((other) => (other.value = picker.value));
      rewind();
      await draw("fan");
      if (figures.origins) await draw("origins");
    }),
  );

  const all = async () => {
    for (const name of Object.keys(figures)) await draw(name);
  };
  night.addEventListener("change", all);
  rewind();
  all();
})();
