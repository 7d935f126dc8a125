// The loop of cleaning: score the images, learn again without what is chosen, and compare.

import { during } from "./requests.js";

const LOOK_MS = 1000;

export class CleanCard {
  constructor(panel) {
    this.panel = panel;
    panel.find(".score").addEventListener("click", async (event) => {
      const described = await during("Scoring the images", () => panel.result.plain("score"), event.target);
      if (!described) return;
      panel.refresh(described);
      panel.colourBy("image_agreement");
    });
    panel.find(".train-again").addEventListener("click", (event) => this.again(event.target));
    panel.find(".why-not-again").textContent = panel.described.why_not_again;
    this.findRunning();
  }

  enable() {
    const { recipe, positions } = this.panel.selection;
    const some = recipe !== null && positions.length > 0 && positions.length < this.panel.described.n;
    this.panel.find(".train-again").disabled = !some || this.busy || this.panel.described.why_not_again !== "";
  }

  /** Keep what is not chosen as a selection, learn on it, and watch. */
  async again(button) {
    const { panel } = this;
    const name = panel.find(".again-name").value.trim();
    const recipe = { by: "invert", of: [panel.selection.recipe] };
    const begun = await during("Beginning to train again", () => panel.result.plain("train_again", { name, recipe }), button);
    this.enable();
    if (!begun) return;
    panel.described.selections = begun.selections;
    panel.selection.showSaved();
    panel.back.show(`Training again in ${begun.directory}.`, begun.commands);
    await this.watchBusy();
  }

  /** What was begun before the page was loaded again, or in another one. */
  async findRunning() {
    const now = await this.panel.result.plain("again").catch(() => null);
    if (now?.state === "running" && now.directory.startsWith(`${this.panel.described.path}/again/`)) await this.watchBusy();
  }

  async watchBusy() {
    this.busy = true;
    this.enable();
    await this.watch();
    this.busy = false;
    this.enable();
  }

  async watch() {
    const { panel } = this;
    const said = panel.find(".again-said");
    for (;;) {
      const now = await panel.result.plain("again").catch((error) => ({ state: "failed", line: error.message, rows: [] }));
      said.textContent = now.state === "running" ? `Running: ${now.line}` : now.line;
      if (now.state !== "running") {
        said.classList.toggle("wrong", now.state === "failed");
        if (now.state === "finished") {
          said.textContent = `${now.directory} is finished, and open below; its report on the comparison is in ${now.directory}/compared.`;
          this.showRows(now.rows);
          await globalThis.explorer.open(now.opened);
        }
        return;
      }
      await new Promise((done) => setTimeout(done, LOOK_MS));
    }
  }

  showRows(rows) {
    const line = (cells, tag) => {
      const one = document.createElement("tr");
      one.append(...cells.map((text) => Object.assign(document.createElement(tag), { textContent: text })));
      return one;
    };
    this.panel.find(".again-rows").replaceChildren(line(["", "formerly", "now"], "th"), ...rows.map((cells) => line(cells, "td")));
  }
}
