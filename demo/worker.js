// What runs beside the page: it takes the weights once, then draws what it is asked for. All times are its own, without
// the page's painting.
const SLOWEST = 50000;  // multiplications a millisecond, by the textbook; interpreted JavaScript makes up to half as many, compiled several times
const denoisers = {};  // by space
let drawing = 0;  // the number of the order that is being drawn; another one, or "stop", ends it

function load({ models }) {
  start(KERNELS);
  for (const [space, { files, autoencoder }] of Object.entries(models)) { denoisers[space] = load_denoiser(files, autoencoder); }
  const { tokenizer } = Object.values(denoisers)[0].model;
  postMessage({ kind: "ready", wasm: !!wasm, words: tokenizer ? [...tokenizer.number.keys()] : null });
}
// A network's first calls are slow, since the browser still compiles: they are made before the clock runs. Says what one
// pass multiplies, and gives up where it would take minutes.
function warm_up(d) {
  const noise = new Float32Array(d.space.channels * d.space.side ** 2), condition = d.condition({ label: -1, words: [] });
  for (let i = 0; i < 2; i++) {
    const began = performance.now();
    macs = 0;
    d.model.forward(noise, d.space.side, 500, condition.asked);
    if (i && macs / (performance.now() - began) < SLOWEST) { throw new Error("this browser does not compile scripts, and would take many minutes"); }
  }
  const counted = macs;
  d.to_pictures(noise);
  return counted;
}
// order: rows [{ space, method, steps }], count, labels (one a picture), prompt, guidance_scale, seed, from, along (decode
// every step), guess (show x0_hat in place of xt)
async function draw(order) {
  const mine = ++drawing, B = order.count, counted = {};
  const words = order.words || [];
  // the latents first: where it is too slow, one is told soon
  for (const space of [...new Set(order.rows.map(row => row.space))].sort()) { counted[space] = warm_up(denoisers[space]); }
  if (order.from && denoisers.latent) {
    const { space } = denoisers.latent;
    postMessage({ kind: "through", order: order.number, picture: space.to_pictures(space.from_pictures(order.from.picture)) });
  }
  const rows = order.rows.map(({ space, method, steps }, number) => {
    const d = denoisers[space], n = d.space.channels * d.space.side ** 2;
    const pictures = Array.from({ length: B }, (_, b) => {
      const normal = normal_from(1009 * order.seed + b + 1), noise = normal(n);  // a picture's own, however many there are
      return d.draw({ noise, normal, steps, method, words, label: order.labels[b], guidance_scale: order.guidance_scale, from: order.from });
    });
    return { d, number, space, steps, pictures, n, step: -1, ms: 0, done: false };
  });
  function advance(row) {  // one step of all pictures of a row
    const { d, n } = row, x = new Float32Array(B * n), x0_hat = new Float32Array(B * n), began = performance.now();
    row.pictures.forEach((picture, b) => {
      const state = picture.next().value;
      x.set(state.xt, b * n);
      if (state.x0_hat) { x0_hat.set(state.x0_hat, b * n); }
    });
    row.ms += performance.now() - began;
    row.step += 1;
    row.x = x;
    row.x0_hat = row.step ? x0_hat : x;
  }
  function decoded(row, x) {
    const size = row.d.space.size, pictures = new Float32Array(B * 3 * size * size);
    for (let b = 0; b < B; b++) { pictures.set(row.d.to_pictures(x.subarray(b * row.n, (b + 1) * row.n), order.from), b * 3 * size * size); }
    return pictures;
  }
  // Whichever has computed for less time so far goes on: at each moment all have had the same time.
  for (let rested = performance.now(); ;) {
    const row = rows.filter(r => !r.done).sort((a, b) => a.ms - b.ms || a.number - b.number)[0];
    if (!row) { break; }
    let picture = null, decode_ms = null;
    if (row.step < row.steps) { advance(row); }
    const arrived = row.step === row.steps;
    if (arrived) {
      const began = performance.now();
      picture = decoded(row, row.x);
      if (row.space === "latent") { row.ms += decode_ms = performance.now() - began; }
      row.done = true;
    } else if (order.along && row.space === "latent") {  // a look, not part of drawing: off the clock
      picture = decoded(row, order.guess ? row.x0_hat : row.x);
    }
    postMessage({
      kind: "step", order: order.number, row: row.number, step: row.step, steps: row.steps, ms: row.ms, decode_ms, done: row.done,
      x: row.x, x0_hat: row.x0_hat, picture,
    });
    if (performance.now() - rested > 40) {  // lets "stop" in
      await new Promise(resolve => { const { port1, port2 } = new MessageChannel(); port1.onmessage = resolve; port2.postMessage(0); });
      if (drawing !== mine) { postMessage({ kind: "stopped", order: order.number }); return; }
      rested = performance.now();
    }
  }
  postMessage({ kind: "done", order: order.number, counted });
}
self.onmessage = async ({ data }) => {
  try {
    if (data.kind === "load") { load(data); } else if (data.kind === "draw") { await draw(data); } else { drawing += 1; }
  } catch (error) { postMessage({ kind: "error", text: error.message }); }
};
