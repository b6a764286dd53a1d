// The landing page's film (book/make_landing.py): a slider over the frames, and a button that plays them.
// Without this script the still strip stays.
(function () {
  var root = document.querySelector(".ldm-walk");
  if (!root) { return; }
  var steps = Number(root.dataset.steps), levels = Number(root.dataset.levels), last = 2 * steps;
  var slider = root.querySelector("input"), says = root.querySelector("output");
  var button = root.querySelector("button"), sheets = Array.from(root.querySelectorAll(".ldm-walk-box img"));
  var timer = null;

  function words(i) {
    if (i === 0) { return "t = 0: real drawings, before any noise"; }
    if (i === last) { return "t = 0, step " + steps + " of " + steps + ": new drawings"; }
    if (i === steps) { return "t = " + levels + ": noise, the same for both ways"; }
    var t = (i < steps ? i : last - i) * levels / steps;
    return i < steps ? "forward, t = " + t + ": noise is added" : "backward, t = " + t + ": after step " + (i - steps) + " of " + steps;
  }
  function draw() {
    var i = Number(slider.value);
    sheets.forEach(function (sheet) { sheet.style.transform = "translateX(" + -100 * i / (last + 1) + "%)"; });
    says.textContent = words(i);
    slider.setAttribute("aria-valuetext", words(i));
  }
  function next() {
    slider.value = (Number(slider.value) + 1) % (last + 1);
    draw();
    var rest = { 0: 1500 };
    rest[steps] = 900;
    rest[last] = 2500;
    timer = setTimeout(next, rest[slider.value] || 160);
  }
  function play(on) {
    clearTimeout(timer);
    timer = on ? setTimeout(next, 160) : null;
    button.textContent = on ? "Pause" : "Play";
  }
  button.addEventListener("click", function () { play(timer === null); });
  slider.addEventListener("input", function () { play(false); draw(); });
  root.querySelector(".ldm-walk-still").hidden = true;
  root.querySelector(".ldm-walk-film").hidden = false;
  draw();
  play(!window.matchMedia("(prefers-reduced-motion: reduce)").matches);
})();
