// Time that runs: play and pause, step by step, and through the stages of one step.

/** Calls `tick()` every `pause()` milliseconds while it plays; `tick` returns false to stop. */
export class Player {
  constructor(tick, pause, changed = () => {}) {
    Object.assign(this, { tick, pause, changed, timer: null });
  }

  get playing() {
    return this.timer !== null;
  }

  start() {
    if (this.playing) return;
    const run = () => {
      if (this.tick() === false) return this.stop();
      this.timer = setTimeout(run, this.pause());
    };
    this.timer = setTimeout(run, 0);
    this.changed(true);
  }

  stop() {
    clearTimeout(this.timer);
    const before = this.playing;
    this.timer = null;
    if (before) this.changed(false);
  }

  toggle() {
    if (this.playing) this.stop();
    else this.start();
  }
}
