// Texts whose tokens are coloured by their weight, their origin, or the longest n-gram around them that the closest
// reference has; and an episode turn by turn.

const ORIGINS = ["prompt", "policy", "expert", "environment", "revision"];
const ORIGIN_COLOURS = [null, null, "--expert", "--environment", "--revision"];
const MODES = {
  weight: "how hard the token was pushed",
  origin: "who wrote the token",
  overlap: "n-grams that the closest reference has too",
};

/** Elements with tokens, coloured together, each with a tip that says all of it. */
class TokenView {
  constructor(names) {
    this.mode = "weight";
    this.records = []; // [{rollouts}]; a token's element says of which rollout it is, and which of its tokens
    this.detail = make("div");
    this.key = make("div", { class: "key" });
    this.tip = make("div", { class: "tip", role: "tooltip" });
    document.body.append(this.tip);
    this.listen();
    this.modeButtons = names.map((mode) => {
      const button = make("button", { type: "button", class: "quiet", "aria-pressed": String(mode === this.mode), title: MODES[mode] }, `by ${mode}`);
      button.addEventListener("click", () => {
        this.mode = mode;
        for (const other of this.modeButtons) other.setAttribute("aria-pressed", String(other === button));
        this.paint();
      });
      return button;
    });
  }

  modeChoice() {
    return make("div", { class: "choice", role: "group", "aria-label": "Colour of the tokens" }, this.modeButtons);
  }

  /** The tokens of `rollout` as elements; turn by turn if an environment speaks in between. */
  tokens(rollout, place) {
    const cut = rollout.left_out ? rollout.tokens.length - Math.min(400, rollout.tokens.length) : null;
    const gap = () => make("span", { class: "left-out" }, `\n… ${rollout.left_out.toLocaleString("en")} tokens left out …\n`);
    const token = (index, mark = false) => {
      const look = mark ? "token markup" : "token";
      const element = make("span", { class: look, "data-rollout": place, "data-token": index }, visible(rollout.tokens[index], !mark));
      return index === cut ? [gap(), element] : [element];
    };
    const turns = turnsOf(rollout.tokens, rollout.origin);
    if (!turns.some((turn) => turn.kind === "observation")) return make("div", { class: "text" }, rollout.tokens.flatMap((_, index) => token(index)));
    const marks = new Set(markup(rollout.tokens));
    const words = (index) => token(index, marks.has(index));
    const part = ({ kind, number, from, to }) =>
      make("li", { class: kind }, make("span", { class: "who" }, make("b", {}, number), kind), make("span", {}, range(from, to).flatMap(words)));
    return make("ol", { class: "turns text" }, turns.map(part));
  }

  paint() {
    const rollouts = this.records.flatMap((record) => record.rollouts);
    const largest = rollouts.flatMap((rollout) => rollout.weights).reduce((most, weight) => Math.max(most, Math.abs(weight ?? 0)), 0);
    this.detail.dataset.mode = this.mode;
    for (const token of this.detail.querySelectorAll(".token")) {
      const { weight, origin, overlap } = this.facts(token);
      token.style.background = { weight: () => weightColour(weight, largest), origin: () => originColour(origin), overlap: () => overlapColour(overlap) }[this.mode]();
    }
    this.key.replaceChildren(...{ weight: () => weightKey(largest), origin: () => originKey(rollouts), overlap: overlapKey }[this.mode]());
  }

  facts(token) {
    const [group, rank] = token.dataset.rollout.split(".").map(Number);
    const rollout = this.records[group].rollouts[rank];
    const at = (values) => (Array.isArray(values) ? values[Number(token.dataset.token)] : values) ?? null;
    return { text: at(rollout.tokens), weight: at(rollout.weights), logprob: at(rollout.logprobs), origin: at(rollout.origin), overlap: at(rollout.overlap) };
  }

  listen() {
    const leave = () => {
      this.under?.classList.remove("under");
      this.under = null;
      this.tip.classList.remove("shown");
    };
    this.detail.addEventListener("pointerover", (event) => {
      const token = event.target.closest(".token");
      leave();
      if (!token) return;
      this.under = token;
      token.classList.add("under");
      this.describe(token);
    });
    this.detail.addEventListener("pointerleave", leave);
    addEventListener("scroll", leave, { passive: true });
  }

  describe(token) {
    const { text, weight, logprob, origin, overlap } = this.facts(token);
    const sampled = origin === 1;
    const rows = [
      weight === null ? "not trained" : `weight ${minus(String(weight))}`,
      sampled && logprob !== null ? `log p ${minus(String(logprob))} (${formatNumber(100 * Math.exp(logprob))} %)` : null,
      ORIGINS[origin],
      overlap ? `in ${ORDERS[overlap]} of the reference` : null,
    ];
    this.tip.replaceChildren(make("code", {}, JSON.stringify(text)), make("span", {}, rows.filter(Boolean).join(" · ")));
    this.tip.classList.add("shown");
    const box = token.getClientRects()[0], own = this.tip.getBoundingClientRect();
    const below = box.bottom + 8 + own.height < innerHeight;
    this.tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - own.width - 8))}px`;
    this.tip.style.top = `${below ? box.bottom + 8 : box.top - own.height - 8}px`;
  }
}

/** Show what would be invisible: the end of a line, and bytes that a later token completes. */
function visible(text, broken = true) {
  const end = () => [make("span", { class: "mark", "aria-hidden": "true" }, "↵"), broken ? "\n" : ""];
  return text.split("\n").flatMap((part, index) => (index ? [...end(), part] : [part]));
}

function weightColour(weight, largest) {
  if (!weight || !largest) return "";
  const strength = 0.07 + 0.55 * (Math.abs(weight) / largest);
  return `rgba(var(${weight > 0 ? "--push-up" : "--push-down"}), ${strength.toFixed(3)})`;
}

function originColour(origin) {
  const name = ORIGIN_COLOURS[origin];
  return name ? `rgba(var(${name}), 0.3)` : "";
}

function weightKey(largest) {
  if (!largest) return [make("span", {}, "None of these tokens was pushed.")];
  const stops = [-1, -0.5, 0, 0.5, 1].map((share) => weightColour(share * largest, largest) || "transparent");
  return [
    make("span", {}, `down ${minus(formatNumber(-largest))}`),
    make("span", { class: "ramp", style: `background:linear-gradient(90deg,${stops.join(",")})` }),
    make("span", {}, `up +${formatNumber(largest)}`),
  ];
}

function originKey(rollouts) {
  const present = new Set(rollouts.flatMap((rollout) => [rollout.origin].flat()));
  return ORIGINS.map((name, origin) => [name, origin])
    .filter(([, origin]) => present.has(origin))
    .map(([name, origin]) => make("span", {}, make("i", { style: `background:${originColour(origin) || "transparent"};border:1px solid var(--line)` }), name));
}

const ORDERS = [null, "one word", "two words", "three words", "four words or more"];

function overlapColour(order) {
  return order ? `rgba(var(--shared), ${[0, 0.16, 0.3, 0.46, 0.64][order]})` : "";
}

function overlapKey() {
  const orders = ORDERS.slice(1).map((words, index) => make("span", {}, make("i", { style: `background:${overlapColour(index + 1)}` }), words));
  return [make("span", {}, "in a row, shared with the closest reference:"), ...orders];
}


/** [{kind, number, from, to}]: thought (or revision), action and observation in the order of an episode, each from a
 * token to another; the first part of a turn has its number. */
function turnsOf(tokens, origin) {
  const parts = [], writer = (index) => (Array.isArray(origin) ? origin[index] : origin);
  const add = (kind, from, to) => {
    const begins = kind !== "observation" && (parts.at(-1)?.kind ?? "observation") === "observation";
    if (from < to) parts.push({ kind, number: begins ? 1 + parts.filter((part) => part.number).length : "", from, to });
  };
  for (let from = 0, to; from < tokens.length; from = to) {
    for (to = from + 1; to < tokens.length && writer(to) === writer(from); to += 1);
    const action = writer(from) === 3 ? to : actionOf(tokens, from, to);
    add({ 3: "observation", 4: "revision" }[writer(from)] ?? "thought", from, action);
    add("action", action, to);
  }
  return parts;
}

/** The token that begins the line "Action: …"; `to` where there is none. */
function actionOf(tokens, from, to) {
  const place = tokens.slice(from, to).join("").search(/^[ \t]*Action:/m);
  let end = 0;
  for (let index = from; index < to && place >= 0; index += 1) {
    end += tokens[index].length;
    if (end > place && tokens[index].trim()) return index;
  }
  return to;
}

/** The tokens that a chat template added: <|user|>, the role after <|im_start|>, and the ends of lines beside them. */
function markup(tokens) {
  const special = (text) => /^(<\|[^|]*\|>|<\/?s>|<(start|end)_of_turn>|\[\/?INST\])$/.test((text ?? "").trim());
  return tokens.flatMap((text, index) => {
    const before = tokens[index - 1], role = /^<(\|im_start\||start_of_turn)>$/.test(before) && /^\w+\n?$/.test(text);
    const lineEnd = text === "\n" && (special(before) || special(tokens[index + 1]) || /start/.test(tokens[index - 2]));
    return special(text) || role || lineEnd ? [index] : [];
  });
}

function range(from, to) {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

/** JSON, deflated, in base64. */
async function unpack(data) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
