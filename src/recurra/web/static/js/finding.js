// The frame of the tabs that ask the lens: the chooser, what is being computed, and what went wrong.

import { Chooser, asks } from "./choose.js";
import { make } from "./dom.js";
import { Refused, Unreachable, post } from "./server.js";
import { say } from "./strings.js";

/**
 * A tab that is drawn by `draw(tab)` whenever a choice changes. `tab.ask(what, more)` gives the server's
 * findings, or null where they came too late or were refused; `tab.put(…)` fills the tab.
 */
export function findingTab(draw, { key = () => false } = {}) {
  return (view, model) => {
    const tab = new Finding(view, model, draw);
    tab.load();
    return { close: () => tab.close(), key: (event) => key(event, tab), recolour: () => tab.redraw() };
  };
}

class Finding {
  constructor(view, model, draw) {
    Object.assign(this, { model, draw, turn: 0, painted: [] });
    this.chooser = new Chooser(model, () => this.load());
    this.mistake = make("p.mistake", { role: "alert", hidden: true });
    this.body = make("div.finding");
    view.append(this.chooser.element, this.mistake, this.body);
    this.resized = new ResizeObserver(() => {
      for (const paint of this.painted) paint();
    });
    this.resized.observe(this.body);
  }

  close() {
    this.turn += 1;
    this.resized.disconnect();
  }

  async load() {
    this.turn += 1;
    this.mistake.hidden = true;
    this.painted = [];
    this.body.replaceChildren(make("p.quiet.busy", { role: "status" }, say("finding.busy")));
    await this.draw(this);
  }

  redraw() {
    this.load();
  }

  /** The findings called `what`; `read`: how to read the answer, default as JSON. */
  async ask(what, more = {}, read = (answer) => answer.json()) {
    const turn = this.turn;
    try {
      const found = await read(await post(`api/find/${what}`, { ...asks(this.model), ...more }));
      return turn === this.turn ? found : null;
    } catch (error) {
      if (error instanceof Unreachable || turn !== this.turn) return null;
      if (!(error instanceof Refused)) throw error;
      this.complain(error);
      return null;
    }
  }

  /** Show the sentence of a refusal. */
  complain(error) {
    this.mistake.textContent = error.message;
    this.mistake.hidden = false;
    for (const busy of this.body.querySelectorAll("p.busy")) busy.remove();
  }

  put(...children) {
    this.body.replaceChildren(...children);
  }
}

/** A panel with a heading, a sentence and what stands below. */
export const card = (title, about, ...children) =>
  make(
    "section.panel.card",
    {},
    make("h3", {}, title),
    about ? make("p.quiet", {}, about) : null,
    ...children,
  );

/** A place for findings that come later. */
export const waiting = () => make("p.quiet.busy", { role: "status" }, say("finding.busy"));
