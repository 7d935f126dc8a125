// What the mouse draws over the plot, and lines that are kept there: the choice is made of the very line that is shown.
// Every place that the browser knows of is taken, also those between two frames; the library's own lasso samples the
// mouse, so that one of a quick hand lost its corners.

const MOST = 16_384; // corners of a line that is being drawn; beyond it every second is left out
const FEWEST = { lasso: 3, path: 2, box: 2 };

/** Sides of a box by two of its corners. */
function boxOf([[x0, y0], [x1, y1]]) {
  return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];
}

export class Drawing {
  /**
   * @param {HTMLElement} plot  with a canvas .points and an SVG .drawn over it
   * @param {{dataAt: Function, toWindow: Function, done: Function}} how  places of the mouse in units of the columns,
   *   the way from these to pixels of the plot, and what gets a line that was drawn with what it is: lasso, box, path
   */
  constructor(plot, how) {
    this.how = how;
    this.canvas = plot.querySelector(".points");
    this.svg = plot.querySelector(".drawn");
    this.does = "pan";
    this.going = null; // {does, corners} that is being drawn
    this.kept = []; // {corners, closed} that stay
    this.ended = false;
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event), true);
    this.canvas.addEventListener("pointermove", (event) => this.go(event), true);
    this.canvas.addEventListener("pointerup", (event) => this.end(event), true);
    this.canvas.addEventListener("pointercancel", () => this.stop(), true);
    this.canvas.addEventListener("click", (event) => { // where a line ended, which is no click on a particle
      if (this.ended) event.stopImmediatePropagation();
      this.ended = false;
    }, true);
    addEventListener("keydown", (event) => { if (event.key === "Escape" && this.going) this.stop(); });
  }

  /** What the mouse does: pan, lasso, box, or path. */
  mode(does) {
    this.does = does;
    this.canvas.style.touchAction = does === "pan" ? "" : "none";
  }

  begin(event) {
    this.ended = false;
    const does = this.does === "pan" && event.shiftKey ? "lasso" : this.does;
    if (does === "pan" || event.button !== 0 || !event.isPrimary) return;
    event.preventDefault(); // so that the library gets no mouse, and moves nothing
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.going = { does, corners: [this.how.dataAt(event)] };
  }

  go(event) {
    if (!this.going) return;
    const between = event.getCoalescedEvents?.() ?? [];
    for (const one of between.length ? between : [event]) this.add(one);
    this.show();
  }

  add(event) {
    const { going } = this;
    const place = this.how.dataAt(event);
    if (going.does === "box") {
      going.corners[1] = place;
      return;
    }
    const [x, y] = going.corners[going.corners.length - 1];
    if (place[0] !== x || place[1] !== y) going.corners.push(place);
    if (going.corners.length > MOST) going.corners = going.corners.filter((_, k) => k % 2 === 0);
  }

  end(event) {
    if (!this.going) return;
    this.add(event);
    const { does, corners } = this.going;
    const [[x, y]] = corners;
    this.going = null;
    this.ended = corners.some((one) => one[0] !== x || one[1] !== y);
    this.show();
    if (this.ended && corners.length >= FEWEST[does]) this.how.done(does, does === "box" ? boxOf(corners) : corners);
  }

  stop() {
    this.going = null;
    this.show();
  }

  /** Keep lines over the plot: corners in units of the columns that are its axes. */
  keep(lines) {
    this.kept = lines;
    this.show();
  }

  /** Draw all lines where they are in the view of now. */
  show() {
    const { going } = this;
    const lines = [...this.kept];
    if (going) lines.push({
      corners: going.does === "box" && going.corners.length > 1 ? boxOf(going.corners) : going.corners,
      closed: going.does !== "path",
    });
    const toWindow = lines.length ? this.how.toWindow() : null;
    const path = ({ corners, closed }) => {
      const places = corners.map((corner) => toWindow(corner).map((one) => one.toFixed(1)).join(" "));
      return `M${places.join("L")}${closed ? "Z" : ""}`;
    };
    this.svg.firstElementChild.setAttribute("d", lines.map(path).join(""));
  }
}
