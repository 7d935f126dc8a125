// Masks of a result: shown over its maps, particles with density there, maps compared within.

import { during } from "./requests.js";

export class MaskCard {
  constructor(panel) {
    this.panel = panel;
    panel.find(".show-mask").addEventListener("click", (event) => this.overlay(event.target));
    panel.find(".colour-mask").addEventListener("click", () => panel.colourBy(`${this.key}:has`));
    panel.find(".choose-mask").addEventListener("click", () => panel.selection.choose({
      by: "range", column: `${this.key}:has`, low: Number(panel.find(".mask-sure").value), high: null,
    }));
    panel.find(".compare-mask").addEventListener("click", (event) => this.compare(event.target));
    panel.find(".mask-file").addEventListener("change", (event) => this.take(event.target));
    this.fill();
  }

  get name() { return this.panel.find(".mask-name").value; }
  get key() { return this.panel.described.masks.find((one) => one.name === this.name)?.key; }

  /** List the masks, with the one of this name chosen. */
  fill(name = null) {
    const { panel } = this;
    const box = panel.find(".mask-name");
    const { masks } = panel.described;
    box.replaceChildren(...masks.map((one) => {
      const option = new Option(one.name, one.name);
      option.title = one.painted_on ? `painted on ${one.painted_on}` : "from a file";
      return option;
    }));
    if (name) box.value = name;
    for (const part of ["show-mask", "colour-mask", "choose-mask", "compare-mask", "mask-name"]) {
      panel.find(`.${part}`).disabled = !masks.length;
    }
    panel.find(".mask-hint").hidden = Boolean(masks.length);
  }

  overlay(button) {
    const { panel } = this;
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    const key = `masks/${this.name}`;
    return during("Showing the mask", () => panel.viewers.overlay(on
      ? { href: panel.result.mapPath(key), name: key, key, result: panel.result } : null));
  }

  async take(input) {
    const { panel } = this;
    const [file] = input.files;
    if (!file) return;
    const name = file.name.replace(/\.(mrc|map|ccp4)$/i, "").replace(/[^A-Za-z0-9_-]+/g, "_");
    const described = await during(`Taking the mask ${name}`, () => panel.result.sendMask(name, file));
    input.value = "";
    if (described) panel.refresh(described, name);
  }

  /** Density within the mask of the maps of this result that are shown, and how alike they are there. */
  async compare(button) {
    const { panel } = this;
    const maps = panel.viewers.viewers.filter((one) => one.file?.result === panel.result).map((one) => one.file.key);
    const found = await during("Comparing within the mask", () =>
      panel.result.plain("within", { mask: this.name, maps }), button);
    if (!found) return;
    const row = (cells, tag) => {
      const line = document.createElement("tr");
      line.append(...cells.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
      return line;
    };
    panel.find(".within").replaceChildren(row(["map", "density", "correlation", "FSC 0.143"], "th"), ...found.maps.map((one) =>
      row([one.name, one.density.toFixed(2), one.correlation.toFixed(3), one.resolution_A ? `${one.resolution_A.toFixed(1)} Å` : "–"], "td")));
  }
}
