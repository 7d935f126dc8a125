// Maps side by side: one camera, one contour level in standard deviations, one cut and one mask for all of them.

import { Painting } from "./painting.js";
import { during, say } from "./requests.js";
import { Viewer } from "./viewer.js";

const MOST = 4;

export class Viewers {
  constructor(place) {
    this.place = place;
    this.viewers = [];
    this.sigma = 4;
    this.cut = { axis: "", percent: 50 };
    this.background = "white";
    this.following = false;
    this.overlaid = null;
    this.atoms = null;
    this.painting = new Painting(this);
  }

  /**
   * Show a map beside those that are there, the oldest of which gives way, or in the place of one of them.
   * @param {{kind: string, title: string, facts: object, files: {href: string, name: string}[]}} made
   */
  async show(made, instead = null) {
    const viewer = new Viewer(this, made);
    const at = this.viewers.indexOf(instead);
    if (at >= 0) {
      this.viewers.splice(at + 1, 0, viewer);
      instead.box.after(viewer.box);
    } else {
      while (this.viewers.length >= MOST) this.remove(this.viewers[0]);
      this.viewers.push(viewer);
      this.place.append(viewer.box);
    }
    await viewer.open();
    if (this.viewers.includes(instead)) this.remove(instead);
    return viewer;
  }

  remove(viewer) {
    this.viewers = this.viewers.filter((one) => one !== viewer);
    viewer.dispose();
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
    for (const viewer of this.viewers) viewer.level(sigma);
  }

  cutAt(axis, percent) {
    this.cut = { axis, percent };
    for (const viewer of this.viewers) viewer.cutAt(this.cut);
  }

  /** Show a mask over the maps of its result; null takes it away. */
  async overlay(file) {
    this.overlaid = file;
    for (const viewer of this.viewers) await viewer.overlay(file);
  }

  /** Show a structure over all maps; null takes it away. */
  async structure(file) {
    this.atoms = file;
    for (const viewer of this.viewers) await viewer.structure(file);
  }

  theme(background) {
    this.background = background;
    for (const viewer of this.viewers) viewer.stage?.setParameters({ backgroundColor: background });
  }

  center() {
    const leader = this.viewers.find((one) => one.ready);
    if (!leader) return;
    leader.stage.viewerControls.orient(new NGL.Matrix4());
    leader.whole();
  }
}
