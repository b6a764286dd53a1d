// ldm_course/networks/text.py, of which it has the names: a tokeniser, a transformer over tokens, and both networks as one.

const PAD = 0, START = 1, END = 2, SPECIAL = 3;

// The words of a text, in small letters without accents; an emoji counts as the words of its English name, of which
// `names` has those that the network's words can tell.
function words_of(text, names = {}) {
  const named = text.replace(/\p{Extended_Pictographic}(\u200d|\ufe0f|\p{Extended_Pictographic}|\p{Emoji_Modifier})*|\p{Regional_Indicator}{2}/gu,
    emoji => ` ${names[emoji] || names[emoji.replace(/\ufe0f/g, "")] || emoji} `);
  const plain = named.toLowerCase().normalize("NFKD").replace(/\p{Mn}/gu, "");
  return plain.match(/[\p{L}\p{N}]+/gu) || [];
}
class Tokenizer {  // a start, a number for each word that it knows, an end, then padding
  constructor(words, length) {
    this.number = new Map(words.map((word, i) => [word, i + SPECIAL]));
    this.length = length;
  }
  encode(words) {
    const known = this.known(words).map(word => this.number.get(word)).slice(0, this.length - 2);
    return [START, ...known, END, ...Array(this.length - 2 - known.length).fill(PAD)];
  }
  known(words) { return words.filter(word => this.number.has(word)); }
  unknown(words) { return words.filter(word => !this.number.has(word)); }
  cut(words) { return this.known(words).slice(this.length - 2); }
}
class TextLayer {  // tokens read each other, then each is changed by itself
  constructor(state, config) {
    this.heads = config.heads;
    for (const name of ["layer_norm1", "layer_norm2"]) { this[name] = new LayerNorm(state.at(name)); }
    for (const name of ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]) { this[name] = new Linear(state.at(name)); }
  }
  forward(x, readable) {
    let h = this.layer_norm1.forward(x);
    h = attend(this.q_proj.forward(h), this.k_proj.forward(h), this.v_proj.forward(h), this.heads, readable);
    x = add(this.out_proj.forward(h), x);
    h = this.fc1.forward(this.layer_norm2.forward(x));
    for (let i = h.at; i < h.at + h.H * h.pitch; i++) { F[i] = gelu(F[i]); }
    return add(this.fc2.forward(h), x);
  }
}
class TextEncoder {  // tokens to a vector for each, which knows the tokens around it
  constructor(state, config) {
    if (config.causal || config.activation !== "gelu") { throw new Error("this demo has no such text encoder"); }
    this.config = config;
    this.token_embedding = state.get("token_embedding.weight").data;
    this.position_embedding = config.positions ? state.get("position_embedding.weight").data : null;
    this.layers = [...Array(config.layers).keys()].map(i => new TextLayer(state.at(`layers.${i}`), config));
    this.final_layer_norm = new LayerNorm(state.at("final_layer_norm"));
  }
  forward(tokens) {
    new_pass();
    const D = this.config.width;
    let x = map(tokens.length, 1, D);
    tokens.forEach((token, l) => {
      for (let c = 0; c < D; c++) {
        F[x.at + l * x.pitch + c] = this.token_embedding[token * D + c] + (this.position_embedding ? this.position_embedding[l * D + c] : 0);
      }
    });
    const readable = tokens.indexOf(END) + 1;  // all that is not padding
    for (const layer of this.layers) { x = layer.forward(x, readable); }
    x = this.final_layer_norm.forward(x);
    return { H: x.H, C: D, data: F.slice(x.at, x.at + x.H * x.pitch) };
  }
}
class TextUNet {  // a U-Net and the encoder of the text that it reads
  constructor(state, config) {
    this.config = config;
    this.text = new TextEncoder(state.at("text"), config.text);
    this.unet = new UNet(state.at("unet"), config.unet);
    this.tokenizer = new Tokenizer(config.words, config.text.length);
  }
  encode(words) { return this.text.forward(this.tokenizer.encode(words)); }
  forward(x, side, t, context) { return this.unet.forward(x, side, t, context); }
}
