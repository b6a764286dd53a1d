// ldm_course/networks/unet.py, of which it has the names: the one denoiser, for pictures and for latents.

const UNET_EPS = 1e-5;

function attention_at(state, config, level) {
  const width = config.block_out_channels.at(level), heads = width / config.attention_head_dim;
  return config.cross_attention_dim ? new SpatialTransformer(state, heads, config.norm_num_groups)
    : new Attention(state, heads, config.norm_num_groups, UNET_EPS);
}
function blocks_of(state, config, level, layers) {  // the residual blocks of a level, and the attention after each
  const numbers = [...Array(layers).keys()];
  return {
    resnets: numbers.map(i => new ResnetBlock(state.at(`resnets.${i}`), config.norm_num_groups, UNET_EPS)),
    attentions: config.attention[level] ? numbers.map(i => attention_at(state.at(`attentions.${i}`), config, level)) : [],
  };
}
class DownBlock {
  constructor(state, config, level) {
    Object.assign(this, blocks_of(state, config, level, config.layers_per_block));
    this.downsample = state.has("downsamplers") ? new Downsample(state.at("downsamplers.0")) : null;
  }
  forward(x, skips, time, context) {
    this.resnets.forEach((resnet, i) => {
      x = resnet.forward(x, time);
      if (this.attentions.length) { x = this.attentions[i].forward(x, context); }
      skips.push(x);
    });
    if (this.downsample) { skips.push(x = this.downsample.forward(x)); }
    return x;
  }
}
class UpBlock {  // each residual block reads the stream beside one feature map from the way down
  constructor(state, config, level) {
    Object.assign(this, blocks_of(state, config, level, config.layers_per_block + 1));
    this.upsample = state.has("upsamplers") ? new Upsample(state.at("upsamplers.0")) : null;
  }
  forward(x, skips, time, context) {
    this.resnets.forEach((resnet, i) => {
      x = resnet.forward(cat(x, skips.pop()), time);
      if (this.attentions.length) { x = this.attentions[i].forward(x, context); }
    });
    return this.upsample ? this.upsample.forward(x) : x;
  }
}

class UNet {
  constructor(state, config) {
    const widths = config.block_out_channels, levels = [...widths.keys()];
    this.config = config;
    this.conv_in = new Conv2d(state.at("conv_in"));
    this.time_embedding = new TimestepEmbedding(state.at("time_embedding"));
    this.class_embedding = config.num_classes === null ? null : state.get("class_embedding.weight").data;
    this.down_blocks = levels.map(i => new DownBlock(state.at(`down_blocks.${i}`), config, i));
    const mid = state.at("mid_block");
    this.mid_block = new MidBlock(mid, config.norm_num_groups, UNET_EPS, attention_at(mid.at("attentions.0"), config, -1));
    this.up_blocks = levels.map(i => new UpBlock(state.at(`up_blocks.${i}`), config, widths.length - 1 - i));
    this.conv_norm_out = new GroupNorm(state.at("conv_norm_out"), config.norm_num_groups, UNET_EPS);
    this.conv_out = new Conv2d(state.at("conv_out"));
  }
  // One picture, Float32Array (C, side, side), at index t. `condition`: a class, or a context { H: L, W: 1, C, data }.
  forward(x, side, t, condition) {
    new_pass();
    const emb = this.time_embedding.forward(timestep_embedding(t, this.config.block_out_channels[0]));
    let context = null;
    if (this.class_embedding) {
      for (let i = 0; i < emb.C; i++) { F[emb.at + i] += this.class_embedding[condition * emb.C + i]; }
    } else if (condition) {
      context = map(condition.H, 1, condition.C);
      F.set(condition.data, context.at);
    }
    const time = silu(emb);

    let h = this.conv_in.forward(from_array(x, this.config.in_channels, side, side));
    const skips = [h];
    for (const block of this.down_blocks) { h = block.forward(h, skips, time, context); }
    h = this.mid_block.forward(h, time, context);
    for (const block of this.up_blocks) { h = block.forward(h, skips, time, context); }
    return to_array(this.conv_out.forward(this.conv_norm_out.forward(h, true)));
  }
}
