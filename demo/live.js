// One live figure: controls, a panel for each row (a space, a method, a number of steps), and a table of what it took.
// `root.ldm` is for tests and for the curious: the last order, its noise-free results, and the times.
const STEPS = [1, 2, 3, 5, 10, 15, 20, 25, 50, 100, 250];  // what the steps control has
const FRAMES = 64;  // of a row are kept to look back at: of longer ways every other one, and so on

function set_up(root) {
  const given = JSON.parse(root.dataset.live), { model } = given, { size } = model;
  root.removeAttribute("data-live");  // a page with two figures has this script twice
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const rows = given.rows.map((row, number) => ({ ...row, number, ...model.spaces[row.space] }));
  let worker = null, facts = null, running = false, stopped = false, orders = 0, emoji = {};

  // ---------------------------------------------------------------- controls
  const value = given.values, shown = name => given.controls.includes(name);
  const kinds = [["turn", "one of each"], ...model.classes.map((name, i) => [i, name.replace("-", ", ")]), [-1, "any"]];
  const control = {
    prompt: make("input", { type: "text", value: value.prompt || "", autocomplete: "off", spellcheck: false, className: "ldm-live-prompt" }),
    kind: select(kinds, value.kind ?? "turn"),
    count: select([1, 2, 4, 8].map(n => [n, n]), value.count ?? 4),
    guidance: select([1, 1.5, 2, 3, 5, 7.5].map(s => [s, s === 1 ? "1 (none)" : s]), value.guidance ?? 2),
    steps: make("input", { type: "range", min: 0, max: STEPS.length - 1, step: 1, value: STEPS.indexOf(Number(value.steps ?? rows[0].steps)) }),
    seed: make("input", { type: "number", value: value.seed ?? 0, min: 0, max: 999999, step: 1, inputMode: "numeric" }),
    guess: select([["", "the noisy state"], ["1", "the guess x̂₀"]], ""),
    along: make("input", { type: "checkbox", checked: !!value.along }),
  };
  for (const [name, element] of Object.entries(control)) { element.name = name; }
  const words = {
    prompt: "prompt", kind: "kind", count: "pictures", guidance: "guidance", steps: "steps", seed: "seed", guess: "show", along: "decode every step",
  };
  const button = make("button", { type: "submit", textContent: "Draw", className: "ldm-live-draw" });
  const bar = make("progress", { max: 1, value: 0, "aria-label": "how far the drawing has come" });
  const says = make("p", { className: "ldm-live-says", role: "status" });
  const form = make("form", { className: "ldm-live-controls", "aria-label": "What to draw" },
    ...Object.keys(control).filter(shown).map(name => labelled(words[name], control[name])), button);
  const step_words = make("output");
  control.steps.after(step_words);
  const easel = shown("canvas") ? new Easel(size) : null, through = easel ? make("canvas", { role: "img", className: "ldm-live-through" }) : null;
  if (easel) {  // and what the autoencoder alone makes of the drawing
    paint_nothing(through, 1, size);
    through.style.minWidth = easel.canvas.style.width;  // as large as the drawing beside it
    through.setAttribute("aria-label", "the drawing, encoded and decoded");
    easel.canvas.after(make("figure", {}, through, make("figcaption", { textContent: "what a latent keeps of it: encoded and decoded" })));
  }
  const steps_of = row => shown("steps") && !row.fixed ? STEPS[control.steps.value] : row.steps;

  // ---------------------------------------------------------------- panels
  for (const row of rows) {
    row.canvas = make("canvas", { role: "img" });
    row.decoded = row.space === "latent" ? make("canvas", { role: "img" }) : null;
    row.at = make("span", { className: "ldm-live-at" });
    row.title = make("span");
    const boxes = make("div", { className: "ldm-live-boxes" }, row.canvas);
    if (row.decoded) { boxes.append(make("span", { textContent: "→", "aria-hidden": "true" }), row.decoded); }
    row.panel = make("div", { className: `ldm-live-row ldm-live-${row.space}`, role: "group" },
      make("p", {}, make("b", { textContent: SPACES[row.space] }), " ", row.title, " ", row.at), boxes);
  }
  const back = make("input", { type: "range", min: 0, max: 1, value: 1, step: "any" });
  const look = make("label", { className: "ldm-live-back", hidden: true }, make("span", { textContent: "look back" }), back);

  // ---------------------------------------------------------------- the table
  const claimed = rows.some(row => row.claimed), decoded = rows.some(row => row.decoded), compared = rows.length > 1 && rows.length < 5;
  const heads = ["space", "steps", "a step", "in all", ...decoded ? ["decoder"] : [], ...compared ? ["faster"] : [], ...claimed ? ["claimed", "claimed faster"] : []];
  const body = make("tbody");
  for (const row of rows) {
    row.cells = heads.map((_, i) => make(i ? "td" : "th", i ? {} : { scope: "row" }));
    body.append(make("tr", { className: `ldm-live-${row.space}` }, ...row.cells));
  }
  const table = make("div", { className: "ldm-live-table" },
    make("table", { "aria-label": "What it took" }, make("thead", {}, make("tr", {}, ...heads.map(h => make("th", { scope: "col", textContent: h })))), body));
  function fill(row) {
    const first = rows[0];
    const cells = [row.name, steps_of(row), row.step > 0 ? milliseconds(row.step_ms) : "–", row.step > 0 ? seconds(row.ms) : "–"];
    if (decoded) { cells.push(row.space === "pixel" ? "" : row.decode_ms ? milliseconds(row.decode_ms) : "–"); }
    if (compared) { cells.push(row.done && first.done && row !== first ? `${times(first.ms / row.ms)}×` : row === first ? "1×" : "–"); }
    if (claimed) { cells.push(row.claimed ? `${row.claimed.toFixed(2)} s` : "–", row.claimed && first.claimed ? `${times(first.claimed / row.claimed)}×` : "–"); }
    cells.forEach((text, i) => { row.cells[i].textContent = text; });
    row.at.textContent = `step ${row.step || 0} of ${row.steps_made || steps_of(row)}`;
  }

  // ---------------------------------------------------------------- before: the noise that it will start from
  function noise_of(row, count) {
    const n = row.channels * row.side ** 2, x = new Float32Array(count * n);
    for (let b = 0; b < count; b++) { x.set(normal_from(1009 * Number(control.seed.value) + b + 1)(n), b * n); }
    return x;
  }
  function show(row, count, x, picture) {
    if (row.space === "pixel") { paint_pictures(row.canvas, x, count, size); } else { paint_tiles(row.canvas, x, count, row.side, size); }
    if (row.decoded && picture) { paint_pictures(row.decoded, picture, count, size); }
    if (row.decoded && !picture && !row.kept_picture) { paint_nothing(row.decoded, count, size); }
  }
  function tell(row, count, what) {  // for those who do not see the pictures
    const each = count === 1 ? "1 picture" : `${count} pictures`;
    const name = `${row.name}, ${steps_of(row)} steps`;
    row.panel.setAttribute("aria-label", name);
    row.canvas.setAttribute("aria-label", `${name}: ${each}, ${what}`);
    if (row.decoded) { row.decoded.setAttribute("aria-label", `${name}, decoded: ${each}, ${what}`); }
  }
  function reset() {
    if (running) { return; }
    const count = Number(control.count.value), many = new Set(rows.map(row => row.method)).size > 1;  // samplers
    look.hidden = true;
    step_words.textContent = STEPS[control.steps.value];
    control.steps.setAttribute("aria-valuetext", `${step_words.textContent} steps`);
    for (const row of rows) {
      Object.assign(row, { step: 0, steps_made: 0, done: false, ms: 0, decode_ms: null, now: null, frames: [], kept_picture: false });
      row.name = `${row.space}${many ? `, ${METHODS[row.method]}` : ""}`;
      row.title.textContent = rows.length > 4 ? (many ? METHODS[row.method] : "") : `${row.side} × ${row.side} × ${row.channels}, ${METHODS[row.method]}`;
      show(row, count, noise_of(row, count), null);
      tell(row, count, "noise, before the first step");
      fill(row);
    }
    const missing = facts ? 0 : model.bytes;
    say(missing ? `The noise is drawn already. A click on Draw loads the networks, ${megabytes(missing)}, from this site, once; nothing leaves your machine.` : "Ready.");
  }
  function say(text) { says.textContent = text; }

  // ---------------------------------------------------------------- loading, on the first click
  function stop_worker() {
    if (worker) { worker.terminate(); }
    worker = facts = null;
  }
  async function load() {
    if (facts) { return; }
    say(`Loading the networks, ${megabytes(model.bytes)} …`);
    const models = {}, names = [...new Set(rows.map(row => row.space))];
    for (const space of names) {
      const { files, autoencoder } = model.spaces[space], fetched = parts => Promise.all(parts.map(part => weights(given.folder, part)));
      models[space] = { files: await fetched(files), autoencoder: autoencoder.length ? await fetched(autoencoder) : null };
    }
    if (model.names) { emoji = JSON.parse(new TextDecoder().decode(await weights(given.folder, model.names))); }
    const source = new Blob([`"use strict";${WORKER}`], { type: "text/javascript" }), url = URL.createObjectURL(source);
    worker = new Worker(url);
    facts = await new Promise((resolve, reject) => {
      worker.onerror = event => { event.preventDefault(); reject(new Error(event.message || "no worker starts")); };
      worker.onmessage = ({ data }) => data.kind === "ready" ? resolve(data) : reject(new Error(data.text));
      worker.postMessage({ kind: "load", models });
    });
    URL.revokeObjectURL(url);
  }

  // ---------------------------------------------------------------- drawing
  function order_now() {
    const count = Number(control.count.value), kind = control.kind.value, prompt = words_of(control.prompt.value, emoji);
    const labels = Array.from({ length: count }, (_, b) => kind === "turn" ? b % model.classes.length : Number(kind));
    return {
      kind: "draw", number: ++orders, count, labels, words: prompt, guidance_scale: Number(control.guidance.value), seed: Number(control.seed.value) | 0,
      rows: rows.map(row => ({ space: row.space, method: row.method, steps: steps_of(row) })),
      along: control.along.checked, guess: control.guess.value !== "", from: easel && easel.from(),
    };
  }
  function draw(order) {
    const due = new Set();
    for (const row of rows) { Object.assign(row, { step: 0, steps_made: steps_of(row), step_ms: 0, frames: [], every: 1, kept_picture: false, done: false, decode_ms: null }); }
    function repaint() {
      for (const row of due) {
        const frame = row.now;
        if (still && !row.done) { fill(row); continue; }  // those who want no motion see the noise, then the pictures
        show(row, order.count, order.guess && !row.done ? frame.x0_hat : frame.x, frame.picture);
        fill(row);
      }
      due.clear();
    }
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => {
        if (data.kind === "error") { reject(new Error(data.text)); return; }
        if (data.order !== order.number) { return; }
        if (data.kind === "through") { paint_pictures(through, data.picture, 1, size); return; }
        if (data.kind === "step") {
          const row = rows[data.row], steps_ms = data.ms - (data.decode_ms || 0);
          root.ldm.times.first = root.ldm.times.first || (data.step ? performance.now() : 0);
          if (data.step === 0) { row.start_ms = data.ms; }
          Object.assign(row, { step: data.step, ms: data.ms, decode_ms: data.decode_ms, done: data.done, step_ms: (steps_ms - row.start_ms) / Math.max(1, data.step) });
          row.kept_picture = row.kept_picture || !!data.picture;
          row.now = { step: data.step, x: data.x, x0_hat: data.x0_hat, picture: data.picture };
          if (data.step % row.every === 0 || data.done) { row.frames.push(row.now); }
          if (row.frames.length > FRAMES) { row.frames = row.frames.filter(frame => frame.step % (2 * row.every) === 0 || frame.step === data.steps); row.every *= 2; }
          bar.value = rows.reduce((sum, r) => sum + r.step, 0) / rows.reduce((sum, r) => sum + r.steps_made, 0);
          if (!due.size) { requestAnimationFrame(repaint); }
          due.add(row);
          return;
        }
        repaint();
        resolve(data);
      };
      worker.postMessage(order);
    });
  }
  function verdict(order, counted) {  // what was just measured, beside what was counted
    const passes = order.count * (order.guidance_scale === 1 ? 1 : 2), pixel = rows.find(r => r.space === "pixel"), latent = rows.find(r => r.space === "latent");
    const parts = [], step_ms = space => {  // of all rows of a space
      const of = rows.filter(row => row.space === space);
      return of.reduce((sum, row) => sum + row.step_ms * row.steps_made, 0) / of.reduce((sum, row) => sum + row.steps_made, 0);
    };
    if (pixel && latent) {
      parts.push(`A step took ${times(step_ms("pixel") / step_ms("latent"))} times less time on latents than on pixels; counting multiplications, it should be ${times(counted.pixel / counted.latent)} times less.`);
      if (pixel.steps_made === latent.steps_made) { parts.push(`With the decoder, ${latent.steps_made} steps took ${times(pixel.ms / latent.ms)} times less.`); }
    } else if (rows.length > 1) {
      parts.push(`A step took ${sentence(rows.map(row => `${milliseconds(row.step_ms)} with ${METHODS[row.method]}`))}: one network, so about the same.`);
    } else {
      const row = rows[0];
      parts.push(`${order.count === 1 ? "The picture" : `${order.count} pictures`} took ${seconds(row.ms)}: ${row.steps_made} steps of ${milliseconds(row.step_ms)}${row.decode_ms ? `, and ${milliseconds(row.decode_ms)} for the decoder` : ""}.`);
    }
    parts.push(`Each step is ${passes} pass${passes === 1 ? "" : "es"} of the network.`);
    if (!facts.wasm) { parts.push("This browser has no WebAssembly with SIMD, so all of it is plain JavaScript, many times slower."); }
    return parts.join(" ");
  }
  function notes(order) {  // as Denoiser.notes: words that this network does not know
    if (!facts || !facts.words) { return ""; }
    const tokenizer = new Tokenizer(facts.words, model.length), unknown = [...new Set(tokenizer.unknown(order.words))], cut = tokenizer.cut(order.words), said = [];
    if (unknown.length) { said.push(`Not in its vocabulary, so passed over: ${unknown.join(", ")}.`); }
    if (cut.length) { said.push(`It reads ${model.length - 2} words; the last ${cut.length} were left out.`); }
    return said.join(" ");
  }
  async function run() {
    const begun = performance.now();
    root.ldm = { times: { click: begun } };
    running = true;
    stopped = false;
    button.textContent = "Stop";
    bar.value = 0;
    root.classList.add("ldm-live-busy");
    try {
      await load();
      if (stopped) { say("Stopped."); return; }
      root.ldm.times.ready = performance.now();
      const order = order_now(), heard = notes(order);
      if (easel && !order.from) { say("Nothing is marked yet: paint with “mark” where it should draw anew."); return; }
      say(`Drawing. ${heard}`);
      const { kind, counted } = await draw(order);
      root.ldm.times.last = performance.now();
      if (kind === "stopped") { say("Stopped."); return; }
      running = false;
      rows.forEach(fill);
      rows.forEach(row => tell(row, order.count, `after step ${row.steps_made} of ${row.steps_made}`));
      root.ldm = Object.assign(root.ldm, { order, counted, wasm: facts.wasm, rows: rows.map(({ ms, step_ms, decode_ms, frames, now, space, steps_made }) =>
        ({ space, steps: steps_made, ms, step_ms, decode_ms, x: now.x, noise: frames[0].x, picture: now.picture })) });
      say(`${verdict(order, counted)} ${heard}`);
      back.value = 1;
      look.hidden = false;
    } catch (error) {
      stop_worker();
      say(`This does not work here: ${error.message}`);
    } finally {
      running = false;
      button.textContent = "Draw";
      root.classList.remove("ldm-live-busy");
    }
  }
  form.addEventListener("submit", event => {
    event.preventDefault();
    if (!running) { run(); return; }
    stopped = true;  // a load goes on to its end, and is kept
    if (facts) { worker.postMessage({ kind: "stop" }); }
  });
  for (const name of ["count", "seed"]) { control[name].addEventListener("change", reset); }
  control.steps.addEventListener("input", reset);
  back.addEventListener("input", () => {  // the same share of each row's way
    const order = root.ldm.order;
    for (const row of rows) {
      const frame = row.frames[Math.round(Number(back.value) * (row.frames.length - 1))];
      show(row, order.count, control.guess.value && frame !== row.now ? frame.x0_hat : frame.x, frame.picture);
      row.at.textContent = `step ${frame.step} of ${row.steps_made}`;
    }
    back.setAttribute("aria-valuetext", rows.map(row => `${row.name}: ${row.at.textContent}`).join("; "));
  });

  root.classList.toggle("ldm-live-many", rows.length > 4);
  root.replaceChildren(...easel ? [easel.element] : [], form, bar, make("div", { className: "ldm-live-rows" }, ...rows.map(row => row.panel)), look, says, table);
  reset();
}
if (typeof Worker === "function" && typeof Blob === "function") { document.querySelectorAll(".ldm-live[data-live]").forEach(set_up); }
