// The page: tabs, language, colours, and what happens when the server goes and comes.

import { diagram } from "./diagram.js";
import { make } from "./dom.js";
import { edit } from "./edit.js";
import { gradients } from "./gradients.js";
import { learn } from "./learn.js";
import { mattered } from "./mattered.js";
import { memory } from "./memory.js";
import { search } from "./search.js";
import { Unreachable, get, watchServer, whenBack } from "./server.js";
import { first, language, other, say, speak, store, stored } from "./strings.js";
import { watch } from "./watch.js";

const TABS = { watch, learn, memory, gradients, mattered, search, edit, diagram };
const view = document.getElementById("view");
let model = null;
let open = null; // the tab in view: { name, close(), key(event), recolour() }

function dress(theme) {
  document.documentElement.dataset.theme = theme;
}

/** The tab and what stands behind it in the address: #learn/3 → ["learn", "3"]. */
function asked() {
  const [name, rest = ""] = location.hash.slice(1).split("/");
  return [model?.tabs.includes(name) ? name : "watch", rest];
}

function words() {
  const next = other();
  document.title = `${model?.title ?? ""} · recurra`;
  const button = document.getElementById("language");
  button.textContent = next.name;
  button.lang = next.code;
  for (const name of ["theme", "keys"]) {
    const title = say(`${name}.title`);
    document.getElementById(name).title = title;
    document.getElementById(name).setAttribute("aria-label", title);
  }
  const tabs = (model?.tabs ?? ["watch", "learn"]).filter((name) => name in TABS);
  const [chosen] = asked();
  document.getElementById("tabs").replaceChildren(
    ...tabs.map((name) =>
      make(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-selected": String(name === chosen),
          tabindex: name === chosen ? "0" : "-1",
          onclick: () => {
            location.hash = name;
          },
        },
        say(`tab.${name}`),
      ),
    ),
  );
  const bar = document.getElementById("tabs"),
    tab = document.getElementById(`tab-${chosen}`);
  if (tab) bar.scrollLeft = tab.offsetLeft - (bar.clientWidth - tab.offsetWidth) / 2;
  if (!model) return;
  const counts = {};
  for (const layer of model.layers) counts[layer.class] = (counts[layer.class] ?? 0) + 1;
  const layers = Object.entries(counts)
    .map(([name, count]) => (count > 1 ? `${count} × ${name}` : name))
    .join(", ");
  document
    .getElementById("facts")
    .replaceChildren(
      make("strong", {}, model.title),
      " · ",
      say("facts", { layers, parameters: model.parameters.toLocaleString(language()) }),
    );
}

async function show() {
  if (!model) return words();
  const [name, rest] = asked();
  words();
  if (open?.name === name && open.go?.(rest)) return;
  open?.close();
  view.replaceChildren();
  view.setAttribute("aria-labelledby", `tab-${name}`);
  open = { name, ...TABS[name](view, model, rest) };
}

async function begin() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dress(stored("theme") ?? (dark.matches ? "dark" : "light"));
  await speak(first());
  words();
  model = await get("api/model");
  watchServer(model.session);
  await show();
}

document.getElementById("language").addEventListener("click", async () => {
  const { code } = other();
  await speak(code);
  store("language", code);
  open?.close();
  open = null;
  await show();
});
document.getElementById("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  dress(theme);
  store("theme", theme);
  open?.recolour?.();
});
document.getElementById("keys").addEventListener("click", () => {
  const dialog = document.getElementById("help");
  const rows = ["step", "far", "unit", "play", "stages", "ends", "range", "tabs"].flatMap((name) => [
    make(
      "dt",
      {},
      ...say(`key.${name === "range" ? "step" : name}`)
        .split(" ")
        .map((key) => make("kbd", {}, key)),
    ),
    make("dd", {}, say(`does.${name}`)),
  ]);
  dialog.replaceChildren(
    make("h3", {}, say("keys.title")),
    make("dl", {}, ...rows),
    make("form", { method: "dialog" }, make("button.act", {}, say("close"))),
  );
  dialog.showModal();
});
document.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey || document.getElementById("help").open) return;
  const at = event.target;
  if (at.matches?.("textarea, select, input:not([type=range])")) return;
  if (at.getAttribute?.("role") === "tab" && /^Arrow(Left|Right)$/.test(event.key)) {
    const all = [...document.querySelectorAll("[role=tab]")];
    const next = all[(all.indexOf(at) + (event.key === "ArrowRight" ? 1 : -1) + all.length) % all.length];
    next.click();
    requestAnimationFrame(() => document.getElementById(next.id).focus());
    return event.preventDefault();
  }
  const place = Number(event.key) - 1;
  const tabs = document.querySelectorAll("[role=tab]");
  if (place >= 0 && place < tabs.length) return tabs[place].click();
  if (open?.key?.(event)) event.preventDefault();
});
addEventListener("hashchange", show);
whenBack(async (renewed) => {
  if (renewed || !model) model = await get("api/model");
  open?.close();
  open = null;
  await show();
});

begin().catch((error) => {
  if (!(error instanceof Unreachable)) throw error;
});
