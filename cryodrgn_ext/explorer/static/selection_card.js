// What is chosen: steps that are combined into a recipe, which the server follows and keeps under a name.

import { during } from "./requests.js";

/** Seconds as they are said. */
function inWords(seconds) {
  return seconds < 60 ? `${Math.max(1, Math.round(seconds))} s` : `${Math.round(seconds / 60)} min`;
}

/** Polygons among the steps of a recipe. */
function polygonsOf(recipe) {
  if (!recipe) return [];
  return recipe.by === "polygon" ? [recipe] : (recipe.of ?? []).flatMap(polygonsOf);
}

const PAGE = `${Date.now()}-${Math.random()}`; // by which the server knows this page from others

export class SelectionCard {
  constructor(panel) {
    this.panel = panel;
    this.recipe = null;
    this.positions = new Uint32Array(0);
    this.earlier = [];
    panel.find(".invert").addEventListener("click", () =>
      this.set(this.recipe ? { by: "invert", of: [this.recipe] } : { by: "all" }));
    panel.find(".clear").addEventListener("click", () => this.set(null));
    panel.find(".undo").addEventListener("click", () => {
      if (this.earlier.length) this.set(this.earlier.pop(), false);
    });
    panel.find(".save").addEventListener("click", (event) => this.save(event.target));
    panel.find(".save-name").addEventListener("input", () => this.enable());
    this.shown = null; // the map that was reconstructed without having been asked for
    this.turn = 0;
    panel.find(".reconstruct").addEventListener("click", (event) => this.reconstruct(event.target));
    panel.find(".at-once").addEventListener("change", () => this.offer());
    this.showSaved();
  }

  /** Combine a new step with what is chosen, as the user has said. */
  choose(step) {
    const how = this.panel.find(".how").value;
    return this.set(how === "replace" || !this.recipe ? step : { by: how, of: [this.recipe, step] });
  }

  async set(recipe, remember = true) {
    const { panel } = this;
    const mine = ++this.turn;
    const found = await during("Choosing", async () => (recipe === null
      ? { summary: await panel.result.plain("cease", { page: PAGE }), positions: new Uint32Array(0) }
      : {
        summary: await panel.result.plain("choose", { recipe, page: PAGE }),
        positions: await panel.result.positions(recipe),
      }));
    if (!found || mine !== this.turn) return; // another choice was made meanwhile
    if (remember) this.earlier.push(this.recipe);
    this.recipe = recipe;
    this.positions = found.positions;
    panel.scatter.highlight(this.positions);
    panel.scatter.outline(polygonsOf(recipe));
    this.describe(found.summary);
    this.enable();
    this.offered = found.summary?.reconstruction ?? null;
    this.offer();
  }

  /** Say how long a reconstruction will take; begin it where that is short. */
  offer() {
    const { panel, offered } = this;
    const seconds = offered?.seconds ?? null;
    panel.find(".reconstruct").textContent = seconds === null ? "Reconstruct" : `Reconstruct (about ${inWords(seconds)})`;
    panel.find(".reconstruct").title = offered && seconds === null ? "The images are prepared first, which takes a while" : "";
    panel.find(".reconstruct-said").textContent = "";
    if (offered?.at_once && panel.find(".at-once").checked) this.reconstructAtOnce();
  }

  async reconstructAtOnce() {
    const { panel } = this;
    const mine = this.turn;
    const said = panel.find(".reconstruct-said");
    said.textContent = `Reconstructing from ${this.positions.length} particles …`;
    try {
      const name = panel.find(".save-name").value.trim();
      const made = await panel.result.plain("reconstruct", { recipe: this.recipe, name, page: PAGE, at_once: true });
      if (made.superseded || mine !== this.turn) return;
      this.shown = await panel.drawMap(made, null, this.shown);
      if (mine === this.turn) said.textContent = "";
    } catch (error) {
      if (mine === this.turn) said.textContent = `Not reconstructed: ${error.message}`;
    }
  }

  describe(summary) {
    const { panel } = this;
    const box = panel.find(".summary");
    const warnings = panel.find(".warnings");
    warnings.replaceChildren();
    if (!summary) {
      box.textContent = "Nothing is chosen: draw a lasso, or choose in the legend.";
      return;
    }
    const share = ((100 * summary.n) / panel.described.n).toFixed(1);
    const words = [`${summary.n} of ${panel.described.n} particles (${share} %)`];
    if (summary.halves.length) words.push(`half-sets ${summary.halves.join(" and ")}`);
    if (summary.views.bins) {
      words.push(`views of ${(100 * summary.views.covered).toFixed(0)} % of all particles covered`);
    }
    box.textContent = `${words.join("; ")}.`;
    box.dataset.n = summary.n;
    warnings.append(...summary.warnings.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  }

  enable() {
    const some = this.recipe !== null && this.positions.length > 0;
    this.panel.find(".save").disabled = !some || !this.panel.find(".save-name").value.trim();
    this.panel.find(".reconstruct").disabled = !some;
    this.panel.clean.enable();
  }

  async save(button) {
    const { panel } = this;
    const name = panel.find(".save-name").value.trim();
    const there = panel.described.selections.some((one) => one.name === name);
    if (there && !confirm(`Replace the selection ${name}?`)) return null;
    const made = await during("Saving", () =>
      panel.result.plain("save", { name, recipe: this.recipe, replace: there }), button);
    this.enable();
    if (!made) return this.lookAgain();
    panel.described.selections = made.selections;
    this.showSaved();
    return panel.back.use(name, `${made.path} keeps the selection.`, made.commands);
  }

  /** What others have saved meanwhile is listed, so that the user may say that it be replaced. */
  async lookAgain() {
    const { panel } = this;
    const now = await panel.result.plain("describe").catch(() => null);
    if (!now) return;
    panel.described.selections = now.selections;
    this.showSaved();
  }

  showSaved() {
    const { panel } = this;
    const buttons = panel.described.selections.map((one) => {
      const button = Object.assign(document.createElement("button"), {
        type: "button", textContent: `${one.name} (${one.n})`, title: `${JSON.stringify(one.recipe)}\n${one.written}`,
      });
      if (one.refused) {
        Object.assign(button, { disabled: true, className: "refused", textContent: `${one.name} (not usable)`, title: one.refused });
        return button;
      }
      button.addEventListener("click", async () => {
        await this.choose({ by: "saved", name: one.name });
        panel.find(".save-name").value = one.name;
        this.enable();
        panel.back.use(one.name, `The saved selection ${one.name}.`, []);
      });
      return button;
    });
    panel.find(".saved").replaceChildren(...(buttons.length ? ["Saved: ", ...buttons] : []));
  }

  async reconstruct(button) {
    const { panel } = this;
    const name = panel.find(".save-name").value.trim();
    const made = await during(`Reconstructing from ${this.positions.length} particles`, () =>
      panel.result.plain("reconstruct", { recipe: this.recipe, name }), button);
    this.enable();
    if (made) await panel.showMap(made);
  }
}
