"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const runs = data.runs;
  const find = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";

  // Text is inserted as text nodes, so that nothing in the data is ever parsed as HTML.
  function fill(node, attributes, children) {
    for (const [key, value] of Object.entries(attributes || {})) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value);
    }
    node.append(...children.flat().filter((c) => c !== null && c !== undefined));
    return node;
  }
  const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
  const s = (name, attributes, ...children) => fill(document.createElementNS(SVG, name), attributes, children);
  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const unique = (values) => [...new Set(values)];
  const method = (run) => run.method + (run.lambda === null ? "" : " λ " + run.lambda);
  const options = (select, pairs) => select.replaceChildren(...pairs.map(([v, text]) => h("option", { value: v }, text)));
  const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, h("wbr")]);
  const note = (text) => h("p", { class: "note" }, text);

  // --- colours ---------------------------------------------------------------------------------------------------

  const kept = "vmp-report-theme";
  const root = document.documentElement;
  function setTheme(name) {
    if (name === "auto") delete root.dataset.theme;
    else root.dataset.theme = name;
    for (const input of find("theme").elements) if (input.value === name) input.checked = true;
  }
  try {
    setTheme(localStorage.getItem(kept) || "auto");
  } catch {
    setTheme("auto"); // a browser may forbid a page from disk to store anything
  }
  find("theme").addEventListener("change", (event) => {
    setTheme(event.target.value);
    try {
      localStorage.setItem(kept, event.target.value);
    } catch {
      return;
    }
  });

  // one colour per lambda in every chart; grey without prompts
  const weights = unique(runs.map((run) => run.lambda).filter((v) => v !== null)).sort((x, y) => x - y);
  const color = (weight) => (weight === null ? "var(--c7)" : `var(--c${weights.indexOf(weight) % 7})`);

  // --- the list of runs ------------------------------------------------------------------------------------------

  const list = find("runs-table").tBodies[0];
  const rows = [...list.rows];
  const form = find("runs-filter");
  const value = (row, column) => (row.cells[column] ? row.cells[column].dataset.value ?? "" : "");
  for (const select of form.querySelectorAll("select")) {
    for (const text of unique(rows.map((row) => value(row, select.name))).sort()) select.append(h("option", { value: text }, text));
  }
  function filter() {
    const words = form.elements.words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const picks = [...form.querySelectorAll("select")].filter((one) => one.value);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const keep = words.every((w) => text.includes(w)) && picks.every((p) => value(row, p.name) === p.value);
      row.hidden = !keep;
      shown += keep;
    }
    find("runs-count").textContent = shown === rows.length ? `${shown} runs` : `${shown} of ${rows.length} runs`;
  }
  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();

  const heads = [...find("runs-table").tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const numeric = head.classList.contains("n");
      const up = head.ariaSort === "none" ? !numeric || column < 6 : head.ariaSort === "descending";
      for (const other of heads) other.ariaSort = "none";
      head.ariaSort = up ? "ascending" : "descending";
      const sorted = [...rows].sort((x, y) => {
        const [p, q] = [value(x, column), value(y, column)];
        if (p === "" || q === "") return (p === "") - (q === ""); // empty cells come last in both directions
        const order = p.localeCompare(q, "en", { numeric: true });
        const difference = numeric && !isNaN(p) && !isNaN(q) ? p - q : order;
        return up ? difference : -difference;
      });
      list.append(...sorted);
    });
  });

  // a link to a run's details opens them
  function open() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target instanceof HTMLDetailsElement) target.open = true;
  }
  addEventListener("hashchange", open);
  open();

  // --- charts ----------------------------------------------------------------------------------------------------

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].find((m) => m * power >= rough) * power;
    const out = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(i * step);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0));
    return out.map((v) => [v, fixed(Math.abs(v) < step / 1e6 ? 0 : v, Math.min(digits, 6))]);
  }

  // An SVG with axes. draw(x, y) gets the two scales and returns the elements inside.
  function frame({ width, height, xs, ys, xLabel, label, draw }) {
    const [left, right, top, bottom] = [46, 14, 10, 34];
    const x = (v) => left + ((v - xs[0]) / (xs[1] - xs[0])) * (width - left - right);
    const y = (v) => height - bottom - ((v - ys[0]) / (ys[1] - ys[0])) * (height - top - bottom);
    const svg = s("svg", { class: "chart", width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, tabindex: 0 });
    for (const [v, text] of ticks(...ys, 4)) {
      svg.append(s("line", { class: "grid", x1: left, x2: width - right, y1: y(v), y2: y(v) }));
      svg.append(s("text", { x: left - 8, y: y(v) + 4, "text-anchor": "end" }, text));
    }
    for (const [v, text] of ticks(...xs, Math.max(2, Math.round(width / 90)))) {
      svg.append(s("text", { x: x(v), y: height - bottom + 17, "text-anchor": "middle" }, text));
    }
    svg.append(s("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }));
    svg.append(s("text", { x: width - right, y: height - 3, "text-anchor": "end" }, xLabel));
    svg.append(...draw(x, y));
    return svg;
  }

  function around(values, share) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (high - low < 1e-9 + Math.abs(high) * 1e-6) [low, high] = [low - 0.5, high + 0.5];
    const more = (high - low) * share;
    return [low - more, high + more];
  }

  // Lets pointer and arrow keys pick a spot, {x, y, line, color, text}: left and right move along a line, up and down
  // between lines. say(spot) is called with the spot picked, or undefined.
  function pointing(svg, spots, say) {
    const ring = s("circle", { class: "ring", r: 4.5, visibility: "hidden" });
    svg.append(ring);
    let at = -1;
    function show(index) {
      at = index;
      const spot = spots[index];
      ring.setAttribute("visibility", spot ? "visible" : "hidden");
      if (spot) {
        ring.setAttribute("cx", spot.x);
        ring.setAttribute("cy", spot.y);
        ring.style.stroke = spot.color;
      }
      say(spot);
    }
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const [px, py] = [event.clientX - box.left, event.clientY - box.top];
      let [best, near] = [-1, 60 ** 2];
      spots.forEach((spot, i) => {
        const far = (spot.x - px) ** 2 + (spot.y - py) ** 2;
        if (far < near) [best, near] = [i, far];
      });
      show(best);
    });
    svg.addEventListener("pointerleave", () => show(-1));
    svg.addEventListener("blur", () => show(-1));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step || !spots.length) return;
      event.preventDefault();
      if (at < 0) return show(0);
      const here = spots[at];
      if (step[0]) {
        const next = at + step[0];
        if (spots[next] && spots[next].line === here.line) show(next);
        return;
      }
      const lines = unique(spots.map((spot) => spot.line));
      const line = lines[(lines.indexOf(here.line) + step[1] + lines.length) % lines.length];
      let best = -1;
      spots.forEach((spot, i) => {
        if (spot.line === line && (best < 0 || Math.abs(spot.x - here.x) < Math.abs(spots[best].x - here.x))) best = i;
      });
      show(best);
    });
  }

  const CHARTS = [
    ["slope", "Slope a", 2],
    ["shift", "Shift b", 3],
    ["top", "Top-1 and top-5 (dashed), validation (%)", 1],
    ["loss", "Cross-entropy, training", 3],
  ];
  for (const run of runs) {
    for (const curve of run.curves) {
      if (curve.what.startsWith("top")) [curve.what, curve.pathway] = ["top", curve.what];
    }
  }
  const chosen = new Map(); // weight -> shown
  const NONE = "none";

  function curveRuns() {
    const [dataset, backbone] = [find("curves-dataset").value, find("curves-backbone").value];
    return runs.filter((run) => run.dataset === dataset && run.backbone === backbone);
  }

  function setLambdas() {
    const here = curveRuns();
    const found = unique(here.map((run) => run.lambda)).sort((x, y) => (x === null) - (y === null) || x - y);
    const boxes = found.map((weight) => {
      const key = weight === null ? NONE : String(weight);
      const input = h("input", { type: "checkbox", value: key, onchange: () => { chosen.set(key, input.checked); drawCurves(); } });
      input.checked = chosen.get(key) ?? true;
      return h("label", { style: `--own: ${color(weight)}` }, input, h("span", {}, weight === null ? "no prompts" : key));
    });
    find("lambdas").replaceChildren(find("lambdas").firstElementChild, ...boxes);
  }

  function drawCurves() {
    const shown = curveRuns().filter((run) => chosen.get(run.lambda === null ? NONE : String(run.lambda)) ?? true);
    const place = find("charts");
    const there = CHARTS.filter(([what]) => curveRuns().some((run) => run.curves.some((c) => c.what === what && c.points.length)));
    // insert all figures first: the width of each depends on how many there are
    const figures = there.map(([what, title]) => h("figure", { "data-what": what }, h("figcaption", {}, title)));
    place.replaceChildren(...(figures.length ? figures : [note("These runs have logged nothing yet.")]));
    there.forEach(([what, title, digits], index) => {
      const figure = figures[index];
      const lines = shown.flatMap((run) => run.curves.filter((c) => c.what === what && c.points.length).map((c) => ({ run, ...c })));
      if (!lines.length) return figure.append(note("No curve to draw for the selected λ."));
      const readout = h("div", { class: "readout", "aria-live": "polite" });
      const all = lines.flatMap((line) => line.points);
      const pathways = unique(lines.map((line) => line.pathway)).sort();
      const xs = [0, Math.max(...all.map((p) => p[0]))];
      const ys = around(all.map((p) => p[1]), 0.08);
      const spots = [];
      const svg = frame({
        width: Math.max(260, figure.clientWidth), height: 230, xs, ys, xLabel: "epoch",
        label: `${title} against epochs, ${lines.length} lines`,
        draw: (x, y) => lines.map((line, number) => {
          const own = color(line.run.lambda);
          for (const [epoch, v] of line.points) spots.push({ x: x(epoch), y: y(v), line: number, color: own, run: line.run, pathway: line.pathway, text: `epoch ${+epoch.toFixed(2)}: ${fixed(v, digits)}` });
          const dash = ["", "6 4", "2 3"][pathways.indexOf(line.pathway) % 3];
          const d = line.points.map(([epoch, v], i) => `${i ? "L" : "M"}${x(epoch).toFixed(1)} ${y(v).toFixed(1)}`).join("");
          return s("g", { "data-line": line.run.lambda === null ? NONE : line.run.lambda },
            s("path", { class: "line", d, style: `stroke: ${own}`, "stroke-dasharray": dash }),
            line.points.length < 2 ? s("circle", { cx: x(line.points[0][0]), cy: y(line.points[0][1]), r: 3, style: `fill: ${own}` }) : null);
        }),
      });
      const groups = [...svg.querySelectorAll("[data-line]")];
      pointing(svg, spots, (spot) => {
        groups.forEach((group, i) => group.classList.toggle("faint", Boolean(spot) && i !== spot.line));
        const r = spot && spot.run;
        readout.replaceChildren(...(spot ? [h("b", {}, spot.text), " ", [what === "top" ? spot.pathway.replace("top", "top-") : null, method(r), what !== "top" && spot.pathway || r.placement, "seed " + r.seed].filter(Boolean).join(" · "), r.problem ? " · " + r.problem : ""] : []));
      });
      figure.append(svg, readout);
      if (pathways.length > 1 && what !== "top") figure.append(legend(pathways.map((p, i) => [p || "all", s("line", { x1: 0, x2: 22, y1: 5, y2: 5, style: "stroke: var(--soft)", "stroke-width": 2, "stroke-dasharray": ["", "6 4", "2 3"][i % 3] })])));
    });
  }

  const legend = (items) => h("ul", { class: "legend" }, items.map(([text, mark]) => h("li", {}, s("svg", { width: 22, height: 10, "aria-hidden": "true" }, mark), text)));

  function setBackbones() {
    const here = runs.filter((run) => run.dataset === find("curves-dataset").value);
    options(find("curves-backbone"), unique(here.map((run) => run.backbone)).map((name) => [name, name]));
    setLambdas();
    drawCurves();
  }
  options(find("curves-dataset"), unique(runs.map((run) => run.dataset)).map((name) => [name, name]));
  find("curves-dataset").addEventListener("change", setBackbones);
  find("curves-backbone").addEventListener("change", () => { setLambdas(); drawCurves(); });

  // --- learned pairs ---------------------------------------------------------------------------------------------

  const SHAPES = [
    (x, y) => `M${x - 4.5} ${y}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0`,
    (x, y) => `M${x - 4} ${y - 4}h8v8h-8z`,
    (x, y) => `M${x} ${y - 5.2}l5 9h-10z`,
    (x, y) => `M${x} ${y - 5.5}l5.5 5.5l-5.5 5.5l-5.5 -5.5z`,
  ];

  function drawPairs() {
    const place = find("pairs");
    const points = runs.flatMap((run) => run.pairs.map(([pathway, a, b]) => ({ run, pathway, a, b })));
    if (!points.length) return place.replaceChildren(note("No finished run here learned a slope and a shift."));
    const kinds = unique(points.map((p) => p.run.dataset));
    const boxes = unique(runs.filter((run) => run.pairs.length && run.ranges).map((run) => JSON.stringify(run.ranges))).map((text) => JSON.parse(text));
    const xs = around([...points.map((p) => p.a), ...boxes.flatMap((box) => box.slope)], 0.04);
    const ys = around([...points.map((p) => p.b), ...boxes.flatMap((box) => box.shift)], 0.06);
    const readout = h("div", { class: "readout", "aria-live": "polite" });
    const figure = h("figure", {}, h("figcaption", {}, "Shift b against slope a"));
    place.replaceChildren(figure);
    const spots = [];
    const svg = frame({
      width: Math.max(260, figure.clientWidth), height: 360, xs, ys, xLabel: "slope a", label: `Learned slope and shift, ${points.length} points`,
      draw: (x, y) => [
        ...boxes.map((box) => s("rect", { class: "box", x: x(box.slope[0]), width: x(box.slope[1]) - x(box.slope[0]), y: y(box.shift[1]), height: y(box.shift[0]) - y(box.shift[1]) })),
        ...points.map((p, i) => {
          const own = color(p.run.lambda);
          spots.push({ x: x(p.a), y: y(p.b), line: i, color: own, text: `a = ${fixed(p.a, 3)}, b = ${fixed(p.b, 4)}`, more: p.run.label + (p.pathway === "video" ? "" : " · " + p.pathway) });
          return s("path", { class: "mark", d: SHAPES[kinds.indexOf(p.run.dataset) % 4](x(p.a), y(p.b)), style: `fill: ${own}`, "fill-opacity": 0.8 });
        }),
      ],
    });
    pointing(svg, spots, (spot) => readout.replaceChildren(...(spot ? [h("b", {}, spot.text), " ", spot.more] : [])));
    const used = weights.filter((w) => points.some((p) => p.run.lambda === w));
    const keys = used.map((w) => ["λ " + w, s("path", { d: SHAPES[0](8, 5), style: `fill: ${color(w)}` })]);
    const shapes = kinds.length > 1 ? kinds.map((name, i) => [name, s("path", { d: SHAPES[i % 4](8, 5), style: "fill: var(--soft)" })]) : [];
    figure.append(svg, readout, legend([...keys, ...shapes]));
  }

  // --- confusion -------------------------------------------------------------------------------------------------

  const MOST = 300; // rows and columns drawn at most

  function drawConfusion() {
    const run = runs[find("confusion-run").value];
    const place = find("confusion-body");
    if (!run) return place.replaceChildren(note(data.left_out || "No finished run here has predictions."));
    // with more than MOST classes, neighbouring classes share a row and a column
    const all = data.classes[run.classes];
    const step = Math.max(1, Math.ceil(all.length / MOST));
    const names = step === 1 ? all : Array.from({ length: Math.ceil(all.length / step) }, (_, i) => `${all[i * step]} … ${all[Math.min(all.length, (i + 1) * step) - 1]}`);
    const count = names.length;
    const taken = run.confusion.flatMap((row, label) => Array.from({ length: row.length / 2 }, (_, i) => [label, row[2 * i], row[2 * i + 1]]));
    const merged = new Map();
    for (const [label, guess, n] of taken) {
      const at = Math.floor(label / step) * count + Math.floor(guess / step);
      merged.set(at, (merged.get(at) || 0) + n);
    }
    const confusion = [...merged].map(([at, n]) => [Math.floor(at / count), at % count, n]);
    const totals = new Array(count).fill(0);
    for (const [label, , n] of confusion) totals[label] += n;
    const few = count <= 24;
    const longest = Math.min(26, Math.max(...names.map((name) => name.length)));
    const short = (name) => (name.length > 26 ? name.slice(0, 25) + "…" : name);
    const left = few ? 16 + longest * 6.2 : 34;
    const cell = few ? Math.max(22, Math.min(36, Math.round(400 / count))) : Math.max(5, Math.min(12, Math.round(560 / count)));
    const top = few ? 16 + longest * 4.6 : 26;
    const side = cell * count;
    const width = left + side + (few ? Math.min(longest * 4.4, 90) : 8);
    const readout = h("div", { class: "readout", "aria-live": "polite" }, "Point at a cell.");
    const svg = s("svg", { width, height: top + side + 24, role: "img", "aria-label": `Confusion matrix of ${all.length} classes` });
    svg.append(s("rect", { class: "frame", x: left - .5, y: top - .5, width: side + 1, height: side + 1 }));
    names.forEach((name, i) => {
      const middle = i * cell + cell / 2;
      if (few) {
        svg.append(s("text", { x: left - 8, y: top + middle + 4, "text-anchor": "end" }, short(name)));
        svg.append(s("text", { transform: `translate(${left + middle + 3} ${top - 8}) rotate(-45)` }, short(name)));
      } else if (i % 10 === 0) {
        svg.append(s("text", { x: left - 6, y: top + middle + 4, "text-anchor": "end" }, String(i * step)));
        svg.append(s("text", { x: left + middle, y: top - 6, "text-anchor": "middle" }, String(i * step)));
      }
    });
    svg.append(s("text", { x: left, y: top + side + 18 }, step === 1 ? "down: true class; across: predicted" : `down: true class; across: predicted; ${step} classes per cell`));
    for (const [label, guess, n] of confusion) {
      const share = n / totals[label];
      const [x, y] = [left + guess * cell, top + label * cell];
      const own = label === guess ? "var(--a)" : "var(--b)";
      const rect = s("rect", { class: "cell", x, y, width: cell, height: cell, style: `fill: color-mix(in oklab, ${own} ${Math.round(12 + 88 * share)}%, var(--raised))`,
        onpointerenter: () => readout.replaceChildren(h("b", {}, `${n} of ${totals[label]} clips (${fixed(100 * share, 1)} %)`), ` of ${names[label]} taken for ${names[guess]}`) });
      svg.append(rect);
      if (few && cell >= 22) svg.append(s("text", { class: "count", x: x + cell / 2, y: y + cell / 2 + 4, style: share > 0.72 ? "fill: var(--raised)" : "fill: var(--ink)" }, String(n)));
    }
    const wrong = taken.filter(([label, guess]) => label !== guess).sort((p, q) => q[2] - p[2] || p[0] - q[0] || p[1] - q[1]);
    const lines = wrong.slice(0, 10).map(([label, guess, n]) => h("tr", {}, h("th", { scope: "row" }, breakable(all[label])), h("td", {}, breakable(all[guess])), h("td", { class: "n" }, String(n))));
    const pairs = lines.length
      ? h("div", { class: "scroll full", style: "padding: 0", tabindex: 0, role: "region", "aria-label": "Most confused" }, h("table", { class: "small pairs" },
        h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "true"), h("th", { scope: "col" }, "taken for"), h("th", { scope: "col", class: "n" }, "clips"))), h("tbody", {}, lines)))
      : note("No clip was wrong.");
    place.replaceChildren(h("div", { class: "matrix" },
      h("div", {}, h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, svg)),
      h("div", {}, readout, h("h3", {}, "Most confused"), pairs)));
  }

  // --- classes ---------------------------------------------------------------------------------------------------

  function drawClasses() {
    const [a, b] = [runs[find("class-a").value], runs[find("class-b").value]];
    const place = find("classes-body");
    if (!a || !b) return place.replaceChildren(note("No finished run here has accuracies by class."));
    const names = data.classes[a.classes];
    const percent = ([clips, right]) => (clips ? (100 * right) / clips : null);
    const found = names.map((name, i) => ({ name, clips: a.per_class[i][0], a: percent(a.per_class[i]), b: percent(b.per_class[i]), i }));
    for (const row of found) row.difference = row.a === null || row.b === null ? null : row.b - row.a;
    const order = find("class-order").value;
    if (order !== "class") found.sort((x, y) => (y[order] ?? -1e9) - (x[order] ?? -1e9) || x.i - y.i);
    const cell = (v, sign) => h("td", { class: "n" }, v === null ? "–" : (sign && v > 0 ? "+" : "") + fixed(v, 1));
    const lines = found.map((row) => h("tr", {}, h("th", { scope: "row" }, row.name), cell(row.a), cell(row.b), cell(row.difference, true),
      h("td", { class: "track", "aria-hidden": "true" }, h("i", { class: "a", style: `width: ${row.a ?? 0}%` }), h("i", { class: "b", style: `width: ${row.b ?? 0}%` })),
      h("td", { class: "n" }, String(row.clips))));
    const head = ["class", "A (%)", "B (%)", "B − A", "", "clips"].map((text, i) => h("th", { scope: "col", class: i && i !== 4 ? "n" : null }, text));
    place.replaceChildren(h("div", { class: "scroll tall full", tabindex: 0, role: "region", "aria-label": "Accuracy by class" }, h("table", { class: "bars" }, h("thead", {}, h("tr", {}, head)), h("tbody", {}, lines))));
  }

  // only runs with the classes of A can be B
  function setSecond() {
    const a = runs[find("class-a").value];
    const others = a ? runs.filter((run) => run.per_class && run.classes === a.classes) : [];
    options(find("class-b"), others.map((run) => [run.number, run.label]));
    const other = others.find((run) => run !== a && run.dataset === a.dataset) || others.find((run) => run !== a);
    if (other) find("class-b").value = other.number;
    drawClasses();
  }

  // --- worst clips -----------------------------------------------------------------------------------------------

  function drawWorst() {
    const run = runs[find("worst-run").value];
    const place = find("worst-body");
    if (!run) return place.replaceChildren(note("No run is finished yet."));
    const names = data.classes[run.classes];
    const name = (i) => names[i] ?? "class " + i;
    const cards = (run.worst || []).map((clip) => h("article", { class: "clip" },
      h("h3", {}, clip.id),
      clip.path ? h("p", { class: "note" }, h("code", {}, breakable(clip.path)), clip.end ? `, frames ${clip.start} to ${clip.end - 1}` : clip.start ? `, from frame ${clip.start}` : "") : null,
      h("p", {}, h("b", {}, name(clip.label)), " taken for ", h("b", {}, name(clip.predicted)), ", ",
        clip.probability === null ? `score ${fixed(clip.score, 3)}` : `with a probability of ${fixed(clip.probability, 2)}`),
      clip.pictures.map((p) => h("div", {},
        p.pathway || p.slope !== undefined ? h("div", { class: "note" }, [p.pathway && p.pathway + " pathway", p.slope !== undefined && `a = ${fixed(p.slope, 2)}, b = ${fixed(p.shift, 3)}`].filter(Boolean).join(", ")) : null,
        h("div", { class: "strip" }, h("ul", {}, p.rows.map((row) => h("li", {}, row))), h("img", { src: p.src, width: p.width, height: p.height, alt: `${p.rows.join(", ")} of ${clip.id}` }))))));
    place.replaceChildren(...(run.worst_note ? [note(run.worst_note)] : []), ...cards);
  }

  // --- start -----------------------------------------------------------------------------------------------------

  const pick = (id, wanted, draw) => {
    options(find(id), runs.filter(wanted).map((run) => [run.number, run.label]));
    find(id).addEventListener("change", draw);
  };
  pick("confusion-run", (run) => run.confusion, drawConfusion);
  pick("worst-run", (run) => !run.problem, drawWorst);
  pick("class-a", (run) => run.per_class, setSecond);
  find("class-b").addEventListener("change", drawClasses);
  find("class-order").addEventListener("change", drawClasses);

  const pictured = (run) => (run.worst || []).some((clip) => clip.pictures.length);
  const first = runs.find((run) => pictured(run) && run.lambda !== null) || runs.find(pictured);
  if (first) find("worst-run").value = first.number;
  setBackbones();
  drawPairs();
  drawConfusion();
  setSecond();
  drawWorst();
  let [width, waiting] = [document.body.clientWidth, 0];
  addEventListener("resize", () => {
    if (document.body.clientWidth === width) return; // a phone's address bar
    width = document.body.clientWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => { drawCurves(); drawPairs(); });
  });
})();
