"use strict";
const root = document.documentElement;
const all = (selector) => [...document.querySelectorAll(selector)];

// Theme: what the reader's system says, until the button is pressed
const themeButton = document.getElementById("theme");
themeButton.hidden = false;
themeButton.addEventListener("click", () => {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
});

const gallery = document.getElementById("gallery");
if (gallery) {
  const cards = [...gallery.children];
  const images = all("#gallery img");
  const status = document.getElementById("status");
  const chip = document.getElementById("chip");
  const views = all("[data-view]");
  const cells = all("[data-cell]");
  let still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  let view = views[0].dataset.view;

  // Pictures are decoded when they come near the window, and stand still on demand
  const freeze = (image) => {
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
    image.src = canvas.toDataURL();
  };
  const play = (image) => {
    image.onload = still ? () => { image.onload = null; freeze(image); } : null;
    image.src = image.dataset.src;
  };
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((entry) => entry.isIntersecting)) {
      seen.unobserve(entry.target);
      play(entry.target);
    }
  }, { rootMargin: "200px" });
  images.forEach((image) => seen.observe(image));
  const motion = document.getElementById("motion");
  const nameMotion = () => { motion.textContent = still ? "Play pictures" : "Pause pictures"; };
  motion.hidden = images.length === 0;
  motion.addEventListener("click", () => {
    still = !still;
    nameMotion();
    images.filter((image) => image.src).forEach(play);
  });
  nameMotion();

  const show = (chosen, text) => {
    cards.forEach((card) => { card.hidden = true; });
    chosen.forEach((card) => { card.hidden = false; gallery.append(card); });
    status.textContent = text;
  };
  const showView = (name) => {
    view = name;
    chip.hidden = true;
    cells.forEach((cell) => cell.setAttribute("aria-pressed", "false"));
    views.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === name)));
    const ranked = cards.filter((card) => name === "all" || name in card.dataset);
    ranked.sort((one, other) => (name === "all" ? one.dataset.place - other.dataset.place : one.dataset[name] - other.dataset[name]));
    show(ranked, views.find((button) => button.dataset.view === name).title);
  };
  const showCell = (cell) => {
    const chosen = cards.filter((card) => card.dataset.of === cell.dataset.cell);
    views.forEach((button) => button.setAttribute("aria-pressed", "false"));
    cells.forEach((other) => other.setAttribute("aria-pressed", String(other.dataset.cell === cell.dataset.cell)));
    chip.hidden = false;
    chip.firstElementChild.textContent = cell.dataset.names;
    const count = Number(cell.dataset.count);
    show(chosen, `${chosen.length} of ${count} ${count === 1 ? "video" : "videos"}${chosen.length < count ? "; all are in predictions.parquet" : ""}`);
    document.getElementById("videos").scrollIntoView();
    chip.focus({ preventScroll: true });
  };
  views.forEach((button) => button.addEventListener("click", () => showView(button.dataset.view)));
  cells.forEach((cell) => cell.addEventListener("click", () => showCell(cell)));
  chip.addEventListener("click", () => {
    const pressed = cells.find((cell) => cell.getAttribute("aria-pressed") === "true");
    showView(view);
    pressed?.focus();
  });
  showView(view);
}
