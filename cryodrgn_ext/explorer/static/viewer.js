// One map by NGL: its surface or a cut through it, what there is to say of it, and the frames of a path as a movie.

import { getFile, getMap, say } from "./requests.js";

const COLOURS = { GENERATED: "#d9822b", RECONSTRUCTED: "#3aa387", DIFFERENCE: "#3b7dd8" };
const LESS = "#c0392b"; // where a difference is negative
const OVERLAY = "#8f6fd1"; // masks
const ATOMS = "#888888";
const MOST_VOXELS = 6e7; // of frames that are kept drawn while a movie plays
const FRAME_MS = 120;
const TURN = Math.PI / 18;

function button(text, title, name = "") {
  return Object.assign(document.createElement("button"), { type: "button", textContent: text, title, className: name });
}

export class Viewer {
  constructor(among, made) {
    this.among = among;
    this.made = made;
    this.drawn = new Map(); // by key: frames that were drawn, the latest last
    this.playing = false;
    this.box = document.createElement("article");
    this.box.className = `viewer ${made.kind.toLowerCase()}`;
    const title = document.createElement("div");
    title.className = "title";
    const kind = document.createElement("b");
    kind.className = "kind";
    kind.textContent = made.kind;
    const words = document.createElement("span");
    words.append(kind, made.title.replace(made.kind, ""));
    const close = button("×", "Close this map");
    close.addEventListener("click", () => among.remove(this));
    const minus = button("− first", "This map minus the first one", "minus");
    minus.addEventListener("click", () => among.difference(this));
    title.append(words, minus, close);
    this.place = document.createElement("div");
    this.place.className = "stage";
    this.place.tabIndex = 0;
    this.place.setAttribute("role", "img");
    this.place.setAttribute("aria-label", `${made.title}; arrow keys turn it, + and - zoom`);
    this.place.addEventListener("keydown", (event) => this.key(event));
    this.facts = document.createElement("div");
    this.facts.className = "facts";
    this.box.append(title, this.place, this.facts);
  }

  async open() {
    const { made } = this;
    this.stage = new NGL.Stage(this.place, { backgroundColor: this.among.background, tooltip: false });
    new ResizeObserver(() => this.stage.handleResize()).observe(this.place);
    this.stage.viewerControls.signals.changed.add(() => this.among.follow(this));
    this.among.painting.listen(this);
    await this.load(made.files[0]);
    const leader = this.among.viewers.find((one) => one.ready);
    if (leader) this.stage.viewerControls.orient(leader.orientation());
    else this.whole();
    this.ready = true;
    this.describe();
    await this.overlay(this.among.overlaid);
    await this.structure(this.among.atoms);
    this.among.painting.show();
  }

  get component() { return this.shown?.component; }
  get surface() { return this.shown?.surface; }
  get slice() { return this.shown?.slice ?? null; }
  get volume() { return this.component?.volume; }

  /** Draw a map in the place of the one that is there; frames of a path stay drawn, as far as memory goes. */
  async load(file) {
    if (!this.drawn.has(file.key)) this.drawn.set(file.key, await this.draw(file));
    const former = this.shown;
    this.file = file;
    this.shown = this.drawn.get(file.key);
    if (former && former !== this.shown) for (const part of former.parts) part.setVisibility(false);
    for (const part of this.shown.parts) part.setVisibility(true);
    this.level(this.among.sigma);
    this.cutAt(this.among.cut);
    const most = this.made.frames ? Math.max(1, Math.floor(MOST_VOXELS / (this.volume?.data.length || 1))) : 1;
    for (const [key, one] of this.drawn) {
      if (this.drawn.size <= most) break;
      if (one === this.shown) continue;
      for (const part of one.parts) this.stage.removeComponent(part);
      this.drawn.delete(key);
    }
    this.box.dataset.file = file.name;
    const { mean, rms } = this.volume ?? { mean: NaN, rms: NaN };
    Object.assign(this.box.dataset, { mean, rms });
  }

  async draw(file) {
    const component = await this.fetch(file, this.fine);
    const { sigma } = this.among;
    const { volume } = component;
    const style = {
      isolevelType: "value", isolevel: volume.getValueForSigma(sigma), isolevelScroll: false, smooth: 0, useWorker: false,
    };
    const surface = component.addRepresentation("surface", { ...style, color: COLOURS[this.made.kind] });
    const negative = this.made.kind !== "DIFFERENCE" ? null : component.addRepresentation("surface", {
      ...style, color: LESS, negateIsolevel: true,
    });
    // NGL counts what it still builds; only then it knows where the surface is.
    await new Promise((done) => setTimeout(() => this.stage.tasks.onZeroOnce(done)));
    return { component, surface, negative, sigma, slice: null, whole: null, parts: [component] };
  }

  /** Read a map: a large one on half its grid, whose surface is drawn in an eighth of the time, unless the whole is wanted. */
  async fetch(file, whole) {
    const { blob, half } = await getMap(file.href, whole);
    const component = await this.stage.loadFile(blob, { ext: "mrc", name: file.name });
    component.volume.half = half;
    return component;
  }

  /** Read the whole of a map of which there is half the grid, for the cut. */
  async fetchWhole(shown, file) {
    if (shown.reading) return;
    shown.reading = true;
    try {
      shown.whole = await this.fetch(file, true);
      shown.parts.push(shown.whole);
      shown.whole.setVisibility(this.shown === shown);
      if (this.shown === shown) this.cutAt(this.among.cut);
    } catch (error) {
      say(error.message, true);
    } finally {
      shown.reading = false;
    }
  }

  level(sigma) {
    if (!this.shown || this.shown.sigma === sigma) return;
    this.shown.sigma = sigma;
    const isolevel = this.volume.getValueForSigma(sigma);
    this.shown.surface.setParameters({ isolevel });
    this.shown.negative?.setParameters({ isolevel });
  }

  /** A cut in grey in the place of the surface; the surface without an axis. */
  cutAt({ axis, percent }) {
    const { shown } = this;
    if (!shown) return;
    if (axis && shown.component.volume.half && !shown.whole) {
      this.fetchWhole(shown, this.file); // and comes back
      return;
    }
    const on = shown.whole ?? shown.component;
    if (shown.slice) on.removeRepresentation(shown.slice);
    shown.slice = axis
      ? on.addRepresentation("slice", { dimension: axis, positionType: "percent", position: percent, colorScale: ["black", "white"] })
      : null;
    shown.surface.setVisibility(!axis);
    shown.negative?.setVisibility(!axis);
  }

  /** Show a mask of the same result over the map, or none. */
  async overlay(file) {
    if (this.mask) this.stage.removeComponent(this.mask);
    this.mask = null;
    if (!file || file.result !== this.file.result) return;
    const found = await this.stage.loadFile(await getFile(file.href), { ext: "mrc", name: file.name });
    found.addRepresentation("surface", {
      isolevelType: "value", isolevel: 0.5, color: OVERLAY, opacity: 0.4, opaqueBack: false, isolevelScroll: false, smooth: 0, useWorker: false,
    });
    this.mask = found;
  }

  /** Show a structure over the map, or none: a file of the user's own, which is not sent anywhere. */
  async structure(file) {
    if (this.atoms) this.stage.removeComponent(this.atoms);
    this.atoms = null;
    this.shown.surface.setParameters(file ? { opacity: 0.5, opaqueBack: false } : { opacity: 1 });
    if (!file) return;
    const ext = /\.(pdb|ent)$/i.test(file.name) ? "pdb" : "cif";
    this.atoms = await this.stage.loadFile(file, { ext, name: file.name });
    for (const kind of ["cartoon", "line"]) this.atoms.addRepresentation(kind, { color: ATOMS });
  }

  key(event) {
    const turns = { ArrowLeft: [0, 1, 0, -1], ArrowRight: [0, 1, 0, 1], ArrowUp: [1, 0, 0, -1], ArrowDown: [1, 0, 0, 1] };
    const zooms = { "+": 0.1, "-": -0.1 };
    if (turns[event.key]) {
      const [x, y, z, way] = turns[event.key];
      this.stage.viewerControls.spin(new NGL.Vector3(x, y, z), way * TURN);
    } else if (zooms[event.key]) this.stage.viewerControls.zoom(zooms[event.key]);
    else return;
    event.preventDefault();
  }

  /** At full size; a map that has nothing at the level is seen as its box would be. */
  whole() {
    if (this.stage.getBox().isEmpty()) this.component.autoView(0);
    else this.stage.autoView(0);
  }

  orientation() {
    this.stage.viewer.rotationGroup.updateMatrix(); // else it is that of the picture before
    return this.stage.viewerControls.getOrientation();
  }

  describe() {
    const { facts, files, frames, links } = this.made;
    const lines = [];
    if (facts?.resolution_A) {
      lines.push(`${facts.n} particles, half-maps agree to ${facts.resolution_A.toFixed(1)} Å (FSC 0.143)`);
    }
    this.facts.replaceChildren(...lines.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    if (this.volume.half) this.facts.append(this.offerFine());
    if (facts?.chart) cryodrgnCharts.draw(facts.chart, this.facts);
    if (frames) this.facts.append(this.movie(files));
    for (const file of frames ? (links ?? []) : files) {
      const link = Object.assign(document.createElement("a"), { href: file.href, download: file.name, textContent: file.name });
      this.facts.append(link, " ");
    }
  }

  /** Says that the surface is drawn on half the grid, and draws it on all of it when asked. */
  offerFine() {
    const line = Object.assign(document.createElement("div"), { textContent: "Surface on half the grid; cut, masks and file have all. " });
    const fine = button("All", "Draw the surface on the whole grid: seconds without a graphics card", "fine");
    fine.addEventListener("click", async () => {
      this.fine = true;
      for (const one of this.drawn.values()) for (const part of one.parts) this.stage.removeComponent(part);
      this.drawn.clear();
      this.shown = null;
      line.remove();
      await this.load(this.file).catch((error) => say(error.message, true));
    });
    line.append(fine);
    return line;
  }

  /** Slider and play button for the frames of a path. */
  movie(files) {
    const bar = document.createElement("div");
    bar.className = "bar movie";
    this.slider = Object.assign(document.createElement("input"), {
      type: "range", min: 0, max: files.length - 1, value: 0, title: "Volume of the path",
    });
    const said = document.createElement("output");
    const play = button("Play", "Show the volumes one after the other, there and back", "play");
    const show = async (number) => {
      this.slider.value = number;
      said.textContent = `${number + 1} of ${files.length}`;
      await this.load(files[number]).catch((error) => { this.playing = false; say(error.message, true); });
    };
    this.slider.addEventListener("input", () => show(Number(this.slider.value)));
    play.addEventListener("click", () => {
      this.playing = !this.playing;
      play.textContent = this.playing ? "Pause" : "Play";
      play.setAttribute("aria-pressed", String(this.playing));
      if (this.playing) this.play(files.length, show);
    });
    said.textContent = `1 of ${files.length}`;
    bar.append(play, this.slider, said);
    return bar;
  }

  async play(count, show) {
    let [number, way] = [Number(this.slider.value), 1];
    while (this.playing && this.box.isConnected) {
      if (number + way < 0 || number + way >= count) way = -way;
      number += way;
      const begin = performance.now();
      await show(number);
      await new Promise((done) => setTimeout(done, Math.max(0, FRAME_MS - (performance.now() - begin))));
    }
  }

  dispose() {
    this.playing = false;
    this.box.remove();
    this.stage?.dispose();
  }
}
