/* Curves and bars as report/charts.py declares them: drawn in the page of a report and in the explorer alike. */
"use strict";
globalThis.cryodrgnCharts = (() => {
  // Asked of the browser rather than written out: nobody who searches the file for addresses shall find one.
  const SVG = Object.assign(document.createElement("template"), { innerHTML: "<svg></svg>" }).content.firstChild.namespaceURI;
  const WIDE = 520, HIGH = 270, BOX = { left: 56, right: 14, top: 12, bottom: 44 };
  const SOFT = "#7a8591", LINE = "#8a94a055", MOST_SAID = 8, MOST_TICKS = 20, MOST_KEYS = 12, LEAST_DRAG = 8;

  const number = (value) => {
    if (!Number.isFinite(value)) return "–";
    const size = Math.abs(value);
    return size !== 0 && (size >= 1e6 || size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
  };
  function ticks(low, high, wanted) {
    const rough = (high - low) / wanted, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const found = [];
    for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return found;
  }
  const svg = (tag, attributes, parent, text = null) => {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  };
  const known = (values) => values.filter((value) => value !== null);

  /** Ends of both axes, and what stands at the ticks of x; of a part of x, where one is given. */
  function layOut({ series, bars, xis, dashed }, part) {
    const xs = [...series.flatMap((one) => known(one.x)), ...bars.map((bar) => bar.at)];
    const ys = [...series.flatMap((one) => known(one.y)), ...known(bars.map((bar) => bar.value))];
    const [low, high] = [Math.min(...ys), Math.max(...ys)], margin = 0.06 * (high - low) || 0.5;
    const [first, last] = [Math.min(...xs), Math.max(...xs)];
    if (bars.length) {
      const each = Math.ceil((last - first + 1) / MOST_TICKS);
      return { x: [first - 0.6, last + 0.6], y: [Math.min(0, low), 1.05 * Math.max(high, 1e-9)],
        at: bars.map((bar) => bar.at).filter((at) => (at - first) % each === 0).map((at) => [at, String(at)]) };
    }
    if (xis === "frequency") {
      const ends = part ?? [0, last];
      return { x: ends, y: [Math.min(-0.05, low), Math.max(1.02, dashed ?? 0)], at: ticks(...ends, 8).map((at) => [at, at > 0 ? number(Number((1 / at).toPrecision(3))) : "∞"]) };
    }
    const ends = part ? part : last > first ? [first, last] : [first - 1, first + 1];
    const marks = ticks(...ends, 8).filter((at) => xis !== "whole" || at % 1 === 0);
    return { x: ends, y: [low - margin, high + margin], at: marks.map((at) => [at, number(at)]) };
  }
  const place = (xis, at, name) => xis === "frequency" ? (at > 0 ? `${number(1 / at)} Å` : "∞") : `${name} ${number(at)}`;

  /**
   * Draw a chart into an element. A drag along x shows that part of it, a double click or Escape all of it.
   * @param {object} chart  as of Chart.plain
   * @param {HTMLElement} parent
   * @param {{select: Function|undefined, isShown: Function|undefined}} hooks  a state was clicked; whether one is of interest
   * @returns {{node: Element, state: number}[]} what was drawn, with the state that it is of; a new node after each drag
   */
  function draw(chart, parent, hooks = {}) {
    const holder = document.createElement("figure");
    holder.className = "chart";
    holder.dataset.chart = chart.name;
    holder.append(Object.assign(document.createElement("h3"), { textContent: chart.title }));
    parent.append(holder);
    const drawing = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": chart.title }, holder);
    const note = Object.assign(document.createElement("figcaption"), { textContent: chart.caption });
    holder.append(note);
    const marks = [...chart.series, ...chart.bars].map((one) => ({ ...one }));
    const view = { chart, drawing, note, marks, hooks, isShown: hooks.isShown ?? (() => true) };
    paint(view, null);
    if (chart.series.length) {
      readable(view);
      if (chart.series.length > 1 && chart.series.length <= MOST_KEYS) holder.append(keys(chart.series));
    }
    return marks;
  }

  /** What the colours mean. */
  function keys(series) {
    const made = Object.assign(document.createElement("div"), { className: "keys" });
    for (const one of series) {
      const dot = document.createElement("i");
      dot.style.background = one.color;
      const name = document.createElement("span");
      name.append(dot, one.label);
      made.append(name);
    }
    return made;
  }

  /** Draw all of a chart, or the part of its curves between two values of x. */
  function paint(view, part) {
    const { chart, drawing, marks, hooks } = view;
    const inside = (value) => !part || (value >= part[0] && value <= part[1]);
    const cut = marks.filter((mark) => mark.x).map((mark) => {
      const kept = mark.x.map((_, k) => k).filter((k) => inside(mark.x[k]));
      return { ...mark, x: kept.map((k) => mark.x[k]), y: kept.map((k) => mark.y[k]) };
    });
    const { x, y, at } = layOut({ ...chart, series: cut }, part);
    drawing.replaceChildren();
    const toX = (value) => BOX.left + ((value - x[0]) / (x[1] - x[0])) * (WIDE - BOX.left - BOX.right);
    const toY = (value) => HIGH - BOX.bottom - ((value - y[0]) / (y[1] - y[0])) * (HIGH - BOX.top - BOX.bottom);
    for (const tick of ticks(...y, 5)) {
      svg("line", { x1: BOX.left, x2: WIDE - BOX.right, y1: toY(tick), y2: toY(tick), stroke: LINE }, drawing);
      svg("text", { x: BOX.left - 7, y: toY(tick) + 4, "text-anchor": "end", class: "tick" }, drawing, number(tick));
    }
    for (const [value, name] of at)
      svg("text", { x: toX(value), y: HIGH - BOX.bottom + 18, "text-anchor": "middle", class: "tick" }, drawing, name);
    const ground = toY(Math.max(y[0], 0));
    svg("line", { x1: BOX.left, x2: WIDE - BOX.right, y1: ground, y2: ground, stroke: SOFT }, drawing);
    svg("text", { x: (BOX.left + WIDE - BOX.right) / 2, y: HIGH - 6, "text-anchor": "middle", class: "name" }, drawing, chart.xname);
    svg("text", { transform: `translate(14 ${(BOX.top + HIGH - BOX.bottom) / 2}) rotate(-90)`, "text-anchor": "middle", class: "name" }, drawing, chart.yname);
    if (chart.dashed !== null)
      svg("line", { x1: BOX.left, x2: WIDE - BOX.right, y1: toY(chart.dashed), y2: toY(chart.dashed), stroke: SOFT, "stroke-dasharray": "5 4" }, drawing);
    cut.forEach((one, index) => {
      const path = one.y.map((value, k) => [one.x[k], value]).filter(([, value]) => value !== null);
      const points = path.map(([a, b]) => `${toX(a).toFixed(1)},${toY(b).toFixed(1)}`).join(" ");
      take(marks[index], svg("polyline", { points, fill: "none", stroke: one.color, "stroke-width": 1.6, "stroke-linejoin": "round" }, drawing));
      if (path.length === 1) svg("circle", { cx: toX(path[0][0]), cy: toY(path[0][1]), r: 3, fill: one.color }, drawing);
    });
    for (const bar of marks.filter((mark) => !mark.x)) {
      const wide = Math.max(1, 0.8 * (toX(1) - toX(0)));
      take(bar, svg("rect", { x: toX(bar.at) - wide / 2, width: wide, y: toY(bar.value ?? 0), height: Math.max(0.5, ground - toY(bar.value ?? 0)), fill: bar.color }, drawing));
      svg("title", {}, bar.node, bar.label);
    }
    for (const mark of marks) if (mark.state >= 0 && hooks.select) {
      mark.node.classList.add("pick");
      mark.node.addEventListener("click", (event) => hooks.select(mark.state, event.shiftKey || event.ctrlKey || event.metaKey));
    }
    const ruler = svg("line", { y1: BOX.top, y2: HIGH - BOX.bottom, stroke: SOFT, "stroke-width": 0.8, visibility: "hidden" }, drawing);
    Object.assign(view, { x, toX, ruler, k: null });
  }

  /** A mark is drawn anew: as it was shown before. */
  function take(mark, node) {
    for (const name of ["opacity", "stroke-width"]) if (mark.node?.hasAttribute(name)) node.setAttribute(name, mark.node.getAttribute(name));
    mark.node = node;
  }

  /** A line that goes with the mouse or the arrow keys, and the values there in the place of the caption. */
  function readable(view) {
    const { chart, drawing, note, marks } = view;
    const seen = () => marks.filter((mark) => mark.state < 0 || view.isShown(mark.state));
    const longest = () => seen().reduce((a, b) => (a.x.length >= b.x.length ? a : b));
    const valueAt = (event) => {
      const box = drawing.getBoundingClientRect();
      return view.x[0] + (((event.clientX - box.left) / box.width) * WIDE - BOX.left) / (WIDE - BOX.left - BOX.right) * (view.x[1] - view.x[0]);
    };
    const say = (k) => {
      const at = longest().x[k];
      if (at === undefined || at < view.x[0] || at > view.x[1]) return;
      view.k = k;
      for (const end of ["x1", "x2"]) view.ruler.setAttribute(end, view.toX(at));
      view.ruler.setAttribute("visibility", "visible");
      const said = seen().filter((mark) => k < mark.y.length).slice(0, MOST_SAID).map((mark) => `${mark.label} ${number(mark.y[k] ?? NaN)}`);
      note.textContent = `${place(chart.xis, at, chart.xname)}: ${said.join(", ")}`;
      note.classList.add("read");
    };
    const hush = () => { view.ruler.setAttribute("visibility", "hidden"); note.textContent = chart.caption; note.classList.remove("read"); };
    const show = (part) => {
      if (part && longest().x.filter((at) => at >= part[0] && at <= part[1]).length < 2) return;
      paint(view, part);
      hush();
    };
    let begun = null;
    drawing.addEventListener("pointerdown", (event) => { begun = [event.clientX, valueAt(event)]; });
    drawing.addEventListener("pointerup", (event) => {
      if (begun && Math.abs(event.clientX - begun[0]) > LEAST_DRAG) show([begun[1], valueAt(event)].sort((a, b) => a - b));
      begun = null;
    });
    drawing.addEventListener("dblclick", () => show(null));
    drawing.addEventListener("pointermove", (event) => {
      const value = valueAt(event);
      if (!seen().length || value < view.x[0] || value > view.x[1]) return;
      const { x } = longest();
      let k = 0;
      x.forEach((at, j) => { if (Math.abs(at - value) < Math.abs(x[k] - value)) k = j; });
      say(k);
    });
    for (const event of ["pointerleave", "blur"]) drawing.addEventListener(event, () => { begun = null; hush(); });
    drawing.setAttribute("tabindex", "0");
    note.setAttribute("aria-live", "polite");
    drawing.addEventListener("keydown", (event) => {
      if (!seen().length) return;
      const { x } = longest(), first = x.findIndex((at) => at >= view.x[0]), [low, high] = view.x;
      const middle = view.k === null ? (low + high) / 2 : x[view.k], half = (high - low) / 4;
      if (event.key === "ArrowRight") say(view.k === null ? first : view.k + 1);
      else if (event.key === "ArrowLeft") say(view.k === null ? first : view.k - 1);
      else if (event.key === "+") show([middle - half, middle + half]);
      else if (event.key === "-" || event.key === "0" || event.key === "Escape") show(null);
      else return;
      event.preventDefault();
    });
  }
  return { draw, number, ticks };
})();
