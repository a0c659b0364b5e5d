// What the page asks the server, and what it does while there is none.

import { make } from "./dom.js";
import { language, say } from "./strings.js";

const PAUSE = 1000;
const HEARTBEAT = 4000;
let session = null;
let down = false;
let back = () => {};

/** A sentence from the server: what was wrong with what was asked. */
export class Refused extends Error {}

/** No server answered; the banner says so already. */
export class Unreachable extends Error {}

/** `work(renewed)` is called when the server has come back; renewed: it was started anew. */
export const whenBack = (work) => {
  back = work;
};

/** The answer to GET `path` as JSON. */
export const get = async (path) => (await ask(path)).json();

/** The answer to POST `path`. Raises Refused with the server's sentence. */
export const post = (path, body) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** A refusal's media type (RFC 9457). Who accepts it gets it as an answer, which no console complains of. */
const PROBLEM = "application/problem+json";

async function ask(path, options = {}) {
  let answer;
  const headers = { ...options.headers, Accept: `${PROBLEM}, */*`, "Accept-Language": language() };
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    lose();
    throw new Unreachable(path);
  }
  if (answer.ok && !answer.headers.get("Content-Type")?.startsWith(PROBLEM)) return answer;
  const told = await answer.json().catch(() => ({}));
  throw new Refused(told.error ?? say("server.refused", { status: answer.status }));
}

/** Remember which server this is, and look from time to time whether it is still there. */
export function watchServer(id) {
  session = id;
  setInterval(() => {
    if (!down) get("api/alive").catch(() => {});
  }, HEARTBEAT);
}

function lose() {
  if (down) return;
  down = true;
  const banner = document.getElementById("down");
  banner.className = "banner";
  banner.replaceChildren(make("span", {}, say("server.down")));
  banner.hidden = false;
  const look = async () => {
    try {
      const answer = await fetch("api/alive", { cache: "no-store" });
      const alive = await answer.json();
      down = false;
      const renewed = alive.session !== session;
      session = alive.session;
      banner.className = "banner back";
      banner.textContent = say("server.back");
      setTimeout(() => {
        banner.hidden = !down;
      }, 1800);
      back(renewed);
    } catch {
      setTimeout(look, PAUSE);
    }
  };
  setTimeout(look, PAUSE);
}

/** The answer of POST api/trace; see `unpack`. */
export const trace = async (asked, signal) =>
  unpack(
    await ask("api/trace", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
      signal,
    }),
  );

/** A packed answer: its header, with a Float32Array (T, H) for each variable. */
export async function unpack(answer) {
  const bytes = await answer.arrayBuffer();
  const size = new DataView(bytes).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, size)));
  let at = 4 + size;
  for (const variable of header.variables) {
    const [steps, units] = variable.shape;
    variable.values = new Float32Array(bytes, at, steps * units);
    at += 4 * steps * units;
  }
  return header;
}
