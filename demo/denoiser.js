// ldm_course/denoiser.py and spaces.py, of which it has the names: a network, the space it works in, and its schedule.

class PixelSpace {
  constructor(size, channels) { Object.assign(this, { size, channels, side: size, name: "pixel", clip_x0: true }); }
  to_pictures(x) { return x; }
  from_pictures(x) { return x; }
}
class LatentSpace {
  constructor(size, autoencoder) {
    const channels = autoencoder.config.latent_channels, side = size / autoencoder.downsample;
    Object.assign(this, { size, channels, side, autoencoder, name: "latent", clip_x0: false });
  }
  to_pictures(z) { return this.autoencoder.from_latents(z, this.size); }
  from_pictures(x) { return this.autoencoder.to_latents(x, this.size); }
}

class Denoiser {
  constructor(model, space, schedule, meta) { Object.assign(this, { model, space, schedule, meta, prediction: meta.prediction }); }
  // What one picture is asked to show, and what stands for nothing asked: a class (-1: none), or the words of a prompt.
  condition({ label, words }) {
    if (this.model.encode) { return { asked: this.model.encode(words), nothing: this.model.encode([]) }; }
    const none = this.model.config.num_classes;
    return { asked: label < 0 ? none : label, nothing: none };
  }
  predictor(condition, guidance_scale) {  // predict_x0(xt, t), which `sample` calls at each step
    return (xt, t) => {
      let pred = this.model.forward(xt, this.space.side, t, condition.asked);
      if (guidance_scale !== 1) {
        const uncond = this.model.forward(xt, this.space.side, t, condition.nothing);
        pred = pred.map((v, i) => uncond[i] + guidance_scale * (v - uncond[i]));
      }
      const x0_hat = to_x0(pred, xt, t, this.schedule, this.prediction);
      return this.space.clip_x0 ? x0_hat.map(v => Math.min(1, Math.max(-1, v))) : x0_hat;
    };
  }
  // One picture, step by step: like `sample`, of which it chooses the start. `from`: nothing, or a picture to redraw with
  // a `strength`, or to inpaint where a `mask` says.
  *draw({ noise, normal, steps, method, guidance_scale, label, words, from }) {
    let predict_x0 = this.predictor(this.condition({ label, words }), guidance_scale), xt = noise, pairs = path(this.schedule.T, steps);
    if (from && from.mask) {
      const { size, side } = this.space, f = size / side, mask = coarse_mask(from.mask, size, f);
      const grey = continued(from.picture, from.mask, size, 2 * f).map(v => Math.round((v + 1) * 127.5) / 127.5 - 1);  // as a file would have it
      const x0 = this.space.from_pictures(grey), guess = predict_x0;
      predict_x0 = (x, t) => where(mask, guess(x, t), x0);
      xt = where(mask, noise, add_noise(x0, noise, this.schedule.T - 1, this.schedule));
    } else if (from) {
      xt = noised(this.space.from_pictures(from.picture), noise, from.strength, this.schedule);
      pairs = descent(from.strength, this.schedule, steps);
    }
    yield { xt, x0_hat: null };  // the start
    yield* sample(predict_x0, xt, this.schedule, pairs, method, normal);
  }
  to_pictures(x, from) {
    const made = this.space.to_pictures(x);
    return from && from.mask ? pasted(made, from.picture, from.mask, this.space.size, 2 * this.space.size / this.space.side) : made;
  }
}
