// One prompt, asked of up to two models side by side; each answer is shown as it comes.

import { root } from "./page.js";

const form = document.querySelector("#playground");
const [answers, ask, stop] = ["#answers", "#ask", "#stop"].map((name) => document.querySelector(name));
let aborting = null;

function column(model) {
  const made = document.createElement("section");
  made.className = "card";
  const [head, text, figures] = ["h2", "div", "p"].map((name) => document.createElement(name));
  head.textContent = model;
  head.className = "id";
  text.className = "answer";
  text.setAttribute("aria-live", "polite");
  text.setAttribute("aria-busy", "true");
  figures.className = "quiet";
  made.append(head, text, figures);
  answers.append(made);
  return { text, figures };
}

function write(text, piece, logprobs) {
  if (!logprobs?.length) { text.append(piece); return; }
  for (const { token, logprob } of logprobs) {
    const span = document.createElement("span");
    span.className = `token ${logprob < -2.3 ? "guess" : logprob < -0.7 ? "unsure" : ""}`;
    span.title = `${(100 * Math.exp(logprob)).toFixed(1)} %`;
    span.textContent = token;
    text.append(span);
  }
}

async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").filter((line) => line.startsWith("data: ")).map((line) => line.slice(6)).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(model, body, signal) {
  const { text, figures } = column(model);
  const began = performance.now();
  let [first, tokens] = [null, 0];
  try {
    const reply = await fetch(`${root}v1/chat/completions`, { method: "POST", signal, headers: { "content-type": "application/json" }, body: JSON.stringify({ ...body, model }) });
    if (!reply.ok) throw new Error((await reply.json()).error.message);
    for await (const chunk of events(reply)) {
      if (chunk.error) throw new Error(chunk.error.message);
      const choice = chunk.choices[0];
      if (choice?.delta.content) { first ??= performance.now() - began; write(text, choice.delta.content, choice.logprobs?.content); }
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
    }
    const took = (performance.now() - began) / 1000;
    figures.textContent = `first token after ${Math.round(first ?? 0)} ms, ${tokens} tokens, ${(tokens / took).toFixed(1)} a second`;
  } catch (error) {
    figures.textContent = error.name === "AbortError" ? "stopped" : error.message;
    if (error.name !== "AbortError") figures.className = "problem";
  }
  text.setAttribute("aria-busy", "false");
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const fields = form.elements;
  const system = fields.system.value.trim();
  const strength = Number(fields.strength.value);
  const body = {
    stream: true, stream_options: { include_usage: true }, temperature: Number(fields.temperature.value), max_tokens: Number(fields.max_tokens.value),
    messages: [...(system ? [{ role: "system", content: system }] : []), { role: "user", content: fields.user.value }],
    ...(fields.seed.value ? { seed: Number(fields.seed.value) } : {}),
    ...(fields.logprobs.checked ? { logprobs: true } : {}),
  };
  const models = [...fields.model].map((select) => select.value).filter(Boolean);
  const named = models.map((model, i) => (i === 0 && strength !== 1 && model.startsWith("ft:") ? `${model}@${strength}` : model));
  answers.replaceChildren();
  aborting = new AbortController();
  [ask.disabled, stop.hidden] = [true, false];
  await Promise.all(named.map((model) => answer(model, body, aborting.signal)));
  [ask.disabled, stop.hidden] = [false, true];
});
stop.addEventListener("click", () => aborting?.abort());
