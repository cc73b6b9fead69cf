// What the page says, in English and in Chinese.

export const WORDS = {
  en: {
    answer: "Answer",
    "answer-task": "Answer a question",
    ask: "Ask",
    by: "{model}, {target}, {precision}",
    candidate: "Candidate",
    checked: "{count} texts of its release were answered as the oracle answered them.",
    unchecked: "Its answers were compared with nothing.",
    context: "Text with the answer",
    digest: "sha256 of artifact.json: {digest}",
    done: "Answered in {milliseconds} ms.",
    embed: "Compare sentences",
    enter: "Enter",
    entity: "Entity",
    "fill-mask": "Fill the mask",
    insert: "Insert [MASK]",
    key: "API key",
    keyNote: "It stays in this page's memory and goes when the page is closed.",
    label: "Label",
    lines: "Sentences, one a line: 2 to {most}",
    linesWrong: "Expected 2 to {most} sentences; found {count}.",
    mask: "Mask {number}",
    model: "Model",
    noEntities: "No entities were found.",
    other: "中文",
    predict: "Label a text",
    question: "Question",
    scale: "Cosine of each pair. The colour is faintest at {low}, the lowest, and strongest at 1.",
    score: "Score",
    second: "Second text, for a model of pairs; may be empty",
    sentence: "Sentence",
    similarity: "Similarity of the sentences",
    tag: "Find entities",
    task: "Task",
    text: "Text",
    waiting: "Waiting for the answer …",
    error401: "This server wants its API key.",
    error401wrong: "This is not the server's API key.",
    error413: "This is too much for the server.",
    error429: "The server is busy. Try again in a moment.",
    error503: "The server is shutting down.",
    error504: "The answer took too long.",
    errorServer: "The server failed.",
    errorInput: "The server cannot use this.",
    errorNetwork: "The server cannot be reached.",
    errorPage: "The answer cannot be shown.",
  },
  zh: {
    answer: "结果",
    "answer-task": "回答问题",
    ask: "提交",
    by: "{model}，{target}，{precision}",
    candidate: "候选词",
    checked: "发布包中的 {count} 条文本，其结果与参考实现一致。",
    unchecked: "其结果未经比对。",
    context: "包含答案的文本",
    digest: "artifact.json 的 sha256：{digest}",
    done: "用时 {milliseconds} 毫秒。",
    embed: "比较句子",
    enter: "确定",
    entity: "实体",
    "fill-mask": "填空",
    insert: "插入 [MASK]",
    key: "API 密钥",
    keyNote: "密钥只保存在本页面的内存中，关闭页面即消失。",
    label: "标签",
    lines: "句子，每行一句，2 至 {most} 句",
    linesWrong: "需要 2 至 {most} 句，现有 {count} 句。",
    mask: "第 {number} 个空",
    model: "模型",
    noEntities: "没有找到实体。",
    other: "English",
    predict: "文本分类",
    question: "问题",
    scale: "每两句的余弦相似度。颜色最浅处为最低值 {low}，最深处为 1。",
    score: "得分",
    second: "第二段文本，用于句对模型，可以留空",
    sentence: "句子",
    similarity: "句子的相似度",
    tag: "识别实体",
    task: "任务",
    text: "文本",
    waiting: "正在等待结果……",
    error401: "此服务器需要 API 密钥。",
    error401wrong: "API 密钥不正确。",
    error413: "内容超出服务器的限制。",
    error429: "服务器繁忙，请稍后再试。",
    error503: "服务器正在关闭。",
    error504: "等待结果超时。",
    errorServer: "服务器出错。",
    errorInput: "服务器无法处理此内容。",
    errorNetwork: "无法连接服务器。",
    errorPage: "结果无法显示。",
  },
};

let language = navigator.language.startsWith("zh") ? "zh" : "en";

export function say(key, values = {}) {
  return WORDS[language][key].replace(/{(\w+)}/g, (_, name) => values[name]);
}

export function switchLanguage() {
  language = language === "zh" ? "en" : "zh";
}

// Put the words of the language into the page's own elements.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
  for (const element of document.querySelectorAll("[data-say]")) {
    element.textContent = say(element.dataset.say, element.dataset);
  }
  const button = document.getElementById("language");
  button.textContent = say("other");
  button.lang = language === "zh" ? "en" : "zh-Hans";
}
