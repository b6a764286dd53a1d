// ldm_course/checkpoints.py, the reading half: a safetensors file is a header in JSON and then the numbers.

function decode_base64(text) {
  if (Uint8Array.fromBase64) { return Uint8Array.fromBase64(text).buffer; }
  return Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer;
}
function half(h) {  // a float16's bits to a number
  const e = h >> 10 & 31, m = h & 1023;
  return (h >> 15 ? -1 : 1) * (e ? (1 + m / 1024) * 2 ** (e - 15) : m * 2 ** -24);
}
const EIGHT_BIT = ".scale";  // after a weight's name: the factor of each row of a weight that is stored in 8 bits

// The files of one model (a part of it each) to its configuration, its meta data, and its weights: float32, but made of the
// file's bytes only when asked for, so that never all of them stand there beside their packed form.
function load_model(files) {
  const halves = Float32Array.from({ length: 65536 }, (_, h) => half(h)), state = {};
  let text;
  for (const bytes of files) {
    const n = new DataView(bytes).getUint32(0, true), header = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 8, n)));
    text = header.__metadata__;
    delete header.__metadata__;
    for (const [name, { dtype, shape, data_offsets }] of Object.entries(header)) {
      if (!["F32", "F16", "I8"].includes(dtype)) { throw new Error(`${name} is stored as ${dtype}`); }
      state[name] = { shape, get data() {
        const raw = bytes.slice(8 + n + data_offsets[0], 8 + n + data_offsets[1]), scale = state[name + EIGHT_BIT];
        if (dtype === "F32") { return new Float32Array(raw); }
        if (dtype === "F16") { return Float32Array.from(new Uint16Array(raw), h => halves[h]); }
        const data = Float32Array.from(new Int8Array(raw)), scales = scale.data, wide = data.length / shape[0];
        return data.map((v, i) => v * scales[i / wide | 0]);
      } };
    }
  }
  return { kind: text.kind, config: JSON.parse(text.config), meta: JSON.parse(text.meta), state: new State(state) };
}
function load_denoiser(files, autoencoder) {  // `autoencoder`: the files of a latent one's first stage
  const { kind, config, meta, state } = load_model(files);
  const model = kind === "text-unet" ? new TextUNet(state, config) : new UNet(state, config);
  const space = autoencoder ? new LatentSpace(meta.size, load_autoencoder(autoencoder)) : new PixelSpace(meta.size, config.in_channels);
  return new Denoiser(model, space, make_schedule(meta.schedule), meta);
}
function load_autoencoder(files) {
  const { config, state } = load_model(files);
  return new Autoencoder(state, config);
}
