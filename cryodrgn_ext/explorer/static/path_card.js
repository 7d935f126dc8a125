// A path through the latents: along a component, through clicked particles, or beneath a line that is drawn.

import { during } from "./requests.js";

export class PathCard {
  constructor(panel) {
    this.panel = panel;
    this.points = []; // clicked particles
    this.line = null; // {x, y, corners}, in units of two columns
    panel.find(".path-component").max = panel.described.q;
    const { model, n } = panel.described;
    Object.assign(panel.find(".path-count"), { max: n, value: panel.find(".count").value });
    panel.find(".path-of").value = model ? "model" : "particles";
    panel.find(".path-of option").disabled = !model;
    panel.find(".path-of").addEventListener("change", () => this.show());
    panel.find(".clear-path").addEventListener("click", () => {
      [this.points, this.line] = [[], null];
      this.show();
    });
    panel.find(".make-path").addEventListener("click", (event) => this.make(event.target));
    panel.find(".path-method").addEventListener("change", () => this.show());
    this.show();
  }

  get ofParticles() { return this.panel.find(".path-of").value === "particles"; }

  get method() { return this.panel.find(".path-method").value; }

  add(point) {
    this.points.push(point);
    if (this.method !== "density") this.panel.find(".path-method").value = "line";
    this.show();
  }

  drawn(corners) {
    this.line = { x: this.panel.x, y: this.panel.y, corners };
    this.panel.find(".path-method").value = "drawn";
    this.show();
  }

  show() {
    const { panel, points, method, line } = this;
    panel.point.mark();
    const rows = points.map((one) => one.row).join(", ");
    const said = {
      line: points.length > 1 ? `Through rows ${rows}.` : "Click particles, and add two or more.",
      drawn: line ? `Beneath the line over ${panel.columnOf(line.x).label} and ${panel.columnOf(line.y).label}.` : "Choose Path above the plot, and draw a line.",
      pc: "From the 5th to the 95th percentile of the particles.",
    };
    panel.find(".path-said").textContent = said[method === "density" ? "line" : method];
    panel.find(".path-which").hidden = method !== "pc";
    panel.find(".path-number").hidden = !this.ofParticles;
    panel.find(".make-path").disabled = method === "drawn" ? !line : method !== "pc" && points.length < 2;
  }

  async make(button) {
    const { panel, method } = this;
    const how = { ...{
      line: { points: this.points.map((one) => one.z) }, drawn: this.line, pc: { component: Number(panel.find(".path-component").value) },
    }[method === "density" ? "line" : method] };
    if (this.ofParticles) how.count = Number(panel.find(".path-count").value);
    const made = await during("Making the maps of the path", () => panel.result.plain("path", {
      name: panel.find(".path-name").value.trim(), frames: Number(panel.find(".path-frames").value), method, ...how,
    }), button);
    if (!made) return;
    panel.back.show(`The path is in ${made.folder}: maps, movies, and a script for ChimeraX.`, made.commands);
    await panel.showMap({
      kind: made.kind, title: made.maps[0].title.replace(", 1 of", ", volumes 1 to"), facts: {}, frames: true,
      files: Object.fromEntries(made.maps.map((one) => [one.key, one.key])),
      links: made.files.map((key) => ({ href: panel.result.mapPath(key), name: key.split("/").pop() })),
    });
  }
}
