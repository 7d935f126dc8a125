// Maps side by side, by NGL: one camera and one contour level in standard deviations for all of them.

import { during, getFile, say } from "./requests.js";

const MOST = 4;
const COLOURS = { GENERATED: "#d9822b", RECONSTRUCTED: "#3aa387", DIFFERENCE: "#3b7dd8" };
const LESS = "#c0392b"; // where a difference is negative

/** FSC as a small picture with its line at 0.143. */
function fscPicture(fsc, shell) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const width = fsc.length - 1;
  svg.setAttribute("viewBox", `0 -0.05 ${width} 1.1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `FSC of the half-maps up to ${(1 / (shell * width)).toFixed(1)} Å`);
  const line = (points, colour, dashes) => {
    const one = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    one.setAttribute("points", points.map(([x, y]) => `${x},${1 - y}`).join(" "));
    one.setAttribute("style", `fill:none;stroke:${colour};stroke-width:1.5px;stroke-dasharray:${dashes}`);
    one.setAttribute("vector-effect", "non-scaling-stroke");
    svg.append(one);
  };
  line([[0, 0.143], [width, 0.143]], "gray", "3 3");
  line(fsc.map((value, k) => [k, Math.max(value, 0)]), COLOURS.RECONSTRUCTED, "none");
  return svg;
}

class Viewer {
  constructor(among, made) {
    this.among = among;
    this.made = made;
    this.box = document.createElement("article");
    this.box.className = `viewer ${made.kind.toLowerCase()}`;
    const title = document.createElement("div");
    title.className = "title";
    const kind = document.createElement("b");
    kind.className = "kind";
    kind.textContent = made.kind;
    const words = document.createElement("span");
    words.append(kind, made.title.replace(made.kind, ""));
    const close = document.createElement("button");
    close.type = "button";
    close.textContent = "×";
    close.title = "Close this map";
    close.addEventListener("click", () => among.remove(this));
    const minus = document.createElement("button");
    minus.type = "button";
    minus.className = "minus";
    minus.textContent = "− first";
    minus.title = "This map minus the first one";
    minus.addEventListener("click", () => among.difference(this));
    title.append(words, minus, close);
    this.place = document.createElement("div");
    this.place.className = "stage";
    this.facts = document.createElement("div");
    this.facts.className = "facts";
    this.box.append(title, this.place, this.facts);
  }

  async open() {
    const { made } = this;
    this.stage = new NGL.Stage(this.place, { backgroundColor: this.among.background, tooltip: false });
    new ResizeObserver(() => this.stage.handleResize()).observe(this.place);
    this.stage.viewerControls.signals.changed.add(() => this.among.follow(this));
    await this.load(made.files[0]);
    const leader = this.among.viewers.find((one) => one.ready);
    if (leader) this.stage.viewerControls.orient(leader.orientation());
    else this.stage.autoView(0);
    this.ready = true;
    this.describe();
  }

  async load(file) {
    this.stage.removeAllComponents();
    const blob = await getFile(file.href);
    const found = await this.stage.loadFile(blob, { ext: "mrc", name: file.name });
    this.surface = found.addRepresentation("surface", {
      isolevelType: "sigma", isolevel: this.among.sigma, color: COLOURS[this.made.kind], isolevelScroll: false,
      smooth: 0, useWorker: false,
    });
    this.negative = this.made.kind !== "DIFFERENCE" ? null : found.addRepresentation("surface", {
      isolevelType: "sigma", isolevel: this.among.sigma, color: LESS, isolevelScroll: false, smooth: 0,
      useWorker: false, negateIsolevel: true,
    });
    this.component = found;
    this.file = file;
    this.slice = null;
    this.cutAt(this.among.cut);
    // NGL counts what it still builds; only then it knows where the surface is.
    await new Promise((done) => setTimeout(() => this.stage.tasks.onZeroOnce(done)));
    this.box.dataset.file = file.name;
    const { mean, rms } = found.volume ?? { mean: NaN, rms: NaN };
    Object.assign(this.box.dataset, { mean, rms });
  }

  /** A cut in grey in the place of the surface; the surface without an axis. */
  cutAt({ axis, percent }) {
    if (!this.component) return;
    if (this.slice) this.component.removeRepresentation(this.slice);
    this.slice = axis
      ? this.component.addRepresentation("slice", { dimension: axis, positionType: "percent", position: percent, colorScale: ["black", "white"] })
      : null;
    this.surface.setVisibility(!axis);
    this.negative?.setVisibility(!axis);
  }

  orientation() {
    return this.stage.viewerControls.getOrientation();
  }

  describe() {
    const { facts, files, frames } = this.made;
    const lines = [];
    if (facts?.resolution_A) {
      lines.push(`${facts.n} particles, half-maps agree to ${facts.resolution_A.toFixed(1)} Å (FSC 0.143)`);
    }
    this.facts.replaceChildren(...lines.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    if (facts?.fsc) this.facts.append(fscPicture(facts.fsc, facts.shell));
    if (frames) this.facts.append(this.frameSlider(files));
    else {
      for (const file of files) {
        const link = Object.assign(document.createElement("a"), { href: file.href, download: file.name, textContent: file.name });
        this.facts.append(link, " ");
      }
    }
  }

  frameSlider(files) {
    const slider = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: files.length - 1, value: 0, title: "Volume of the path",
    });
    slider.addEventListener("change", () => this.load(files[Number(slider.value)]).catch((error) => say(error.message, true)));
    return slider;
  }
}

export class Viewers {
  constructor(place) {
    this.place = place;
    this.viewers = [];
    this.sigma = 4;
    this.cut = { axis: "", percent: 50 };
    this.background = "white";
    this.following = false;
  }

  /**
   * Show a map beside those that are there; the oldest gives way.
   * @param {{kind: string, title: string, facts: object, files: {href: string, name: string}[]}} made
   */
  async show(made) {
    while (this.viewers.length >= MOST) this.remove(this.viewers[0]);
    const viewer = new Viewer(this, made);
    this.viewers.push(viewer);
    this.place.append(viewer.box);
    await viewer.open();
  }

  remove(viewer) {
    this.viewers = this.viewers.filter((one) => one !== viewer);
    viewer.box.remove();
    viewer.stage?.dispose();
  }

  /** Show a map minus the first that is shown. */
  async difference(viewer) {
    const first = this.viewers[0];
    if (first === viewer) return say("Show another map first: this one is the first.", true);
    if (first.file.result !== viewer.file.result) return say("Maps of two results are not subtracted.", true);
    const { result } = viewer.file;
    const made = await during("Subtracting", () =>
      result.plain("difference", { first: viewer.file.key, second: first.file.key }));
    if (!made) return null;
    const key = made.files.map;
    return during("Drawing the map", () =>
      this.show({ ...made, files: [{ href: result.mapPath(key), name: key, key, result }] }));
  }

  /** Turn all others as one was turned. */
  follow(leader) {
    if (this.following || !leader.ready) return;
    this.following = true;
    for (const viewer of this.viewers) {
      if (viewer !== leader && viewer.ready) viewer.stage.viewerControls.orient(leader.orientation());
    }
    this.following = false;
  }

  level(sigma) {
    this.sigma = sigma;
    for (const viewer of this.viewers) {
      viewer.surface?.setParameters({ isolevel: sigma });
      viewer.negative?.setParameters({ isolevel: sigma });
    }
  }

  cutAt(axis, percent) {
    this.cut = { axis, percent };
    for (const viewer of this.viewers) viewer.cutAt(this.cut);
  }

  theme(background) {
    this.background = background;
    for (const viewer of this.viewers) viewer.stage?.setParameters({ backgroundColor: background });
  }

  center() {
    const leader = this.viewers.find((one) => one.ready);
    if (!leader) return;
    leader.stage.viewerControls.orient(new NGL.Matrix4());
    leader.stage.autoView(0);
  }
}
