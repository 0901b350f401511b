// The pictures of the numbers. Each draws what the table below it says; a click opens what its cell links to.
import { fetchPage } from "./page.js";
import "../vendor/chart.js";

const { Chart } = globalThis;
let figures = [];
let charts = [];

function drawAll() {
  for (const chart of charts) chart.destroy();
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.color = colour("muted");
  Chart.defaults.borderColor = colour("line");
  charts = figures.map(draw);
}

function draw(figure) {
  const { labels, rows, series } = read(figure.querySelector("table"));
  const { chart: kind, unit, limit } = figure.dataset;
  const isLine = kind === "line";
  const isLying = kind === "across" || kind === "lying";
  const isStacked = kind === "stacked" || kind === "across";
  if (isLying) figure.querySelector(".picture").style.height = `${5 + labels.length * (isStacked ? 2 : 4.5)}rem`;
  const datasets = series.map(({ name, tone, values }) => dataset(name, colour(tone), values, isLine));
  if (limit) datasets.push({ ...dataset("Allowed", colour("muted"), labels.map(() => +limit), true), borderDash: [6, 4], pointRadius: 0, pointHoverRadius: 0 });
  const say = (value) => words(value, unit);
  const numbers = {
    stacked: isStacked, beginAtZero: true, border: { display: false }, grid: { color: colour("line") },
    ticks: { maxTicksLimit: 6, precision: unit === "%" ? undefined : 0, callback: say }, title: { display: true, text: axis[unit] },
  };
  const names = {
    stacked: isStacked, grid: { display: false }, border: { color: colour("line") },
    ticks: { autoSkip: !isLying, maxRotation: 0, autoSkipPadding: 12, callback: (i) => shorten(labels[i]) },
    title: isLying ? undefined : { display: true, text: `${figure.querySelector("thead th").textContent} (UTC)` },
  };
  return new Chart(figure.querySelector("canvas"), {
    type: isLine ? "line" : "bar",
    data: { labels, datasets },
    options: {
      animation: false, maintainAspectRatio: false, indexAxis: isLying ? "y" : "x",
      scales: isLying ? { x: numbers, y: names } : { x: names, y: numbers },
      interaction: { mode: "index", intersect: false, axis: isLying ? "y" : "x" },
      plugins: {
        legend: { display: datasets.length > 1, position: "bottom", labels: { usePointStyle: isLine, pointStyle: "line", pointStyleWidth: 18, boxWidth: 10, boxHeight: 10, padding: 14 } },
        tooltip: {
          backgroundColor: colour("text"), titleColor: colour("page"), bodyColor: colour("page"), padding: 10, cornerRadius: 8, boxPadding: 4,
          callbacks: { label: ({ dataset: { label }, raw }) => ` ${label}: ${say(raw)}` },
        },
      },
      onHover: (event, _, chart) => (event.native.target.style.cursor = linkAt(chart, event, rows) ? "pointer" : ""),
      onClick: (event, _, chart) => {
        const link = linkAt(chart, event, rows);
        if (link) location.href = link.href;
      },
    },
  });
}

const axis = { answers: "answers", ms: "time", "%": "share of the answers", tokens: "tokens" };

// What the table says: names, the links of each row, and a series of numbers (or null) for each column.
function read(table) {
  const rows = [...table.tBodies[0].rows];
  const series = [...table.tHead.rows[0].cells].slice(1).map((head, i) => ({
    name: head.textContent,
    tone: head.dataset.color,
    values: rows.map((row) => ("value" in row.cells[i + 1].dataset ? +row.cells[i + 1].dataset.value : null)),
  }));
  return { labels: rows.map((row) => row.cells[0].textContent.trim()), rows, series };
}

function dataset(label, color, data, isLine) {
  const line = { borderColor: color, borderWidth: 2, pointRadius: data.length > 40 ? 0 : 2.5, pointHoverRadius: 5, pointBackgroundColor: color, tension: 0 };
  const bar = { maxBarThickness: 40, borderRadius: 2, hoverBackgroundColor: color };
  return { label, data, backgroundColor: color, ...(isLine ? line : bar) };
}

// The bar or point below the pointer; else the whole row, as the tooltip shows it.
function linkAt(chart, event, rows) {
  const [hit] = chart.getElementsAtEventForMode(event, "nearest", { intersect: true }, false);
  const [near] = hit ? [hit] : chart.getElementsAtEventForMode(event, "index", { intersect: false, axis: chart.options.indexAxis }, false);
  const cells = near ? rows[near.index].cells : [];
  return (hit && cells[hit.datasetIndex + 1]?.querySelector("a")) || cells[0]?.querySelector("a");
}

function words(value, unit) {
  if (value === null) return "nothing to show";
  if (unit === "%") return `${+(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
  if (unit !== "ms") return value.toLocaleString("en");
  return value < 1000 ? `${Math.round(value)} ms` : `${+(value / 1000).toFixed(1)} s`;
}

const shorten = (name) => (name.length > 22 ? `${name.slice(0, 21)}…` : name);

// A role of colors.css as the canvas takes it, whatever notation it has there.
const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function colour(role) {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(`--color-${role}`);
  brush.fillRect(0, 0, 1, 1);
  const [red, green, blue] = brush.getImageData(0, 0, 1, 1).data;
  return `rgb(${red}, ${green}, ${blue})`;
}

function show() {
  figures = [...document.querySelectorAll("[data-chart]")];
  for (const table of document.querySelectorAll("[data-chart] details")) table.open = false;
  drawAll();
  document.documentElement.dataset.drawn = figures.length;
}

// The page comes with what could be counted at once. The rest takes its place when it is there, unless somebody is in its midst.
async function countTheRest(hint) {
  const page = await fetchPage(hint.dataset.rest);
  if (!page) return; // the link is still there
  if (document.querySelector("main").contains(document.activeElement)) hint.querySelector("a").textContent = "Show the rest";
  else {
    document.querySelector("main").replaceWith(page.querySelector("main"));
    show();
  }
}

show();
const hint = document.querySelector("[data-rest]");
if (hint) countTheRest(hint);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
