// One result: its plot with axes, colours and legend; points, selections and the way back hang on it.

import { BackCard } from "./back_card.js";
import { GalleryCard } from "./gallery_card.js";
import { PointCard } from "./point_card.js";
import { Result, during } from "./requests.js";
import { Scatter, colourCodes, rangeOf } from "./scatter.js";
import { SelectionCard } from "./selection_card.js";

const GROUPS = ["latents", "result", "particles", "your file"];

export class Panel {
  constructor(place, number, described, viewers, scale) {
    this.place = place;
    this.result = new Result(number);
    this.described = described;
    this.viewers = viewers;
    this.scale = scale;
    this.values = new Map();
    this.off = new Set(); // categories that are switched off in the legend
    this.range = null; // of the colour, where the user has narrowed it
    this.find(".name").textContent = `${described.path} (${described.job}, ${described.n} particles)`;
    this.scatter = new Scatter(this.find(".plot"), {
      lasso: (corners) => this.selection.choose({ by: "polygon", x: this.x, y: this.y, corners }),
      click: (position) => this.point.take(position),
      hover: (position, x, y) => this.hover(position, x, y),
    });
    this.selection = new SelectionCard(this);
    this.point = new PointCard(this);
    this.back = new BackCard(this);
    this.gallery = new GalleryCard(this);
    this.fillAxes();
    this.showStored();
    for (const name of ["x", "y"]) {
      this.find(`.axis-${name}`).addEventListener("change", () => this.redraw(true));
    }
    this.find(".axis-c").addEventListener("change", () => {
      this.off.clear();
      this.range = null;
      this.redraw();
    });
    this.find(".hide").addEventListener("change", () => this.redraw());
    for (const mode of ["pan", "lasso"]) {
      this.find(`.mode-${mode}`).addEventListener("click", () => {
        this.scatter.mode(mode === "lasso");
        this.find(".mode-pan").setAttribute("aria-pressed", String(mode === "pan"));
        this.find(".mode-lasso").setAttribute("aria-pressed", String(mode === "lasso"));
      });
    }
  }

  find(selector) {
    return this.place.querySelector(selector);
  }

  get x() { return this.find(".axis-x").value; }
  get y() { return this.find(".axis-y").value; }
  get c() { return this.find(".axis-c").value; }

  columnOf(key) {
    return this.described.columns.find((column) => column.key === key);
  }

  fillAxes() {
    const { columns } = this.described;
    const keys = columns.map((column) => column.key);
    const first = keys.includes("pc2") ? ["pc1", "pc2"] : ["z1", keys.includes("z2") ? "z2" : "defocus"];
    const wanted = { x: first[0], y: first[1], c: keys.includes("state") ? "state" : "latent_length" };
    for (const [name, key] of Object.entries(wanted)) {
      const box = this.find(`.axis-${name}`);
      const before = box.value;
      box.replaceChildren(...GROUPS.map((group) => {
        const part = Object.assign(document.createElement("optgroup"), { label: group });
        part.append(...columns.filter((one) => one.group === group).map((one) => new Option(one.label, one.key)));
        return part;
      }));
      box.value = before || key;
    }
    const planes = { PCA: ["pc1", "pc2"], UMAP: ["umap1", "umap2"], Views: ["view_x", "view_y"] };
    this.find(".planes").replaceChildren(...Object.entries(planes).flatMap(([name, pair]) => {
      const there = pair.every((key) => keys.includes(key));
      if (!there && name !== "UMAP") return [];
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      button.className = `plane-${name.toLowerCase()}`;
      button.addEventListener("click", () => this.plane(pair, there, button));
      return [button];
    }));
  }

  async plane(pair, there, button) {
    if (!there) {
      const made = await during("Making the UMAP (half a minute at first)", () => this.result.plain("umap"), button);
      if (!made) return;
      this.described = made;
      this.fillAxes();
    }
    [this.find(".axis-x").value, this.find(".axis-y").value] = pair;
    this.redraw(true);
  }

  async column(key) {
    if (!this.values.has(key)) this.values.set(key, this.result.column(key));
    try {
      return await this.values.get(key);
    } catch (error) {
      this.values.delete(key);
      throw error;
    }
  }

  redraw(fresh = false) {
    return during("Drawing", () => this.draw(fresh));
  }

  async draw(fresh = false) {
    const [x, y, c] = await Promise.all([this.x, this.y, this.c].map((key) => this.column(key)));
    const column = this.columnOf(this.c);
    const range = this.range ?? rangeOf(c);
    const hide = this.find(".hide").checked;
    if (fresh) this.scatter.drawing.reset();
    const equal = this.x === "view_x" && this.y === "view_y";
    const pass = hide ? this.passing(c, column, range) : null;
    await this.scatter.draw(x, y, equal, colourCodes(c, column, range, this.scale), pass);
    this.showLegend(column, range);
    this.scatter.highlight(this.selection.positions);
  }

  passing(values, column, [low, high]) {
    const pass = new Uint8Array(values.length);
    for (let i = 0; i < values.length; i += 1) {
      pass[i] = column.levels.length ? !this.off.has(values[i]) : values[i] >= low && values[i] <= high;
    }
    return pass;
  }

  showLegend(column, range) {
    const legend = this.find(".legend");
    const button = (text, name, work) => {
      const one = Object.assign(document.createElement("button"), { type: "button", textContent: text, className: name });
      one.addEventListener("click", work);
      return one;
    };
    if (column.levels.length) {
      const chips = column.levels.map((level, k) => {
        const chip = Object.assign(document.createElement("label"), { className: "chip" });
        const box = Object.assign(document.createElement("input"), { type: "checkbox", checked: !this.off.has(k) });
        box.addEventListener("change", () => {
          if (box.checked) this.off.delete(k);
          else this.off.add(k);
          if (this.find(".hide").checked) this.redraw();
        });
        const dot = document.createElement("i");
        dot.style.background = column.colors[k];
        chip.append(box, dot, level);
        return chip;
      });
      legend.replaceChildren(...chips, button("Choose these", "choose-levels", () => {
        const levels = column.levels.map((_, k) => k).filter((k) => !this.off.has(k));
        this.selection.choose({ by: "levels", column: column.key, levels });
      }));
      return;
    }
    const bar = Object.assign(document.createElement("span"), { className: "scale" });
    bar.style.background = `linear-gradient(to right, ${this.scale.filter((_, k) => k % 16 === 0).join(",")})`;
    const ends = range.map((value) => Object.assign(document.createElement("input"), {
      type: "number", step: "any", value: Number(value.toPrecision(6)),
    }));
    const given = () => ends.map((end) => (end.value === "" ? null : Number(end.value)));
    for (const [k, end] of ends.entries()) {
      end.className = k ? "range-high" : "range-low";
      end.title = k ? "Highest value of the colours" : "Lowest value of the colours";
      end.addEventListener("change", () => {
        const [low, high] = given();
        this.range = low === null || high === null || low >= high ? null : [low, high];
        this.redraw();
      });
    }
    legend.replaceChildren(column.label, ends[0], bar, ends[1], button("Choose this range", "choose-range", () => {
      // The ends as shown are rounded: an end that nobody has changed is open.
      const [low, high] = this.range ?? [null, null];
      this.selection.choose({ by: "range", column: column.key, low, high });
    }));
  }

  async hover(position, x, y) {
    const tip = this.find(".tip");
    if (position === null) {
      tip.hidden = true;
      return;
    }
    const lines = [];
    for (const key of new Set([this.x, this.y, this.c])) {
      const value = (await this.column(key))[position];
      const column = this.columnOf(key);
      const said = column.levels.length ? (column.levels[value] ?? "none") : Number(value.toPrecision(5));
      lines.push(`${column.label}: ${said}`);
    }
    tip.textContent = lines.join("\n");
    tip.style.left = `${x + 12}px`;
    tip.style.top = `${y + 12}px`;
    tip.hidden = false;
  }

  showStored() {
    this.find(".stored-maps").replaceChildren(...this.described.maps.map((one) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: one.key });
      button.title = one.title;
      button.addEventListener("click", () => this.showMap({
        kind: one.kind, title: one.title, facts: {}, files: { map: one.key },
      }, `${one.kind.toLowerCase()}_${one.key}.mrc`));
      return button;
    }));
  }

  /** Show a map of this result; files are names by which the server knows them. */
  showMap(made, name = null) {
    const files = Object.values(made.files).map((key) => ({
      href: this.result.mapPath(key), name: name ?? key, key, result: this.result,
    }));
    return during("Drawing the map", () => this.viewers.show({ ...made, files }));
  }
}
