// A clicked particle: maps at its latent, its neighbours, and paths through several of them.

import { during } from "./requests.js";

const DEFAULT_SHARE = 20; // of the particles, one in so many is looked at around a point

export class PointCard {
  constructor(panel) {
    this.panel = panel;
    this.at = null;
    this.path = [];
    const { n } = panel.described;
    const count = panel.find(".count");
    count.max = n;
    count.value = Math.min(n, Math.max(100, Math.round(n / DEFAULT_SHARE)));
    panel.find(".show-maps").addEventListener("click", () => this.showMaps());
    panel.find(".choose-near").addEventListener("click", () =>
      panel.selection.choose({ by: "nearest", z: this.at.z, count: Number(count.value) }));
    panel.find(".to-path").addEventListener("click", () => {
      this.path.push(this.at);
      this.showPath();
    });
    panel.find(".clear-path").addEventListener("click", () => {
      this.path = [];
      this.showPath();
    });
    panel.find(".make-path").addEventListener("click", (event) => this.makePath(event.target));
  }

  /** Take the particle that was clicked, and show its maps. */
  async take(position) {
    const { panel } = this;
    const at = await during("Looking up the particle", () => panel.result.plain("point", { position }));
    if (!at) return;
    this.at = { ...at, position };
    this.mark();
    const z = at.z.map((value) => value.toPrecision(3)).join(" ");
    panel.find(".point .said").textContent = `Row ${at.row} of your file, ${at.image}; z = ${z}`;
    for (const name of ["show-maps", "choose-near", "to-path"]) panel.find(`.${name}`).disabled = false;
    await this.showMaps();
  }

  async showMaps() {
    const { panel, at } = this;
    const count = Number(panel.find(".count").value);
    const button = panel.find(".show-maps");
    const generated = await during("Generating a map at this point", () =>
      panel.result.plain("generated", { z: at.z }), button);
    if (!generated || (await panel.showMap(generated)) === null) return;
    const near = await during(`Reconstructing from the ${count} nearest particles`, () =>
      panel.result.plain("near", { z: at.z, count }), button);
    if (near) await panel.showMap(near);
  }

  mark() {
    this.panel.scatter.mark(this.at ? [this.at.position] : [], this.path.map((one) => one.position));
  }

  showPath() {
    const { panel } = this;
    this.mark();
    panel.find(".path-bar").hidden = this.path.length < 2;
    panel.find(".path-said").textContent = this.path.length
      ? `Path through rows ${this.path.map((one) => one.row).join(", ")}${this.path.length < 2 ? ": add another point" : ""}`
      : "";
  }

  async makePath(button) {
    const { panel } = this;
    const made = await during("Making the volumes of the path", () => panel.result.plain("path", {
      name: panel.find(".path-name").value.trim(), frames: Number(panel.find(".path-frames").value),
      method: panel.find(".path-method").value,
      points: this.path.map((one) => one.z),
    }), button);
    if (!made) return;
    panel.back.show(`The path is in ${made.folder}; open ${made.script} in ChimeraX; ${made.movie} is a movie of it.`, made.commands);
    await panel.showMap({
      kind: "GENERATED", title: made.maps[0].title.replace(", 1 of", ", volumes 1 to"), facts: {}, frames: true,
      files: Object.fromEntries(made.maps.map((one) => [one.key, one.key])),
    });
  }
}
