"use strict";
// Draws each figure when it comes into view, in the colours of the theme, and moves films with their sliders.
const TEMPLATES = JSON.parse(document.getElementById("templates").textContent);
const ROOT = document.documentElement;
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d", "toImage"] };
const PAUSE = 90; // ms between the moments of a film
const PAPER = 680; // px across a printed page; figures stand in two columns, the last of an odd number alone

const plots = () => [...document.querySelectorAll(".plot")];
const drawn = () => plots().filter((plot) => plot.dataset.drawn);

function draw(plot) {
  if (plot.dataset.drawn) return;
  plot.dataset.drawn = "yes";
  const { data, layout, frames } = JSON.parse(document.getElementById(`${plot.id}-data`).textContent);
  const themed = { ...layout, template: TEMPLATES[ROOT.dataset.theme], autosize: true };
  Plotly.newPlot(plot, { data, layout: themed, frames, config: CONFIG }).then(() => {
    const film = plot.closest("details").querySelector(".film input");
    if (film && frames && frames.length) show(plot, film.value);
  });
}

function show(plot, moment) {
  const at = { mode: "immediate", transition: { duration: 0 }, frame: { duration: 0, redraw: true } };
  return Plotly.animate(plot, [String(moment)], at);
}

function setTheme(theme) {
  ROOT.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "light" : "dark";
  for (const plot of drawn()) Plotly.relayout(plot, { template: TEMPLATES[theme] });
}

function bindFilm(panel) {
  const [slider, label, button] = ["input", "output", "button"].map((name) => panel.querySelector(`.film ${name}`));
  if (!slider) return;
  const labels = JSON.parse(slider.dataset.labels);
  let timer = null;
  const go = (moment) => {
    slider.value = moment;
    label.textContent = labels[moment];
    for (const plot of panel.querySelectorAll(".plot[data-film]")) if (plot.dataset.drawn) show(plot, moment);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = "play";
  };
  slider.addEventListener("input", () => {
    stop();
    go(Number(slider.value));
  });
  button.addEventListener("click", () => {
    if (timer) return stop();
    let moment = Number(slider.value) >= labels.length - 1 ? 0 : Number(slider.value);
    button.textContent = "pause";
    timer = setInterval(() => {
      go(moment);
      moment += 1;
      if (moment >= labels.length) stop();
    }, PAUSE);
  });
}

const dark = window.matchMedia("(prefers-color-scheme: dark)");
setTheme(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => setTheme(dark.matches ? "dark" : "light"));
document.getElementById("theme").addEventListener("click", () => setTheme(ROOT.dataset.theme === "dark" ? "light" : "dark"));
document.querySelectorAll("details").forEach(bindFilm);
const seen = new IntersectionObserver(
  (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
  { rootMargin: "500px" },
);
plots().forEach((plot) => seen.observe(plot));

// On paper: light, and as wide as a column, which plotly would not notice.
function alone(plot) {
  const figures = [...plot.closest(".drawings").children];
  return figures.length % 2 === 1 && figures.at(-1) === plot.parentElement;
}
window.addEventListener("beforeprint", () => {
  ROOT.dataset.shown = ROOT.dataset.theme;
  setTheme("light");
  plots().filter((plot) => plot.closest("details").open).forEach(draw);
  for (const plot of drawn()) {
    const height = parseFloat(plot.style.getPropertyValue("--printed"));
    Plotly.relayout(plot, { height, width: alone(plot) ? PAPER : PAPER / 2 - 12 });
  }
});
window.addEventListener("afterprint", () => {
  setTheme(ROOT.dataset.shown);
  for (const plot of drawn()) Plotly.relayout(plot, { height: null, width: null, autosize: true });
});
