"use strict";
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function colours() {
  const style = getComputedStyle(document.documentElement);
  const text = style.getPropertyValue("--text").trim();
  const quiet = style.getPropertyValue("--quiet").trim();
  const line = style.getPropertyValue("--line").trim();
  const accent = style.getPropertyValue("--accent").trim();
  return {
    background: "transparent",
    font: "system-ui, sans-serif",
    view: { stroke: line },
    axis: { labelColor: quiet, titleColor: text, gridColor: line, domainColor: line, tickColor: line,
            labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" },
    legend: { labelColor: text, titleColor: text, labelFontSize: 12, labelLimit: 220 },
    mark: { color: accent },
    point: { color: accent },
    rule: { color: quiet },
    line: { color: accent },
    area: { color: accent },
    range: { category: ["#3987d9", "#e0701e", "#2f9e62", "#b05fc4", "#c9a227", "#d64a5b",
                        "#2aa8b8", "#8a6f5a", "#e583b7", "#7f8c99"] },
  };
}

// The page's own tooltip: text is set as text, and pictures are those that the page shows anyway.
const tip = document.getElementById("tip");
function tell(handler, event, item, value) {
  if (value === null || value === undefined || value === "") {
    tip.hidden = true;
    return;
  }
  tip.replaceChildren();
  const picture = document.querySelector(`img[data-picture="${item.datum.picture}"]`);
  if (picture !== null) {
    tip.append(Object.assign(new Image(72, 72), { src: picture.src, alt: "" }));
  }
  for (const [name, said] of Object.entries(value)) {
    const line = document.createElement("div");
    line.textContent = `${name}: ${said}`;
    tip.append(line);
  }
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 14 + tip.offsetHeight < innerHeight;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${below ? event.clientY + 14 : Math.max(8, event.clientY - 14 - tip.offsetHeight)}px`;
}

async function draw() {
  const config = colours();
  for (const [name, chart] of Object.entries(charts)) {
    // ast: expressions are interpreted, not compiled, which the page's policy would refuse
    const options = { ast: true, actions: false, defaultStyle: false, renderer: "canvas", config, tooltip: tell };
    await vegaEmbed(document.getElementById(name), structuredClone(chart), options);
  }
  document.documentElement.dataset.charts = "drawn";
}

dark.addEventListener("change", draw);
draw();
