"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tokens = document.getElementById("tokens"), readout = document.getElementById("readout");
  const heat = document.getElementById("heat"), slider = document.getElementById("strength");
  const height = 8, from = data.from;
  let run = data.runs[data.first], here = -1, block = 0;

  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim().split(" ").join(",");
  const share = (value, limit) => limit ? Math.max(-1, Math.min(1, value / limit)) : 0;
  const fill = (part) => {
    return `rgba(${color(part > 0 ? "--warm" : "--cold")},${(0.8 * Math.abs(part)).toFixed(3)})`;
  };
  const width = () => {
    const room = Math.floor((tokens.clientWidth - 40) / Math.max(1, run.pieces.length - from));
    return Math.max(2, Math.min(14, room));
  };

  function drawTokens() {
    tokens.replaceChildren();
    run.pieces.forEach((piece, i) => {
      const span = document.createElement("span");
      span.textContent = piece;
      span.className = i < run.prompt ? "prompt" : "reply";
      span.style.background = fill(share(run.totals[i], data.total));
      span.dataset.i = i;
      tokens.append(span);
      if (run.breaks[i]) tokens.append(document.createElement("br"));
    });
  }

  function drawHeat() {
    const w = width(), n = run.pieces.length - from;
    heat.width = Math.max(1, n * w);
    heat.height = Math.max(1, data.layers.length * height);
    const pen = heat.getContext("2d");
    data.layers.forEach((_, row) => run.rows[row].forEach((value, i) => {
      if (!value || i < from) return;
      pen.fillStyle = fill(share(value, data.cell));
      pen.fillRect((i - from) * w, row * height, w, height);
    }));
    if (here >= from) {
      pen.strokeStyle = getComputedStyle(document.body).color;
      pen.strokeRect((here - from) * w + 0.5, 0.5, Math.max(1, w - 1), heat.height - 1);
    }
  }

  function select(i, row) {
    if (i < 0 || i >= run.pieces.length) return;
    here = i;
    if (row !== undefined) block = row;
    tokens.querySelectorAll("span.here").forEach((span) => span.classList.remove("here"));
    const span = tokens.querySelector(`span[data-i="${i}"]`);
    if (span) span.classList.add("here");
    const most = data.layers.map((layer, r) => [layer, run.rows[r][i]])
      .filter((pair) => pair[1]).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 6);
    const at = row === undefined ? "" : ` Block ${data.layers[row]}: ${run.rows[row][i]}.`;
    const blocks = most.map((pair) => `${pair[0]}: ${pair[1]}`).join(", ");
    readout.textContent = `Token ${i} "${run.pieces[i]}": ${run.totals[i]} in all.${at}` +
      (blocks ? ` Most at blocks ${blocks}.` : " Not steered.");
    drawHeat();
  }

  function show(number) {
    run = data.runs[number];
    here = -1;
    readout.textContent = "\u00a0";
    const label = document.getElementById("label");
    if (label) label.textContent = run.label;
    drawTokens();
    drawHeat();
  }

  tokens.addEventListener("mouseover", (event) => {
    if (event.target.dataset.i !== undefined) select(Number(event.target.dataset.i));
  });
  const within = (i, n) => Math.max(0, Math.min(n - 1, i));
  const along = (key, step) => {
    return within(key === "Home" ? 0 : key === "End" ? Infinity : here + step, run.pieces.length);
  };
  tokens.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: 0, End: 0 }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    select(along(event.key, step));
  });
  heat.addEventListener("keydown", (event) => {
    const [across, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1],
      Home: [0, 0], End: [0, 0] }[event.key] || [];
    if (across === undefined || !data.layers.length) return;
    event.preventDefault();
    select(along(event.key, across), within(block + down, data.layers.length));
  });
  heat.addEventListener("mousemove", (event) => {
    const row = Math.min(data.layers.length - 1, Math.max(0, Math.floor(event.offsetY / height)));
    select(from + Math.floor(event.offsetX / width()), row);
  });
  if (slider) slider.addEventListener("input", () => show(Number(slider.value)));
  window.addEventListener("resize", drawHeat);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { drawTokens(); drawHeat(); });
  show(data.first);
})();
