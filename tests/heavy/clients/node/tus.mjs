// A tus server with files of its own, and clients whose uploads are broken off and resumed.
//
//   node tus.mjs server DIRECTORY absolute|relative PORT
//   node tus.mjs clients URL COUNT MEBIBYTES
//   node tus.mjs upload URL MEBIBYTES          until it is killed

import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline/promises";
import { fileURLToPath } from "node:url";
import { FileStore } from "@tus/file-store";
import { Server } from "@tus/server";
import { Upload } from "tus-js-client";

const CHUNK = 1 << 20;

function serve(directory, location, port) {
  const tus = new Server({
    path: "/files",
    datastore: new FileStore({ directory }),
    relativeLocation: location === "relative",
    namingFunction: (request) => {
      const route = request.headers.get("x-sticky-route");
      return route ? `${randomUUID()}.${route}` : randomUUID();
    },
  });
  const server = createServer(tus.handle.bind(tus));
  server.listen(Number(port), "127.0.0.1", () => console.log(server.address().port));
}

function content(mebibytes) {
  return Buffer.alloc(mebibytes << 20, "0123456789abcdef");
}

/** Uploads in chunks, and prints the address of the upload once half of it is there. */
function begin(endpoint, mebibytes) {
  const data = content(mebibytes);
  const upload = new Upload(data, {
    endpoint,
    chunkSize: CHUNK,
    retryDelays: null,
    uploadSize: data.length,
    onError: (error) => {
      throw error;
    },
    onChunkComplete: (_, accepted) => {
      if (accepted >= data.length / 2) {
        console.log(upload.url);
        // Until it is killed, with the next chunk on its way.
      }
    },
  });
  upload.start();
}

/** The address of an upload whose client was killed in the middle. */
async function killedInTheMiddle(endpoint, mebibytes) {
  const args = [fileURLToPath(import.meta.url), "upload", endpoint, String(mebibytes)];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  for await (const line of createInterface({ input: child.stdout })) {
    child.kill("SIGKILL");
    return line;
  }
  throw new Error("the upload was not begun");
}

async function head(url) {
  const response = await fetch(url, { method: "HEAD", headers: { "Tus-Resumable": "1.0.0" } });
  return { status: response.status, offset: Number(response.headers.get("Upload-Offset")) };
}

async function resume(endpoint, uploadUrl, mebibytes) {
  const data = content(mebibytes);
  let from;
  await new Promise((resolve, reject) => {
    new Upload(data, {
      endpoint,
      uploadUrl,
      chunkSize: CHUNK,
      retryDelays: [100, 500, 1000, 3000],
      uploadSize: data.length,
      onProgress: (sent) => {
        from ??= sent;
      },
      onError: reject,
      onSuccess: resolve,
    }).start();
  });
  if (from < data.length / 2) {
    throw new Error(`it began again at ${from}`);
  }
  const end = await head(uploadUrl);
  if (end.offset !== data.length) {
    throw new Error(`${end.status}: ${end.offset} of ${data.length} bytes`);
  }
  const deleted = await fetch(uploadUrl, { method: "DELETE", headers: { "Tus-Resumable": "1.0.0" } });
  if (deleted.status !== 204) {
    throw new Error(`DELETE: ${deleted.status}`);
  }
  const gone = await head(uploadUrl);
  if (gone.status !== 404 && gone.status !== 410) {
    throw new Error(`a deleted upload: ${gone.status}`);
  }
}

async function clients(endpoint, count, mebibytes) {
  const urls = await Promise.all(Array.from({ length: count }, () => killedInTheMiddle(endpoint, mebibytes)));
  console.log(`${urls.length} in the middle`);
  await createInterface({ input: process.stdin }).question("");
  let good = 0;
  for (const result of await Promise.allSettled(urls.map((url) => resume(endpoint, url, mebibytes)))) {
    good += Number(result.status === "fulfilled");
    if (result.status === "rejected") {
      console.error(String(result.reason));
    }
  }
  console.log(`${good} of ${count} resumed`);
}

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(...rest);
} else if (role === "upload") {
  begin(rest[0], Number(rest[1]));
} else {
  await clients(rest[0], Number(rest[1]), Number(rest[2]));
  process.exit(0);
}
