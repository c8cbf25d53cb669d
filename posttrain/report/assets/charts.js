// Which metrics share a chart, and which charts a section. Metrics that are not named here are in a section named by
// their prefix; those of one prefix that measure one quantity share a chart.

const COLOURS = [1, 2, 3, 4, 5, 6].map((number) => `var(--series-${number})`);
const QUANTITIES = ["accuracy", "entropy", "fraction", "length", "loss", "ratio", "reward", "rollouts", "score"];
const HOMES = { reward: "Learning", completion: "Completions", time: "Speed" }; // sections not named by their prefix
const PHASES = ["generate", "score", "update", "sync", "revise", "other"];

/** The sections of the page: [{title, charts: [spec], constants: [{title, value}]}]. */
function sectionsOf(data) {
  const left = new Set(Object.keys(data.series).filter((name) => data.series[name].some((value) => value !== null)));
  const take = (...names) => names.filter((name) => left.delete(name));
  const lines = (labels) => take(...Object.keys(labels)).map((name, index) => series(data, name, labels[name], COLOURS[index]));
  const shares = (labels) => lines(labels).map((one) => ({ ...one, bars: between(data, take(`${one.name}_low`), take(`${one.name}_high`)) }));
  const one = (name, title, about, more = {}) => ({ title, about, series: lines({ [name]: title }), ...more });

  const sections = [
    { title: "Learning", charts: [rewardChart(data, take, lines), partsChart(data, left, take), { title: "Rewards that failed", about: "share of rollouts", fromZero: true, series: lines({ "reward/error_fraction": "training", "eval/error_fraction": "held-out" }) }] },
    {
      title: "Agent",
      charts: [
        { title: "Success and recovery", about: "share of held-out episodes solved, also after a mistake put in · bars: 95 %", unitRange: true, wide: true, series: shares({ "eval/success": "success", "eval/recovery": "after a mistake" }) },
        { title: "Loops", about: "share of held-out episodes that repeat a turn three times · bars: 95 %", fromZero: true, series: shares({ "eval/loops": "loops" }) },
        costOfMistakes(data, take, lines),
        one("eval/steps", "Turns", "of a held-out episode", { fromZero: true }),
      ],
    },
    {
      title: "AGENT-R",
      charts: [
        { title: "Pairs of a good and a bad way", about: "what became of them, as shares", fromZero: true, stacked: true, wide: true, series: lines({ "agent_r/spliced": "spliced", "agent_r/recovered": "recovered", "agent_r/failed": "failed", "agent_r/too_long": "too long" }) },
        transitionChart(data, take, lines),
        one("agent_r/pairs", "Pairs", "in an iteration", { fromZero: true }),
      ],
    },
    {
      title: "Completions",
      charts: [
        { title: "Length", about: "tokens", fromZero: true, series: lines({ "completion/length_mean": "mean", "completion/length_max": "longest", "eval/length_mean": "held-out mean" }) },
        one("completion/truncated_fraction", "Truncated", "share of rollouts that ran out of tokens", { fromZero: true }),
      ],
    },
    {
      title: "Policy",
      charts: [
        one("policy/entropy", "Entropy", "nats per trained token", { fromZero: true }),
        one("policy/kl", "KL to the reference", "nats per trained token", { fromZero: true }),
        one("policy/gradient_norm", "Gradient norm", "before clipping", { fromZero: true }),
        one("policy/logprob_mismatch", "Engine–trainer mismatch", "mean |Δ log p| of sampled tokens", { fromZero: true }),
        one("policy/clip_fraction", "Clip fraction", "share of trained tokens", { fromZero: true }),
        one("policy/loss", "Loss", ""),
        one("policy/learning_rate", "Learning rate", "", { fromZero: true, exact: true }),
      ],
    },
    {
      title: "Speed",
      charts: [
        timeChart(data, take),
        { title: "Tokens per second", about: "", fromZero: true, tall: true, series: lines({ "speed/generated_tokens_per_second": "generated", "speed/trained_tokens_per_second": "trained" }) },
      ],
    },
    {
      title: "Batch",
      charts: [
        { title: "Rollouts", about: "in a step", fromZero: true, series: lines({ "batch/rollouts": "sampled", "batch/samples": "trained" }) },
        one("batch/trained_tokens", "Trained tokens", "in a step", { fromZero: true }),
        one("batch/groups_without_spread", "Groups without spread", "all rollouts judged alike", { fromZero: true }),
        one("batch/micro_batches", "Micro-batches", "in a step", { fromZero: true }),
      ],
    },
  ];
  return addOthers(sections, data, left).map(withConstantsApart).filter((section) => section.charts.length || section.constants.length);
}

function series(data, name, label, colour) {
  const values = data.series[name];
  const known = values.filter((value) => value !== null).length;
  return { name, label, colour, values, sparse: known < values.length / 2 };
}

function rewardChart(data, take, lines) {
  const shown = lines({ "reward/mean": "reward", "eval/accuracy": "held-out accuracy", "eval/pass_at_k": "held-out pass@k" });
  const [spread] = take("reward/std_in_group");
  const [standardError] = take("eval/standard_error");
  const accuracy = shown.find((one) => one.name === "eval/accuracy");
  if (accuracy && standardError) accuracy.bars = around(accuracy.values, data.series[standardError]);
  const reward = shown.find((one) => one.name === "reward/mean");
  if (reward && spread) reward.band = data.series[spread];
  const known = shown.flatMap((one) => one.values).filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known);
  const about = ["mean of a step"];
  if (reward?.band) about.push("band: standard deviation within a group");
  if (accuracy?.bars) about.push("bars: standard error");
  return { title: "Reward", about: about.join(" · "), series: shown, unitRange: low >= 0 && high > 0.5 && high <= 1, fromZero: low >= 0, wide: true };
}

/** For each step the ends of an interval, given the names of its lower and its upper one; undefined without them. */
function between(data, [low], [high]) {
  return low && high ? data.series[low].map((value, index) => (value === null ? null : [value, data.series[high][index]])) : undefined;
}

/** Intervals of half-width `errors` around `values`. */
function around(values, errors) {
  return values.map((value, index) => (value === null || !errors[index] ? null : [value - errors[index], value + errors[index]]));
}

function costOfMistakes(data, take, lines) {
  const [cost] = lines({ "eval/mistake_cost": "cost" }), [error] = take("eval/mistake_cost_error");
  if (cost && error) cost.bars = around(cost.values, data.series[error]);
  return { title: "Cost of a mistake", about: "success lost by it · bars: standard error", fromZero: true, series: cost ? [cost] : [] };
}

function transitionChart(data, take, lines) {
  const shown = lines({ "agent_r/transition_q2": "median", "agent_r/transition_at_end": "share at the end" });
  const quartiles = between(data, take("agent_r/transition_q1"), take("agent_r/transition_q3"));
  if (shown[0]?.name === "agent_r/transition_q2") shown[0].bars = quartiles;
  return { title: "Where the bad way is left", about: "share of its steps kept · bars: quartiles", unitRange: true, series: shown };
}

function partsChart(data, left, take) {
  const names = take(...[...left].filter((name) => name.startsWith("reward/part/")));
  const parts = names.map((name, index) => series(data, name, name.slice("reward/part/".length).replaceAll("_", " "), COLOURS[index % COLOURS.length]));
  return { title: "Reward parts", about: "means of what the reward is made of", series: parts, tall: true };
}

/** Seconds of a step by phase; what no phase accounts for is "other". */
function timeChart(data, take) {
  const [whole] = take("time/step");
  const names = take(...PHASES.map((phase) => `time/${phase}`));
  const phases = names.map((name) => series(data, name, name.slice("time/".length), COLOURS[PHASES.indexOf(name.slice("time/".length))]));
  if (whole && phases.length) {
    const sum = (index) => phases.reduce((seconds, phase) => seconds + (phase.values[index] ?? 0), 0);
    const rest = data.series[whole].map((seconds, index) => (seconds === null ? null : Math.max(0, seconds - sum(index))));
    phases.push({ label: "other", colour: COLOURS[5], values: rest });
  }
  return { title: "Time by phase", about: "seconds of a step", series: phases, stacked: true, wide: true };
}

/** Add what is left to the section of its prefix, which may have to be made. */
function addOthers(sections, data, left) {
  const charts = new Map();
  for (const name of left) {
    const prefix = name.split("/")[0], own = name.slice(prefix.length + 1) || prefix;
    const key = `${prefix}/${quantityOf(own) ?? own}`;
    charts.set(key, [...(charts.get(key) ?? []), { name, prefix, own }]);
  }
  const readable = (measured) => (measured.length > COLOURS.length ? measured.map((one) => [one]) : [measured]);
  for (const measured of [...charts.values()].flatMap(readable)) {
    const [{ prefix, own }] = measured;
    const quantity = measured.length > 1 ? quantityOf(own).replace("*", "") : null;
    const label = (one) => one.own.replace(quantity, "").replaceAll("_", " ");
    const lines = measured.map((one, index) => series(data, one.name, quantity ? label(one) : titleOf(own), COLOURS[index % COLOURS.length]));
    const home = HOMES[prefix] ?? (prefix === data.method ? data.method_title : titleOf(prefix));
    const section = sections.find((some) => some.title === home) ?? sections[sections.push({ title: home, charts: [] }) - 1];
    section.charts.push({ title: quantity ? titleOf(quantity.replace("_", "")) : titleOf(own), about: "", series: lines });
  }
  return sections;
}

/** "*_reward" of "own_reward" and "entropy_*" of "entropy_kept"; null of a name that is or tells no quantity. */
function quantityOf(name) {
  const words = name.split("_");
  if (words.length < 2) return null;
  if (QUANTITIES.includes(words.at(-1))) return `*_${words.at(-1)}`;
  return QUANTITIES.includes(words[0]) ? `${words[0]}_*` : null;
}

/** A metric that never changes is a number, not a curve. */
function withConstantsApart(section) {
  const charts = [], constants = [];
  for (const chart of section.charts) {
    if (!chart.series.length) continue;
    const known = chart.series.flatMap((one) => one.values).filter((value) => value !== null);
    if (known.length > 2 && known.every((value) => value === known[0])) constants.push({ title: chart.title, value: known[0] });
    else charts.push(chart);
  }
  return { title: section.title, charts, constants };
}
