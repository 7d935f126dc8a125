// A clicked particle: maps at its latent, and its neighbours.

import { during } from "./requests.js";

const DEFAULT_SHARE = 20; // of the particles, one in so many is looked at around a point

export class PointCard {
  constructor(panel) {
    this.panel = panel;
    this.at = null;
    const { n } = panel.described;
    const count = panel.find(".count");
    count.max = n;
    count.value = Math.min(n, Math.max(100, Math.round(n / DEFAULT_SHARE)));
    panel.find(".show-maps").addEventListener("click", () => this.showMaps());
    panel.find(".choose-near").addEventListener("click", () =>
      panel.selection.choose({ by: "nearest", z: this.at.z, count: Number(count.value) }));
    panel.find(".to-path").addEventListener("click", () => panel.path.add(this.at));
    const at = panel.find(".at");
    at.max = n;
    at.addEventListener("change", () => this.take(Number(at.value) - 1));
  }

  /** Take the particle that was clicked, and show its maps. */
  async take(position) {
    const { panel } = this;
    const at = await during("Looking up the particle", () => panel.result.plain("point", { position }));
    if (!at) return;
    this.at = { ...at, position };
    panel.find(".at").value = position + 1;
    this.mark();
    const z = at.z.map((value) => value.toPrecision(3)).join(" ");
    panel.find(".point .said").textContent = `Row ${at.row} of ${panel.described.rows_of}, ${at.image}; z = ${z}`;
    for (const name of ["show-maps", "choose-near", "to-path"]) panel.find(`.${name}`).disabled = false;
    await this.showMaps();
  }

  async showMaps() {
    const { panel, at } = this;
    const count = Number(panel.find(".count").value);
    const button = panel.find(".show-maps");
    if (panel.described.model) {
      const generated = await during("Generating a map at this point", () =>
        panel.result.plain("generated", { z: at.z }), button);
      if (!generated || (await panel.showMap(generated)) === null) return;
    }
    const near = await during(`Reconstructing from the ${count} nearest particles`, () =>
      panel.result.plain("near", { z: at.z, count }), button);
    if (near) await panel.showMap(near);
  }

  mark() {
    const { scatter, path } = this.panel;
    if (path) scatter.mark(this.at ? [this.at.position] : [], path.points.map((one) => one.position), path.line);
  }
}
