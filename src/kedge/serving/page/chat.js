// A conversation.

import { Dropped, Refusal } from "./api.js";
import { written } from "./answers.js";
import { keep, keepField, recall, setField } from "./kept.js";
import { opinionBar } from "./opinions.js";
import { button, byId, make, sendOnEnter, shown, textBlock } from "./parts.js";

const ENDS = {
  length: "It ends here because it has as many tokens as it may.",
  stopped: "Stopped. What was not written to its end is not kept, and nothing can be said of it.",
};

function toEnd() {
  scrollTo(0, document.documentElement.scrollHeight);
}

/** Change something at the end of the page, and stay there; whoever reads further up is left alone. */
function following(change) {
  const isAtEnd = innerHeight + scrollY >= document.documentElement.scrollHeight - 60;
  change();
  if (isAtEnd) toEnd();
}

/** The view. A turn is `{question, answer, id, version, end, trouble, thumb}`; `end` is null while it is written. */
export class Chat {
  #writing = null;
  #parts = new WeakMap(); // of a turn: its `text` and `foot`; the turn itself is remembered as JSON

  constructor(app) {
    this.app = app;
    this.turns = recall("turns", []);
    for (const turn of this.turns) {
      if (turn.end === null) Object.assign(turn, { end: "dropped", trouble: "The page was left while this was written." });
    }
    this.question = byId("question");
    keepField(this.question, "question");
    sendOnEnter(this.question);
    byId("ask").addEventListener("submit", (event) => { event.preventDefault(); this.#send(); });
    byId("stop").addEventListener("click", () => this.#writing?.abort());
    byId("restart").addEventListener("click", () => this.#restart());
    byId("chat").addEventListener("keydown", (pressed) => { if (pressed.key === "Escape") this.#writing?.abort(); });
    this.#showAll();
  }

  #send() {
    const question = this.question.value;
    if (this.#writing || !question.trim() || !this.app.settings.areValid()) return;
    setField(this.question, "");
    const turn = { question, answer: "", id: null, version: null, end: null, trouble: null, thumb: null };
    this.turns.push(turn);
    byId("turns").append(this.#card(turn));
    toEnd();
    this.#ask(turn);
  }

  async #ask(turn) {
    const writing = new AbortController();
    this.#writing = writing;
    Object.assign(turn, { end: null, trouble: null });
    this.#show(turn);
    this.#state("Writing…");
    try {
      await this.#listen(turn, writing.signal);
      this.#state(`Written by ${turn.version}.`);
    } catch (error) {
      if (writing.signal.aborted) turn.end = "stopped";
      else if (error instanceof Dropped) Object.assign(turn, { end: "dropped", trouble: "The connection was lost." });
      else if (error instanceof Refusal) Object.assign(turn, { end: "refused", trouble: error.message });
      else throw error;
      this.#state(turn.trouble ?? "Stopped.");
    } finally {
      this.#writing = null;
      keep("turns", this.turns);
      following(() => this.#show(turn));
    }
  }

  /** Ask, with as much of the conversation as fits. */
  async #listen(turn, signal) {
    const before = this.turns.slice(0, this.turns.indexOf(turn)).filter((each) => each.answer);
    let left = 0;
    for (;;) {
      const messages = before.slice(left).flatMap((each) => [
        { role: "user", content: each.question }, { role: "assistant", content: each.answer },
      ]);
      messages.push({ role: "user", content: turn.question });
      try {
        return await this.#take(turn, messages, signal);
      } catch (error) {
        if (error.code !== "context_length_exceeded" || left === before.length) throw error;
        left += 1;
        turn.left = left;
      }
    }
  }

  async #take(turn, messages, signal) {
    const { text } = this.#parts.get(turn);
    let first = true;
    for await (const piece of written(this.app, messages, { signal })) {
      if (first) { // what a broken answer left stays until there is another one
        Object.assign(turn, { answer: "", id: piece.id, version: piece.version, thumb: null });
        text.replaceChildren();
        first = false;
      }
      turn.answer += piece.text;
      turn.end = piece.end ?? turn.end;
      following(() => text.append(shown(piece.text)));
    }
  }

  #restart() {
    this.#writing?.abort();
    this.turns = [];
    keep("turns", this.turns);
    this.#showAll();
    this.#state("");
    this.question.focus();
  }

  #showAll() {
    byId("turns").replaceChildren(...this.turns.map((turn) => this.#card(turn)));
    byId("restart").hidden = this.turns.length === 0;
  }

  #card(turn) {
    const text = textBlock(turn.answer, { class: "answer" });
    const foot = make("div", { class: "foot" });
    this.#parts.set(turn, { text, foot });
    const card = make("article", { class: "turn" }, textBlock(turn.question, { class: "asked" }), text, foot);
    this.#show(turn);
    return card;
  }

  #show(turn) {
    const { text, foot } = this.#parts.get(turn);
    const writes = turn.end === null;
    byId("send").disabled = this.#writing !== null;
    byId("stop").hidden = this.#writing === null;
    byId("restart").hidden = this.turns.length === 0;
    text.classList.toggle("writing", writes);
    foot.replaceChildren();
    if (writes) return;
    const trouble = turn.trouble ?? ENDS[turn.end];
    if (trouble) foot.append(make("p", { class: turn.trouble ? "note bad" : "note", dir: "auto" }, shown(trouble)));
    if (turn.left) foot.append(make("p", { class: "note" }, `The first ${turn.left} of what was said before no longer fit, and were left out.`));
    if (turn.version) foot.append(make("span", { class: "version", title: "Version of the weights" }, shown(turn.version)));
    if (turn === this.turns.at(-1) && ["dropped", "refused", "stopped"].includes(turn.end)) {
      foot.append(button("Ask again", () => { if (!this.#writing && this.app.settings.areValid()) this.#ask(turn); }));
    }
    if (["stop", "length"].includes(turn.end) && this.app.keepsFeedback) {
      foot.append(opinionBar(this.app.sender, turn, () => keep("turns", this.turns)));
    }
  }

  /** Once more, when it is known what the server keeps. */
  refresh() {
    if (!this.#writing) this.#showAll();
  }

  #state(text) {
    byId("chat-state").textContent = text;
  }
}
