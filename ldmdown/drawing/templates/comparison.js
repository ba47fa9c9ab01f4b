"use strict";

// Two fields on one map. Keyboard: the slider as any slider; arrow keys on the map move the point that is read out.
(async () => {
  const figure = document.getElementById("compare");
  const data = JSON.parse(figure.querySelector('script[type="application/json"]').textContent);
  const map = figure.querySelector("canvas.map"), pen = map.getContext("2d");
  const slider = figure.querySelector(".divider"), readout = figure.querySelector("output");
  const chosen = (name) => figure.querySelector(`[name="${name}"]:checked, select[name="${name}"]`).value;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const signed = (value) => value.toFixed(1).replace("-", "−");
  const MISSING = -32768;
  let pictures = {}, point = null, dragged = false;

  async function decode(text) {
    const stream = new Blob([bytes(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
    const steps = new Int16Array(await new Response(stream).arrayBuffer());
    for (let i = 1; i < steps.length; i++) steps[i] += steps[i - 1];
    return steps;
  }

  const fields = {};
  for (const [system, held] of Object.entries(data.fields)) {
    fields[system] = {};
    for (const [name, text] of Object.entries(held)) fields[system][name] = await decode(text);
  }

  function painted(system, name) {
    const { low, high, colours } = data.variables[name], table = bytes(colours);
    const picture = new OffscreenCanvas(data.cols, data.rows), context = picture.getContext("2d");
    const pixels = context.createImageData(data.cols, data.rows);
    fields[system][name].forEach((steps, i) => {
      if (steps === MISSING) return;
      const share = (steps * data.step - low) / (high - low);
      const shade = 3 * Math.max(0, Math.min(255, Math.round(share * 255)));
      pixels.data.set([table[shade], table[shade + 1], table[shade + 2], 255], 4 * i);
    });
    context.putImageData(pixels, 0, 0);
    return picture;
  }

  function choose() {
    const name = chosen("variable"), { low, high, units, colours } = data.variables[name], table = bytes(colours);
    pictures = { left: painted(chosen("left"), name), right: painted(chosen("right"), name) };
    const [from, to] = figure.querySelectorAll(".scale span"), bar = figure.querySelector(".scale canvas").getContext("2d");
    from.textContent = `${signed(low)} ${units}`;
    to.textContent = `${signed(high)} ${units}`;
    for (let x = 0; x < 256; x++) {
      bar.fillStyle = `rgb(${table[3 * x]} ${table[3 * x + 1]} ${table[3 * x + 2]})`;
      bar.fillRect(x, 0, 1, 1);
    }
    draw();
    read();
  }

  function draw() {
    const density = window.devicePixelRatio || 1, width = map.clientWidth, height = map.clientHeight;
    map.width = Math.round(width * density);
    map.height = Math.round(height * density);
    pen.setTransform(density, 0, 0, density, 0, 0);
    pen.imageSmoothingEnabled = map.width < data.cols;
    const edge = (slider.value / 100) * width, across = width / data.cols, down = height / data.rows;
    for (const [side, from, to] of [["left", 0, edge], ["right", edge, width]]) {
      pen.save();
      pen.beginPath();
      pen.rect(from, 0, to - from, height);
      pen.clip();
      pen.drawImage(pictures[side], 0, 0, width, height);
      pen.restore();
    }
    pen.lineWidth = 0.6;
    pen.strokeStyle = "rgb(0 0 0 / 40%)";
    pen.font = "11px system-ui, sans-serif";
    for (const line of data.lines) {
      const places = line.points.map(([x, y]) => [(x + 0.5) * across, (y + 0.5) * down]);
      pen.beginPath();
      for (const place of places) pen.lineTo(...place);
      pen.stroke();
      const [x, y] = line.side === "left" ? places[0] : places[places.length - 1];
      if (line.side === "left") written(line.label, 4, y - 5, "left");
      else written(line.label, x + 4, height - 6, "left");
    }
    pen.font = "600 13px system-ui, sans-serif";
    written(chosen("left"), 8, 20, "left");
    written(chosen("right"), width - 8, 20, "right");
    boundary(edge, height);
    if (point) cross((point.col + 0.5) * across, (point.row + 0.5) * down);
  }

  function written(text, x, y, align) {
    pen.textAlign = align;
    pen.lineJoin = "round";
    pen.save();
    pen.lineWidth = 3.5;
    pen.strokeStyle = "rgb(255 255 255 / 85%)";
    pen.strokeText(text, x, y);
    pen.fillStyle = "#111";
    pen.fillText(text, x, y);
    pen.restore();
  }

  function boundary(x, height) {
    for (const [colour, width] of [["rgb(0 0 0 / 55%)", 4], ["#fff", 2]]) {
      pen.strokeStyle = pen.fillStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      pen.moveTo(x, 0);
      pen.lineTo(x, height);
      pen.stroke();
      pen.beginPath();
      pen.arc(x, height / 2, 10 + width / 2, 0, 7);
      pen.fill();
    }
    pen.fillStyle = "#222";
    for (const side of [-1, 1]) {
      pen.beginPath();
      pen.moveTo(x + side * 8, height / 2);
      pen.lineTo(x + side * 3, height / 2 - 5);
      pen.lineTo(x + side * 3, height / 2 + 5);
      pen.fill();
    }
  }

  function cross(x, y) {
    for (const [colour, width] of [["#fff", 4], ["#111", 1.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      pen.arc(x, y, 5, 0, 7);
      pen.moveTo(x, y);
      pen.lineTo(x, y);
      pen.stroke();
    }
  }

  function degrees(table) {
    const row = (point.row / (data.rows - 1)) * (data.nodes - 1), col = (point.col / (data.cols - 1)) * (data.nodes - 1);
    const i = Math.min(Math.floor(row), data.nodes - 2), j = Math.min(Math.floor(col), data.nodes - 2);
    const node = (down, right) => table[(i + down) * data.nodes + j + right];
    const upper = node(0, 0) + (node(0, 1) - node(0, 0)) * (col - j);
    const lower = node(1, 0) + (node(1, 1) - node(1, 0)) * (col - j);
    return upper + (lower - upper) * (row - i);
  }

  function read() {
    if (!point) return;
    const name = chosen("variable"), units = data.variables[name].units;
    const value = (system) => {
      const steps = fields[system][name][point.row * data.cols + point.col];
      return steps === MISSING ? "missing" : `${signed(steps * data.step)} ${units}`;
    };
    const [lon, lat] = [degrees(data.lon), degrees(data.lat)];
    const place = `${Math.abs(lat).toFixed(2)}° ${lat < 0 ? "S" : "N"}, ${Math.abs(lon).toFixed(2)}° ${lon < 0 ? "W" : "E"}`;
    const parts = [place, ...["left", "right"].map((side) => `${chosen(side)}: ${value(chosen(side))}`)];
    readout.replaceChildren(...parts.map((text) => Object.assign(document.createElement("span"), { textContent: text })));
  }

  function pointAt(col, row) {
    point = { col: Math.max(0, Math.min(data.cols - 1, col)), row: Math.max(0, Math.min(data.rows - 1, row)) };
    draw();
    read();
  }

  function follow(event) {
    const box = map.getBoundingClientRect();
    const [x, y] = [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
    if (dragged) slider.value = 100 * x;
    pointAt(Math.floor(x * data.cols), Math.floor(y * data.rows));
  }

  map.addEventListener("pointerdown", (event) => {
    const box = map.getBoundingClientRect();
    dragged = Math.abs(event.clientX - box.left - (slider.value / 100) * box.width) < 16;
    if (dragged) map.setPointerCapture(event.pointerId);
    follow(event);
  });
  map.addEventListener("pointermove", follow);
  for (const name of ["pointerup", "pointercancel"]) map.addEventListener(name, () => (dragged = false));
  map.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const [col, row] = moves[event.key], far = event.shiftKey ? 10 : 1;
    const from = point ?? { col: data.cols >> 1, row: data.rows >> 1 };
    pointAt(from.col + far * col, from.row + far * row);
  });
  slider.addEventListener("input", draw);
  figure.querySelector(".controls").addEventListener("change", choose);
  map.style.aspectRatio = `${data.cols} / ${data.rows * data.cell}`;
  choose();
  new ResizeObserver(draw).observe(map);
  window.addEventListener("beforeprint", draw);
})();
