// The sample browser: step, group, and the group's rollouts with every token coloured by its weight or its origin.

const ORIGINS = ["prompt", "policy", "expert", "environment", "revision"];
const ORIGIN_COLOURS = [null, null, "--expert", "--environment", "--revision"];

class SampleBrowser {
  constructor(steps, host) {
    this.steps = steps;
    this.host = host;
    this.place = steps.length - 1;
    this.group = Math.max(0, steps[this.place].groups.findIndex((group) => group.pushed.some(Boolean)));
    this.mode = "weight";
    this.tip = make("div", { class: "tip", role: "tooltip" });
    document.body.append(this.tip);
    this.list = make("div", { class: "groups", role: "group", "aria-label": "Groups of this step" });
    this.detail = make("div");
    host.append(this.bar(), make("div", { class: "browser" }, this.list, this.detail));
    this.listen();
    this.showStep(this.place);
  }

  bar() {
    this.slider = make("input", { type: "range", min: 0, max: this.steps.length - 1, value: this.place, "aria-label": "Step of the samples" });
    this.slider.addEventListener("input", () => this.showStep(Number(this.slider.value)));
    this.label = make("output");
    const modes = ["weight", "origin"].map((mode) => {
      const button = make("button", { type: "button", class: "quiet", "aria-pressed": String(mode === this.mode) }, `by ${mode}`);
      button.addEventListener("click", () => {
        this.mode = mode;
        for (const other of modes) other.setAttribute("aria-pressed", String(other === button));
        this.paint();
      });
      return button;
    });
    return make("div", { class: "samples-bar" }, make("div", { class: "stepper" }, this.label, this.slider), make("div", { class: "choice", role: "group", "aria-label": "Colour of the tokens" }, modes));
  }

  showStep(place) {
    this.place = place;
    const step = this.steps[place];
    this.label.textContent = formatStep(step.step);
    this.slider.setAttribute("aria-valuetext", formatStep(step.step));
    this.group = Math.min(this.group, step.groups.length - 1);
    const shown = step.groups.length, all = step.groups_in_step;
    const heading = shown === all ? `${all} ${all === 1 ? "group" : "groups"}` : `${shown} of ${all} groups`;
    this.items = step.groups.map((group, index) => this.item(group, index));
    const legend = "A square is a rollout, filled by its reward; underlined if it moved the policy.";
    this.list.replaceChildren(make("p", {}, heading), ...this.items, make("div", { class: "legend" }, legend));
    this.showGroup(Math.max(0, this.group));
  }

  item(group, index) {
    const judged = group.rewards.filter((reward) => reward !== null);
    const mean = judged.length ? judged.reduce((sum, reward) => sum + reward, 0) / judged.length : null;
    const cells = group.rewards.map((reward, rollout) => {
      if (reward === null) return make("i", { class: "failed" });
      return make("i", { class: group.pushed[rollout] ? "pushed" : null, style: `background:${this.rewardColour(reward)}` });
    });
    const button = make(
      "button",
      { type: "button", class: "group", title: `${group.rewards.length} rollouts: ${group.rewards.map(formatNumber).join(", ")}` },
      make("div", { class: "name" }, make("span", {}, group.example_id), make("b", {}, mean === null ? MISSING : minus(mean.toFixed(2)))),
      make("div", { class: "cells" }, cells),
    );
    button.addEventListener("click", () => this.showGroup(index));
    return button;
  }

  /** From nothing at the lowest reward of the page to the full accent at its highest. */
  rewardColour(reward) {
    if (!this.rewardRange) {
      const all = this.steps.flatMap((step) => step.groups.flatMap((group) => group.rewards)).filter((value) => value !== null);
      this.rewardRange = [Math.min(0, ...all), Math.max(...all)];
    }
    const [low, high] = this.rewardRange;
    const share = high > low ? (reward - low) / (high - low) : 0;
    return `color-mix(in srgb, var(--accent) ${Math.round(share * 100)}%, transparent)`;
  }

  async showGroup(index) {
    this.group = index;
    this.items.forEach((item, number) => item.setAttribute("aria-current", String(number === index)));
    const group = this.steps[this.place].groups[index];
    if (!group) {
      this.detail.replaceChildren(make("p", { class: "empty" }, "The samples of this step were too large for this page; they are in the run folder."));
      return;
    }
    const record = await unpack(group.data);
    if (group !== this.steps[this.place].groups[this.group]) return;
    this.record = record;
    this.key = make("div", { class: "key" });
    this.rollouts = record.rollouts.map((rollout, number) => this.rollout(rollout, number));
    this.detail.replaceChildren(this.prompt(record), this.key, ...this.rollouts);
    this.paint();
    for (const card of this.rollouts) {
      const long = card.querySelector(".text").scrollHeight > 300;
      card.classList.toggle("long", long);
      card.classList.toggle("clamped", long);
    }
  }

  prompt(record) {
    const answer = Array.isArray(record.answer) ? record.answer.join(" or ") : record.answer;
    return make(
      "div",
      { class: "prompt" },
      make("h3", {}, "Prompt"),
      make("div", { class: "text" }, record.prompt),
      answer === null ? null : make("p", { class: "answer" }, make("span", {}, "Answer "), answer),
    );
  }

  rollout(rollout, number) {
    const parts = Object.entries(rollout.reward_parts).map(([name, value]) => make("span", {}, `${name} ${formatNumber(value)}`));
    const more = make("button", { type: "button", class: "quiet more" }, "Show all");
    const card = make(
      "article",
      { class: rollout.pushed ? "rollout" : "rollout still" },
      make(
        "header",
        {},
        make("h3", {}, `Rollout ${number + 1}`),
        make("span", {}, "reward ", make("b", {}, formatNumber(rollout.reward))),
        parts.length > 1 ? parts : null,
        make("span", {}, `${rollout.length.toLocaleString("en")} tokens`),
        rollout.finish_reason === "stop" ? make("span", {}, "finished") : make("span", { class: "tag bad" }, rollout.finish_reason === "length" ? "truncated" : rollout.finish_reason),
        make("span", { class: "tag" }, rollout.pushed ? rollout.objective ?? "trained" : rollout.kept ? "weight 0" : "not trained"),
      ),
      rollout.error ? make("p", { class: "error" }, `No reward: ${rollout.error}${rollout.error_message ? `. ${rollout.error_message}` : ""}`) : null,
      this.completion(rollout, number),
      more,
    );
    more.addEventListener("click", () => {
      more.textContent = card.classList.toggle("clamped") ? "Show all" : "Show less";
    });
    return card;
  }

  completion(rollout, number) {
    const cut = rollout.tokens.length - Math.min(400, rollout.tokens.length);
    const nodes = rollout.tokens.flatMap((text, index) => {
      const token = make("span", { class: "token", "data-rollout": number, "data-token": index }, visible(text));
      if (!rollout.left_out || index !== cut) return [token];
      return [make("span", { class: "left-out" }, `\n… ${rollout.left_out.toLocaleString("en")} tokens left out …\n`), token];
    });
    return make("div", { class: "text" }, nodes);
  }

  paint() {
    const weights = this.record.rollouts.flatMap((rollout) => [rollout.weights].flat());
    const largest = Math.max(0, ...weights.map((weight) => Math.abs(weight ?? 0)));
    for (const token of this.detail.querySelectorAll(".token")) {
      const { weight, origin } = this.facts(token);
      token.style.background = this.mode === "weight" ? weightColour(weight, largest) : originColour(origin);
    }
    this.key.replaceChildren(...(this.mode === "weight" ? weightKey(largest) : originKey(this.record.rollouts)));
  }

  facts(token) {
    const rollout = this.record.rollouts[Number(token.dataset.rollout)];
    const at = (values) => (Array.isArray(values) ? values[Number(token.dataset.token)] : values) ?? null;
    return { text: at(rollout.tokens), weight: at(rollout.weights), logprob: at(rollout.logprobs), origin: at(rollout.origin) };
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
    const { text, weight, logprob, origin } = this.facts(token);
    const sampled = origin === 1;
    const rows = [
      weight === null ? "not trained" : `weight ${minus(String(weight))}`,
      sampled && logprob !== null ? `log p ${minus(String(logprob))} (${formatNumber(100 * Math.exp(logprob))} %)` : null,
      ORIGINS[origin],
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
function visible(text) {
  return text.split("\n").flatMap((part, index) => (index ? [make("span", { class: "mark", "aria-hidden": "true" }, "↵"), "\n", part] : [part]));
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
  if (!largest) return [make("span", {}, "No token of this group was pushed.")];
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

/** JSON, deflated, in base64. */
async function unpack(data) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}
