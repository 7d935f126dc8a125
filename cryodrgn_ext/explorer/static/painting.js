// A mask painted on a map: balls where the mouse meets the surface or the cut, in Å from the centre of the box.

import { during, say } from "./requests.js";

const STEP = 0.5; // of a voxel, along the line of sight
const SPACING = 0.35; // of the radius, between balls of one stroke
const SHADES = { add: [0.56, 0.44, 0.82], erase: [0.85, 0.2, 0.2] };

/** Line of sight through a point of the canvas, as two points in the units of the volume's voxels. */
function lineOfSight(viewer, x, y) {
  const { stage, volume } = viewer;
  const { camera, rotationGroup, translationGroup, width, height } = stage.viewer;
  const back = new NGL.Matrix4().copy(rotationGroup.matrix).invert();
  const toVoxels = new NGL.Matrix4().copy(volume.matrix).invert();
  camera.updateMatrixWorld();
  return [-1, 1].map((depth) => new NGL.Vector3((2 * x) / width - 1, 1 - (2 * y) / height, depth)
    .unproject(camera).applyMatrix4(back).sub(translationGroup.position).applyMatrix4(toVoxels));
}

/** Where the middle of the box lies in a volume, in its voxels: of half the grid each is the mean of two. */
function middleOf({ nx, ny, nz, half }) {
  return [nx, ny, nz].map((count) => (half ? count / 2 - 0.25 : Math.floor(count / 2)));
}

/** First voxel on a line at which the map reaches the contour level, or null. */
function onSurface(volume, [from, to], level, bothSigns) {
  const { nx, ny, nz, data } = volume;
  const along = to.clone().sub(from);
  // Only the part of the line within the box: it is long, and the box is short.
  let [begin, end] = [-Infinity, Infinity];
  for (const [axis, count] of [["x", nx], ["y", ny], ["z", nz]]) {
    const ends = [0, count - 1].map((edge) => (edge - from[axis]) / along[axis]);
    if (Number.isFinite(ends[0])) [begin, end] = [Math.max(begin, Math.min(...ends)), Math.min(end, Math.max(...ends))];
  }
  if (!Number.isFinite(begin) || !Number.isFinite(end)) return null;
  const step = STEP / along.length();
  for (let share = begin; share <= end; share += step) {
    const at = from.clone().addScaledVector(along, share);
    const [i, j, k] = [at.x, at.y, at.z].map(Math.round);
    if (i < 0 || j < 0 || k < 0 || i >= nx || j >= ny || k >= nz) continue;
    const value = data[(k * ny + j) * nx + i];
    if ((bothSigns ? Math.abs(value) : value) >= level) return at;
  }
  return null;
}

/** Where a line meets the cut, or null. */
function onCut(volume, [from, to], { axis, percent }) {
  const count = { x: volume.nx, y: volume.ny, z: volume.nz };
  const share = ((percent / 100) * (count[axis] - 1) - from[axis]) / (to[axis] - from[axis]);
  const at = from.clone().lerp(to, share);
  const within = ["x", "y", "z"].every((one) => at[one] > -0.5 && at[one] < count[one] - 0.5);
  return Number.isFinite(share) && within ? at : null;
}

export class Painting {
  constructor(viewers) {
    this.viewers = viewers;
    this.way = "off"; // or add, erase
    this.radius = 20; // Å
    this.strokes = []; // x, y, z, radius in Å; a negative radius takes away
    this.marks = []; // how many strokes there were before each press of the mouse
    this.on = null; // the map that was painted on first
    this.changed = () => {};
  }

  /** Paint where the mouse goes over a viewer, in the place of turning it, while a brush is chosen. */
  listen(viewer) {
    let down = false;
    const at = (event) => {
      const box = viewer.place.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const take = (name, work) => viewer.place.addEventListener(name, (event) => {
      if (this.way === "off" || event.button > 0) return;
      event.stopPropagation();
      event.preventDefault();
      work(event);
    }, true);
    take("mousedown", (event) => {
      down = true;
      this.marks.push(this.strokes.length);
      this.touch(viewer, ...at(event));
    });
    take("mousemove", (event) => { if (down && event.buttons) this.touch(viewer, ...at(event)); });
    take("mouseup", () => { down = false; });
  }

  /** Put a ball where the line of sight through a point of a viewer's canvas meets its map. */
  touch(viewer, x, y) {
    const { volume, made, file } = viewer;
    if (!volume) return;
    if (this.on && this.on.result !== file.result) return say("A mask is painted on maps of one result.", true);
    const line = lineOfSight(viewer, x, y);
    const { cut, sigma } = this.viewers;
    const found = cut.axis ? onCut(volume, line, cut)
      : onSurface(volume, line, volume.getValueForSigma(sigma), made.kind === "DIFFERENCE");
    if (!found) return null;
    const size = this.voxel(volume);
    const middle = middleOf(volume);
    const place = [found.x, found.y, found.z].map((value, k) => (value - middle[k]) * size);
    const radius = this.way === "erase" ? -this.radius : this.radius;
    const [before] = this.strokes.slice(-1);
    const near = before && Math.hypot(...place.map((value, k) => value - before[k])) < SPACING * this.radius;
    if (near && Math.sign(before[3]) === Math.sign(radius) && this.strokes.length > this.marks.at(-1)) return null;
    this.add([...place, radius], file);
    return place;
  }

  add(stroke, file) {
    this.on ??= file;
    this.strokes.push(stroke.map((value) => Number(value.toFixed(2))));
    this.show();
  }

  undo() {
    this.strokes.length = this.marks.pop() ?? 0;
    if (!this.strokes.length) this.on = null;
    this.show();
  }

  clear() {
    [this.strokes, this.marks, this.on] = [[], [], null];
    this.show();
  }

  voxel(volume) {
    const [a, b, c] = volume.matrix.elements;
    return Math.hypot(a, b, c);
  }

  /** Draw the balls over the maps of the result that is painted on. */
  show() {
    for (const viewer of this.viewers.viewers) {
      if (!viewer.ready || !viewer.volume) continue;
      if (viewer.balls) viewer.stage.removeComponent(viewer.balls);
      viewer.balls = null;
      if (!this.strokes.length || viewer.file.result !== this.on?.result) continue;
      const { volume } = viewer;
      const [size, shape] = [this.voxel(volume), new NGL.Shape("painted")];
      const middle = middleOf(volume);
      for (const [x, y, z, radius] of this.strokes) {
        const [i, j, k] = [x, y, z].map((value, axis) => value / size + middle[axis]);
        const at = new NGL.Vector3(i, j, k).applyMatrix4(volume.matrix);
        shape.addSphere([at.x, at.y, at.z], SHADES[radius > 0 ? "add" : "erase"], Math.abs(radius), "");
      }
      viewer.balls = viewer.stage.addComponentFromObject(shape);
      viewer.balls.addRepresentation("buffer", { opacity: 0.35 });
    }
    this.changed();
  }

  /** Keep the mask under a name; returns what the server then has of the result, and the result. */
  async keep(name, control) {
    const { on, strokes } = this;
    if (!strokes.length) {
      say("Nothing is painted: choose Add, and draw over a map.", true);
      return null;
    }
    const described = await during("Saving the mask", () =>
      on.result.plain("paint", { name, strokes, on: on.key }), control);
    if (!described) return null;
    this.clear();
    return { described, result: on.result };
  }
}
