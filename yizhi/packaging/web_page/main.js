// The page: load the model with a progress bar, ask it, and show candidates as bars. worker.js computes.

import { bars, make } from "./elements.js";
import { say, switchLanguage, translate } from "./language.js";

const EXAMPLE = ["北京是", "国的首都。"];

const get = (id) => document.getElementById(id);
const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0);
let page; // page.json
let worker;
let state = {}; // what is shown: percent, trying, loaded, waiting, answered, refused

const chosen = () => page.models.find(({ target }) => target === get("model").value);

async function start() {
  get("not-started").hidden = true;
  get("language").hidden = false;
  try {
    const response = await fetch("page.json", { cache: "no-cache" });
    if (!response.ok) {
      throw new Error(String(response.status));
    }
    page = await response.json();
  } catch {
    refuse({ about: "errorNetwork", values: { file: "page.json" } });
    return;
  }
  get("model").replaceChildren(...page.models.map(({ target }) => make("option", { value: target })));
  get("text").value = EXAMPLE.join(page.mask.token);
  get("insert").dataset.mask = page.mask.token;
  get("load").hidden = false;
  show();
}

// --- Loading

function load() {
  worker?.terminate();
  worker = new Worker("page/worker.js", { type: "module" });
  worker.addEventListener("message", ({ data }) => HEARD[data.kind](data));
  worker.addEventListener("error", ({ message }) => HEARD.refused({ about: "errorPage", values: { detail: message ?? "" } }));
  get("load").hidden = true;
  worker.postMessage({ kind: "load", page, model: chosen() });
  state = { percent: 0 };
  show();
}

// What the worker says.
const HEARD = {
  progress({ percent }) {
    state = { percent };
    show();
  },
  trying() {
    state = { trying: true };
    show();
  },
  ready(loaded) {
    get("ask").hidden = false;
    state = { loaded };
    show();
    get("text").focus();
  },
  answered({ masks, milliseconds }) {
    state = { loaded: state.loaded, answered: { masks, milliseconds } };
    show();
  },
  refused(refused) {
    get("load").hidden = Boolean(state.loaded); // before it is loaded, another try may be given
    refuse(refused);
  },
};

function refuse(refused) {
  state = { loaded: state.loaded, refused };
  show();
}

function ask() {
  if (state.waiting) {
    return; // one at a time: the worker would only queue them
  }
  state = { loaded: state.loaded, waiting: true };
  worker.postMessage({ kind: "ask", text: get("text").value });
  show();
}

// --- Showing

// Everything in the chosen language.
function show() {
  translate();
  const { percent, loaded, answered, refused } = state;
  for (const option of get("model").options) {
    const { precision, bytes } = page.models[option.index];
    option.textContent = say("choice", { precision, megabytes: megabytes(bytes) });
  }
  get("loading").hidden = percent === undefined;
  get("progress").value = percent ?? 0;
  get("error").hidden = !refused;
  get("error").textContent = refused ? say(refused.about, refused.values) : "";
  get("status").textContent = describeStatus(state);
  get("answer").hidden = !answered;
  get("found").replaceChildren(...(answered?.masks ?? []).flatMap(showMask));
  get("about").replaceChildren(...(loaded ? describe(loaded) : []));
}

function describeStatus({ percent, trying, loaded, waiting, answered, refused }) {
  if (percent !== undefined) {
    return say("percent", { percent, megabytes: megabytes(chosen().bytes) });
  }
  if (trying || waiting) {
    return say(trying ? "trying" : "waiting");
  }
  if (answered) {
    return say("done", answered);
  }
  return loaded && !refused ? say("loaded", { seconds: (loaded.milliseconds / 1000).toFixed(1) }) : "";
}

function showMask(candidates, index, masks) {
  const title = masks.length > 1 ? [make("h3", {}, say("mask", { number: index + 1 }))] : [];
  return [...title, bars(candidates, [say("candidate"), say("score")])];
}

function describe({ version, threads }) {
  const { target, precision } = chosen();
  const told = [
    say("by", { name: page.name, target, precision }),
    say("checked", { texts: page.texts.length, answers: page.answers.length }),
    say("ran", { version, threads }),
  ];
  return told.map((line) => make("div", {}, line));
}

get("language").addEventListener("click", () => {
  switchLanguage();
  show();
});
get("load").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
get("insert").addEventListener("click", () => {
  const text = get("text");
  text.setRangeText(page.mask.token, text.selectionStart, text.selectionEnd, "end");
  text.focus();
});
get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
get("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    get("ask").requestSubmit();
  }
});
start();
