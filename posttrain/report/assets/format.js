// Numbers as people write them, and the making of elements.

const MISSING = "–";

/** A metric to about three digits. */
function formatNumber(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return MISSING;
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e4) return minus(String(value));
  if (size >= 1e4) return formatCount(value);
  if (size >= 100) return minus(value.toFixed(0));
  if (size >= 1) return minus(value.toFixed(2));
  if (size >= 0.001) return minus(size >= 0.1 ? value.toFixed(3) : trimZeros(value.toFixed(4)));
  return minus(value.toExponential(1));
}

function formatCount(value) {
  const size = Math.abs(value);
  for (const [scale, unit] of [[1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
    if (size >= scale) return minus(trimZeros((value / scale).toPrecision(3))) + unit;
  }
  return minus(trimZeros(value.toPrecision(3)));
}

/** A tick label with as many decimals as the distance between ticks needs. */
function formatTick(value, distance) {
  if (value === 0) return "0";
  if (Math.abs(value) < 1e-3) return minus(trimZeros(value.toExponential(1)));
  if (Math.abs(value) >= 1e4) return formatCount(value);
  const decimals = Math.min(4, Math.max(0, Math.ceil(-Math.log10(distance) - 1e-9)));
  return minus(value.toFixed(decimals));
}

function formatStep(step) {
  return `step ${step.toLocaleString("en")}`;
}

function trimZeros(text) {
  return text.includes(".") ? text.replace(/\.?0+(?=e|$)/, "") : text;
}

function minus(text) {
  return text.replaceAll("-", "−");
}

/** "token_model_loss" becomes "Token model loss". */
function titleOf(name) {
  const words = name.replaceAll("_", " ").replaceAll("/", " · ");
  return words.charAt(0).toUpperCase() + words.slice(1).replace(/\b(auc|kl|kv)\b/g, (short) => short.toUpperCase());
}

/** An HTML element; children are nodes or text, never markup. */
function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}
