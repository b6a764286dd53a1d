// Something to draw on: a picture of size x size by the reader's hand, or one that the reader loads and that stays in the
// page; and a mask over it. `picture()` is (3, size, size) in [-1, 1] as the package has it, `mask()` 0 or 1 for each pixel.

const PAINTS = { yellow: "#fcea2b", orange: "#f1b31c", red: "#ea5a47", purple: "#8967aa", blue: "#61b2e4", green: "#5c9e31", brown: "#a57939", black: "#000000", white: "#ffffff" };
const START_DRAWING = [["yellow", 15.5, 15.5, 12], ["black", 11, 12, 1.6], ["black", 20, 12, 1.6], ["red", 15.5, 21, 3.4]];  // for 32 x 32

class Easel {
  constructor(size) {
    this.size = size;
    this.canvas = make("canvas", { width: size, height: size, tabIndex: 0, role: "application", className: "ldm-live-easel",
      "aria-label": `A picture of ${size} by ${size} pixels to draw on. Arrow keys move the brush, the space bar paints.` });
    this.canvas.style.width = `${Math.max(1, Math.round(256 / size)) * size}px`;
    this.heard = make("p", { className: "ldm-live-heard", role: "status" });  // where the brush is, for those who do not see it
    this.ink = make("canvas", { width: size, height: size }).getContext("2d", { willReadFrequently: true });  // the picture alone
    this.marked = new Uint8Array(size * size);
    this.at = [size >> 1, size >> 1];
    this.paint = select([...Object.keys(PAINTS).map(name => [name, name]), ["mark", "mark: draw anew here"], ["unmark", "take marks away"]], "black");
    this.brush = select([[0.5, "1 pixel"], [1.5, "3 pixels"], [3, "6 pixels"]], 1.5);
    this.mode = select([["redraw", "noise all of it"], ["inpaint", "only what is marked"]], "redraw");
    this.strength = make("input", { type: "range", min: 5, max: 100, step: 5, value: 60 });
    for (const name of ["paint", "brush", "mode", "strength"]) { this[name].name = name; }
    const said = make("output"), file = make("input", { type: "file", accept: "image/*" });
    const tell = () => {
      said.textContent = `t = ${10 * this.strength.value} of 1000`;
      this.strength.setAttribute("aria-valuetext", said.textContent);
    };
    this.strength.addEventListener("input", tell);
    tell();
    const strength = labelled("up to", make("span", {}, this.strength, said));
    const clear = make("button", { type: "button", textContent: "Clear" });
    clear.addEventListener("click", () => this.clear());
    file.addEventListener("change", () => { if (file.files[0]) { this.load(file.files[0]); } });
    this.mode.addEventListener("change", () => {
      strength.hidden = this.mode.value === "inpaint";
      if (this.mode.value === "inpaint") { this.paint.value = "mark"; } else if (/mark/.test(this.paint.value)) { this.paint.value = "black"; }
    });
    this.element = make("div", { className: "ldm-live-easels" }, this.canvas, this.heard,
      make("div", { className: "ldm-live-controls" }, labelled("paint", this.paint), labelled("brush", this.brush), clear,
        labelled("a picture of yours; it stays in this page", file), labelled("then", this.mode), strength));
    this.listen();
    this.clear();
    for (const [name, x, y, radius] of START_DRAWING) { this.disc(x * size / 32, y * size / 32, radius * size / 32, name); }
    this.show();
  }
  clear() {
    this.ink.fillStyle = "#fff";
    this.ink.fillRect(0, 0, this.size, this.size);
    this.marked.fill(0);
    this.show();
  }
  disc(x, y, radius, paint) {  // whole pixels, as a brush leaves them
    this.ink.fillStyle = PAINTS[paint] || "#fff";
    for (let i = 0; i < this.size; i++) {
      for (let j = 0; j < this.size; j++) {
        if ((i - y) ** 2 + (j - x) ** 2 > radius ** 2) { continue; }
        if (paint === "mark" || paint === "unmark") { this.marked[i * this.size + j] = paint === "mark" ? 1 : 0; } else { this.ink.fillRect(j, i, 1, 1); }
      }
    }
  }
  dab(x, y) {
    this.disc(x, y, Number(this.brush.value), this.paint.value);
    this.show();
  }
  show(cursor) {
    const context = this.canvas.getContext("2d");
    context.drawImage(this.ink.canvas, 0, 0);
    context.fillStyle = "rgba(0, 103, 163, 0.65)";  // a chequer, so that one sees what is beneath
    this.marked.forEach((m, i) => { if (m && (i + (i / this.size | 0)) % 2) { context.fillRect(i % this.size, i / this.size | 0, 1, 1); } });
    if (cursor) {
      context.fillStyle = "#b84e00";
      context.fillRect(this.at[0], this.at[1], 1, 1);
    }
  }
  listen() {
    let down = null;
    const place = event => {
      const box = this.canvas.getBoundingClientRect();
      return [(event.clientX - box.left) / box.width * this.size - 0.5, (event.clientY - box.top) / box.height * this.size - 0.5];
    };
    this.canvas.addEventListener("pointerdown", event => {
      this.canvas.setPointerCapture(event.pointerId);
      this.dab(...down = place(event));
    });
    this.canvas.addEventListener("pointermove", event => {
      if (!down) { return; }
      const [x, y] = place(event), steps = Math.ceil(Math.hypot(x - down[0], y - down[1])) || 1;  // no gaps in a quick stroke
      for (let i = 1; i <= steps; i++) { this.dab(down[0] + (x - down[0]) * i / steps, down[1] + (y - down[1]) * i / steps); }
      down = [x, y];
    });
    for (const name of ["pointerup", "pointercancel"]) { this.canvas.addEventListener(name, () => { down = null; }); }
    this.canvas.addEventListener("keydown", event => {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!step && event.key !== " ") { return; }
      event.preventDefault();
      if (step) { this.at = this.at.map((v, i) => Math.min(this.size - 1, Math.max(0, v + step[i]))); } else { this.dab(...this.at); }
      this.show(true);
      const [x, y] = this.at, [r, g, b] = this.ink.getImageData(x, y, 1, 1).data, code = `#${(1 << 24 | r << 16 | g << 8 | b).toString(16).slice(1)}`;
      const colour = Object.keys(PAINTS).find(name => PAINTS[name] === code) || "another colour";
      this.heard.textContent = `row ${y + 1}, column ${x + 1}: ${colour}${this.marked[y * this.size + x] ? ", marked" : ""}`;
    });
    this.canvas.addEventListener("blur", () => this.show());
  }
  async load(file) {  // its middle square, on white
    const image = await createImageBitmap(file), side = Math.min(image.width, image.height);
    this.clear();
    this.ink.imageSmoothingQuality = "high";
    this.ink.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, this.size, this.size);
    this.show();
  }
  picture() {
    const { data } = this.ink.getImageData(0, 0, this.size, this.size), n = this.size * this.size;
    return Float32Array.from({ length: 3 * n }, (_, i) => data[4 * (i % n) + (i / n | 0)] / 127.5 - 1);
  }
  // What `Denoiser.draw` starts from. Null: nothing is marked.
  from() {
    const inpaint = this.mode.value === "inpaint";
    if (inpaint && !this.marked.some(Boolean)) { return null; }
    return { picture: this.picture(), strength: Number(this.strength.value) / 100, mask: inpaint ? this.marked.slice() : null };
  }
}
