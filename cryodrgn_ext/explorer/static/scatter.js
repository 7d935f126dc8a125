// The plot of particles: drawn by regl-scatterplot in WebGL, with axes and a lasso in the units of the columns.

import { Drawing } from "./drawing.js";
import { Moving } from "./moving.js";
import { inPieces } from "./pieces.js";
import createPubSub from "./vendor/pub-sub-es.js";

globalThis.createPubSub = createPubSub; // regl-scatterplot's prebuilt file looks for it there
await new Promise((resolve, reject) => {
  const script = document.createElement("script");
  script.src = "static/vendor/regl-scatterplot.min.js";
  script.onload = resolve;
  script.onerror = () => reject(new Error("regl-scatterplot is missing"));
  document.head.append(script);
});
const { default: createScatterplot, createRenderer } = globalThis.createScatterplot;

const MARGIN = 0.03; // of the range, around the points
const MARK = 0.015; // half the side of a mark, of half the plot
const STEP = 0.15; // of the half plot, for each press of an arrow key
const ZOOM = 1.25;
const NONE = "#8a8f96"; // particles without a value

/** Smallest and largest finite value. */
export function rangeOf(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    if (value - value !== 0) continue; // neither NaN nor infinite
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : [0, 1];
}

/** Numbers in random order, which is the same each time. */
function shuffled(numbers) {
  let seed = 1;
  for (let k = numbers.length - 1; k > 0; k -= 1) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const other = Math.floor((seed / 2 ** 32) * (k + 1));
    [numbers[k], numbers[other]] = [numbers[other], numbers[k]];
  }
  return numbers;
}

/** Meridians each 60 degrees and parallels each 30 of a Mollweide map, as corners of lines. */
function graticule() {
  const at = (longitude, latitude) => {
    let turn = latitude; // 2 turn + sin(2 turn) = pi sin(latitude), by Newton's method
    for (let k = 0; k < 60 && Math.abs(latitude) < Math.PI / 2; k += 1) {
      turn -= (2 * turn + Math.sin(2 * turn) - Math.PI * Math.sin(latitude)) / (2 + 2 * Math.cos(2 * turn));
    }
    return [(2 * Math.SQRT2 / Math.PI) * longitude * Math.cos(turn), Math.SQRT2 * Math.sin(turn)];
  };
  const steps = Array.from({ length: 61 }, (_, k) => k / 30 - 1); // -1 to 1
  const meridians = [-3, -2, -1, 0, 1, 2, 3].map((k) => steps.map((one) => at((k * Math.PI) / 3, (one * Math.PI) / 2)));
  const parallels = [-2, -1, 0, 1, 2].map((k) => [at(-Math.PI, (k * Math.PI) / 6), at(Math.PI, (k * Math.PI) / 6)]);
  return [...meridians, ...parallels];
}

/**
 * What draws, on a canvas as large as the plot. The library's own is as large as the window, and smooths edges once more,
 * though points have smooth edges: without a graphics card most of the time of a picture went there.
 */
function rendererOf(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), {
    width: Math.max(1, width * devicePixelRatio), height: Math.max(1, height * devicePixelRatio), // hidden at first: 0
  });
  canvas.getContext("webgl", { antialias: false, preserveDrawingBuffer: true }); // the first call decides
  return createRenderer({ canvas });
}

function ticks([low, high]) {
  const rough = (high - low) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k += 1) found.push(k * step);
  return found.map((value) => [value, Number(value.toPrecision(6)).toString()]);
}

export class Scatter {
  /**
   * @param {HTMLElement} plot  with a canvas .points and places for ticks
   * @param {{lasso: Function, path: Function, click: Function, hover: Function}} heard
   */
  constructor(plot, heard) {
    this.plot = plot;
    this.heard = heard;
    this.canvas = plot.querySelector(".points");
    this.shown = new Uint32Array(0);
    this.marked = { positions: [], path: [], line: null };
    this.outlines = [];
    this.highlighted = new Uint32Array(0);
    const { width, height } = this.canvas.getBoundingClientRect();
    this.drawing = createScatterplot({
      canvas: this.canvas, width, height, renderer: rendererOf(width, height),
      pointSize: 3, opacity: 0.7, lassoInitiator: false,
      spatialIndexUseWorker: false, // the worker of the minified file lacks its helpers (regl-scatterplot 1.16)
      pointSizeSelected: 1, pointOutlineWidth: 0, deselectOnDblClick: false, deselectOnEscape: false,
    });
    this.moving = new Moving(this.drawing);
    this.mouse = new Drawing(plot, {
      dataAt: (event) => this.dataAt(event),
      toWindow: () => this.toWindow(),
      done: (does, corners) => (does === "path" ? this.heard.path(corners) : this.heard.lasso(corners)),
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    // Of the event "view" there is none where a program has moved it, as for the keys.
    this.drawing.subscribe("draw", () => {
      const view = Array.from(this.drawing.get("cameraView")).join();
      if (view === this.viewed) return;
      this.viewed = view;
      this.showTicks();
    });
    this.drawing.subscribe("select", ({ points }) => {
      if (this.mouse.does === "pan" && points.length === 1) this.heard.click(this.shown[points[0]]);
      this.highlight(this.highlighted);
    });
    this.drawing.subscribe("pointover", (point) => {
      const [x, y] = this.drawing.getScreenPosition(point);
      this.heard.hover(this.shown[point], x, y);
    });
    this.drawing.subscribe("pointout", () => this.heard.hover(null));
    new ResizeObserver(() => {
      const box = this.canvas.parentElement.getBoundingClientRect();
      if (!box.width || !box.height) return;
      this.drawing.set({ width: box.width, height: box.height });
      this.drawing.get("renderer").resize(box.width, box.height);
      this.showTicks();
    }).observe(plot);
  }

  toData(place, [low, high]) {
    return low + ((place + 1) / 2) * (high - low);
  }

  /** Colours of the surroundings, after the theme has changed. */
  theme(background, active) {
    this.active = active;
    this.drawing.set({ backgroundColor: background, ...this.activeColours() });
  }

  /** Colours of chosen particles and of that under the mouse: one for each colour of the others. */
  activeColours() {
    const all = Array.from(this.colors ?? [0], () => this.active ?? NONE);
    return { pointColorActive: all, pointColorHover: all };
  }

  /** What the mouse does: pan, lasso, box, or path. */
  mode(does) {
    this.mouse.mode(does);
  }

  /** Arrow keys pan, + and - zoom, 0 shows all. */
  key(event) {
    const [x, y] = this.drawing.get("cameraTarget");
    const distance = this.drawing.get("cameraDistance");
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };
    const move = moves[event.key];
    if (move) this.drawing.set({ cameraTarget: [x + move[0] * STEP * distance, y + move[1] * STEP * distance] });
    else if (event.key === "+") this.drawing.set({ cameraDistance: distance / ZOOM });
    else if (event.key === "-") this.drawing.set({ cameraDistance: distance * ZOOM });
    else if (event.key === "0") this.drawing.reset();
    else return;
    event.preventDefault();
  }

  /**
   * Draw the particles that have both values and pass the filter.
   * @param {Float32Array} x  all particles
   * @param {Float32Array} y
   * @param {boolean} equal  whether both axes have one scale
   * @param {{codes: Uint8Array|Uint16Array, colors: string[]}} colour  number of a colour for each particle
   * @param {Uint8Array|null} pass  1 for those to draw
   */
  async draw(x, y, equal, colour, pass) {
    const n = x.length;
    this.place(x, y, equal);
    const shown = new Uint32Array(n);
    let count = 0;
    for (let i = 0; i < n; i += 1) if ((!pass || pass[i]) && x[i] - x[i] === 0 && y[i] - y[i] === 0) shown[count++] = i;
    const [[lowX, highX], [lowY, highY]] = [this.domainX, this.domainY];
    const plotX = (i) => (2 * (x[i] - lowX)) / (highX - lowX) - 1;
    const plotY = (i) => (2 * (y[i] - lowY)) / (highY - lowY) - 1;
    // At random, so that none lies on top; in pieces, of each of which the first are a sample.
    const { order, pieces } = inPieces(shuffled(shown.subarray(0, count)), plotX, plotY);
    this.shown = order;
    this.moving.pieces = pieces;
    this.moving.chosen(new Uint32Array(0));
    this.placeOf = new Int32Array(n).fill(-1);
    const points = { x: new Float32Array(count), y: new Float32Array(count), z: new Float32Array(count) };
    for (let k = 0; k < count; k += 1) {
      const i = this.shown[k];
      this.placeOf[i] = k;
      points.x[k] = plotX(i);
      points.y[k] = plotY(i);
      points.z[k] = colour.codes[i];
    }
    const dense = Math.max(1, Math.min(5, 900 / Math.sqrt(Math.max(count, 1)) / 5));
    this.colors = colour.colors;
    this.drawing.set({
      colorBy: "valueA", pointColor: colour.colors, ...this.activeColours(), pointSize: dense, opacity: count > 2e5 ? 0.25 : 0.7,
    });
    this.points = points;
    this.moving.total = count;
    await this.drawing.draw(points, { zDataType: "categorical" });
    await this.mark(this.marked.positions, this.marked.path, this.marked.line);
    this.showOutlines();
    this.showTicks();
  }

  /** Keys of the columns that are the axes. */
  name(x, y) {
    this.names = [x, y];
  }

  place(x, y, equal) {
    let [[lowX, highX], [lowY, highY]] = [rangeOf(x), rangeOf(y)];
    const around = ([low, high]) => {
      const margin = MARGIN * (high - low) || 1;
      return [low - margin, high + margin];
    };
    [lowX, highX] = around([lowX, highX]);
    [lowY, highY] = around([lowY, highY]);
    if (equal) {
      const half = Math.max(highX - lowX, highY - lowY) / 2;
      [lowX, highX] = [(lowX + highX) / 2 - half, (lowX + highX) / 2 + half];
      [lowY, highY] = [(lowY + highY) / 2 - half, (lowY + highY) / 2 + half];
    }
    this.domainX = [lowX, highX];
    this.domainY = [lowY, highY];
  }

  /** Visible range of both axes in units of the columns, for a canvas whose square of points is in its middle. */
  visible() {
    // Of the camera itself: the library's own scales are those of the size before, after the window has changed.
    const view = this.drawing.get("cameraView");
    const { width, height } = this.canvas.getBoundingClientRect();
    const at = (half, scale, shift, domain) => [-half, half].map((edge) => this.toData((edge - shift) / scale, domain));
    return [at(width / height, view[0], view[12], this.domainX), at(1, view[5], view[13], this.domainY)];
  }

  /** Place of the mouse, in units of the columns. */
  dataAt({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    const [[x0, x1], [y0, y1]] = this.visible();
    return [x0 + ((clientX - box.left) / box.width) * (x1 - x0), y1 - ((clientY - box.top) / box.height) * (y1 - y0)];
  }

  /** What takes a point in units of the columns to its place in the plot, in pixels. */
  toWindow() {
    const { width, height } = this.canvas.getBoundingClientRect();
    const [[x0, x1], [y0, y1]] = this.visible();
    return ([x, y]) => [((x - x0) / (x1 - x0)) * width, ((y1 - y) / (y1 - y0)) * height];
  }

  /** Keep the outlines of polygons over the plot while its axes are theirs: steps of a recipe. */
  outline(polygons) {
    this.outlines = polygons;
    this.showOutlines();
  }

  showOutlines() {
    const [x, y] = this.names ?? [];
    this.mouse.keep(this.outlines.filter((one) => one.x === x && one.y === y).map(({ corners }) => ({ corners, closed: true })));
  }

  showTicks() {
    if (!this.domainX) return;
    this.mouse.show();
    const [rangeX, rangeY] = this.visible();
    Object.assign(this.canvas.dataset, { x0: rangeX[0], x1: rangeX[1], y0: rangeY[0], y1: rangeY[1] });
    const write = (box, range, side, flip) => {
      box.replaceChildren(...ticks(range).map(([value, text]) => {
        const mark = document.createElement("span");
        const share = (value - range[0]) / (range[1] - range[0]);
        mark.style[side] = `${100 * (flip ? 1 - share : share)}%`;
        mark.textContent = text;
        return mark;
      }));
    };
    write(this.plot.querySelector(".ticks-x"), rangeX, "left", false);
    write(this.plot.querySelector(".ticks-y"), rangeY, "top", true);
  }

  /** Mark clicked particles with squares, join those of a path, and draw a line in units of these columns. */
  async mark(positions, path, line = null) {
    this.marked = { positions, path, line };
    if (!this.points) return;
    const at = (position) => {
      const place = this.placeOf[position] ?? -1;
      return place < 0 ? [] : [[this.points.x[place], this.points.y[place]]];
    };
    const style = { lineColor: this.active, lineWidth: 2 };
    const squares = [...positions, ...path].flatMap(at).map(([x, y]) =>
      ({ x1: x - MARK, y1: y - MARK, x2: x + MARK, y2: y + MARK, ...style }));
    const corners = path.flatMap(at);
    const toPlot = (value, [low, high]) => (2 * (value - low)) / (high - low) - 1;
    const drawn = line && line.x === this.names?.[0] && line.y === this.names?.[1]
      ? line.corners.map(([x, y]) => [toPlot(x, this.domainX), toPlot(y, this.domainY)]) : [];
    const lines = [corners, drawn].filter((one) => one.length > 1).map((vertices) => ({ vertices, ...style }));
    if (this.names?.[0] === "view_x" && this.names[1] === "view_y") {
      const globe = graticule().map((arc) => arc.map(([x, y]) => [toPlot(x, this.domainX), toPlot(y, this.domainY)]));
      lines.push(...globe.map((vertices) => ({ vertices, lineColor: NONE, lineWidth: 1 })));
    }
    if (squares.length || lines.length) await this.drawing.drawAnnotations([...squares, ...lines]);
    else this.drawing.clearAnnotations();
  }

  /** Show which particles are chosen. */
  highlight(positions) {
    this.highlighted = positions;
    const places = [];
    for (const position of positions) {
      const place = this.placeOf[position];
      if (place >= 0) places.push(place);
    }
    places.sort((a, b) => a - b); // in pieces, as all are
    this.moving.chosen(places);
    if (places.length) this.drawing.select(places, { preventEvent: true });
    else this.drawing.deselect({ preventEvent: true });
  }
}

/** Numbers of colours for a column: categories, or steps of a scale between two values. */
export function colourCodes(values, column, [low, high], scale) {
  const n = values.length;
  const levels = column.levels.length;
  const colors = levels ? [...column.colors] : [...scale];
  const none = colors.length;
  colors.push(NONE);
  const codes = new Uint16Array(n);
  const steps = (colors.length - 2) / (high - low || 1);
  for (let i = 0; i < n; i += 1) {
    const value = values[i];
    if (value - value !== 0) codes[i] = none;
    else codes[i] = levels ? value : Math.round(Math.min(Math.max(value - low, 0), high - low) * steps);
  }
  return { codes, colors };
}
