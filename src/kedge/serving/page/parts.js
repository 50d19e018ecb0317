// Pieces of the page. What models and people wrote becomes text here, and never markup.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** A new element: its attributes (true: there, false or null: not), and its children, of which strings are text. */
export function make(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
export function draw(tag, attributes = {}, ...children) {
  return filled(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/** A button with a text or picture, and what it does. */
export function button(face, act, attributes = {}) {
  const made = make("button", { type: "button", ...attributes }, face);
  made.addEventListener("click", act);
  return made;
}

// Characters that cannot be seen and turn what follows them around, or do nothing that a reader should miss.
const UNSEEN = /([\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069])/;

/** Somebody's text, with characters that would deceive the eye named instead of obeyed. */
export function shown(text) {
  const parts = String(text).split(UNSEEN).map((part, at) => {
    if (at % 2 === 0) return part;
    const name = `U+${part.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;
    return make("span", { class: "unseen-mark", title: "a character that cannot be seen" }, name);
  });
  const all = document.createDocumentFragment();
  all.append(...parts.filter((part) => part !== ""));
  return all;
}

/** A paragraph of somebody's text. */
export function textBlock(text, attributes = {}) {
  const { class: more = "", ...others } = attributes;
  return make("p", { class: `text ${more}`.trim(), dir: "auto", ...others }, shown(text));
}

/** A prompt as it was asked: a text, messages, or tokens. */
export function promptBlock(prompt) {
  if (typeof prompt === "string") return textBlock(prompt, { class: "asked" });
  if (Array.isArray(prompt) && prompt.every((each) => each !== null && typeof each === "object")) {
    return make("div", { class: "asked" }, ...prompt.map((message) => make(
      "div", {}, make("small", {}, shown(message.role)), textBlock(message.content),
    )));
  }
  return textBlock(JSON.stringify(prompt), { class: "asked" });
}

/** Enter sends the form that a text is in; with Shift, or while characters are composed, it does not. */
export function sendOnEnter(area) {
  area.addEventListener("keydown", (pressed) => {
    if (pressed.key !== "Enter" || pressed.shiftKey || pressed.isComposing) return;
    pressed.preventDefault();
    area.form.requestSubmit();
  });
}
