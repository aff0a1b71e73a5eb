// What people do with Node.js, through a proxy: `node with_node.mjs MODULES PROXY CA CLEAR TLS ECHO
// REFUSED FILE`.

import assert from "node:assert";
import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { createRequire } from "node:module";

const [modules, proxy, caFile, clear, tls, echo, refused, file] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { fetch: undiciFetch, ProxyAgent, setGlobalDispatcher } = require("undici");
const { HttpProxyAgent } = require("http-proxy-agent");
const { HttpsProxyAgent } = require("https-proxy-agent");

const ca = readFileSync(caFile);
const content = readFileSync(file);

function same(bytes) {
  assert(content.equals(Buffer.from(bytes)), "the content differs");
}

// fetch, with undici's agent, which opens a tunnel for http, too.
const dispatcher = new ProxyAgent({ uri: proxy, requestTls: { ca } });
for (const origin of [clear, tls]) {
  const bodies = Array.from({ length: 20 }, async () => {
    const response = await undiciFetch(`${origin}/file`, { dispatcher });
    return response.arrayBuffer();
  });
  (await Promise.all(bodies)).forEach(same);
}

// The built-in fetch takes the global agent.
setGlobalDispatcher(dispatcher);
same(await (await fetch(`${tls}/file`)).arrayBuffer());
async function* pieces() {
  for (let at = 0; at < content.length; at += 50_000) yield content.subarray(at, at + 50_000);
}
const echoed = await fetch(`${echo}/echo`, { method: "POST", body: pieces(), duplex: "half" });
same(await echoed.arrayBuffer());
await assert.rejects(fetch(refused), /fetch failed/);
await dispatcher.close();

// The agents for node:http and node:https.
function get(url, agent) {
  const client = url.startsWith("https:") ? https : http;
  return new Promise((resolve, reject) => {
    const request = client.get(url, { agent, ca }, async (response) => {
      const chunks = [];
      for await (const chunk of response) chunks.push(chunk);
      resolve({ status: response.statusCode, content: Buffer.concat(chunks) });
    });
    request.on("error", reject);
  });
}
const plain = new HttpProxyAgent(proxy, { keepAlive: true });
const tunnel = new HttpsProxyAgent(proxy, { keepAlive: true });
for (let i = 0; i < 5; i += 1) {
  same((await get(`${clear}/file`, plain)).content);
  same((await get(`${tls}/file`, tunnel)).content);
}
const failed = await get(refused, plain);
assert.equal(failed.status, 502);
assert.match(failed.content.toString(), /refused/);
plain.destroy();
tunnel.destroy();
