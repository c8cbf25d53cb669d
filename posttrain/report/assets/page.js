// The page: theme, curves, searches, samples.

const data = JSON.parse(document.getElementById("data").textContent);
const charts = [];

function main() {
  theme();
  notices();
  if (data.steps.length) curves();
  else document.getElementById("curves").append(make("section", {}, make("p", { class: "empty" }, "No step has been logged yet.")));
  if (data.searches.length) new TreeBrowser(data.searches, document.getElementById("searches"));
  else document.getElementById("searches").remove();
  const host = document.getElementById("samples");
  if (data.samples.length) new SampleBrowser(data.samples, host);
  else host.append(make("p", { class: "empty" }, "No rollouts were logged: trainer.log_rollouts_every says how often they are."));
  contents();
  colourKeys(document.getElementById("job"));
}

function notices() {
  const host = document.getElementById("notices");
  for (const [name, steps] of Object.entries(data.not_finite)) {
    const where = steps.slice(0, 5).join(", ") + (steps.length > 5 ? ` and ${steps.length - 5} more` : "");
    host.append(make("p", { class: "notice" }, `${name} was not finite at ${steps.length === 1 ? "step" : "steps"} ${where}.`));
  }
}

function curves() {
  const host = document.getElementById("curves");
  for (const section of sectionsOf(data)) host.append(sectionElement(section));
  if (data.steps_per_point > 1) {
    host.append(make("p", { class: "constant" }, `Each point is the mean of ${data.steps_per_point} steps.`));
  }
  const resize = () => charts.forEach((chart) => chart.resize(chart.svg.clientWidth));
  new ResizeObserver(() => requestAnimationFrame(resize)).observe(host);
  resize();
  const slider = document.getElementById("smoothing");
  const smooth = () => charts.forEach((chart) => chart.smooth(Number(slider.value)));
  slider.addEventListener("input", smooth);
  smooth();
}

function sectionElement({ title, charts: specs, constants }) {
  const cells = specs.reduce((sum, spec) => sum + (spec.wide ? 2 : 1), 0);
  const columns = cells === 1 || specs.length === 1 ? "grid one" : cells === 2 || cells === 4 ? "grid two" : "grid";
  const own = specs.map((spec) => new Chart(spec, data.steps, hover));
  charts.push(...own);
  const words = constants.flatMap(({ title: name, value }, index) => [index ? " · " : "", `${name} `, make("b", {}, formatNumber(value))]);
  return make(
    "section",
    { "aria-label": title, id: `metrics-${title}` },
    make("h2", {}, title),
    make("div", { class: columns }, own.map((chart) => chart.figure)),
    words.length ? make("p", { class: "constant" }, "The same in all steps: ", words) : null,
  );
}

function hover(index) {
  document.getElementById("cursor").textContent = index === null ? "" : formatStep(data.steps[index]);
  for (const chart of charts) chart.point(index);
}

function contents() {
  const links = [...document.querySelectorAll("main section[id]")].map((section) =>
    make("a", { href: `#${section.id}` }, section.querySelector("h2").textContent),
  );
  document.getElementById("contents").append(...links);
}

/** Set the keys of the job file apart from their values. */
function colourKeys(pre) {
  const lines = pre.textContent.split("\n").map((line) => {
    const match = line.match(/^(\s*(?:- )?)([\w./-]+:)(?=\s|$)(.*)$/);
    return match ? [match[1], make("span", { class: "key-name" }, match[2]), `${match[3]}\n`] : [`${line}\n`];
  });
  if (lines.some((line) => line.length > 1)) pre.replaceChildren(...lines.flat());
}

main();
