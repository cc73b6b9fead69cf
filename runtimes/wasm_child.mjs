// ONNX Runtime in WebAssembly, for wasm_runtime.py: `node wasm_child.mjs LIBRARY`. In the end the library's folder, which
// was made for this process, is removed.
//
// Requests come on standard input and answers go to standard output. Each is a line of JSON and then the bytes of the
// tensors that the line names, in its order, little-endian: { name, type, dims, bytes }.

import { readFileSync, rmSync } from "node:fs";
import { basename, dirname } from "node:path";
import { pathToFileURL } from "node:url";

const [library] = process.argv.slice(2);
console.log = console.error; // standard output is for answers alone
const ort = await import(pathToFileURL(library));
ort.env.wasm.numThreads = 1; // the library for browsers cannot start threads in Node
const ARRAYS = { int64: BigInt64Array, uint8: Uint8Array, float32: Float32Array };
const NEWLINE = 10;

const sessions = new Map(); // by the path of the graph

async function open({ graph, weights }) {
  if (!sessions.has(graph)) {
    const externalData = [{ path: basename(weights), data: readFileSync(weights) }];
    const options = { executionProviders: ["wasm"], externalData };
    sessions.set(graph, await ort.InferenceSession.create(readFileSync(graph), options));
  }
  return sessions.get(graph);
}

const COMMANDS = {
  async names(request) {
    return { names: (await open(request)).outputNames, tensors: [], blobs: [] };
  },
  async run(request, blobs) {
    const session = await open(request);
    const feeds = {};
    request.tensors.forEach(({ name, type, dims }, index) => {
      feeds[name] = new ort.Tensor(type, new ARRAYS[type](blobs[index]), dims);
    });
    const found = Object.entries(await session.run(feeds, request.outputs));
    const tensors = found.map(([name, { type, dims, data }]) => ({ name, type, dims, bytes: data.byteLength }));
    return { tensors, blobs: found.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength)) };
  },
  async release({ graph }) {
    await sessions.get(graph)?.release();
    sessions.delete(graph);
    return { tensors: [], blobs: [] };
  },
};

async function answer(request, blobs) {
  try {
    return await COMMANDS[request.command](request, blobs);
  } catch (error) {
    return { error: String(error?.message ?? error), tensors: [], blobs: [] };
  }
}

const chunks = process.stdin[Symbol.asyncIterator]();
let pending = Buffer.alloc(0);

async function more() {
  const { value, done } = await chunks.next();
  if (done) {
    rmSync(dirname(library), { recursive: true, force: true }); // whoever asked is gone, perhaps killed
    process.exit(0);
  }
  pending = Buffer.concat([pending, value]);
}

async function readLine() {
  let end;
  while ((end = pending.indexOf(NEWLINE)) < 0) {
    await more();
  }
  const line = pending.toString("utf8", 0, end);
  pending = pending.subarray(end + 1);
  return JSON.parse(line);
}

async function readBytes(count) {
  while (pending.length < count) {
    await more();
  }
  const bytes = Uint8Array.prototype.slice.call(pending, 0, count); // a copy: typed arrays begin at multiples of 8
  pending = pending.subarray(count);
  return bytes.buffer;
}

function write(bytes) {
  return new Promise((resolve) => process.stdout.write(bytes, resolve));
}

for (;;) {
  const request = await readLine();
  const given = [];
  for (const { bytes } of request.tensors ?? []) {
    given.push(await readBytes(bytes));
  }
  const { blobs, ...told } = await answer(request, given);
  await write(`${JSON.stringify(told)}\n`);
  for (const blob of blobs) {
    await write(blob);
  }
}
