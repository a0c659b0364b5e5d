// What a classifier, tagger or language model says: names and how likely each is.

import { make } from "./dom.js";
import { say } from "./strings.js";

const percent = (share) => `${(100 * share).toFixed(1)} %`;

/** Elements that tell an answer; `given`: what the data say, a label or a tag for each word. */
export function said({ kind, rows, given }) {
  const chips = rows.map(({ name, of: [[what, share]] }, place) => {
    const wrong = kind === "tags" && given.length > 0 && given[place] !== what;
    return make(
      `span.said${wrong ? ".wrong" : ""}`,
      wrong ? { title: say("answer.given_tag", { tag: given[place] }) } : {},
      make("b", {}, name),
      ...(what ? [make("span.what", {}, what)] : []),
      ...(wrong ? [make("s", {}, given[place])] : []),
      make("span.quiet", {}, percent(share)),
    );
  });
  const truth = kind === "label" && given.length ? [say("answer.given", { label: given.join(", ") })] : [];
  return [`${say(`answer.${kind}`)} `, make("span.all", {}, ...chips), ...truth];
}

/** The cells of one row of before and after: what was said each time, and the change of its probability. */
export function cells({ name, of: [before, after] }) {
  const told = ([what, share]) => `${what} ${percent(share)}`.trim();
  const points = Math.round(1000 * (after[1] - before[1])) / 10;
  const other = before[0] !== after[0];
  return [
    make("th", {}, name),
    make("td", {}, told(before)),
    make(other ? "td.after.other" : "td.after", {}, told(after)),
    make("td", {}, other ? "≠" : `${points > 0 ? "+" : points < 0 ? "−" : "±"}${Math.abs(points).toFixed(1)}`),
  ];
}
