// Images of single particles: those with the highest or lowest value of the colour, marked by a click to be chosen.

import { during } from "./requests.js";

export class GalleryCard {
  constructor(panel) {
    this.panel = panel;
    this.marked = new Set();
    panel.find(".show-images").addEventListener("click", (event) => this.show(event.target));
    panel.find(".choose-marked").addEventListener("click", () =>
      panel.selection.choose({ by: "positions", positions: [...this.marked].sort((a, b) => a - b) }));
  }

  /** Positions of the particles to draw: of those that are chosen, or of all. */
  async wanted() {
    const { panel } = this;
    const count = Number(panel.find(".image-count").value);
    const which = panel.find(".image-order").value;
    const { positions } = panel.selection;
    const pool = positions.length ? Array.from(positions) : Array.from({ length: panel.described.n }, (_, k) => k);
    if (which === "row") return pool.slice(0, count);
    const values = await panel.column(panel.c);
    const sign = which === "highest" ? -1 : 1;
    const known = pool.filter((k) => values[k] - values[k] === 0);
    return known.sort((a, b) => sign * (values[a] - values[b]) || a - b).slice(0, count);
  }

  async show(button) {
    const { panel } = this;
    const made = await during("Drawing images", async () => {
      const positions = await this.wanted();
      return { positions, ...(await panel.result.plain("gallery", { positions })) };
    }, button);
    if (!made) return;
    this.marked.clear();
    const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const grey = bytes(made.data);
    const size = made.box ** 2;
    const values = await panel.column(panel.c);
    panel.find(".images").replaceChildren(...made.positions.map((position, k) => {
      const figure = document.createElement("button");
      figure.type = "button";
      figure.className = "particle";
      figure.setAttribute("aria-pressed", "false");
      const original = made.originals[k];
      figure.title = [original.origin, ...made.kinds.slice(1)].join("\n");
      if (original.box) figure.append(this.picture(bytes(original.data), original.box));
      for (let kind = original.box ? 1 : 0; kind < made.kinds.length; kind += 1) {
        const begin = (k * made.kinds.length + kind) * size;
        figure.append(this.picture(grey.subarray(begin, begin + size), made.box));
      }
      const said = `${panel.columnOf(panel.c).label} ${Number(values[position].toPrecision(4))}, agreement ${made.agreement[k].toFixed(3)}`;
      figure.append(Object.assign(document.createElement("span"), { textContent: said }),
        Object.assign(document.createElement("span"), { className: "origin", textContent: original.origin }));
      figure.addEventListener("click", () => {
        if (!this.marked.delete(position)) this.marked.add(position);
        figure.setAttribute("aria-pressed", String(this.marked.has(position)));
        panel.find(".choose-marked").disabled = !this.marked.size;
      });
      return figure;
    }));
    panel.find(".choose-marked").disabled = true;
  }

  picture(grey, box) {
    const canvas = Object.assign(document.createElement("canvas"), { width: box, height: box });
    const pixels = new ImageData(box, box);
    for (let i = 0; i < grey.length; i += 1) {
      pixels.data.fill(grey[i], 4 * i, 4 * i + 3);
      pixels.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas;
  }
}
