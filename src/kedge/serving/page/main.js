// The page: its views, one at a time, and what they share.

import { Board } from "./board.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Review } from "./review.js";
import { Sender } from "./opinions.js";
import { Settings } from "./settings.js";
import { keys, request } from "./api.js";
import { byId, shown } from "./parts.js";
import { keep } from "./kept.js";

/** What views share: settings, feedback on its way, and what the server says of itself. */
class App {
  #served = null;

  constructor() {
    this.settings = new Settings();
    this.sender = new Sender(this.settings);
    this.keepsFeedback = false;
  }

  /** `{name, chat, feedback}`, asked for once. */
  async served() {
    if (this.#served === null) {
      const { data: [model] } = await request("/v1/models");
      this.#served = { name: model.id, chat: model.chat, feedback: model.feedback };
      this.keepsFeedback = model.feedback;
      byId("model").replaceChildren(shown(model.id));
      this.#note("no-template", !model.chat);
      this.#note("no-feedback", !model.feedback);
      views.chat.refresh();
      views.compare.refresh();
    }
    return this.#served;
  }

  #note(name, isSo) {
    for (const each of document.querySelectorAll(`[data-when="${name}"]`)) each.hidden = !isSo;
  }
}

const app = new App();
const views = { chat: new Chat(app), compare: new Compare(app), review: new Review(app), board: new Board() };
const ADMINS = ["review", "board"];

async function begin() {
  const trouble = byId("trouble");
  try {
    await app.served();
    trouble.hidden = true;
  } catch (error) {
    trouble.hidden = error.status === 401; // the form for the key says it
    trouble.textContent = `The server does not say what it serves: ${error.message}. Ask something, and it is tried again.`;
  }
}

function present() {
  return location.hash.slice(1) in views ? location.hash.slice(1) : "chat";
}

function show() {
  if (location.hash === "#main") return; // the link over the menu
  const name = present();
  for (const each of Object.keys(views)) byId(each).hidden = each !== name;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${name}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  byId("admin-key").hidden = true;
  byId("settings").hidden = name === "board";
  if (ADMINS.includes(name)) views[name].open();
}

function keyForm(name, then) {
  const form = byId(name);
  keys.addEventListener(`${name}-wanted`, () => {
    form.hidden = name === "admin-key" && !ADMINS.includes(present());
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = form.querySelector("input");
    keep(name, field.value.trim());
    field.value = "";
    form.hidden = true;
    then();
  });
}

keyForm("key", begin);
keyForm("admin-key", () => views[present()].open());
addEventListener("hashchange", show);
show();
begin();
