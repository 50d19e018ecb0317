// What people say of answers.

import { request } from "./api.js";
import { button, draw, make } from "./parts.js";

// Drawn, because not every machine has a font with thumbs; the one that is down is turned around.
const THUMB = "M1 7h3v7H1zM5 7l3-6c1.2 0 2 .9 1.8 2.1L9.3 6H14c.8 0 1.3.7 1.1 1.5l-1.5 5.4c-.2.6-.6 1.1-1.3 1.1H5z";

function newKey() {
  // Not randomUUID, which is there over https alone.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Sends what is said. The same thing again, after it failed, has the same key, so that it is kept once. */
export class Sender {
  #keys = new Map();

  constructor(settings) {
    this.settings = settings;
  }

  async send(said) {
    const { annotator } = this.settings;
    const body = annotator ? { ...said, annotator } : said;
    const text = JSON.stringify(body);
    if (!this.#keys.has(text)) this.#keys.set(text, newKey());
    await request("/v1/feedback", { method: "POST", body, headers: { "Idempotency-Key": this.#keys.get(text) } });
    this.#keys.delete(text);
  }
}

/** Thumbs, a correction and a comment for one answer: `{id, answer, thumb}`, of which `changed` is told. */
export function opinionBar(sender, turn, changed) {
  const state = make("output", { role: "status" });
  const bar = make("div", { class: "opinion" });

  async function say(said, then) {
    state.textContent = "";
    const controls = [...bar.querySelectorAll("button")];
    controls.forEach((each) => { each.disabled = true; });
    try {
      await sender.send({ id: turn.id, ...said });
      then();
      state.textContent = "Kept.";
    } catch (error) {
      state.textContent = `Not kept: ${error.message}. Send it again; it is kept once.`;
    } finally {
      controls.forEach((each) => { each.disabled = false; });
    }
  }

  const thumbs = ["up", "down"].map((thumb) => {
    const name = thumb === "up" ? "Good answer" : "Bad answer";
    const sign = draw("path", { d: THUMB, transform: thumb === "up" ? null : "rotate(180 8 8)" });
    const made = button(draw("svg", { viewBox: "0 0 16 16", "aria-hidden": true }, sign), () => {
      if (turn.thumb !== thumb) say({ thumb }, () => { turn.thumb = thumb; changed(); press(); });
    }, { class: "thumb", "aria-label": name, title: name });
    made.dataset.thumb = thumb;
    return made;
  });
  const press = () => thumbs.forEach((each) => each.setAttribute("aria-pressed", each.dataset.thumb === turn.thumb));
  press();

  const correction = make("textarea", { rows: 4, dir: "auto", name: "correction" });
  correction.value = turn.answer;
  const comment = make("textarea", { rows: 2, dir: "auto", name: "comment" });
  const more = make("details", {}, make("summary", {}, "Correct or comment"));
  const form = make(
    "form", { class: "fields" },
    make("label", {}, "What it should have been", correction),
    make("label", {}, "Comment", comment),
    make("div", { class: "row" }, make("button", {}, "Keep this")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const said = {};
    if (correction.value.trim() && correction.value !== turn.answer) said.correction = correction.value;
    if (comment.value.trim()) said.comment = comment.value;
    if (Object.keys(said).length === 0) {
      state.textContent = "Nothing is changed and nothing is said yet.";
      return;
    }
    say(said, () => { more.open = false; comment.value = ""; });
  });
  more.append(form);
  bar.append(...thumbs, more, state);
  return bar;
}
