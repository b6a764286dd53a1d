// What PyTorch is to the package: memory, matrix products, and the layers that have weights (torch.nn).
//
// A feature map is a matrix, one row for each position, one column for each channel, and one picture's: (H * W, C) where
// the package has (B, C, H, W). Tokens are a map of L x 1. Rows are `pitch` floats apart, a multiple of 8.

// ------------------------------------------------------------------ memory; all addresses count floats
const ARENA = 12 << 20;  // 48 MiB for the maps of one pass; what is never written takes no room
const RIM = 1280;  // zeros before each map: its row -1, which a convolution reads beyond the picture's edge
let memory, wasm, F, I, low, high;  // the maps of this pass lie below `low`, what is kept lies from ARENA to `high`
let tables, macs = 0;  // multiply-accumulates so far: a count, to be held against the clock

function start(kernels) {  // without WebAssembly the same loops are made in JavaScript
  const code = typeof WebAssembly !== "object" ? null : [kernels.relaxed, kernels.plain].map(decode_base64).find(bytes => WebAssembly.validate(bytes));
  memory = code ? new WebAssembly.Memory({ initial: ARENA / 16384 }) : null;
  wasm = code ? new WebAssembly.Instance(new WebAssembly.Module(code), { demo: { memory } }).exports : null;
  view(memory ? memory.buffer : new ArrayBuffer(4 * ARENA));
  low = RIM;
  high = ARENA;
  tables = {};
}
function view(buffer) {
  F = new Float32Array(buffer);
  I = new Int32Array(buffer);
}
function keep(n) {  // n zeros, for good
  const at = high;
  high += n + 3 & ~3;
  if (high > F.length) {
    const pages = Math.max(Math.ceil((high - F.length) / 16384), 64);
    if (memory) {
      memory.grow(pages);
      view(memory.buffer);
    } else {
      const old = F;
      view(new ArrayBuffer(4 * (old.length + 16384 * pages)));
      F.set(old);
    }
  }
  return at;
}
function new_pass() { low = RIM; }  // all maps are forgotten
function room(n) {  // n floats until the next pass, with zeros before them
  const at = low + RIM;
  low = at + (n + 3 & ~3);
  if (low > ARENA) { throw new Error("the pictures are too large for this demo's memory"); }
  F.fill(0, at - RIM, at);
  return at;
}
function map(H, W, C) {
  const pitch = C + 7 & ~7;
  return { at: room((H * W + 3 & ~3) * pitch), H, W, C, pitch };
}
function from_array(x, C, H, W) {  // (C, H, W), as the package stores a picture, to a map; and back
  const y = map(H, W, C), n = H * W;
  for (let c = 0; c < C; c++) { for (let p = 0; p < n; p++) { F[y.at + p * y.pitch + c] = x[c * n + p]; } }
  return y;
}
function to_array(y) {
  const n = y.H * y.W, x = new Float32Array(y.C * n);
  for (let c = 0; c < y.C; c++) { for (let p = 0; p < n; p++) { x[c * n + p] = F[y.at + p * y.pitch + c]; } }
  return x;
}

// ------------------------------------------------------------------ the loops; kernel.wat says what they do
function gemm(x, table, taps, pitch, length, w, bias, y, ypitch, blocks, panels) {
  if (wasm) { wasm.gemm(4 * x, 4 * table, taps, 4 * pitch, 4 * length, 4 * w, 4 * bias, 4 * y, 4 * ypitch, blocks, panels); return; }
  for (let p = 0; p < 2 * panels; p++, bias += 4, y += 4, w += p % 2 ? 4 : 8 * taps * length - 4) {  // half a panel
    for (let i = 0; i < 2 * blocks; i++) {  // half a block
      let at = table + 4 * taps * (i >> 1) + i % 2 * 2, v = w, out = y + 2 * i * ypitch;
      let s0 = F[bias], s1 = F[bias + 1], s2 = F[bias + 2], s3 = F[bias + 3], u0 = s0, u1 = s1, u2 = s2, u3 = s3;
      for (let t = 0; t < taps; t++, at += 4) {
        for (let a = x + pitch * I[at], b = x + pitch * I[at + 1], end = a + length; a < end; a++, b++, v += 8) {
          const q = F[a], z = F[b], k0 = F[v], k1 = F[v + 1], k2 = F[v + 2], k3 = F[v + 3];
          s0 += q * k0; s1 += q * k1; s2 += q * k2; s3 += q * k3;
          u0 += z * k0; u1 += z * k1; u2 += z * k2; u3 += z * k3;
        }
      }
      F[out] = s0; F[out + 1] = s1; F[out + 2] = s2; F[out + 3] = s3;
      out += ypitch;
      F[out] = u0; F[out + 1] = u1; F[out + 2] = u2; F[out + 3] = u3;
    }
  }
}
function affine(x, y, rows, width, scale, shift, silu) {
  if (wasm) { wasm.affine(4 * x, 4 * y, rows, 4 * width, 4 * scale, 4 * shift, silu ? 1 : 0); return; }
  for (let i = 0; i < rows; i++) {
    for (let c = 0; c < width; c++, x++, y++) {
      const v = F[x] * F[scale + c] + F[shift + c];
      F[y] = silu ? v / (1 + Math.exp(-v)) : v;
    }
  }
}
function moments(x) {  // of each channel, the sum over all positions and the sum of squares
  if (wasm) {
    const at = room(4 * x.C + 2) + 1 & ~1, D = new Float64Array(F.buffer);
    wasm.moments(4 * x.at, x.H * x.W, 4 * x.C, 4 * x.pitch, 4 * at, 4 * (at + 2 * x.C));
    return [D.subarray(at / 2, at / 2 + x.C), D.subarray(at / 2 + x.C, at / 2 + 2 * x.C)];
  }
  const sum = new Float64Array(x.C), square = new Float64Array(x.C);
  for (let p = 0, i = x.at; p < x.H * x.W; p++, i += x.pitch) {
    for (let c = 0; c < x.C; c++) {
      const v = F[i + c];
      sum[c] += v;
      square[c] += v * v;
    }
  }
  return [sum, square];
}
// The rows of x that each position of y reads, in the order of the taps; -1 is beyond the edge, or no position. Kinds, of
// which `CONVOLUTIONS` has side, stride, positions above and left, and how often x stands in a row:
const CONVOLUTIONS = {
  "1": [1, 1, 0, 1],  // itself
  "3": [3, 1, 1, 1],  // 3 x 3 around it
  "/2": [3, 2, 1, 1],  // the same at every other position
  "/2 one-sided": [3, 2, 0, 1],  // not above and left
  "x2": [3, 1, 1, 2],  // 3 x 3 of the map whose every position stands four times
  "3 by tiles": [4, 2, 1, 1],  // for each tile of 2 x 2, all that "3" reads for it
  "x2 by tiles": [4, 2, 1, 2],
};
function table(kind, H, W) {
  const key = `${kind} ${H} ${W}`;
  if (tables[key]) { return tables[key]; }
  const [side, stride, first, times] = CONVOLUTIONS[kind], h = H * times / stride, w = W * times / stride, rows = h * w + 3 & ~3;
  const at = keep(rows * side * side);
  for (let block = 0, i = at; block < rows; block += 4) {
    for (let tap = 0; tap < side * side; tap++) {
      for (let p = block; p < block + 4; p++, i++) {
        const y = (p / w | 0) * stride + (tap / side | 0) - first, x = p % w * stride + tap % side - first;
        const inside = p < h * w && y >= 0 && x >= 0 && y < H * times && x < W * times;
        I[i] = inside ? (y / times | 0) * W + (x / times | 0) : -1;
      }
    }
  }
  return tables[key] = { at, h, w, taps: side * side, blocks: rows / 4 };
}

// ------------------------------------------------------------------ torch.nn
class State {  // a state_dict from some name on: new State(tensors).at("mid_block").at("resnets.0")
  constructor(tensors, prefix = "") { Object.assign(this, { tensors, prefix }); }
  at(name) { return new State(this.tensors, `${this.prefix}${name}.`); }
  get(name) { return this.tensors[this.prefix + name]; }
  has(name) { return Object.keys(this.tensors).some(key => key.startsWith(`${this.prefix}${name}.`)); }
}
// A convolution. A 3 x 3 one goes by tiles of 2 x 2 positions, Winograd's way (Lavin & Gray 2016): a tile takes 36 multiplications
// for each pair of channels, but only 16 if sums of the 4 x 4 positions around it, B' x B, are multiplied with sums of the
// weight, G w G'; sums of the products, A' m A, are the tile. So y comes of 16 matrix products, one for each of the 4 x 4.
const G = [[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]];
const STRIP = 64;  // tiles at a time, so that they stay in the processor's cache
class Conv2d {  // `kind`: which positions it reads, see `table`
  constructor(state, kind = "3") {
    const w = state.get("weight"), bias = state.get("bias"), [out, ins, ...sides] = w.shape, panels = out + 7 >> 3;
    Object.assign(this, { kind, out, ins, panels, w, taps: sides.reduce((n, side) => n * side, 1), bias: keep(panels * 8) });
    if (bias) { F.set(bias.data, this.bias); }
  }
  forward(x, bias = this.bias) {
    const t = table(this.kind, x.H, x.W), y = map(t.h, t.w, this.out);
    macs += t.h * t.w * this.taps * this.ins * this.out;  // as the textbook has it, whichever way it goes
    if (this.w) { this.prepare(t); }
    if (this.tiled) { this.by_tiles(x, bias, y); return y; }
    gemm(x.at, t.at, this.taps, x.pitch, this.ins, this.weight, bias, y.at, y.pitch, t.blocks, this.panels);
    return y;
  }
  prepare({ h, w }) {  // at the first call, which tells how large a map is: the smallest ones have too few tiles
    this.tiled = wasm && `${this.kind} by tiles` in CONVOLUTIONS && h * w >= 16;
    if (this.tiled) { this.pack(16, (panel, k) => k * this.panels + panel, tile_weight); } else {
      this.pack(this.taps, (panel, k) => panel * this.taps + k, (weight, k) => weight[k]);
    }
    this.w = null;
  }
  // (out, ins, taps) to panels of 8 outputs, in each the inputs: n for each 8, the k-th at a `place` and with a `value`
  pack(n, place, value) {
    const all = this.w.data;
    this.weight = keep(this.panels * 8 * n * this.ins);
    for (let o = 0; o < this.out; o++) {
      for (let c = 0; c < this.ins; c++) {
        const first = (o * this.ins + c) * this.taps, w = all.subarray(first, first + this.taps);
        for (let k = 0; k < n; k++) { F[this.weight + (place(o >> 3, k) * this.ins + c) * 8 + (o & 7)] = value(w, k); }
      }
    }
  }
  by_tiles(x, bias, y) {
    const t = table(`${this.kind} by tiles`, x.H, x.W), one = table("1", STRIP, 1), all = t.h * t.w, end = low;
    // from one of the 16 matrices to the next: by a power of two they would all claim one place in the cache
    const xstep = STRIP * x.pitch + 16, ystep = STRIP * y.pitch + 16, wstep = this.panels * 8 * this.ins;
    const xs = room(16 * xstep), ys = room(16 * ystep), zero = room(y.pitch);
    F.fill(0, zero, zero + y.pitch);
    for (let first = 0; first < all; first += STRIP) {
      const n = Math.min(STRIP, all - first);
      wasm.spread(4 * x.at, 4 * (t.at + 16 * first), 4 * x.pitch, 4 * xs, 4 * xstep, n);
      for (let k = 0; k < 16; k++) {
        gemm(xs + k * xstep, one.at, 1, x.pitch, this.ins, this.weight + k * wstep, zero, ys + k * ystep, y.pitch, n + 3 >> 2, this.panels);
      }
      wasm.join(4 * ys, 4 * ystep, 4 * y.pitch, 4 * zero, 4 * bias, 4 * y.at, first, n, t.w);
    }
    low = end;  // the sums are forgotten
  }
}
function tile_weight(w, k) {  // G w G', the k-th
  const a = G[k >> 2], b = G[k & 3];
  let sum = 0;
  for (let i = 0; i < 3; i++) { for (let j = 0; j < 3; j++) { sum += a[i] * w[3 * i + j] * b[j]; } }
  return sum;
}
class Linear extends Conv2d {  // at each position by itself
  constructor(state) { super(state, "1"); }
}
class GroupNorm {
  constructor(state, groups, eps) { Object.assign(this, { weight: state.get("weight").data, bias: state.get("bias").data, groups, eps }); }
  forward(x, silu = false) {
    const n = x.H * x.W, wide = x.C / this.groups, y = map(x.H, x.W, x.C), scale = room(x.C), shift = room(x.C);
    const [sum, square] = moments(x);
    for (let g = 0; g < x.C; g += wide) {
      let s = 0, q = 0;
      for (let c = g; c < g + wide; c++) { s += sum[c]; q += square[c]; }
      const mean = s / (n * wide), rate = 1 / Math.sqrt(q / (n * wide) - mean * mean + this.eps);
      for (let c = g; c < g + wide; c++) {
        F[scale + c] = rate * this.weight[c];
        F[shift + c] = this.bias[c] - mean * rate * this.weight[c];
      }
    }
    affine(x.at, y.at, n, x.C, scale, shift, silu);
    return y;
  }
}
class LayerNorm {
  constructor(state) { Object.assign(this, { weight: state.get("weight").data, bias: state.get("bias").data }); }
  forward(x) {
    const y = map(x.H, x.W, x.C);
    for (let p = 0, i = x.at, o = y.at; p < x.H * x.W; p++, i += x.pitch, o += y.pitch) {
      let s = 0, q = 0;
      for (let c = 0; c < x.C; c++) { s += F[i + c]; }
      const mean = s / x.C;
      for (let c = 0; c < x.C; c++) { q += (F[i + c] - mean) ** 2; }
      const rate = 1 / Math.sqrt(q / x.C + 1e-5);
      for (let c = 0; c < x.C; c++) { F[o + c] = (F[i + c] - mean) * rate * this.weight[c] + this.bias[c]; }
    }
    return y;
  }
}
function add(x, y) {  // x + y, in the place of x
  const n = x.H * x.W * x.pitch;
  if (wasm) { wasm.add(4 * x.at, 4 * y.at, 4 * n); } else { for (let i = 0; i < n; i++) { F[x.at + i] += F[y.at + i]; } }
  return x;
}
function cat(x, skip) {  // along the channels
  const y = map(x.H, x.W, x.C + skip.C);
  for (let p = 0, n = x.H * x.W, o = y.at; p < n; p++, o += y.pitch) {
    F.copyWithin(o, x.at + p * x.pitch, x.at + p * x.pitch + x.C);
    F.copyWithin(o + x.C, skip.at + p * skip.pitch, skip.at + p * skip.pitch + skip.C);
  }
  return y;
}
function silu(x) {  // in place; maps of one row, and the rest inside `affine`
  for (let i = x.at; i < x.at + x.C; i++) { F[i] /= 1 + Math.exp(-F[i]); }
  return x;
}
function gelu(x) {  // x times the share of normal numbers below x; erf by Abramowitz & Stegun 7.1.26, to 1.5e-7
  const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
  const rest = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429)))) * Math.exp(-z * z);
  return x > 0 ? x * (1 - rest / 2) : x * rest / 2;
}
