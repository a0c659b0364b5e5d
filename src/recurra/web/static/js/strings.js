// The page's words, one file for each language, and how they get into the page.

const LANGUAGES = { en: "English", zh: "中文" };
const loaded = {};
let now = "en";

/** The code of the language in use. */
export const language = () => now;

/** Load a language and use it. */
export async function speak(code) {
  code = code in LANGUAGES ? code : "en";
  loaded[code] ??= await (await fetch(`strings/${code}.json`)).json();
  now = code;
  document.documentElement.lang = code === "zh" ? "zh-CN" : code;
}

/** The other language: its code and its own name. */
export function other() {
  const code = now === "en" ? "zh" : "en";
  return { code, name: LANGUAGES[code] };
}

/** The words for `key`, with {name} filled in from `values`. */
export function say(key, values = {}) {
  const words = loaded[now][key];
  if (words === undefined) throw new Error(`no words for ${key} in ${now}`);
  return words.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

/** The language to begin with: the one chosen before, or the browser's. */
export const first = () => stored("language") ?? (navigator.language?.startsWith("zh") ? "zh" : "en");

/** What was stored under `name` before; null where storage is not to be had. */
export function stored(name) {
  try {
    return localStorage.getItem(`recurra.${name}`);
  } catch {
    return null;
  }
}

/** Remember `value` under `name`, where the browser allows it. */
export function store(name, value) {
  try {
    localStorage.setItem(`recurra.${name}`, value);
  } catch {
    // A browser that stores nothing begins anew each time.
  }
}
