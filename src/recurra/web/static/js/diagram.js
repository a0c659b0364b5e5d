// Diagram: the network as a drawing, with the shapes of the sample at hand.

import { make } from "./dom.js";
import { card, findingTab } from "./finding.js";
import { say } from "./strings.js";

export const diagram = findingTab(async (tab) => {
  const theme = document.documentElement.dataset.theme;
  const found = await tab.ask("diagram", { theme });
  if (!found) return;
  const parsed = new DOMParser().parseFromString(found.svg, "image/svg+xml").documentElement;
  const link = make(
    "a.act",
    { download: "network.svg", href: URL.createObjectURL(new Blob([found.svg], { type: "image/svg+xml" })) },
    say("diagram.save"),
  );
  tab.put(
    card(
      say("diagram.title"),
      say("diagram.about"),
      make("p", {}, link),
      make("div.diagram", {}, document.importNode(parsed, true)),
    ),
  );
});
