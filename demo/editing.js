// ldm_course/diffusion/editing.py, of which it has the names: redraw and inpaint. Pictures are (3, size, size) in [-1, 1].

function descent(strength, schedule, steps) {  // from the level that `strength` says down to the clean picture
  return path(round_half_even(strength * schedule.T), steps);
}
function noised(x0, noise, strength, schedule) {  // SDEdit: where `redraw` starts; strength 1 keeps nothing
  const top = round_half_even(strength * schedule.T) - 1;
  return top === schedule.T - 1 ? noise : add_noise(x0, noise, top, schedule);
}
function where(mask, a, b) {  // a where the mask (H * W, 0 or 1) is set, b elsewhere, in each channel
  return b.map((v, i) => mask[i % mask.length] ? a[i] : v);
}
function coarse_mask(mask, size, downsample) {  // a latent is drawn anew if any of its f x f pixels is
  const side = size / downsample, coarse = new Uint8Array(side * side);
  mask.forEach((m, i) => { if (m) { coarse[(i / size / downsample | 0) * side + (i % size / downsample | 0)] = 1; } });
  return coarse;
}
// x where the mask is not; beneath it what stands around it, spread inwards by repeated 3 x 3 means.
function continued(x, mask, size, reach) {
  const n = size * size, clamp = i => Math.min(size - 1, Math.max(0, i));
  let spread = x.map((v, i) => mask[i % n] ? 0 : v);
  for (let round = 0; round < Math.ceil(1.5 * reach ** 2); round++) {
    spread = spread.map((v, i) => {
      if (!mask[i % n]) { return v; }
      const first = i - i % n, row = i % n / size | 0, column = i % size;
      let sum = 0;
      for (let y = row - 1; y <= row + 1; y++) { for (let z = column - 1; z <= column + 1; z++) { sum += spread[first + clamp(y) * size + clamp(z)]; } }
      return sum / 9;
    });
  }
  return spread;
}
// The drawn part of `made` in `picture`: every known pixel as it was, and no seam (a decoder does not return them).
function pasted(made, picture, mask, size, reach) {
  const difference = continued(picture.map((v, i) => v - made[i]), mask, size, reach);
  return where(mask, made.map((v, i) => v + difference[i]), picture);
}
