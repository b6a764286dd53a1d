// ldm_course/diffusion/samplers.py and schedules.py, of which it has the names: from noise to a picture.
// A state is a Float32Array, one picture's or one latent's; a step is in float64, and stored as PyTorch stores it.

function make_schedule({ name, T, shift }) {
  if (name !== "cosine") { throw new Error(`this demo has no ${name} schedule`); }
  const f = i => Math.cos((i / T + 0.008) / 1.008 * Math.PI / 2) ** 2, alpha_bar = [];
  for (let i = 0, product = 1; i < T; i++) { alpha_bar.push(product *= 1 - Math.min(1 - f(i + 1) / f(i), 0.999)); }
  return { T, alpha_bar: alpha_bar.map(a => a / (a + shift ** 2 * (1 - a))) };
}
function add_noise(x0, eps, t, schedule) {  // the forward process in one jump, DDPM eq. 4
  const s = Math.sqrt(schedule.alpha_bar[t]), n = Math.sqrt(1 - schedule.alpha_bar[t]);
  return x0.map((v, i) => s * v + n * eps[i]);
}
function to_x0(pred, xt, t, schedule, prediction) {
  if (prediction !== "v") { throw new Error(`this demo has no network that predicts ${prediction}`); }
  const s = Math.sqrt(schedule.alpha_bar[t]), n = Math.sqrt(1 - schedule.alpha_bar[t]);
  return xt.map((v, i) => s * v - n * pred[i]);
}
function round_half_even(x) {  // Python's round
  const r = Math.round(x);
  return Math.abs(x % 1) === 0.5 && r % 2 ? r - 1 : r;
}
// Where a sampler goes: pairs (t, where the step from t goes), -1 for the clean picture. Trailing steps.
function path(T, steps) {
  const listed = [];
  for (let i = steps; i > 0; i--) { listed.push(round_half_even(T * i / steps) - 1); }
  return listed.map((t, i) => [t, i + 1 < steps ? listed[i + 1] : -1]);
}

function ddpm_step(xt, x0_hat, alpha_bar, alpha_bar_prev, noise) {  // DDPM eq. 6 and 7
  const alpha = alpha_bar / alpha_bar_prev, beta = 1 - alpha;
  const from_x0 = Math.sqrt(alpha_bar_prev) * beta / (1 - alpha_bar);
  const from_xt = Math.sqrt(alpha) * (1 - alpha_bar_prev) / (1 - alpha_bar);
  const std = Math.sqrt((1 - alpha_bar_prev) / (1 - alpha_bar) * beta);
  return xt.map((v, i) => from_x0 * x0_hat[i] + from_xt * v + (noise ? std * noise[i] : 0));
}
function ddim_step(xt, x0_hat, alpha_bar, alpha_bar_prev) {  // DDIM eq. 12 with eta = 0: no noise of its own
  const s = Math.sqrt(alpha_bar), n = Math.sqrt(1 - alpha_bar);
  const s_prev = Math.sqrt(alpha_bar_prev), n_prev = Math.sqrt(1 - alpha_bar_prev);
  return xt.map((v, i) => s_prev * x0_hat[i] + n_prev * (v - s * x0_hat[i]) / n);
}
function dpmpp_step(xt, x0_hat, alpha_bar, alpha_bar_prev, last) {  // DPM-Solver++(2M), Algorithm 2
  const s = Math.sqrt(alpha_bar), n = Math.sqrt(1 - alpha_bar);
  const s_prev = Math.sqrt(alpha_bar_prev), n_prev = Math.sqrt(1 - alpha_bar_prev);
  const lam = a => 0.5 * Math.log(a / (1 - a));
  let k = 0;  // how far the change of x0_hat along the way is followed
  if (last && alpha_bar_prev < 1) { k = (lam(alpha_bar_prev) - lam(alpha_bar)) / (lam(alpha_bar) - lam(last.alpha_bar)) / 2; }
  const rest = s_prev * (1 - n_prev / s_prev * (s / n));
  return xt.map((v, i) => n_prev / n * v + rest * ((1 + k) * x0_hat[i] - (k ? k * last.x0_hat[i] : 0)));
}

// From noise to a sample, one call of predict_x0 a step; hands out each state before the last, with the guess that led on.
// `pairs` is a `path`; `normal(n)` draws the noise that DDPM adds.
function* sample(predict_x0, xt, schedule, pairs, method, normal) {
  const alpha_bars = t => t < 0 ? 1 : schedule.alpha_bar[t];
  let last = null;
  for (const [t, to] of pairs) {
    const alpha_bar = alpha_bars(t), alpha_bar_prev = alpha_bars(to), x0_hat = predict_x0(xt, t);
    if (method === "ddpm") {
      xt = ddpm_step(xt, x0_hat, alpha_bar, alpha_bar_prev, alpha_bar_prev < 1 ? normal(xt.length) : null);
    } else if (method === "ddim") {
      xt = ddim_step(xt, x0_hat, alpha_bar, alpha_bar_prev);
    } else {
      xt = dpmpp_step(xt, x0_hat, alpha_bar, alpha_bar_prev, last);
      last = { x0_hat, alpha_bar };
    }
    yield { xt, x0_hat };
  }
}

// Standard normal numbers, the same in every browser: mulberry32's uniform ones, by Box and Muller.
function normal_from(seed) {
  let a = seed >>> 0;
  function uniform() {
    a = a + 0x6D2B79F5 | 0;
    let t = Math.imul(a ^ a >>> 15, 1 | a);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 4294967296;
  }
  const one = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return n => Float32Array.from({ length: n }, one);
}
