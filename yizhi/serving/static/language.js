// The language of the page: the words that words.js has in it, and where they go.

import { WORDS } from "./words.js";

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
