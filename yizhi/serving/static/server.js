// The server's own endpoints, asked as any client asks them.

let key = ""; // in memory only

export function setKey(given) {
  key = given;
}

// A request without an answer. about: its sentence's name in words.js, with values. detail: what the server said.
export class Refused extends Error {
  constructor(about, { values = {}, detail = "" } = {}) {
    super(about);
    this.about = about;
    this.values = values;
    this.detail = detail;
  }
}

const KNOWN = [401, 413, 429, 503, 504];

// The JSON of a path: a GET without a body, else a POST. Throws Refused.
export async function ask(path, body, signal) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  const given = key;
  if (!/^[ -~]*$/.test(given)) {
    throw new Refused("error401wrong"); // no header can hold it
  }
  let response;
  let found;
  try {
    response = await fetch(path, { ...options, headers, signal });
    found = await response.json();
  } catch (error) {
    if (error.name === "AbortError") {
      throw error;
    }
    // A proxy's page of an error is no JSON.
    throw response && !response.ok ? new Refused(describe(response.status)) : new Refused("errorNetwork");
  }
  if (response.status === 401) {
    throw new Refused(given ? "error401wrong" : "error401");
  }
  if (!response.ok) {
    throw new Refused(describe(response.status), { detail: typeof found.error === "string" ? found.error : "" });
  }
  return found;
}

function describe(status) {
  if (KNOWN.includes(status)) {
    return `error${status}`;
  }
  return status >= 500 || status === 424 ? "errorServer" : "errorInput"; // 424: the model failed
}
