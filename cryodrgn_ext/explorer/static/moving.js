// While the view of many particles moves, so many are drawn as there is time for in a frame; at rest all are.

const FRAME_MS = 1000 / 30;
const SHARE = 0.5; // of a frame, for particles; the rest is for what the browser does with every picture
const [REST_MS, LONGEST_REST_MS] = [300, 2000];
const FEWEST = 2000;
const GROWTH = 4; // from one measurement to the next
const TRIES = 3;

export class Moving {
  /** @param {object} drawing  of regl-scatterplot, whose points come in random order */
  constructor(drawing) {
    this.drawing = drawing;
    this.most = null; // particles for which there is time; not measured yet
    this.limit = Infinity; // of those that are drawn now
    this.timer = null;
    this.held = false;
    // The library's own filter takes seconds for many points. The first of them, which are a sample, are drawn by
    // stopping early.
    const { _gl: gl } = drawing.get("regl");
    this.gl = gl;
    const all = gl.drawArrays;
    gl.drawArrays = (mode, first, count) =>
      all.call(gl, mode, first, mode === gl.POINTS ? Math.min(count, this.limit) : count);
    const canvas = drawing.get("canvas");
    canvas.addEventListener("pointerdown", () => { this.held = true; });
    addEventListener("pointerup", () => { this.held = false; });
  }

  /** Draw particles: a few first, to see how many there is time for. */
  async draw(points, options) {
    const n = points.x.length;
    this.count = n;
    const first = this.most === null && n > FEWEST;
    clearTimeout(this.timer);
    this.limit = first ? FEWEST : Infinity;
    await this.drawing.draw(points, options);
    if (!first) return;
    await this.measure(n);
    this.limit = Infinity;
    this.drawing.redraw();
  }

  /** Find out for how many particles there is time: where all n are quick, as on a graphics card, there is no limit. */
  async measure(n) {
    const least = await this.time();
    while (this.limit < n) {
      this.limit = Math.min(n, GROWTH * this.limit);
      const spent = (await this.time()) - least;
      if (spent > SHARE * FRAME_MS) {
        this.most = Math.max(FEWEST, Math.round((this.limit * SHARE * FRAME_MS) / spent));
        return;
      }
    }
    this.most = Infinity;
  }

  /** Milliseconds that a picture takes; the shortest of some. */
  async time() {
    let least = Infinity;
    for (let k = 0; k < TRIES; k += 1) least = Math.min(least, await this.picture());
    return least;
  }

  /** Draw, and wait until it is done: a point of it can only be read then. Returns the milliseconds of the wait. */
  picture() {
    const { gl } = this;
    return new Promise((done) => {
      this.drawing.subscribe("draw", () => {
        const begin = performance.now();
        gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
        done(performance.now() - begin);
      }, 1);
      this.drawing.redraw();
    });
  }

  /** The view has changed. */
  moved() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.rest(), this.pause);
    this.limit = this.most ?? this.limit;
  }

  /** Without a movement for so long it is at rest: the longer, the longer a picture of all takes. */
  get pause() {
    const whole = (this.count / this.most) * SHARE * FRAME_MS;
    return Math.min(LONGEST_REST_MS, Math.max(REST_MS, whole || 0));
  }

  /** Draw all, once nothing has moved for a while and what was drawn before is there. */
  async rest() {
    if (this.held) {
      this.timer = setTimeout(() => this.rest(), this.pause);
      return;
    }
    if (this.limit === Infinity) return;
    const { timer } = this;
    await this.picture();
    if (timer !== this.timer) return; // it has moved meanwhile
    this.limit = Infinity;
    this.drawing.redraw();
  }
}
