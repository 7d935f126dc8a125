// The way back into the suite, for a saved selection: files, a job of RELION, a job of CryoSPARC.

import { during } from "./requests.js";

export class BackCard {
  constructor(panel) {
    this.panel = panel;
    this.name = null;
    for (const [button, format] of [["write-star", "star"], ["write-cs", "cs"]]) {
      panel.find(`.${button}`).addEventListener("click", (event) => this.make("particles", { format }, event.target));
    }
    panel.find(".relion").addEventListener("click", (event) => this.make("relion", {}, event.target));
    panel.find(".cs-make").addEventListener("click", (event) => this.make("cryosparc", {
      project: panel.find(".cs-project").value.trim(), workspace: panel.find(".cs-workspace").value.trim(),
      job: panel.find(".cs-job").value.trim(),
    }, event.target));
    panel.find(".cryosparc").hidden = panel.described.format !== "cs";
    if (!panel.described.relion) {
      panel.find(".relion").hidden = true;
    } else {
      panel.find(".relion").title = `Adds a select job to ${panel.described.relion} and runs it`;
    }
  }

  /** Work on a saved selection from now on. */
  use(name, sentence, commands) {
    this.name = name;
    for (const button of ["write-star", "write-cs", "relion", "cs-make"]) this.panel.find(`.${button}`).disabled = false;
    this.show(sentence, commands);
  }

  show(sentence, commands) {
    this.panel.find(".back-said").textContent = sentence;
    this.panel.find(".commands").textContent = commands.join("\n");
  }

  async make(what, values, button) {
    const { panel, name } = this;
    panel.find(".back-said").textContent = ""; // what was said of something else must not stand beside an error
    const made = await during(`Working on the selection ${name}`, () =>
      panel.result.plain(what, { name, ...values }), button);
    if (made) this.show([made.message, made.further].filter(Boolean).join(" "), made.commands);
  }
}
