// fetch, or node:http with a keep-alive agent: client.mjs URL MODE (PATH BODY)..., MODE is `fetch` or `http`.
import http from "node:http";

const [url, mode, ...rest] = process.argv.slice(2);
const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
const headers = { "content-type": "application/json" };

async function viaFetch(path, body) {
  const answer = await fetch(url + path, { method: "POST", headers, body });
  return [answer.status, await answer.text()];
}

function viaHttp(path, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(url + path, { method: "POST", headers, agent }, async (answer) => {
      let text = "";
      for await (const piece of answer) text += piece;
      resolve([answer.statusCode, text]);
    });
    request.on("error", reject);
    request.end(body);
  });
}

for (let i = 0; i < rest.length; i += 2) {
  const [status, text] = await (mode === "fetch" ? viaFetch : viaHttp)(rest[i], rest[i + 1]);
  console.log(`${text}\n${status}`);
}
agent.destroy();
