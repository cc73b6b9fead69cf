// The model, beside the page's own thread: loaded, compared with its release, and asked.

import * as ort from "../onnxruntime-web/ort.wasm.min.mjs";
import { Tokenizer } from "../tokenizers/tokenizers.min.mjs";

const CANDIDATES = 5;
const MOST_THREADS = 4;
// A browser gives threads to cross-origin isolated pages alone.
const THREADS = crossOriginIsolated ? Math.min(MOST_THREADS, navigator.hardwareConcurrency) : 1;
const FOLDER = new URL("../", import.meta.url); // paths in page.json begin there
let page;
let tokenizer;
let session;

// What ends in a sentence for people. about: its name in words.js.
class Refused extends Error {
  constructor(about, values) {
    super(about);
    this.about = about;
    this.values = values;
  }
}

// --- Loading

async function load({ page: given, model }) {
  const begin = performance.now();
  page = given;
  tokenizer = new Tokenizer(await readJson(page.tokenizer), await readJson(page.tokenizer_config));
  let done = 0;
  let told = 0;
  const heard = (count) => {
    done += count;
    const percent = Math.floor((100 * done) / model.bytes);
    if (percent > told) {
      told = percent;
      postMessage({ kind: "progress", percent });
    }
  };
  const graph = await download(model.graph, heard);
  const weights = await download(model.weights, heard);
  postMessage({ kind: "trying" });
  ort.env.wasm.numThreads = THREADS;
  const externalData = [{ path: model.weights.path.split("/").at(-1), data: weights }];
  session = await wasm(() => ort.InferenceSession.create(graph, { executionProviders: ["wasm"], externalData }));
  await compare(model);
  const milliseconds = performance.now() - begin;
  postMessage({ kind: "ready", milliseconds, version: ort.env.versions.web, threads: THREADS });
}

// The bytes of a file of a known length. heard: told of each part's.
async function download({ path, bytes: expected }, heard) {
  const bytes = new Uint8Array(expected);
  let found = 0;
  try {
    const reader = (await request(path)).body.getReader();
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      if (found + part.value.length <= expected) {
        bytes.set(part.value, found);
        heard(part.value.length);
      }
      found += part.value.length;
    }
  } catch {
    throw new Refused("errorNetwork", { file: path });
  }
  if (found !== expected) {
    throw new Refused("errorSize", { file: path, expected, found });
  }
  return bytes;
}

async function readJson(path) {
  try {
    return await (await request(path)).json();
  } catch {
    throw new Refused("errorNetwork", { file: path });
  }
}

async function request(path) {
  const response = await fetch(new URL(path, FOLDER), { cache: "no-cache" }); // never weights of another release
  if (!response.ok) {
    throw new Error(String(response.status));
  }
  return response;
}

async function wasm(run) {
  try {
    return await run();
  } catch (error) {
    throw new Refused("errorRun", { detail: String(error?.message ?? error) });
  }
}

// --- Comparing with the release: a browser that reads or computes otherwise must not answer

async function compare(model) {
  for (const { text, ids } of page.texts) {
    const found = encode(text);
    if (found.length !== ids.length || found.some((id, place) => id !== ids[place])) {
      throw new Refused("errorIds", { text });
    }
  }
  for (const { text, masks } of page.answers) {
    const found = await fill(text);
    const fits = found.length === masks.length && masks.every((scores, place) => isNear(scores, found[place], model.score));
    if (!fits) {
      throw new Refused("errorAnswer", { text });
    }
  }
}

// What is not among the best scores at most what the last of them does.
function isNear(expected, candidates, most) {
  const scores = new Map(candidates.map(({ name, score }) => [name, score]));
  const least = Math.min(...scores.values());
  return Object.entries(expected).every(([name, score]) => Math.abs((scores.get(name) ?? least) - score) <= most);
}

// --- Asking

const encode = (text) => Array.from(tokenizer.encode(text).ids);

async function ask({ text }) {
  const begin = performance.now();
  const masks = await fill(text);
  postMessage({ kind: "answered", masks, milliseconds: Math.round(performance.now() - begin) });
}

// The best candidates { name, score } of each mask of a text, in their order.
async function fill(text) {
  const ids = encode(text);
  if (ids.length > page.max_tokens) {
    throw new Refused("errorLong", { most: page.max_tokens, count: ids.length });
  }
  const places = ids.flatMap((id, place) => (id === page.mask.id ? [place] : []));
  if (!places.length) {
    throw new Refused("errorMask", { mask: page.mask.token });
  }
  const tensor = (value) => new ort.Tensor("int64", BigInt64Array.from(ids, (id) => BigInt(value(id))), [1, ids.length]);
  const feeds = { input_ids: tensor((id) => id), attention_mask: tensor(() => 1), token_type_ids: tensor(() => 0) };
  const { logits } = await wasm(() => session.run(feeds, ["logits"]));
  const width = logits.dims[2];
  return places.map((place) => best(logits.data.subarray(place * width, (place + 1) * width)));
}

// Softmax over the whole vocabulary; an id without a token is no answer.
function best(logits) {
  const largest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const powers = Float64Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = powers.reduce((total, power) => total + power, 0);
  const ids = Array.from(powers.keys()).sort((one, other) => powers[other] - powers[one] || one - other);
  const found = [];
  for (const id of ids) {
    const name = tokenizer.id_to_token(id);
    if (name !== undefined) {
      found.push({ name, score: powers[id] / sum });
    }
    if (found.length === CANDIDATES) {
      break;
    }
  }
  return found;
}

const COMMANDS = { load, ask };

addEventListener("message", async ({ data }) => {
  try {
    await COMMANDS[data.kind](data);
  } catch (error) {
    if (error instanceof Refused) {
      postMessage({ kind: "refused", about: error.about, values: error.values });
    } else {
      postMessage({ kind: "refused", about: "errorPage", values: { detail: String(error) } });
    }
  }
});
