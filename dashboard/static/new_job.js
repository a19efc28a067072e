// Files that are dropped on the form go up at once; what they hold and what the job will take stands beside the form.

import { put, root } from "./page.js";

const [form, drop, input, progress, state, preview] = ["#new-job", "#drop", "#upload", "#progress", "#upload-state", "#preview"].map((name) => document.querySelector(name));
const training = form.elements.training_file;
const QUIET_MS = 500;

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
    try { reply = JSON.parse(request.responseText); } catch { /* a server that is away answers nothing */ }
    if (request.status !== 200) {
      state.textContent = reply?.error?.message ?? "The file did not arrive: the server does not answer. Nothing else is lost.";
      return;
    }
    state.textContent = `${file.name} is there.`;
    for (const select of [training, form.elements.validation_file]) {
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

let asked = 0;

async function look() {
  const mine = ++asked;
  if (!training.value) return;
  preview.setAttribute("aria-busy", "true");
  const fields = new FormData(form);
  fields.delete("upload");
  const reply = await fetch("new/preview", { method: "POST", body: new URLSearchParams(fields) }).catch(() => null);
  const html = reply?.ok ? await reply.text() : null;
  // Whoever chose again meanwhile wants to see that.
  if (mine !== asked) return;
  preview.setAttribute("aria-busy", "false");
  if (html !== null) put(preview, html);
}

let waiting = 0;
form.addEventListener("input", (event) => {
  if (event.target === input || event.target.name === "suffix") return;
  clearTimeout(waiting);
  waiting = setTimeout(look, QUIET_MS);
});
input.addEventListener("change", () => input.files[0] && upload(input.files[0]));
for (const name of ["dragover", "dragleave", "drop"]) drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.toggle("over", name === "dragover"); });
drop.addEventListener("drop", (event) => event.dataTransfer.files[0] && upload(event.dataTransfer.files[0]));
look();
