// ldm_course/networks/layers.py, of which it has the names: the parts that the U-Net and the autoencoder share.

function timestep_embedding(t, width) {  // rounded where PyTorch rounds
  const emb = map(1, 1, width), half = width / 2, f32 = Math.fround;
  for (let i = 0; i < half; i++) {
    const rate = f32(Math.exp(f32(f32(f32(-Math.log(10000)) * i) / half))), angle = f32(t * rate);
    F[emb.at + i] = Math.cos(angle);
    F[emb.at + half + i] = Math.sin(angle);
  }
  return emb;
}
class TimestepEmbedding {
  constructor(state) {
    this.linear_1 = new Linear(state.at("linear_1"));
    this.linear_2 = new Linear(state.at("linear_2"));
  }
  forward(x) { return this.linear_2.forward(silu(this.linear_1.forward(x))); }
}

class ResnetBlock {  // x + conv(silu(norm(conv(silu(norm(x))) + time)))
  constructor(state, groups, eps) {
    this.norm1 = new GroupNorm(state.at("norm1"), groups, eps);
    this.conv1 = new Conv2d(state.at("conv1"));
    this.time_emb_proj = state.has("time_emb_proj") ? new Linear(state.at("time_emb_proj")) : null;
    this.norm2 = new GroupNorm(state.at("norm2"), groups, eps);
    this.conv2 = new Conv2d(state.at("conv2"));
    this.conv_shortcut = state.has("conv_shortcut") ? new Conv2d(state.at("conv_shortcut"), "1") : null;
  }
  forward(x, time) {  // `time`: the embedding after its SiLU. Here it is one more bias of the first convolution.
    const bias = this.time_emb_proj ? this.time_emb_proj.forward(time).at : this.conv1.bias;
    if (this.time_emb_proj) { for (let c = 0; c < this.conv1.out; c++) { F[bias + c] += F[this.conv1.bias + c]; } }
    let h = this.conv1.forward(this.norm1.forward(x, true), bias);
    h = this.conv2.forward(this.norm2.forward(h, true));
    return add(h, this.conv_shortcut ? this.conv_shortcut.forward(x) : x);
  }
}

// softmax(q k' / sqrt(d)) v for each head: q is (N, heads * d), k and v are (L, heads * d), of which the first `readable`
// rows may be read.
function attend(q, k, v, heads, readable = k.H * k.W) {
  const N = q.H * q.W, L = readable, d = q.C / heads, wide = L + 7 & ~7, y = map(q.H, q.W, q.C);
  macs += 2 * N * L * q.C;
  const one = table("1", q.H, q.W), keys = room(wide * d), values = room(wide * d), scores = room((N + 3 & ~3) * wide);
  const zero = room(wide + d);
  F.fill(0, zero, zero + wide + d);
  F.fill(0, keys, keys + wide * d);
  F.fill(0, values, values + wide * d);
  for (let first = 0; first < q.C; first += d) {
    for (let j = 0; j < L; j++) {  // packed as weights are: q k' is a linear layer whose weights are the keys
      for (let c = 0; c < d; c++) {
        F[keys + ((j >> 3) * d + c) * 8 + (j & 7)] = F[k.at + j * k.pitch + first + c] / Math.sqrt(d);
        F[values + ((c >> 3) * wide + j) * 8 + (c & 7)] = F[v.at + j * v.pitch + first + c];
      }
    }
    gemm(q.at + first, one.at, 1, q.pitch, d, keys, zero, scores, wide, one.blocks, wide / 8);
    for (let i = 0; i < N; i++) {
      const row = scores + i * wide;
      let top = -Infinity, sum = 0;
      for (let j = 0; j < L; j++) { top = Math.max(top, F[row + j]); }
      for (let j = 0; j < L; j++) { sum += F[row + j] = Math.exp(F[row + j] - top); }
      for (let j = 0; j < wide; j++) { F[row + j] = j < L ? F[row + j] / sum : 0; }
    }
    gemm(scores, one.at, 1, wide, wide, values, zero, y.at + first, y.pitch, one.blocks, d / 8);
  }
  return y;
}
class Attention {  // self-attention over the H * W positions
  constructor(state, heads, groups, eps) {
    this.heads = heads;
    this.group_norm = new GroupNorm(state.at("group_norm"), groups, eps);
    for (const name of ["to_q", "to_k", "to_v", "to_out"]) { this[name] = new Linear(state.at(name)); }
  }
  forward(x) {
    const h = this.group_norm.forward(x);
    return add(this.to_out.forward(attend(this.to_q.forward(h), this.to_k.forward(h), this.to_v.forward(h), this.heads)), x);
  }
}
class CrossAttention {  // q from x, k and v from a context; without one, x reads itself
  constructor(state, heads) {
    this.heads = heads;
    for (const name of ["to_q", "to_k", "to_v", "to_out"]) { this[name] = new Linear(state.at(name)); }
  }
  forward(x, context = x) {
    return this.to_out.forward(attend(this.to_q.forward(x), this.to_k.forward(context), this.to_v.forward(context), this.heads));
  }
}
class FeedForward {  // out(a * gelu(b))
  constructor(state) {
    this.proj = new Linear(state.at("proj"));
    this.out = new Linear(state.at("out"));
  }
  forward(x) {
    const both = this.proj.forward(x), h = map(x.H, x.W, both.C / 2);
    for (let p = 0; p < x.H * x.W; p++) {
      const value = both.at + p * both.pitch, gate = value + h.C, o = h.at + p * h.pitch;
      for (let c = 0; c < h.C; c++) { F[o + c] = F[value + c] * gelu(F[gate + c]); }
    }
    return this.out.forward(h);
  }
}
class TransformerBlock {  // positions read each other, then the context, then each is changed by itself
  constructor(state, heads) {
    for (const name of ["norm1", "norm2", "norm3"]) { this[name] = new LayerNorm(state.at(name)); }
    this.attn1 = new CrossAttention(state.at("attn1"), heads);
    this.attn2 = new CrossAttention(state.at("attn2"), heads);
    this.ff = new FeedForward(state.at("ff"));
  }
  forward(x, context) {
    x = add(this.attn1.forward(this.norm1.forward(x)), x);
    x = add(this.attn2.forward(this.norm2.forward(x), context), x);
    return add(this.ff.forward(this.norm3.forward(x)), x);
  }
}
class SpatialTransformer {  // `Attention`'s place in a network with a context
  constructor(state, heads, groups) {
    this.norm = new GroupNorm(state.at("norm"), groups, 1e-6);
    this.proj_in = new Linear(state.at("proj_in"));
    this.transformer_block = new TransformerBlock(state.at("transformer_blocks.0"), heads);
    this.proj_out = new Linear(state.at("proj_out"));
  }
  forward(x, context) {
    const h = this.transformer_block.forward(this.proj_in.forward(this.norm.forward(x)), context);
    return add(this.proj_out.forward(h), x);
  }
}

class Downsample extends Conv2d {  // `one_sided` pads right and below only
  constructor(state, one_sided = false) { super(state.at("conv"), one_sided ? "/2 one-sided" : "/2"); }
}
class Upsample extends Conv2d {  // the doubled map is never made: the table reads each position four times
  constructor(state) { super(state.at("conv"), "x2"); }
}
class MidBlock {
  constructor(state, groups, eps, attention) {
    this.attention = attention;  // or null
    this.resnets = [0, 1].map(i => new ResnetBlock(state.at(`resnets.${i}`), groups, eps));
  }
  forward(x, time, context) {
    x = this.resnets[0].forward(x, time);
    if (this.attention) { x = this.attention.forward(x, context); }
    return this.resnets[1].forward(x, time);
  }
}
