// The page's side: builds the controls, fetches the weights on the first click, and paints what the worker hands out.
// Every `.ldm-live` says in data-live what it shows; book/ext/live_demo.py writes that, and the README has the words.

const METHODS = { ddim: "DDIM", ddpm: "DDPM", dpmpp: "DPM-Solver++" };
const SPACES = { pixel: "pixel space", latent: "latent space" };

// ------------------------------------------------------------------ weights: kept by the browser, else from beside the page
const shelf = new Promise(resolve => {  // an IndexedDB, or null where there is none
  try {
    const request = indexedDB.open("ldm-course", 1);
    request.onupgradeneeded = () => request.result.createObjectStore("weights");
    request.onsuccess = () => resolve(request.result);
    request.onerror = request.onblocked = () => resolve(null);
  } catch (error) { resolve(null); }
});
async function on_shelf(mode, ask) {  // the answer to `ask(store)`, or undefined
  const database = await shelf;
  if (!database) { return undefined; }
  return new Promise(resolve => {
    try {
      const request = ask(database.transaction("weights", mode).objectStore("weights"));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => resolve(undefined);
    } catch (error) { resolve(undefined); }
  });
}
const arriving = {};
window.ldm_weights = (name, text) => { arriving[name] = text; };  // what a file of weights calls
async function weights(folder, { name, version }) {
  const kept = await on_shelf("readonly", store => store.get(name));
  if (kept && kept.version === version) { return kept.bytes; }
  await new Promise((resolve, reject) => {  // as a script: all that a page from the file system may load
    const script = document.createElement("script");
    script.src = `${folder}${name}.js?v=${version}`;
    script.onload = () => { script.remove(); resolve(); };
    script.onerror = () => reject(new Error(`${script.src} is missing`));
    document.head.append(script);
  });
  const bytes = decode_base64(arriving[name]);
  delete arriving[name];
  on_shelf("readwrite", store => store.put({ version, bytes }, name));
  return bytes;
}

// ------------------------------------------------------------------ painting
const to_uint8 = v => Math.round(Math.min(1, Math.max(-1, v)) * 127.5 + 127.5);
const COLUMNS = { 1: 1, 2: 2, 4: 2, 8: 4 }, SCALE = { 1: 6, 2: 3, 4: 2 };
// `count` tiles of side x side, white lines between; colour(b, row, column) is a tile's
function paint(canvas, count, side, size, colour) {
  const columns = COLUMNS[count], rows = count / columns, many = canvas.closest(".ldm-live-many") ? 2 / 3 : 1;
  const scale = Math.max(1, Math.ceil(many * SCALE[columns] * 32 / size));
  canvas.width = columns * (side + 1) - 1;
  canvas.height = rows * (side + 1) - 1;
  canvas.style.width = `${scale * canvas.width}px`;
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  image.data.fill(255);
  for (let b = 0; b < count; b++) {
    const left = b % columns * (side + 1), top = (b / columns | 0) * (side + 1);
    for (let i = 0; i < side; i++) {
      for (let j = 0; j < side; j++) { image.data.set(colour(b, i, j), 4 * ((top + i) * canvas.width + left + j)); }
    }
  }
  context.putImageData(image, 0, 0);
}
function paint_pictures(canvas, x, count, size) {
  const n = size * size;
  paint(canvas, count, size, size, (b, i, j) => [0, 1, 2].map(c => to_uint8(x[(3 * b + c) * n + i * size + j])));
}
// A latent as it is: four channels as four small grids; -2.5, 0 and 2.5 in book/make_landing.py's three blues.
const BLUES = [[0x00, 0x33, 0x55], [0x2F, 0x7F, 0xB0], [0xEA, 0xF4, 0xFB]];
function paint_tiles(canvas, z, count, side, size) {
  const n = side * side;
  paint(canvas, count, 2 * side + 1, size, (b, i, j) => {
    if (i === side || j === side) { return [255, 255, 255]; }
    const c = 2 * (i > side) + (j > side), v = z[(4 * b + c) * n + i % (side + 1) * side + j % (side + 1)];
    const at = Math.min(1.999, Math.max(0, (v + 2.5) / 2.5)), low = BLUES[at | 0], high = BLUES[(at | 0) + 1];
    return low.map((l, k) => l + (high[k] - l) * (at % 1));
  });
}
function paint_nothing(canvas, count, size) { paint(canvas, count, size, size, () => [0xE9, 0xEB, 0xEE]); }

// ------------------------------------------------------------------ small helpers
function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element && key !== "list") { element[key] = value; } else { element.setAttribute(key, value); }
  }
  element.append(...children);
  return element;
}
function labelled(text, control) { return make("label", {}, make("span", { textContent: text }), control); }
function select(options, value) {  // [[value, text], ...]
  const element = make("select", {}, ...options.map(([v, text]) => make("option", { value: v, textContent: text })));
  element.value = value;
  return element;
}
const seconds = ms => `${(ms / 1000).toFixed(ms < 995 ? 2 : 1)} s`;
const milliseconds = ms => `${ms.toFixed(ms < 9.95 ? 1 : 0)} ms`;
const times = x => x.toFixed(x < 9.95 ? 1 : 0);
const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`;
function sentence(names) { return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`; }
