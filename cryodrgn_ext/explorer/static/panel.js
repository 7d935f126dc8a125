// One result: its plot with axes, colours and legend; points, selections and the way back hang on it.

import { CleanCard } from "./clean_card.js";
import { BackCard } from "./back_card.js";
import { GalleryCard } from "./gallery_card.js";
import { MaskCard } from "./mask_card.js";
import { PathCard } from "./path_card.js";
import { PointCard } from "./point_card.js";
import { Result, during } from "./requests.js";
import { Scatter, colourCodes, rangeOf } from "./scatter.js";
import { SelectionCard } from "./selection_card.js";

const GROUPS = ["latents", "result", "density within masks", "agreement with the model", "agreement with the consensus", "particles", "your file"];
const MOST_COMPONENTS = 10;
const MODES = ["pan", "lasso", "box", "path"];

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
      path: (corners) => this.path.drawn(corners),
      click: (position) => this.point.take(position),
      hover: (position, x, y) => this.hover(position, x, y),
    });
    this.selection = new SelectionCard(this);
    this.point = new PointCard(this);
    this.path = new PathCard(this);
    this.mask = new MaskCard(this);
    this.back = new BackCard(this);
    this.gallery = new GalleryCard(this);
    this.clean = new CleanCard(this);
    this.fillAxes();
    this.showStored();
    this.showComponents();
    if (!described.model) this.sayWhatNeedsTheModel();
    this.find(".show-charts").addEventListener("click", (event) => this.showCharts(event.target));
    for (const name of ["x", "y"]) {
      this.find(`.axis-${name}`).addEventListener("change", () => this.redraw(true));
    }
    this.find(".axis-c").addEventListener("change", () => {
      this.off.clear();
      this.range = null;
      this.redraw();
    });
    this.find(".hide").addEventListener("change", () => this.redraw());
    for (const mode of MODES) {
      this.find(`.mode-${mode}`).addEventListener("click", () => {
        this.scatter.mode(mode);
        for (const one of MODES) this.find(`.mode-${one}`).setAttribute("aria-pressed", String(one === mode));
      });
    }
  }

  /** What is not offered where the folder of the model is gone, and why. */
  sayWhatNeedsTheModel() {
    const reasons = {
      ".path": "The model is not there any more: the maps of a path are reconstructed from the particles nearest to each place.",
      ".masks": "Density of single particles within a mask follows from the model, which is not there any more: compare maps within it by cryodrgn-ext fsc.",
      ".components": "What changes along a component is the model's word, which is not there any more.",
      ".clean": "The model is not there any more: images are held against the consensus.",
    };
    for (const [card, text] of Object.entries(reasons)) {
      this.find(card).prepend(Object.assign(document.createElement("p"), { className: "hint needs-model", textContent: text }));
    }
    for (const one of [".mask-file", ...this.place.querySelectorAll(".component")]) {
      (typeof one === "string" ? this.find(one) : one).disabled = true;
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
    const groups = [...GROUPS, ...new Set(columns.map((one) => one.group).filter((group) => !GROUPS.includes(group)))];
    const first = keys.includes("pc2") ? ["pc1", "pc2"] : ["z1", keys.includes("z2") ? "z2" : "defocus"];
    const wanted = { x: first[0], y: first[1], c: keys.includes("state") ? "state" : "latent_length" };
    for (const [name, key] of Object.entries(wanted)) {
      const box = this.find(`.axis-${name}`);
      const before = box.value;
      box.replaceChildren(...groups.flatMap((group) => {
        const part = Object.assign(document.createElement("optgroup"), { label: group });
        part.append(...columns.filter((one) => one.group === group).map((one) => new Option(one.label, one.key)));
        return part.children.length ? [part] : [];
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
      this.refresh(made);
    }
    [this.find(".axis-x").value, this.find(".axis-y").value] = pair;
    this.redraw(true);
  }

  /** What the server has of the result is more than it was. */
  refresh(described, mask = null) {
    this.described = described;
    for (const column of described.columns) {
      if (column.group !== "latents" && !column.key.startsWith("file:")) this.values.delete(column.key);
    }
    this.fillAxes();
    this.mask.fill(mask ?? this.mask.name);
  }

  /** Colour by a column. */
  colourBy(key) {
    const box = this.find(".axis-c");
    box.value = key;
    box.dispatchEvent(new Event("change"));
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
    this.scatter.name(this.x, this.y);
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
    const beyond = Object.assign(document.createElement("input"), {
      type: "number", min: 0.5, step: 0.5, value: 5, className: "beyond", title: "Robust standard deviations from the median",
    });
    legend.replaceChildren(column.label, ends[0], bar, ends[1], button("Choose this range", "choose-range", () => {
      // The ends as shown are rounded: an end that nobody has changed is open.
      const [low, high] = this.range ?? [null, null];
      this.selection.choose({ by: "range", column: column.key, low, high });
    }), button("Choose outliers", "choose-outliers", () =>
      this.selection.choose({ by: "outliers", column: column.key, beyond: Number(beyond.value) })), beyond, "sd");
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

  /** Curves of the job's report; a click on a bar of a state chooses its particles. */
  async showCharts(button) {
    const charts = await during("Reading the curves", () => this.result.plain("charts"), button);
    if (!charts) return;
    const states = this.columnOf("state");
    const select = states && ((level) => this.selection.choose({ by: "levels", column: "state", levels: [level] }));
    this.find(".charts").replaceChildren();
    for (const chart of charts) cryodrgnCharts.draw(chart, this.find(".charts"), { select });
  }

  showComponents() {
    this.find(".components").replaceChildren(...Array.from({ length: Math.min(this.described.q, MOST_COMPONENTS) }, (_, k) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `PC ${k + 1}` });
      button.className = "component";
      button.title = "What changes along this principal component, as the model has it: 95th minus 5th percentile";
      button.addEventListener("click", async () => {
        const made = await during("Generating the component", () => this.result.plain("component", { component: k + 1 }), button);
        if (made) this.showMap(made);
      });
      return button;
    }));
  }

  /** Show a map of this result; files are names by which the server knows them. */
  showMap(made, name = null) {
    return during("Drawing the map", () => this.drawMap(made, name));
  }

  /** The same, without a word of it; another map may give way. */
  drawMap(made, name = null, instead = null) {
    const files = Object.values(made.files).map((key) => ({
      href: this.result.mapPath(key), name: name ?? key, key, result: this.result,
    }));
    return this.viewers.show({ ...made, files }, instead);
  }
}
