// Files that are dropped on the form go up at once; what the linter finds and the forecast stand beside it.

import { root } from "./page.js";

const [form, drop, input, progress, state] = ["#new-job", "#drop", "#upload", "#progress", "#upload-state"].map((name) => document.querySelector(name));
const [findings, forecast, training] = ["#findings", "#forecast", "#training_file"].map((name) => document.querySelector(name));

function paragraph(text, name = "") {
  const made = document.createElement("p");
  made.textContent = text;
  made.className = name;
  return made;
}

function upload(file) {
  const body = new FormData();
  body.append("purpose", "fine-tune");
  body.append("file", file);
  const request = new XMLHttpRequest();
  request.open("POST", `${root}v1/files`);
  progress.hidden = false;
  request.upload.onprogress = ({ loaded, total }) => { progress.max = total; progress.value = loaded; };
  request.onloadend = () => {
    progress.hidden = true;
    let reply = null;
    try { reply = JSON.parse(request.responseText); } catch { /* told below */ }
    if (request.status !== 200) {
      state.textContent = reply?.error?.message ?? "The file did not arrive. Is the server there?";
      return;
    }
    state.textContent = `${file.name} is there.`;
    for (const select of [training, document.querySelector("#validation_file")]) {
      const option = document.createElement("option");
      option.value = reply.id;
      option.textContent = `${file.name} · ${reply.id}`;
      select.append(option);
    }
    training.querySelector('option[value=""]')?.remove();
    training.value = reply.id;
    look();
  };
  state.textContent = `Sending ${file.name} …`;
  request.send(body);
}

async function ask(path, options) {
  const reply = await fetch(`${root}${path}`, options).catch(() => null);
  return reply?.ok ? reply.json() : null;
}

let asked = 0;

async function look() {
  const mine = ++asked;
  if (!training.value) return;
  findings.replaceChildren(paragraph("Looking at the rows …", "quiet"));
  const lint = await ask(`v1/luthier/files/${encodeURIComponent(training.value)}/lint?model=${encodeURIComponent(form.elements.model.value)}`);
  if (mine !== asked) return;
  const found = lint?.findings ?? lint?.data ?? [];
  findings.replaceChildren(...(lint === null
    ? [paragraph("The rows are checked when the job starts.", "quiet")]
    : found.length
      ? found.slice(0, 12).map((it) => paragraph(`${it.code}${it.line ? ` line ${it.line}` : ""}: ${it.message}${it.mend ? ` Mend: ${it.mend}` : ""}`))
      : [paragraph("Nothing stands out in these rows.", "quiet")]));
}

async function foresee() {
  if (!training.value) return;
  const body = { model: form.elements.model.value, training_file: training.value };
  const told = await ask("v1/luthier/forecasts", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  const rows = told ? [
    ["Tokens to learn", told.tokens?.learnt ?? told.trained_tokens],
    ["Steps", told.steps?.total ?? told.total_steps],
    ["Minutes", told.seconds ? `${Math.round(told.seconds.p50 / 60)} (${Math.round(told.seconds.p5 / 60)} to ${Math.round(told.seconds.p95 / 60)})` : undefined],
  ].filter(([, value]) => value !== undefined && value !== null) : [];
  forecast.replaceChildren(...(rows.length ? rows.map(([label, value]) => paragraph(`${label}: ${value}`)) : [paragraph("The job tells what it will take when it has counted its tokens.", "quiet")]));
}

input.addEventListener("change", () => input.files[0] && upload(input.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
drop.addEventListener("drop", (event) => event.dataTransfer.files[0] && upload(event.dataTransfer.files[0]));
for (const select of [training, form.elements.model]) select.addEventListener("change", () => { look(); foresee(); });
if (training.value) { look(); foresee(); }
