// While the view of many particles moves, so many of those in it are drawn as there is time for in a frame; at rest all
// are, a part in each frame, so that the next movement never waits. What is chosen is chosen among all, whatever is drawn.

import { piecesOf, sample } from "./pieces.js";

const FRAME_MS = 1000 / 30;
const SHARE = 0.6; // of a frame, for particles; the rest is for what the browser does with every picture
const REST_MS = 150; // without a movement
const AT_REST = 4; // times as many particles in a frame: nobody sees these frames
const FEWEST = 2000;
const [SLOWEST, FASTEST] = [0.5, 1.5]; // change of the number from one frame to the next

export class Moving {
  /** @param {object} drawing  of regl-scatterplot, whose points come in the order of `pieces` */
  constructor(drawing) {
    this.drawing = drawing;
    this.most = FEWEST; // particles for which there is time in a frame, as far as is known
    this.total = 0; // with those that are drawn twice because they are chosen
    this.done = Infinity; // of them are in the picture that is being made; Infinity: it is finished, or not begun
    this.drawn = 0; // in the last frame
    this.whole = false; // whether all of them are in the picture that is seen
    this.pieces = []; // of the particles, see pieces.js
    this.chosenPieces = [];
    this.chosenCount = 0;
    this.hovered = false;
    this.nowhere = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const renderer = drawing.get("renderer");
    const { _gl: gl } = drawing.get("regl");
    this.wrap(gl);
    const render = renderer.render.bind(renderer);
    renderer.render = (draw, canvas) => this.render(gl, render, draw, canvas);
    // The mouse over a particle makes the library draw all; where that takes long, its values beside it must do.
    for (const event of ["pointover", "pointout"]) drawing.subscribe(event, () => { this.hovered = true; });
  }

  /** The library's own filter takes seconds for many points. A part of them is drawn by giving WebGL a part to draw. */
  wrap(gl) {
    const { drawArrays, clear } = gl;
    gl.drawArrays = (mode, first, count) => {
      if (mode !== gl.POINTS || !this.part) return drawArrays.call(gl, mode, first, count);
      const begin = this.part.seen;
      this.part.seen += count;
      for (const [from, number] of this.parts(begin, count)) {
        this.part.drawn += number;
        drawArrays.call(gl, mode, first + from, number);
      }
      return undefined;
    };
    gl.clear = (bits) => { // the second time in a frame it is the picture that is being made
      if (this.part) this.part.cleared += 1;
      if (!(this.part?.from > 0 && this.part.cleared === 2)) clear.call(gl, bits);
    };
  }

  /** Which of so many points are drawn now, as [begin, count]. */
  parts(begin, count) {
    const { from, to, share, view } = this.part;
    if (share === null) {
      const [first, last] = [Math.max(0, from - begin), Math.min(count, to - begin)];
      return last > first ? [[first, last - first]] : [];
    }
    const all = this.pieces.length ? this.pieces.at(-1).end : 0;
    const most = this.most * Math.min(1, count / (this.total || count)); // some are drawn twice
    if (count === all) return sample(this.pieces, view, most);
    if (count === this.chosenCount) return sample(this.chosenPieces, view, most);
    return [[0, Math.ceil(count * share)]];
  }

  /** Particles that are drawn a second time because they are chosen: their places in the order, sorted. */
  chosen(places) {
    this.chosenPieces = piecesOf(places, this.pieces);
    this.chosenCount = places.length;
  }

  /** Ends of the view, in the square from -1 to 1 in which the points lie. */
  seenNow() {
    const view = this.drawing.get("cameraView");
    const { width, height } = this.drawing.get("canvas").getBoundingClientRect();
    const ends = (half, scale, shift) => [-half, half].map((edge) => (edge - shift) / scale);
    return { x: ends(width / height || 1, view[0], view[12]), y: ends(1, view[5], view[13]) };
  }

  /** Draw a frame: a sample while the view moves or where something is new, a part where a picture is being made. */
  render(gl, render, draw, canvas) {
    const view = Array.from(this.drawing.get("cameraView")).join();
    const moved = view !== this.view;
    const { hovered, resting } = this;
    this.view = view;
    [this.hovered, this.resting] = [false, false];
    if (!moved && !resting && hovered && this.total > this.most) {
      if (!this.whole) this.rest();
      return;
    }
    const goesOn = resting && !moved;
    const from = goesOn && this.done < Infinity ? this.done : 0;
    const to = from + AT_REST * this.most;
    const share = goesOn ? null : Math.min(1, this.most / (this.total || Infinity));
    this.part = { from, to, seen: 0, drawn: 0, cleared: 0, view: this.seenNow(), share };
    const seen = !goesOn || to >= this.total;
    const begin = performance.now();
    render(draw, seen ? canvas : this.nowhere);
    if (this.part.seen > FEWEST) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4)); // done then
    this.learn(performance.now() - begin, goesOn);
    [this.total, this.drawn] = [this.part.seen, this.part.drawn];
    this.whole = this.part.drawn === this.total || (goesOn && to >= this.total);
    this.done = goesOn && !this.whole ? to : Infinity;
    this.part = null;
    clearTimeout(this.timer);
    // Later in any case: the library takes what is asked for while it draws for done.
    if (!this.whole) this.timer = setTimeout(() => this.rest(), goesOn ? 0 : REST_MS);
  }

  /** How many there is time for, by the milliseconds that the last frame took. */
  learn(spent, goesOn) {
    const { drawn, seen } = this.part;
    const budget = SHARE * FRAME_MS * (goesOn ? AT_REST : 1);
    if (drawn >= seen && spent <= budget) {
      this.most = Math.max(this.most, drawn);
      return;
    }
    const change = Math.min(FASTEST, Math.max(SLOWEST, budget / Math.max(spent, 0.1)));
    if (drawn >= this.most || change < 1) this.most = Math.max(FEWEST, Math.round(this.most * change));
  }

  /** Go on with the picture of all. */
  rest() {
    this.resting = true;
    this.drawing.redraw();
  }

  /** Until all are in the picture. */
  async finished() {
    while (!this.whole) await new Promise((done) => this.drawing.subscribe("draw", done, 1));
  }
}
