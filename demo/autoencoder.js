// ldm_course/networks/autoencoder.py, of which it has the names: from pictures to latents and back.

const AUTOENCODER_EPS = 1e-6;

class Level {  // some residual blocks, then a change of resolution or none
  constructor(state, layers, groups) {
    this.resnets = [...Array(layers).keys()].map(i => new ResnetBlock(state.at(`resnets.${i}`), groups, AUTOENCODER_EPS));
    this.resample = state.has("upsamplers") ? new Upsample(state.at("upsamplers.0"))
      : state.has("downsamplers") ? new Downsample(state.at("downsamplers.0"), true) : null;
  }
  forward(x) {
    for (const resnet of this.resnets) { x = resnet.forward(x); }
    return this.resample ? this.resample.forward(x) : x;
  }
}
function middle(state, config) {  // one head at the lowest resolution, where the configuration has it
  const groups = config.norm_num_groups;
  const attention = config.mid_attention ? new Attention(state.at("attentions.0"), 1, groups, AUTOENCODER_EPS) : null;
  return new MidBlock(state, groups, AUTOENCODER_EPS, attention);
}
class Coder {  // what Encoder and Decoder share; they differ in the order of their parts
  constructor(state, config, blocks, layers) {
    const groups = config.norm_num_groups;
    this.conv_in = new Conv2d(state.at("conv_in"));
    this.blocks = config.block_out_channels.map((_, i) => new Level(state.at(`${blocks}.${i}`), layers, groups));
    this.mid_block = middle(state.at("mid_block"), config);
    this.conv_norm_out = new GroupNorm(state.at("conv_norm_out"), groups, AUTOENCODER_EPS);
    this.conv_out = new Conv2d(state.at("conv_out"));
  }
  out(x) { return this.conv_out.forward(this.conv_norm_out.forward(x, true)); }
}
class Encoder extends Coder {  // pictures to the mean and the log-variance of latents
  constructor(state, config) { super(state, config, "down_blocks", config.layers_per_block); }
  forward(x) { return this.out(this.mid_block.forward(this.blocks.reduce((h, block) => block.forward(h), this.conv_in.forward(x)))); }
}
class Decoder extends Coder {  // latents to pictures
  constructor(state, config) { super(state, config, "up_blocks", config.layers_per_block + 1); }
  forward(z) { return this.out(this.blocks.reduce((h, block) => block.forward(h), this.mid_block.forward(this.conv_in.forward(z)))); }
}

class Autoencoder {
  constructor(state, config) {
    this.config = config;
    this.downsample = 2 ** (config.block_out_channels.length - 1);
    this.decoder = new Decoder(state.at("decoder"), config);
    this.post_quant_conv = new Conv2d(state.at("post_quant_conv"), "1");
    if (state.has("encoder")) {  // loaded only where the reader's own picture goes in
      this.encoder = new Encoder(state.at("encoder"), config);
      this.quant_conv = new Conv2d(state.at("quant_conv"), "1");
    }
    this.latent_scale = state.get("latent_scale").data[0];
  }
  // A picture (3, size, size) in [-1, 1] to the mean of its scaled latents (c, size / f, size / f), and back.
  to_latents(x, size) {
    new_pass();
    const c = this.config, encoded = to_array(this.quant_conv.forward(this.encoder.forward(from_array(x, c.in_channels, size, size))));
    return encoded.slice(0, encoded.length / 2).map(v => this.latent_scale * v);  // the other half is the log-variance
  }
  from_latents(z, size) {
    new_pass();
    const c = this.config, side = size / this.downsample, raw = z.map(v => v / this.latent_scale);
    return to_array(this.decoder.forward(this.post_quant_conv.forward(from_array(raw, c.latent_channels, side, side))));
  }
}
