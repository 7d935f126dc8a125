/* The interactive part of a report. It reads the data block of the page and nothing else: no request leaves the file.
   All text goes through textContent, never through markup: names come from users' files. */
"use strict";
(() => {
  const data = JSON.parse(document.getElementById("report-data").textContent);
  const MISSING = 65535;
  const { number, ticks } = cryodrgnCharts;
  const COUNT = "number of particles";
  const CELLS = 90, BARS = 60, NEAR_PX = 9, MARGIN = { left: 58, right: 14, top: 12, bottom: 44 };
  const INK = "#1d2733", SOFT = "#5b6875", PALE = "#d5dbe2";

  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const shorts = (text) => new Uint16Array(bytes(text).buffer);
  const longs = (text) => new Uint32Array(bytes(text).buffer);
  const find = (id) => document.getElementById(id);
  const count = (value) => Math.round(value).toLocaleString("en");
  const plural = (value, exact) => `${exact ? "" : "≈ "}${count(value)} particle${Math.round(value) === 1 ? "" : "s"}`;
  const element = (tag, attributes = {}, text = null, parent = null) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== null) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  };

  /* ---------- what is shown: the state of the page, kept in the address after # ---------- */
  const view = { x: null, y: null, color: null, mode: "points", selected: new Set(), window: null };
  const listeners = [];
  const changed = (...what) => {
    remember();
    for (const listener of listeners) listener(new Set(what));
  };
  function remember() {
    const words = new URLSearchParams();
    if (view.selected.size) words.set(data.group, [...view.selected].join(","));
    for (const key of ["x", "y", "color", "mode"]) if (view[key] && view[key] !== start[key]) words.set(key, view[key]);
    const wanted = words.size ? "#" + words : "#";
    if (location.hash !== wanted && (words.size || location.hash)) history.replaceState(null, "", wanted);
  }
  function recall() {
    const words = new URLSearchParams(location.hash.slice(1));
    const numbers = (words.get(data.group) || "").split(",").filter((word) => /^\d+$/.test(word)).map(Number);
    view.selected = new Set(numbers.filter((state) => state < data.states.length));
    for (const key of ["x", "y", "color"]) {
      const named = words.get(key);
      view[key] = columns.has(named) || (key === "y" && named === COUNT) ? named : start[key];
    }
    view.mode = words.get("mode") === "density" ? "density" : "points";
    view.window = null;
  }
  function select(state, add) {
    const only = view.selected.size === 1 && view.selected.has(state);
    if (add && view.selected.has(state)) view.selected.delete(state);
    else if (add) view.selected.add(state);
    else view.selected = new Set(only ? [] : [state]);
    changed("selection");
  }

  /* ---------- particles ---------- */
  const columns = new Map((data.columns || []).map((column) => [column.name, column]));
  const start = { x: data.axes ? data.axes[0] : null, y: data.axes ? data.axes[1] : null, mode: "points",
                  color: columns.has(data.group) ? data.group : data.columns && data.columns.length ? data.columns[0].name : null };
  for (const column of columns.values()) {
    const codes = shorts(column.data);
    column.values = new Float64Array(codes.length);
    const step = (column.high - column.low) / (MISSING - 1);
    for (let i = 0; i < codes.length; i++)
      column.values[i] = codes[i] === MISSING ? NaN : column.levels ? codes[i] : column.low + codes[i] * step;
  }
  const points = data.points && { ...data.points, row: longs(data.points.row), order: longs(data.points.order),
    group: data.points.group ? shorts(data.points.group) : null,
    stack: data.points.stack ? longs(data.points.stack) : null, image: data.points.image ? longs(data.points.image) : null };
  const groupOf = (i) => (points.group ? points.group[i] : -1);
  const weightOf = (i) => (points.group ? points.weights[points.group[i]] : points.weight);
  const imageName = (i) => (points.stack ? `${String(points.image[i]).padStart(6, "0")}@${points.stacks[points.stack[i]]}` : "");
  const shade = (share) => {
    const at = 3 * Math.round(255 * Math.min(1, Math.max(0, share)));
    return `rgb(${scale[at]},${scale[at + 1]},${scale[at + 2]})`;
  };
  const scale = bytes(data.scale);
  function limits(column) {  // colours span the middle 98 %: a few outliers must not hide the rest
    if (!column.limits) {
      const sorted = column.values.filter(Number.isFinite).sort();
      const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
      column.limits = sorted.length ? [at(0.01), at(0.99)] : [0, 1];
      if (!(column.limits[1] > column.limits[0])) column.limits[1] = column.limits[0] + 1;
    }
    return column.limits;
  }
  function paint(column) {
    if (column.levels) return (i) => (Number.isNaN(column.values[i]) ? PALE : column.colors[column.values[i]]);
    const [low, high] = limits(column);
    return (i) => (Number.isNaN(column.values[i]) ? PALE : shade((column.values[i] - low) / (high - low)));
  }
  const worded = (column, i) => {
    const value = column.values[i];
    return Number.isNaN(value) ? "–" : column.levels ? column.levels[value] : number(value);
  };

  /* ---------- axes ---------- */
  const extent = (values) => {
    let low = Infinity, high = -Infinity;
    for (const value of values) if (value < low) low = value; // NaN compares false
    for (const value of values) if (value > high) high = value;
    if (low > high) return [0, 1];
    const margin = high > low ? 0.03 * (high - low) : 0.5;
    return [low - margin, high + margin];
  };

  /* ---------- the plot of particles ---------- */
  function explorer() {
    const canvas = find("plot"), tip = find("tip"), draw = canvas.getContext("2d");
    const selects = { x: find("axis-x"), y: find("axis-y"), color: find("color") };
    for (const [key, box] of Object.entries(selects)) {
      for (const name of columns.keys()) element("option", { value: name }, name, box);
      if (key === "y") element("option", { value: COUNT }, COUNT, box);
      box.addEventListener("change", () => { view[key] = box.value; if (key !== "color") view.window = null; changed("plot"); });
    }
    for (const preset of data.presets || []) {
      const button = element("button", { type: "button" }, preset.name, find("presets"));
      button.addEventListener("click", () => { [view.x, view.y] = preset.axes; view.window = null; changed("plot"); });
    }
    for (const mode of ["points", "density"])
      find(`mode-${mode}`).addEventListener("click", () => { view.mode = mode; changed("plot"); });
    find("whole").addEventListener("click", () => { view.window = null; changed("plot"); });
    find("save").addEventListener("click", () => canvas.toBlob((blob) => {
      const address = URL.createObjectURL(blob);
      element("a", { href: address, download: "particles.png" }).click();
      setTimeout(() => URL.revokeObjectURL(address), 1000);
    }));

    let frame = null, cells = null, drag = null;
    const toX = (value) => frame.left + ((value - frame.x0) / (frame.x1 - frame.x0)) * frame.width;
    const toY = (value) => frame.top + frame.height - ((value - frame.y0) / (frame.y1 - frame.y0)) * frame.height;
    const fromX = (px) => frame.x0 + ((px - frame.left) / frame.width) * (frame.x1 - frame.x0);
    const fromY = (px) => frame.y0 + ((frame.top + frame.height - px) / frame.height) * (frame.y1 - frame.y0);

    function layOut() {
      const ratio = window.devicePixelRatio || 1;
      const width = canvas.clientWidth, height = canvas.clientHeight;
      canvas.width = Math.round(width * ratio); canvas.height = Math.round(height * ratio);
      draw.setTransform(ratio, 0, 0, ratio, 0, 0);
      const xs = columns.get(view.x).values, bars = view.y === COUNT;
      const [x0, x1, y0, y1] = view.window || [...extent(xs), ...(bars ? [0, 1] : extent(columns.get(view.y).values))];
      frame = { x0, x1, y0, y1, left: MARGIN.left, top: MARGIN.top, width: width - MARGIN.left - MARGIN.right,
                height: height - MARGIN.top - MARGIN.bottom, all: [width, height] };
      cells = bars ? histogram(xs) : view.mode === "density" ? density(xs, columns.get(view.y).values) : null;
    }
    function histogram(xs) {
      const parts = view.selected.size ? 2 : 1, found = { bars: Array.from({ length: parts }, () => new Float64Array(BARS)) };
      for (let i = 0; i < xs.length; i++) {
        const bin = Math.floor(((xs[i] - frame.x0) / (frame.x1 - frame.x0)) * BARS);
        if (!(bin >= 0 && bin < BARS)) continue;
        found.bars[0][bin] += weightOf(i);
        if (parts === 2 && view.selected.has(groupOf(i))) found.bars[1][bin] += weightOf(i);
      }
      frame.y0 = 0; frame.y1 = 1.05 * Math.max(1, ...found.bars[0]);
      return found;
    }
    function density(xs, ys) {
      const grid = new Float64Array(CELLS * CELLS);
      let most = 0;
      for (let i = 0; i < xs.length; i++) {
        if (view.selected.size && !view.selected.has(groupOf(i))) continue;
        const column = Math.floor(((xs[i] - frame.x0) / (frame.x1 - frame.x0)) * CELLS);
        const row = Math.floor(((ys[i] - frame.y0) / (frame.y1 - frame.y0)) * CELLS);
        if (!(column >= 0 && column < CELLS && row >= 0 && row < CELLS)) continue;
        most = Math.max(most, (grid[row * CELLS + column] += weightOf(i)));
      }
      return { grid, most };
    }

    function render() {
      for (const [key, box] of Object.entries(selects)) box.value = view[key];
      for (const mode of ["points", "density"]) find(`mode-${mode}`).setAttribute("aria-pressed", String(view.mode === mode));
      find("whole").disabled = !view.window;
      find("color-choice").hidden = view.mode === "density" || view.y === COUNT;
      layOut();
      draw.fillStyle = "#fff"; draw.fillRect(0, 0, ...frame.all);
      draw.save();
      draw.beginPath(); draw.rect(frame.left, frame.top, frame.width, frame.height); draw.clip();
      if (view.y === COUNT) drawBars(); else if (view.mode === "density") drawDensity(); else drawPoints();
      draw.restore();
      drawAxes();
      if (view.y !== COUNT) drawCenters();
      legend();
    }
    function drawPoints() {
      const xs = columns.get(view.x).values, ys = columns.get(view.y).values, color = paint(columns.get(view.color));
      const size = Math.min(5, Math.max(1.6, 260 / Math.sqrt(xs.length)));
      const dot = (i) => { draw.fillRect(toX(xs[i]) - size / 2, toY(ys[i]) - size / 2, size, size); };
      const some = view.selected.size > 0;
      if (some) {
        draw.fillStyle = PALE;
        for (const i of points.order) if (!view.selected.has(groupOf(i))) dot(i);
      }
      for (const i of points.order) if (!some || view.selected.has(groupOf(i))) { draw.fillStyle = color(i); dot(i); }
    }
    function drawDensity() {
      const wide = frame.width / CELLS, high = frame.height / CELLS, top = Math.log1p(cells.most);
      cells.grid.forEach((value, at) => {
        if (!value) return;
        draw.fillStyle = shade(Math.log1p(value) / top);
        draw.fillRect(frame.left + (at % CELLS) * wide, frame.top + frame.height - (Math.floor(at / CELLS) + 1) * high, wide + 0.5, high + 0.5);
      });
    }
    function drawBars() {
      const wide = frame.width / BARS;
      cells.bars.forEach((bars, part) => {
        const only = view.selected.size === 1 ? data.states[[...view.selected][0]] : null;
        draw.fillStyle = part ? (only ? only.color : "#1f4e79") : cells.bars.length > 1 ? PALE : "#1f4e79";
        bars.forEach((value, bin) => draw.fillRect(frame.left + bin * wide + 0.5, toY(value), wide - 1, frame.top + frame.height - toY(value)));
      });
    }
    function drawAxes() {
      const bottom = frame.top + frame.height;
      draw.strokeStyle = "#8a94a0"; draw.lineWidth = 1; draw.fillStyle = SOFT; draw.font = "12px system-ui, sans-serif";
      draw.beginPath(); draw.moveTo(frame.left + 0.5, frame.top); draw.lineTo(frame.left + 0.5, bottom + 0.5);
      draw.lineTo(frame.left + frame.width, bottom + 0.5); draw.stroke();
      const naming = (name) => (name !== COUNT && columns.get(name).levels) || null;
      draw.textAlign = "center"; draw.textBaseline = "top";
      for (const tick of ticks(frame.x0, frame.x1, 6)) draw.fillText(naming(view.x) ? naming(view.x)[tick] || "" : number(tick), toX(tick), bottom + 6);
      draw.textAlign = "right"; draw.textBaseline = "middle";
      for (const tick of ticks(frame.y0, frame.y1, 6)) draw.fillText(naming(view.y) ? naming(view.y)[tick] || "" : number(tick), frame.left - 7, toY(tick));
      draw.fillStyle = INK; draw.font = "600 13px system-ui, sans-serif"; draw.textAlign = "center";
      draw.fillText(view.x, frame.left + frame.width / 2, frame.all[1] - 10);
      draw.save(); draw.translate(13, frame.top + frame.height / 2); draw.rotate(-Math.PI / 2); draw.fillText(view.y, 0, 0); draw.restore();
    }
    function drawCenters() {
      const xs = columns.get(view.x).values, ys = columns.get(view.y).values;
      draw.font = "600 12px system-ui, sans-serif"; draw.textAlign = "center"; draw.textBaseline = "middle";
      const upper = (state) => Number(view.selected.has(state)); // the selected ones lie on top
      (points.centers || []).map((i, state) => [i, state]).sort((a, b) => upper(a[1]) - upper(b[1])).forEach(([i, state]) => {
        const [x, y] = [toX(xs[i]), toY(ys[i])];
        if (!(x >= frame.left && x <= frame.left + frame.width && y >= frame.top && y <= frame.top + frame.height)) return;
        const wide = 12 + 7 * String(state).length, chosen = view.selected.has(state);
        draw.fillStyle = chosen ? INK : "#fff"; draw.strokeStyle = INK; draw.lineWidth = 1;
        draw.beginPath(); draw.roundRect(x - wide / 2, y - 10, wide, 20, 6); draw.fill(); draw.stroke();
        draw.fillStyle = chosen ? "#fff" : INK; draw.fillText(String(state), x, y + 0.5);
      });
    }
    function legend() {
      const box = find("legend"), column = columns.get(view.color);
      box.replaceChildren();
      if (view.y === COUNT) return;
      if (view.mode === "points" && column.levels) {
        if (column.levels.length > 24) return;
        column.levels.forEach((name, level) => {
          const chip = element("button", { type: "button", class: "chip" }, null, box);
          element("i", {}, null, chip).style.background = column.colors[level];
          chip.append(name);
          if (column.name === data.group) chip.addEventListener("click", (event) => select(level, event.shiftKey || event.ctrlKey || event.metaKey));
          else chip.disabled = true;
        });
        return;
      }
      const [low, high] = view.mode === "density" ? [1, cells.most] : limits(column);
      element("span", {}, number(low), box);
      const bar = element("i", { class: "bar" }, null, box);
      bar.style.background = `linear-gradient(90deg, ${[0, 0.2, 0.4, 0.6, 0.8, 1].map(shade).join(",")})`;
      element("span", {}, number(high), box);
      element("span", { class: "soft" }, view.mode === "density" ? "particles per cell (logarithmic)" : view.color, box);
    }

    const position = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    function nearest(px, py) {
      if (view.y === COUNT || view.mode === "density") return -1;
      const xs = columns.get(view.x).values, ys = columns.get(view.y).values;
      let best = -1, least = NEAR_PX * NEAR_PX;
      for (let i = 0; i < xs.length; i++) {
        const distance = (toX(xs[i]) - px) ** 2 + (toY(ys[i]) - py) ** 2;
        if (distance < least && (!view.selected.size || view.selected.has(groupOf(i)))) { least = distance; best = i; }
      }
      return best;
    }
    function describe(px, py) {
      const inside = px >= frame.left && px <= frame.left + frame.width && py >= frame.top && py <= frame.top + frame.height;
      if (!inside) return null;
      if (view.y === COUNT) {
        const bin = Math.floor(((px - frame.left) / frame.width) * BARS), step = (frame.x1 - frame.x0) / BARS;
        return [[plural(cells.bars[0][bin] || 0, points.exact)], [view.x, `${number(frame.x0 + bin * step)} to ${number(frame.x0 + (bin + 1) * step)}`],
                ...(cells.bars[1] ? [["selected", plural(cells.bars[1][bin] || 0, points.exact)]] : [])];
      }
      if (view.mode === "density") {
        const at = Math.floor(((frame.top + frame.height - py) / frame.height) * CELLS) * CELLS + Math.floor(((px - frame.left) / frame.width) * CELLS);
        const value = cells.grid[at];
        return value ? [[plural(value, points.exact)], [view.x, number(fromX(px))], [view.y, number(fromY(py))]] : null;
      }
      const i = nearest(px, py);
      if (i < 0) return null;
      const group = groupOf(i), lines = [[`particle in row ${count(points.row[i])}`]];
      if (points.stack) lines.push([imageName(i)]);
      if (group >= 0) lines.push([(data.states[group] || {}).label || `${data.group} ${group}`, plural(points.sizes[group], true)]);
      for (const name of new Set([view.color, view.x, view.y])) if (name !== data.group) lines.push([name, worded(columns.get(name), i)]);
      return lines;
    }
    function showTip(event) {
      const [px, py] = position(event), lines = drag ? null : describe(px, py);
      tip.hidden = !lines;
      canvas.classList.toggle("aims", Boolean(lines) && nearest(px, py) >= 0);
      if (!lines) return;
      tip.replaceChildren();
      for (const words of lines) {
        const line = element("div", {}, null, tip);
        if (words.length === 1) element("b", {}, words[0], line);
        else { element("span", { class: "soft" }, words[0] + " ", line); line.append(words[1]); }
      }
      tip.style.left = `${px > frame.all[0] * 0.6 ? px - tip.offsetWidth - 14 : px + 14}px`;
      tip.style.top = `${Math.min(py + 10, frame.all[1] - tip.offsetHeight - 4)}px`;
    }
    canvas.addEventListener("pointermove", (event) => {
      showTip(event);
      if (!drag) return;
      render();
      const [px, py] = position(event);
      draw.fillStyle = "rgba(31,78,121,.12)"; draw.strokeStyle = "#1f4e79";
      draw.fillRect(drag[0], drag[1], px - drag[0], py - drag[1]); draw.strokeRect(drag[0], drag[1], px - drag[0], py - drag[1]);
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
    canvas.addEventListener("pointerdown", (event) => { if (event.button === 0) { drag = position(event); canvas.setPointerCapture(event.pointerId); } });
    canvas.addEventListener("pointerup", (event) => {
      if (!drag) return;
      const [begin, end] = [drag, position(event)];
      drag = null;
      if (Math.hypot(end[0] - begin[0], end[1] - begin[1]) > 8) {
        const xs = [fromX(begin[0]), fromX(end[0])].sort((a, b) => a - b), ys = [fromY(begin[1]), fromY(end[1])].sort((a, b) => a - b);
        view.window = [...xs, ...ys];
        changed("plot");
        return;
      }
      render();
      const found = nearest(...end);
      if (found >= 0 && groupOf(found) >= 0) select(groupOf(found), event.shiftKey || event.ctrlKey || event.metaKey);
      else if (view.selected.size) { view.selected = new Set(); changed("selection"); }
    });
    canvas.addEventListener("dblclick", () => { view.window = null; changed("plot"); });
    new ResizeObserver(render).observe(canvas);
    listeners.push(render);
  }

  /* ---------- maps of the selected states ---------- */
  function maps() {
    const panel = find("selected");
    const articles = [...document.querySelectorAll("article[data-state]")];
    for (const article of articles) {
      const state = Number(article.dataset.state);
      if (state < 0) continue;
      const act = (event) => select(state, event.shiftKey || event.ctrlKey || event.metaKey);
      article.setAttribute("role", "button"); article.tabIndex = 0;
      article.addEventListener("click", act);
      article.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); act(event); } });
    }
    const show = () => {
      const wanted = view.selected.size ? [...view.selected].sort((a, b) => a - b) : data.consensus ? [-1] : [];
      panel.replaceChildren();
      for (const article of articles) {
        const state = Number(article.dataset.state);
        if (state >= 0) article.setAttribute("aria-pressed", String(view.selected.has(state)));
      }
      for (const state of wanted) {
        const article = articles.find((one) => Number(one.dataset.state) === state);
        if (article) {
          const copy = element("div", { class: "detail", "data-shown": state }, null, panel);
          for (const part of article.children) copy.append(part.cloneNode(true));
        }
      }
      if (!wanted.length) element("p", { class: "soft" }, `Select a ${data.group} to see its maps.`, panel);
    };
    listeners.push(show);
    for (const row of document.querySelectorAll("tr[data-state]"))
      row.addEventListener("click", (event) => select(Number(row.dataset.state), event.shiftKey || event.ctrlKey || event.metaKey));
    listeners.push(() => { for (const row of document.querySelectorAll("tr[data-state]")) row.classList.toggle("chosen", view.selected.has(Number(row.dataset.state))); });
  }

  /* ---------- curves and bars ---------- */
  function charts() {
    const isShown = (state) => !view.selected.size || view.selected.has(state);
    for (const chart of data.charts) {
      const marks = cryodrgnCharts.draw(chart, find("charts"), { select, isShown });
      listeners.push(() => {
        for (const { node, state } of marks) {
          node.setAttribute("opacity", state >= 0 && !isShown(state) ? 0.15 : 1);
          if (chart.series.length) node.setAttribute("stroke-width", view.selected.has(state) ? 3 : 1.6);
        }
      });
    }
  }

  document.documentElement.classList.add("live");
  recall();
  if (points) explorer();
  maps();
  charts();
  changed("everything");
  window.addEventListener("hashchange", () => { recall(); changed("everything"); });
  document.documentElement.dataset.ready = "yes";
})();
