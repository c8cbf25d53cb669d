// The index of runs: a table to sort, filter and tick; the curves of the ticked runs, and where their settings differ.

const { runs, main_metrics: mainMetrics } = JSON.parse(document.getElementById("data").textContent);
const TICKED_AT_FIRST = 3;
const ticked = new Set(runs.filter((run) => run.data && run.steps).slice(0, TICKED_AT_FIRST));
let order = { column: 5, descending: true };
let chart = null;

/** Heading, what a run is sorted by, and what is shown of it. */
const COLUMNS = [
  ["Run", (run) => run.name, (run) => (run.report ? make("a", { href: run.report }, run.name) : run.name)],
  ["Method", (run) => run.method, (run) => run.method],
  ["Model", (run) => run.model, (run) => run.model],
  ["Task", (run) => run.task, (run) => run.task],
  ["State", (run) => run.state, (run) => make("span", { class: `status ${run.state}` }, run.state)],
  ["Started (UTC)", (run) => run.started, (run) => new Date(1000 * run.started).toISOString().slice(0, 16).replace("T", " ")],
  ["Trained for", (run) => run.seconds, (run) => (run.seconds ? formatDuration(run.seconds) : MISSING)],
  ["Steps", (run) => run.steps, stepsOf],
  ["Metric", (run) => run.metric, (run) => run.metric],
  ["First → last", (run) => run.last, (run) => (run.metric ? `${formatNumber(run.first)} → ${formatNumber(run.last)}` : MISSING)],
];

function stepsOf({ steps, total }) {
  if (steps === undefined) return MISSING;
  return total ? `${steps.toLocaleString("en")} of ${total.toLocaleString("en")}` : steps.toLocaleString("en");
}

function formatDuration(seconds) {
  const [whole, two] = [Math.round(seconds), (number) => String(number).padStart(2, "0")];
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  if (hours) return `${hours}:${two(minutes)}:${two(whole % 60)}`;
  return minutes ? `${minutes}:${two(whole % 60)}` : `${whole} s`;
}

function main() {
  theme();
  const by = (id, event, act) => document.getElementById(id).addEventListener(event, act);
  by("filter", "input", table);
  by("metric", "change", overlay);
  by("smoothing", "input", () => chart?.smooth(Number(document.getElementById("smoothing").value)));
  by("untick", "click", () => {
    ticked.clear();
    table();
    compare();
  });
  new ResizeObserver(() => requestAnimationFrame(() => chart?.resize(chart.svg.clientWidth))).observe(document.getElementById("chart"));
  table();
  compare();
}

function table() {
  const words = document.getElementById("filter").value.toLowerCase().split(/\s+/);
  const text = (run) => [run.name, run.method, run.model, run.task, run.state, run.metric].join(" ").toLowerCase();
  const shown = runs.filter((run) => words.every((word) => text(run).includes(word))).sort(inOrder);
  const left = runs.filter((run) => run.data === null).length;
  document.getElementById("count").textContent = [`${shown.length} of ${runs.length} runs`, left ? `the curves of ${left} are left out, which would make this page too large` : ""].filter(Boolean).join("; ");
  document.getElementById("runs").replaceChildren(make("thead", {}, heading()), make("tbody", {}, shown.map(row)));
}

/** What a run has no value of comes last, either way. */
function inOrder(one, other) {
  const [a, b] = [one, other].map(COLUMNS[order.column][1]), missing = (value) => value === undefined || value === "";
  if (missing(a) || missing(b)) return missing(a) - missing(b);
  const sign = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return order.descending ? -sign : sign;
}

function heading() {
  const cells = COLUMNS.map(([title], column) => {
    const own = order.column === column, arrow = own ? (order.descending ? " ↓" : " ↑") : "";
    const button = make("button", { type: "button" }, `${title}${arrow}`);
    button.addEventListener("click", () => {
      order = { column, descending: own && !order.descending };
      table();
      document.querySelectorAll("#runs th button")[column].focus();
    });
    return make("th", { scope: "col", "aria-sort": own ? (order.descending ? "descending" : "ascending") : null }, button);
  });
  return make("tr", {}, make("th", { scope: "col" }, make("span", { class: "hidden" }, "Compare")), cells);
}

function row(run) {
  const box = make("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, disabled: run.data ? null : "" });
  box.checked = ticked.has(run);
  box.addEventListener("change", () => {
    if (box.checked) ticked.add(run);
    else ticked.delete(run);
    compare();
  });
  const cells = COLUMNS.map(([, , show]) => make("td", {}, show(run)));
  if (run.reason) cells.splice(1, 3, make("td", { colspan: 3, class: "reason" }, run.reason));
  return make("tr", {}, make("td", {}, box), cells);
}

/** Unpack what the ticked runs hold, once, and show it. */
async function compare() {
  const chosen = [...ticked];
  await Promise.all(chosen.map(async (run) => (run.detail ??= await unpack(run.data))));
  if (chosen.length !== ticked.size || chosen.some((run) => !ticked.has(run))) return;
  const metric = document.getElementById("metric"), before = metric.value;
  const names = [...new Set(chosen.flatMap((run) => Object.keys(run.detail.curves.series)))].sort();
  metric.replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  metric.value = names.includes(before) ? before : mainMetrics.find((name) => names.includes(name)) ?? names[0] ?? "";
  overlay();
  differences(chosen);
}

function overlay() {
  const name = document.getElementById("metric").value, host = document.getElementById("chart");
  const drawn = [...ticked].filter((run) => run.detail?.curves.series[name]?.some((value) => value !== null));
  chart = null;
  if (!drawn.length) {
    host.replaceChildren(make("p", { class: "empty" }, ticked.size ? "The ticked runs have no curve yet." : "Tick runs in the table to lay their curves over each other."));
    return;
  }
  const steps = [...new Set(drawn.flatMap((run) => run.detail.curves.steps))].sort((one, other) => one - other);
  const lines = drawn.map((run, index) => {
    const { steps: own, series } = run.detail.curves, at = new Map(own.map((step, place) => [step, series[name][place]]));
    const values = steps.map((step) => at.get(step) ?? null);
    return { name: run.name, label: run.name, colour: colourOf(index, drawn.length), values, sparse: own.length < 60 };
  });
  const spec = { title: name, about: "over steps", series: lines, wide: true, tall: true };
  chart = new Chart(spec, steps, (index) => chart.point(index));
  host.replaceChildren(chart.figure);
  chart.resize(chart.svg.clientWidth);
  chart.smooth(Number(document.getElementById("smoothing").value));
}

function colourOf(index, all) {
  return all <= COLOURS.length ? COLOURS[index] : `hsl(${Math.round((360 * index) / all)} 60% 50%)`;
}

function differences(chosen) {
  const host = document.getElementById("differences");
  const keys = [...new Set(chosen.flatMap((run) => Object.keys(run.detail.settings)))];
  const differing = keys.filter((key) => new Set(chosen.map((run) => run.detail.settings[key])).size > 1);
  if (!differing.length) {
    host.replaceChildren(make("p", { class: "empty" }, chosen.length < 2 ? "Tick two runs or more to see where their settings differ." : "The settings of the ticked runs are the same."));
    return;
  }
  const head = make("tr", {}, make("th", { scope: "col" }, "Key"), chosen.map((run) => make("th", { scope: "col" }, run.name)));
  const rows = differing.map((key) => make("tr", {}, make("th", { scope: "row" }, key), chosen.map((run) => make("td", {}, run.detail.settings[key]))));
  host.replaceChildren(make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Settings that differ" }, make("table", { class: "runs settings" }, make("thead", {}, head), make("tbody", {}, rows))));
}

main();
