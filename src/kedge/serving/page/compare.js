// Two answers to one prompt, and which one is better.

import { Dropped, Refusal } from "./api.js";
import { written } from "./answers.js";
import { keep, keepField, recall, setField } from "./kept.js";
import { byId, sendOnEnter, shown } from "./parts.js";

const KEYS = { ArrowLeft: 0, 1: 0, ArrowRight: 1, 2: 1 };

/** The view. Which answer stands left is drawn anew each time, so that a habit of the hand says nothing of them. */
export class Compare {
  #asking = null; // whoever asks, and nobody who asked before
  #answers = null; // in the order of the response, once both are written
  #leftmost = 0; // index of the answer on the left
  #sending = false;

  constructor(app) {
    this.app = app;
    this.root = byId("compare");
    this.prompt = byId("pair-prompt");
    this.comment = byId("pair-comment");
    this.list = byId("list-text");
    this.waiting = recall("prompts", []);
    this.sides = [...this.root.querySelectorAll("[data-side]")];
    keepField(this.prompt, "pair-prompt");
    keepField(this.comment, "pair-comment");
    keepField(this.list, "list-text");
    sendOnEnter(this.prompt);
    byId("pair-ask").addEventListener("submit", (event) => { event.preventDefault(); this.#ask(); });
    byId("pair-again").addEventListener("click", () => this.#ask());
    byId("list-form").addEventListener("submit", (event) => { event.preventDefault(); this.#begin(); });
    byId("list-file").addEventListener("change", (event) => this.#read(event.target));
    this.sides.forEach((side, at) => side.querySelector("button").addEventListener("click", () => this.#choose(at)));
    byId("tie").addEventListener("click", () => this.#tie());
    byId("skip").addEventListener("click", () => this.#next());
    document.addEventListener("keydown", (pressed) => this.#press(pressed));
    this.#count();
    this.#allow();
  }

  #press(pressed) {
    const isTyped = pressed.target.closest("input, textarea, select") !== null;
    if (this.root.hidden || isTyped || pressed.ctrlKey || pressed.altKey || pressed.metaKey || pressed.repeat) return;
    if (pressed.key in KEYS) this.#choose(KEYS[pressed.key]);
    else if (pressed.key === "t") this.#tie();
    else if (pressed.key === "s" && !byId("pair").hidden) this.#next();
    else return;
    pressed.preventDefault();
  }

  async #ask() {
    const prompt = this.prompt.value;
    if (!prompt.trim() || this.#sending || !this.app.settings.areValid()) return;
    this.#asking?.abort();
    const asking = new AbortController();
    this.#asking = asking;
    this.#answers = null;
    this.#leftmost = crypto.getRandomValues(new Uint8Array(1))[0] & 1;
    const answers = [0, 1].map(() => ({ text: "", id: null, end: null }));
    byId("pair-asked").replaceChildren(shown(prompt));
    for (const side of this.sides) side.querySelector(".text").replaceChildren();
    byId("pair").hidden = false;
    byId("pair-again").hidden = true;
    byId("pair").focus(); // the keys are for the answers now, and not text
    this.#allow();
    this.#state("Writing…");
    try {
      for await (const piece of written(this.app, [{ role: "user", content: prompt }], { n: 2, signal: asking.signal })) {
        const answer = answers[piece.index];
        Object.assign(answer, { text: answer.text + piece.text, id: piece.id, end: piece.end ?? answer.end });
        this.sides[piece.index ^ this.#leftmost].querySelector(".text").append(shown(piece.text));
      }
      this.#answers = answers;
      this.#allow();
      const alike = answers[0].text === answers[1].text;
      this.#state(alike ? "Both are the same: there is nothing to choose." : "Which one is better?");
    } catch (error) {
      if (asking.signal.aborted) return;
      if (!(error instanceof Dropped || error instanceof Refusal)) throw error;
      byId("pair-again").hidden = false;
      this.#state(error instanceof Dropped ? "The connection was lost. The prompt is still there." : error.message);
    }
  }

  /** What can be said now. */
  #allow() {
    const { keepsFeedback } = this.app;
    const isReady = this.#answers !== null && !this.#sending && keepsFeedback;
    const differ = isReady && this.#answers[0].text !== this.#answers[1].text;
    for (const side of this.sides) side.querySelector("button").disabled = !differ;
    byId("tie").disabled = !isReady;
    byId("skip").disabled = this.#sending;
  }

  #choose(side) {
    if (this.sides[side].querySelector("button").disabled) return;
    const better = side ^ this.#leftmost;
    const { id } = this.#answers[better];
    const comment = this.comment.value.trim();
    this.#say({ id, index: better, better_than: { id, index: 1 - better }, ...(comment ? { comment } : {}) });
  }

  /** Neither: no preference is made of it, and the comment says so. */
  #tie() {
    if (byId("tie").disabled) return;
    const comment = this.comment.value.trim();
    this.#say({ id: this.#answers[0].id, index: 0, comment: `tie of both answers${comment ? `: ${comment}` : ""}` });
  }

  async #say(said) {
    this.#sending = true;
    this.#allow();
    try {
      await this.app.sender.send(said);
    } catch (error) {
      this.#state(`Not kept: ${error.message}. Choose again; it is kept once.`);
      return;
    } finally {
      this.#sending = false;
      this.#allow();
    }
    this.#next("Kept.");
  }

  #next(said = "Skipped.") {
    if (this.#sending) return;
    this.#asking?.abort();
    this.#answers = null;
    byId("pair").hidden = true;
    setField(this.comment, "");
    this.#state(said);
    if (this.waiting.length > 0) {
      setField(this.prompt, this.waiting.shift());
      keep("prompts", this.waiting);
      this.#count();
      this.#ask();
    } else {
      setField(this.prompt, "");
      this.prompt.focus();
    }
  }

  #begin() {
    const prompts = this.list.value.split(/\r?\n/).filter((line) => line.trim());
    if (prompts.length === 0 || this.#sending) return;
    this.waiting = prompts;
    byId("prompt-list").open = false;
    this.#next("");
  }

  async #read(file) {
    if (file.files.length === 0) return;
    setField(this.list, await file.files[0].text());
    file.value = ""; // the same file may be chosen again
  }

  #count() {
    byId("list-state").textContent = this.waiting.length ? `(${this.waiting.length} to come)` : "";
  }

  #state(text) {
    byId("pair-state").textContent = text;
  }

  refresh() {
    this.#allow();
  }
}
