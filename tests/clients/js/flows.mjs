// The JavaScript client's actions: node flows.mjs ACTION JSON
//
// @huggingface/hub knows no HF_ENDPOINT: its users pass hubUrl, so this does. Node's fetch knows no proxy
// variables either; the agent below makes it obey them, so that an attempt to leave is seen. The last line on
// stdout is JSON, as in ../py/flows.py; an exception is then left uncaught.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join, relative } from "node:path";
import { pathToFileURL } from "node:url";

// The packages lie in the suite's cache, not beside this file.
const require = createRequire(join(process.env.NODE_PACKAGES, "package.json"));
const load = async (name) => import(pathToFileURL(require.resolve(name)).href);
const hub = await load("@huggingface/hub");
const { EnvHttpProxyAgent, setGlobalDispatcher } = require("undici");
setGlobalDispatcher(new EnvHttpProxyAgent());

const hubUrl = process.env.HF_ENDPOINT;
const sha256 = (data) => createHash("sha256").update(data).digest("hex");
// The client sends a path as it is: encoding the odd characters is its caller's part.
const encoded = (path) => path.split("/").map(encodeURIComponent).join("/");

async function download({ repo, revision, files }) {
  const got = {};
  for (const name of files) {
    const blob = await hub.downloadFile({ repo, revision, path: encoded(name), hubUrl });
    if (blob === null) throw new Error(`EntryNotFound: ${name}`);
    got[name] = sha256(Buffer.from(await blob.arrayBuffer()));
  }
  return { files: got };
}

async function cache({ repo, revision, files }) {
  const got = {};
  for (const name of files) {
    const path = await hub.downloadFileToCacheDir({ repo, revision, path: name, hubUrl, cacheDir: process.env.HF_HOME });
    got[name] = sha256(await readFile(path));
  }
  return { files: got };
}

async function snapshot({ repo, revision }) {
  const root = await hub.snapshotDownload({ repo, revision, hubUrl, cacheDir: process.env.HF_HOME });
  const got = {};
  for (const entry of await readdir(root, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) continue;
    const path = join(entry.parentPath ?? entry.path, entry.name);
    got[relative(root, path)] = sha256(await readFile(path));
  }
  return { files: got };
}

async function list({ repo, revision }) {
  const names = [];
  for await (const entry of hub.listFiles({ repo, revision, recursive: true, hubUrl })) {
    if (entry.type === "file") names.push(entry.path);
  }
  return { value: { names: names.sort() } };
}

async function info({ repo }) {
  const found = await hub.modelInfo({ name: repo, hubUrl, additionalFields: ["sha"] });
  return { value: { id: found.name, sha: found.sha } };
}

async function exists({ repo, revision, files }) {
  const found = {};
  for (const name of files) found[name] = await hub.fileExists({ repo, revision, path: encoded(name), hubUrl });
  return { value: { files: found } };
}

async function safetensors({ repo, revision }) {
  const found = await hub.parseSafetensorsMetadata({ repo, revision, hubUrl, computeParametersCount: true });
  const tensors = Object.keys(found.header).filter((name) => name !== "__metadata__").length;
  return { value: { tensors, parameters: Object.values(found.parameterCount).reduce((a, b) => a + b, 0) } };
}

const actions = { download, cache, snapshot, list, info, exists, safetensors };

try {
  const { files = {}, value = null } = await actions[process.argv[2]](JSON.parse(process.argv[3]));
  console.log(JSON.stringify({ ok: true, files, value }));
} catch (error) {
  console.log(JSON.stringify({ ok: false, error: error.constructor.name, text: String(error.message) }));
  throw error;
}
