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
document.getElementById("model-file").addEventListener("change", (event) =>
  during("Reading the structure", () => viewers.structure(event.target.files[0] ?? null)));
document.getElementById("center").addEventListener("click", () => viewers.center());

const panels = [];
const { painting } = viewers;

function brush(way) {
  painting.way = way;
  for (const one of ["off", "add", "erase"]) {
    document.getElementById(`brush-${one}`).setAttribute("aria-pressed", String(one === way));
  }
}
for (const way of ["off", "add", "erase"]) document.getElementById(`brush-${way}`).addEventListener("click", () => brush(way));
document.getElementById("brush-radius").addEventListener("input", (event) => {
  painting.radius = Math.max(1, Number(event.target.value) || 1);
});
document.getElementById("brush-undo").addEventListener("click", () => painting.undo());
document.getElementById("brush-clear").addEventListener("click", () => painting.clear());
document.getElementById("ball").addEventListener("change", (event) => {
  const place = event.target.value.trim().split(/[ ,;]+/).map(Number);
  const [first] = viewers.viewers;
  if (place.length !== 3 || !place.every(Number.isFinite)) return say("Give x, y and z in Å, from the centre of the box.", true);
  if (!first) return say("Show a map first.", true);
  painting.marks.push(painting.strokes.length);
  painting.add([...place, painting.way === "erase" ? -painting.radius : painting.radius], painting.on ?? first.file);
  event.target.value = "";
  return null;
});
document.getElementById("keep-mask").addEventListener("click", async (event) => {
  const name = document.getElementById("painted-name").value.trim();
  const kept = await painting.keep(name, event.target);
  if (!kept) return;
  brush("off");
  panels[kept.result.number].refresh(kept.described, name);
});
painting.changed = () => {
  const count = painting.strokes.length;
  document.getElementById("brush-said").textContent = count ? `${count} ball${count > 1 ? "s" : ""}` : "";
};

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

/** Open a result that the server has come to know, below the others. */
async function open(number) {
  const { results, scale } = await getPlain("api/results");
  if (panels[number]) return;
  const place = document.getElementById("panel").content.firstElementChild.cloneNode(true);
  document.getElementById("panels").append(place);
  panels[number] = new Panel(place, number, results[number], viewers, scale);
  applyTheme();
  await panels[number].draw();
}

globalThis.explorer = { panels, viewers, open };
if (await during("Opening", start.bind(null)) === null) say(document.getElementById("say").textContent || "", true);
else say("");
document.documentElement.dataset.ready = "yes";
