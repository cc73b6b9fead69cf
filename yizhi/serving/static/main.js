// The page: a model, one of its tasks, the fields of that, and the answer.

import { make } from "./elements.js";
import { say, switchLanguage, translate } from "./language.js";
import { Refused, ask, setKey } from "./server.js";
import { MOST_SENTENCES, VIEWS } from "./views.js";

const get = (id) => document.getElementById(id);
let models = [];
let answered; // what is shown: { view, found, values, milliseconds }
let refused; // or what went wrong
let asking; // the AbortController of the request on its way

const chosenModel = () => models.find(({ name }) => name === get("model").value);
const chosenView = () => VIEWS[new FormData(get("ask")).get("view")];

// --- Choosing

async function start() {
  try {
    ({ models } = await ask("info"));
  } catch (error) {
    fail(error);
    return;
  }
  refused = undefined;
  get("key-form").hidden = true;
  get("ask").hidden = false;
  get("model").replaceChildren(...models.map(({ name }) => make("option", { value: name }, name)));
  get("choose-model").hidden = models.length === 1;
  offerViews();
}

function offerViews() {
  const names = Object.keys(VIEWS).filter((name) => chosenModel().abilities.includes(name));
  const choices = names.map((name, index) => {
    const button = make("input", { type: "radio", name: "view", value: name });
    button.checked = index === 0;
    return make("label", {}, button, " ", make("span", { "data-say": VIEWS[name].say }));
  });
  get("views").replaceChildren(get("views").firstElementChild, ...choices);
  offerFields();
}

function offerFields() {
  asking?.abort();
  asking = undefined;
  get("fields").replaceChildren(...chosenView().fields.flatMap(makeField));
  answered = refused = undefined;
  show();
}

function makeField({ name, kind, label, example, optional, insert }) {
  const input = make(kind === "line" ? "input" : "textarea", { id: name, name, lang: "zh", spellcheck: "false" });
  input.value = example;
  input.required = !optional;
  if (kind === "lines") {
    input.rows = 5;
  }
  const elements = [make("label", { for: name, "data-say": label, "data-most": MOST_SENTENCES }), input];
  if (insert) {
    const button = make("button", { type: "button", class: "plain", "data-say": "insert" });
    button.addEventListener("click", () => {
      input.setRangeText(insert, input.selectionStart, input.selectionEnd, "end");
      input.focus();
    });
    elements.push(button);
  }
  return elements;
}

function readFields(view) {
  const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(
    view.fields.map(({ name, kind }) => [name, kind === "lines" ? lines(get(name).value) : get(name).value]),
  );
}

// --- Asking

async function submit() {
  asking?.abort();
  const mine = (asking = new AbortController());
  const view = chosenView();
  const values = readFields(view);
  answered = refused = undefined;
  show();
  try {
    const [path, body] = view.request(values);
    const begin = performance.now();
    const found = await ask(path, { ...body, model: chosenModel().name }, mine.signal);
    asking = undefined;
    answered = { view, found, values, milliseconds: Math.round(performance.now() - begin) };
    show();
  } catch (error) {
    if (!mine.signal.aborted) {
      fail(error);
    }
  }
}

function fail(error) {
  asking = answered = undefined;
  if (error instanceof Refused) {
    refused = error;
  } else {
    refused = new Refused("errorPage"); // an answer of another form, or a fault of this page
    console.error(error);
  }
  if (refused.about.startsWith("error401")) {
    get("ask").hidden = true;
    get("key-form").hidden = false;
    get("key").focus();
  }
  show();
}

// --- Showing

// Everything in the chosen language.
function show() {
  translate();
  get("error").hidden = !refused;
  get("error").textContent = refused ? [say(refused.about, refused.values), refused.detail].filter(Boolean).join("\n") : "";
  get("status").textContent = asking ? say("waiting") : answered ? say("done", answered) : "";
  get("answer").hidden = !answered;
  get("found").replaceChildren(...(answered ? answered.view.show(answered.found, answered.values) : []));
  get("about").replaceChildren(...(models.length ? describe(chosenModel()) : []));
}

function describe({ name, target, precision, golden_answers: count, artifact_sha256: digest }) {
  const checked = count ? say("checked", { count }) : say("unchecked");
  const told = [say("by", { model: name, target, precision }), checked, say("digest", { digest })];
  return told.map((line) => make("div", {}, line));
}

get("language").addEventListener("click", () => {
  switchLanguage();
  show();
});
get("model").addEventListener("change", offerViews);
get("views").addEventListener("change", offerFields);
get("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
get("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    get("ask").requestSubmit();
  }
});
get("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(get("key").value.trim());
  get("key").value = "";
  start();
});
translate();
start();
