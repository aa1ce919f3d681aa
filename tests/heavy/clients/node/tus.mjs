// A tus server with files of its own, and clients whose uploads are broken off and resumed.
//
//   node tus.mjs server DIRECTORY absolute|relative
//   node tus.mjs clients URL COUNT

import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import { Upload } from "tus-js-client";

const SIZE = 2 << 20;
const CHUNK = 256 << 10;

function serve(directory, location) {
  const tus = new Server({
    path: "/files",
    datastore: new FileStore({ directory }),
    relativeLocation: location === "relative",
  });
  const server = createServer(tus.handle.bind(tus));
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

/** Uploads until half of it is there, breaks the connection off, and resumes with a new client. */
async function upload(url) {
  const data = randomBytes(SIZE);
  const options = { endpoint: url, chunkSize: CHUNK, retryDelays: null, uploadSize: SIZE };
  const uploadUrl = await new Promise((resolve, reject) => {
    const first = new Upload(data, {
      ...options,
      onError: reject,
      onProgress: (sent) => {
        if (sent > SIZE / 2 && first.url) {
          first.abort().then(() => resolve(first.url), reject);
        }
      },
    });
    first.start();
  });
  await new Promise((resolve, reject) => {
    new Upload(data, { ...options, uploadUrl, onError: reject, onSuccess: resolve }).start();
  });
  const head = await fetch(uploadUrl, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
  if (head.headers.get("Upload-Offset") !== String(SIZE)) {
    throw new Error(`${head.status}: ${head.headers.get("Upload-Offset")} of ${SIZE} bytes`);
  }
  const deleted = await fetch(uploadUrl, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } });
  if (deleted.status !== 204) {
    throw new Error(`DELETE: ${deleted.status}`);
  }
}

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(...rest);
} else {
  const [url, count] = rest;
  let good = 0;
  for (const result of await Promise.allSettled(Array.from({ length: Number(count) }, () => upload(url)))) {
    good += Number(result.status === "fulfilled");
    if (result.status === "rejected") {
      console.error(String(result.reason));
    }
  }
  console.log(`${good} of ${count}`);
  process.exit(0);
}
