// The page: one panel for each opened result, maps beside them.

import { during, getPlain, say } from "./requests.js";
import { Panel } from "./panel.js";
import { Viewers } from "./viewers.js";

const viewers = new Viewers(document.getElementById("viewers"));
const sigma = document.getElementById("sigma");
sigma.addEventListener("input", () => {
  document.getElementById("sigma-said").textContent = `${Number(sigma.value).toFixed(1)} σ`;
  viewers.level(Number(sigma.value));
});
const [axis, cut] = [document.getElementById("cut-axis"), document.getElementById("cut")];
for (const control of [axis, cut]) {
  control.addEventListener("input", () => {
    cut.hidden = !axis.value;
    viewers.cutAt(axis.value, Number(cut.value));
  });
}
document.getElementById("center").addEventListener("click", () => viewers.center());

const panels = [];

/** A computed colour, rgb(1, 2, 3), in the form that the libraries for drawing know. */
function hex(colour) {
  const parts = colour.match(/[0-9.]+/g).slice(0, 3);
  return `#${parts.map((part) => Math.round(Number(part)).toString(16).padStart(2, "0")).join("")}`;
}

function applyTheme() {
  const style = getComputedStyle(document.body);
  const [background, text] = [hex(style.backgroundColor), hex(style.color)];
  viewers.theme(background);
  for (const panel of panels) panel.scatter.theme(background, text);
}

document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  applyTheme();
});

async function start() {
  const { results, scale } = await getPlain("api/results");
  const places = results.map(() => {
    const place = document.getElementById("panel").content.firstElementChild.cloneNode(true);
    document.getElementById("panels").append(place);
    return place;
  });
  for (const [number, described] of results.entries()) {
    panels.push(new Panel(places[number], number, described, viewers, scale));
  }
  applyTheme();
  for (const panel of panels) await panel.draw();
  document.title = `${results.map((one) => one.name).join(", ")} – explorer`;
}

// What breaks inside a library must not look like waiting.
addEventListener("error", (event) => say(`The page has failed: ${event.message}`, true));
addEventListener("unhandledrejection", (event) => say(`The page has failed: ${event.reason?.message ?? event.reason}`, true));

globalThis.explorer = { panels, viewers };
if (await during("Opening", start.bind(null)) === null) say(document.getElementById("say").textContent || "", true);
else say("");
document.documentElement.dataset.ready = "yes";
