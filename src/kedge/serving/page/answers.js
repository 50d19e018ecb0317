// Answers while they are written.

import { events } from "./api.js";

/**
 * Pieces `{index, text, end, id, version}` of `n` answers to a conversation (or, without a chat template, to its last
 * text alone), as they come.
 */
export async function* written(app, messages, { n = 1, signal } = {}) {
  const { name, chat } = await app.served();
  const common = { model: name, stream: true, n, ...app.settings.body() };
  const [path, body] = chat
    ? ["/v1/chat/completions", { ...common, messages }]
    : ["/v1/completions", { ...common, prompt: messages.at(-1).content }];
  for await (const event of events(path, body, signal)) {
    for (const choice of event.choices) {
      yield {
        index: choice.index,
        text: (chat ? choice.delta.content : choice.text) ?? "",
        end: choice.finish_reason,
        id: event.id,
        version: event.system_fingerprint,
      };
    }
  }
}
