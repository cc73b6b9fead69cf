// One view for each of a model's abilities.
//
// fields: what is asked for; name, kind ("line", "text" or "lines"), label (a name in words.js) and an example.
// request: the path and the body for the fields' values. Throws Refused.
// show: elements for the answer to these values.

import { bars, make, marked } from "./elements.js";
import { say } from "./language.js";
import { Refused } from "./server.js";

export const MOST_SENTENCES = 20;
const MASK = "[MASK]";
const CANDIDATES = 5;
const ANSWERS = 3;
const EXAMPLE = "北京是中国的首都，李白住在长安。";

const fillMask = {
  say: "fill-mask",
  fields: [{ name: "inputs", kind: "text", label: "text", example: "北京是[MASK]国的首都。", insert: MASK }],
  request: (values) => ["fill-mask", { ...values, top_k: CANDIDATES }],
  show: (masks) =>
    masks.flatMap((candidates, index) => {
      const title = say("mask", { number: index + 1 });
      const rows = candidates.map(({ token, score }) => ({ name: token, score }));
      return [make("h3", {}, title), bars(rows, [say("candidate"), say("score")])];
    }),
};

const predict = {
  say: "predict",
  fields: [
    { name: "first", kind: "text", label: "text", example: "房间很干净，服务也很好。" },
    { name: "second", kind: "text", label: "second", example: "", optional: true },
  ],
  request: ({ first, second }) => ["predict", { inputs: second ? [first, second] : first }],
  show: (labels) => [
    bars(
      labels.map(({ label, score }) => ({ name: label, score })),
      [say("label"), say("score")],
    ),
  ],
};

const tag = {
  say: "tag",
  fields: [{ name: "inputs", kind: "text", label: "text", example: EXAMPLE }],
  request: (values) => ["tag", values],
  show: (entities, { inputs }) => {
    if (!entities.length) {
      return [make("p", {}, say("noEntities"))];
    }
    // Hues a golden angle apart: neighbours differ, however many labels there are.
    const kinds = [...new Set(entities.map(({ label }) => label))].sort();
    const spans = entities.map((entity) => ({ ...entity, hue: 210 + 137.5 * kinds.indexOf(entity.label) }));
    const rows = entities.map(({ text, label, score }) => ({ name: `${text} · ${label}`, score }));
    return [marked(inputs, spans), bars(rows, [say("entity"), say("score")])];
  },
};

const answer = {
  say: "answer-task",
  fields: [
    { name: "question", kind: "line", label: "question", example: "中国的首都是哪里？" },
    { name: "context", kind: "text", label: "context", example: EXAMPLE },
  ],
  request: (values) => ["answer", { ...values, top_k: ANSWERS }],
  show: (answers, { context }) => [
    marked(context, answers.slice(0, 1)),
    bars(
      answers.map(({ text, score }) => ({ name: text, score })),
      [say("answer"), say("score")],
    ),
  ],
};

const embed = {
  say: "embed",
  fields: [
    {
      name: "inputs",
      kind: "lines",
      label: "lines",
      example: "今天天气很好。\n今天阳光明媚。\n我想退掉这个房间。\n如何办理退房？",
    },
  ],
  request: ({ inputs }) => {
    const count = inputs.length;
    if (count < 2 || count > MOST_SENTENCES) {
      throw new Refused("linesWrong", { values: { most: MOST_SENTENCES, count } });
    }
    return ["embed", { inputs }];
  },
  show: (vectors, { inputs }) => {
    // Vectors have norm 1: their dot product is the cosine.
    const cosines = vectors.map((one) =>
      vectors.map((other) => one.reduce((sum, value, index) => sum + value * other[index], 0)),
    );
    const low = Math.min(...cosines.flat());
    const numbers = inputs.map((_, index) => make("th", { scope: "col" }, String(index + 1)));
    const body = make("tbody");
    for (const [index, row] of cosines.entries()) {
      const name = make("th", { scope: "row", title: inputs[index] }, `${index + 1} ${inputs[index]}`);
      const cells = row.map((cosine) => {
        const cell = make("td", {}, cosine.toFixed(2));
        cell.style.setProperty("--share", low < 1 ? Math.min(1, (cosine - low) / (1 - low)) : 1);
        return cell;
      });
      body.append(make("tr", {}, name, ...cells));
    }
    const head = make("thead", {}, make("tr", {}, make("th", { scope: "col" }, say("sentence")), ...numbers));
    const table = make("table", { class: "similarity" }, head, body);
    const label = say("similarity");
    return [
      make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": label }, table),
      make("p", { class: "quiet" }, say("scale", { low: low.toFixed(2) })),
    ];
  },
};

// In the order in which they are offered: what a model was made for comes first.
export const VIEWS = { "fill-mask": fillMask, predict, tag, answer, embed };
