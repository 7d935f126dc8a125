// What is chosen: steps that are combined into a recipe, which the server follows and keeps under a name.

import { during } from "./requests.js";

/** Polygons among the steps of a recipe. */
function polygonsOf(recipe) {
  if (!recipe) return [];
  return recipe.by === "polygon" ? [recipe] : (recipe.of ?? []).flatMap(polygonsOf);
}

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
    panel.find(".reconstruct").addEventListener("click", (event) => this.reconstruct(event.target));
    this.showSaved();
  }

  /** Combine a new step with what is chosen, as the user has said. */
  choose(step) {
    const how = this.panel.find(".how").value;
    return this.set(how === "replace" || !this.recipe ? step : { by: how, of: [this.recipe, step] });
  }

  async set(recipe, remember = true) {
    const { panel } = this;
    const found = recipe === null
      ? { summary: null, positions: new Uint32Array(0) }
      : await during("Choosing", async () => ({
        summary: await panel.result.plain("choose", { recipe }), positions: await panel.result.positions(recipe),
      }));
    if (!found) return;
    if (remember) this.earlier.push(this.recipe);
    this.recipe = recipe;
    this.positions = found.positions;
    panel.scatter.highlight(this.positions);
    panel.scatter.outline(polygonsOf(recipe));
    this.describe(found.summary);
    this.enable();
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
    if (made) await panel.showMap(made);
  }
}
