// Learn: from RNN to LSTM to GRU in ten steps, on networks that are trained while the first steps are read.

import { make } from "./dom.js";
import { scenes } from "./scenes.js";
import { Unreachable, get } from "./server.js";
import { say } from "./strings.js";

const POLL = 250;
const STEPS = 20;
// The learner's own sequence goes with them from step to step.
const START = [
  0.3, -0.5, 0.1, 0.7, -0.2, 0.4, -0.8, 0.2, 0.5, -0.3, -0.6, 0.9, 0.1, -0.4, 0.6, -0.1, 0.3, -0.7, 0.4, -0.2,
];
const state = { values: [...START], mark: 3, step: 3, networks: null };

/** Fill `view` with the walk, at the step that `rest` of the address names. */
export function learn(view, model, rest) {
  const tab = new Learn(view);
  tab.open(number(rest));
  return {
    close: () => tab.close(),
    go: (where) => {
      tab.open(number(where));
      return true;
    },
    key: (event) => tab.key(event),
    recolour: () => tab.open(tab.place),
  };
}

function number(rest) {
  const place = Math.round(Number(rest)) || 1;
  return Math.min(scenes.length, Math.max(1, place)) - 1;
}

class Learn {
  constructor(view) {
    this.closed = false;
    this.dots = make("div.dots", { role: "group", "aria-label": say("learn.steps") });
    this.title = make("h2");
    this.text = make("div.prose");
    this.task = make("p.todo");
    this.stage = make("div.stage");
    this.progress = make("p.progress", { role: "status" });
    this.back = make(
      "button.act",
      { type: "button", id: "back", onclick: () => this.turn(-1) },
      say("learn.back"),
    );
    this.next = make(
      "button.act.main",
      { type: "button", id: "next", onclick: () => this.turn(1) },
      say("learn.next"),
    );
    view.append(
      make(
        "div.learn",
        {},
        make(
          "section.panel.told",
          {},
          this.dots,
          this.title,
          this.text,
          this.task,
          make("div.turns", {}, this.back, this.next),
          this.progress,
        ),
        make("section.panel.scene", { "aria-label": say("learn.touch") }, this.stage),
      ),
    );
    this.poll();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.scene?.close?.();
  }

  async poll() {
    if (state.networks) return this.arrived();
    try {
      const status = await get("api/lesson");
      if (this.closed) return;
      if (status.state === "ready") {
        state.networks = status.networks;
        return this.arrived();
      }
      if (status.state === "failed") {
        this.progress.textContent = say("learn.failed", { error: status.error });
        return;
      }
      this.progress.replaceChildren(
        say("learn.training"),
        make("progress", { max: 1, value: status.share, "aria-label": say("learn.training") }),
      );
    } catch (error) {
      if (!(error instanceof Unreachable)) throw error;
    }
    this.timer = setTimeout(() => this.poll(), POLL);
  }

  arrived() {
    this.progress.textContent = say("learn.trained");
    this.progress.dataset.state = "trained";
    if (scenes[this.place]?.trained) this.open(this.place);
  }

  turn(by) {
    const place = this.place + by;
    if (place >= scenes.length) location.hash = "watch";
    else if (place >= 0) location.hash = `learn/${place + 1}`;
  }

  open(place) {
    this.scene?.close?.();
    this.place = place;
    const scene = scenes[place];
    this.dots.replaceChildren(
      ...scenes.map((one, index) =>
        make(
          "a",
          {
            href: `#learn/${index + 1}`,
            title: say(`learn.${one.name}.title`),
            "aria-label": `${index + 1}. ${say(`learn.${one.name}.title`)}`,
            "aria-current": index === place ? "step" : null,
            class: `dot ${one.family}`,
          },
          String(index + 1),
        ),
      ),
    );
    this.title.textContent = say(`learn.${scene.name}.title`);
    this.text.replaceChildren(...say(`learn.${scene.name}.text`).split("\n").map(paragraph));
    this.task.textContent = say(`learn.${scene.name}.todo`);
    this.back.disabled = place === 0;
    this.next.textContent = say(place === scenes.length - 1 ? "learn.finish" : "learn.next");
    this.stage.replaceChildren();
    this.scene = null;
    if (scene.trained && !state.networks) this.stage.append(make("p.quiet", {}, say("learn.wait")));
    else this.scene = scene.play(this.stage, state, STEPS);
  }

  key(event) {
    if (event.target.matches?.("input[type=range], [role=slider]")) return false;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return false;
    if (!(by === 1 && this.place === scenes.length - 1)) this.turn(by);
    return true;
  }
}

/** A paragraph; *words* between stars stand out. */
function paragraph(text) {
  return make(
    "p",
    {},
    ...text.split("*").map((part, place) => (place % 2 ? make("strong", {}, part) : part)),
  );
}
