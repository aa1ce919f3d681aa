// A WebSocket server, and clients that connect again when they are closed.
//
//   node websocket.mjs server NAME
//   node websocket.mjs clients URL COUNT
//
// The clients print how many sockets are open. After a line of input, the name of a server that will be drained and the
// milliseconds until its deadline, they print "waiting", wait until its sockets are closed, and open them again.

import { createInterface } from "node:readline/promises";
import { WebSocket, WebSocketServer } from "ws";

function serve(name) {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  server.on("listening", () => console.log(server.address().port));
  server.on("connection", (socket) => socket.on("message", (text) => socket.send(`${name}: ${text}`)));
}

/** An open socket, with the cookies of its client. */
async function open(url, jar) {
  const headers = jar.size > 0 ? { cookie: [...jar].map(([name, value]) => `${name}=${value}`).join("; ") } : {};
  const socket = new WebSocket(url, { headers });
  socket.on("upgrade", (response) => {
    for (const field of response.headers["set-cookie"] ?? []) {
      const [pair] = field.split(";");
      jar.set(pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1));
    }
  });
  await new Promise((resolve, reject) => {
    socket.on("open", resolve);
    socket.on("error", reject);
  });
  return socket;
}

/** The server of a socket. */
async function ask(socket, text) {
  const answer = new Promise((resolve, reject) => {
    socket.once("message", (data) => resolve(data.toString()));
    socket.once("close", () => reject(new Error("closed")));
  });
  socket.send(text);
  const [name, echo] = (await answer).split(": ");
  if (echo !== text) {
    throw new Error(`${echo} instead of ${text}`);
  }
  return name;
}

async function clients(url, count) {
  const users = Array.from({ length: count }, () => ({ jar: new Map(), closed: null }));
  await Promise.all(users.map(async (user, index) => {
    user.socket = await open(url, user.jar);
    user.socket.on("close", () => {
      user.closed = performance.now();
    });
    user.server = await ask(user.socket, `${index}`);
  }));
  console.log(`${count} on ${new Set(users.map(({ server }) => server)).size} servers`);
  const [drained, deadline] = (await createInterface({ input: process.stdin }).question("")).split(" ");
  const begun = performance.now();
  const early = begun + Number(deadline);
  console.log("waiting");
  const tally = { moved: 0, kept: 0, early: 0 };
  await Promise.all(users.map(async (user, index) => {
    if (user.server === drained) {
      // Until its time it works.
      if (await ask(user.socket, `${index} again`) !== drained) {
        throw new Error("a socket has one server");
      }
      if (user.closed === null) {
        await new Promise((resolve) => user.socket.once("close", resolve));
      }
      tally.early += Number(user.closed < early);
      const socket = await open(url, user.jar);
      const server = await ask(socket, `${index}`);
      tally.moved += Number(server !== drained);
    }
  }));
  await Promise.all(users.map(async (user, index) => {
    if (user.server !== drained) {
      const server = await ask(user.socket, `${index} again`);
      tally.kept += Number(server === user.server && user.closed === null);
    }
  }));
  console.log(`${tally.moved + tally.kept} of ${count}, ${tally.early} early`);
}

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(rest[0]);
} else {
  await clients(rest[0], Number(rest[1]));
  process.exit(0);
}
