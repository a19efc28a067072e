// A job's curves and events while it trains: what was measured in one reply, then the stream of events behind it.

import { isConnected, refresh, root, showTimes } from "./page.js";

const chart = document.querySelector("line-chart");
const log = document.querySelector("#log");
const status = document.querySelector("#status");
const url = `${root}v1/fine_tuning/jobs/${chart.dataset.job}`;
const KEPT_LINES = 500;
const LONGEST_PAUSE_MS = 30000;

let after = null;
let stream = null;
let pauseMs = 1000;
let isOver = chart.dataset.isOver === "true";

function measure(data) {
  for (const [curve, name] of [["train", "train_loss"], ["valid", "valid_loss"]])
    if (Number.isFinite(data[name])) chart.add(curve, [[data.step, data[name]]]);
}

function write(event) {
  const line = document.createElement("li");
  const time = document.createElement("time");
  const text = document.createElement("span");
  line.className = event.level;
  time.setAttribute("datetime", new Date(event.created_at * 1000).toISOString());
  text.textContent = event.message;
  line.append(time, " ", text);
  showTimes(line);
  log.prepend(line);
  while (log.childElementCount > KEPT_LINES) log.lastElementChild.remove();
}

function follow() {
  if (stream || isOver || document.hidden) return;
  stream = new EventSource(`${url}/events?stream=true&after=${after ?? ""}`);
  stream.onopen = () => { pauseMs = 1000; isConnected(true); };
  stream.onmessage = ({ data, lastEventId }) => {
    if (data === "[DONE]") {
      // Else the browser would connect again for ever.
      isOver = true;
      stream.close();
      status.dataset.everyS = "0";
      refresh(status);
      return;
    }
    const event = JSON.parse(data);
    after = lastEventId || event.id;
    if (event.type === "metrics") measure(event.data);
    write(event);
  };
  stream.onerror = () => {
    isConnected(false);
    if (stream.readyState !== EventSource.CLOSED) return;
    // Closed for good, as after an answer of 503: ours to try again, and less and less often.
    stream = null;
    setTimeout(follow, pauseMs);
    pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS);
  };
}

// A browser has six connections to a server; tabs that nobody looks at give theirs back.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) { stream?.close(); stream = null; } else follow();
});

async function begin() {
  const reply = await fetch(`${root}v1/luthier/fine_tuning/jobs/${chart.dataset.job}/series`);
  if (!reply.ok) { setTimeout(begin, pauseMs); pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS); return; }
  const series = await reply.json();
  for (const [curve, name] of [["train", "train_loss"], ["valid", "valid_loss"]]) {
    const found = series.metrics[name];
    if (found) chart.add(curve, found.steps.map((step, i) => [step, found.values[i]]));
  }
  after = series.last_event_id;
  follow();
}

begin();
