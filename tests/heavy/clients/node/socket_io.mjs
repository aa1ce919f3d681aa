// A Socket.IO server whose ids contain its route, and clients of it.
//
//   node socket_io.mjs server NAME
//   node socket_io.mjs visits URL TRANSPORTS COUNT jar|no-jar      which server is each client on, asked several times
//   node socket_io.mjs moves URL TRANSPORTS COUNT jar|no-jar       the server of some clients goes away while they run
//   node socket_io.mjs recovers URL COUNT                          connections that break are recovered

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline/promises";
import { Server } from "socket.io";
import { io } from "socket.io-client";

function serve(name) {
  const told = new Set();
  const server = createServer((request, response) => {
    const id = request.url.split("/missed/")[1];
    response.end(id ? String(told.has(id) && !sockets.sockets.sockets.has(id)) : "a page");
  });
  const sockets = new Server(server, { connectionStateRecovery: { maxDisconnectionDuration: 60_000 } });
  sockets.engine.generateId = (request) => {
    const route = request.headers["x-sticky-route"];
    return route ? `${randomUUID()}.${route}` : randomUUID();
  };
  sockets.on("connection", (socket) => {
    socket.on("who", (reply) => reply(name, socket.conn.transport.name));
    // A message before the break, and one while the client is away.
    socket.on("before and after", () => {
      socket.join(socket.id);
      socket.emit("message", "before");
      setTimeout(() => {
        sockets.to(socket.id).emit("message", "after");
        told.add(socket.id);
      }, 50);
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

/** The next event of this name. */
function next(socket, event) {
  return new Promise((resolve) => socket.once(event, resolve));
}

/** The server of a socket, and its transport. */
function ask(socket) {
  return new Promise((resolve, reject) => {
    socket.timeout(10_000).emit("who", (error, ...reply) => (error ? reject(error) : resolve(reply)));
  });
}

/** The cookies that the page sets which opens the socket, as a browser sends them with it. */
async function cookies(url) {
  const page = await fetch(`${url}/page`);
  return page.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; ");
}

async function open(url, transports, jar, reconnection) {
  const extraHeaders = jar ? { cookie: await cookies(url) } : {};
  const socket = io(url, { transports, extraHeaders, forceNew: true, reconnection, reconnectionDelay: 50, timeout: 10_000 });
  if (!reconnection) {
    await new Promise((resolve, reject) => {
      socket.on("connect", resolve);
      socket.on("connect_error", reject);
    });
  } else {
    await next(socket, "connect");
  }
  return socket;
}

/** The names of the servers that one client was on, and its last transport. */
async function visit(url, transports, jar) {
  const socket = await open(url, transports, jar, false);
  try {
    const servers = new Set();
    let transport;
    const wanted = transports.at(-1);
    // The upgrade happens some time after the connection.
    for (let asked = 0; asked < 5 || (transport !== wanted && asked < 200); asked++) {
      const [name, current] = await ask(socket);
      servers.add(name);
      transport = current;
    }
    return { servers, transport };
  } finally {
    socket.close();
  }
}

async function visitAll(url, transports, count, jar) {
  const visits = Array.from({ length: count }, () => visit(url, transports, jar));
  const used = new Set();
  let good = 0;
  for (const result of await Promise.allSettled(visits)) {
    if (result.status === "fulfilled") {
      const { servers, transport } = result.value;
      servers.forEach((name) => used.add(name));
      good += Number(servers.size === 1 && transport === transports.at(-1));
    }
  }
  console.log(`${good} of ${count} on ${used.size} servers`);
}

async function moveAll(url, transports, count, jar) {
  const sockets = await Promise.all(Array.from({ length: count }, () => open(url, transports, jar, true)));
  const before = await Promise.all(sockets.map(async (socket) => ({ id: socket.id, server: (await ask(socket))[0] })));
  const broken = new Set();
  sockets.forEach((socket, index) => socket.on("disconnect", () => broken.add(index)));
  console.log(`${count} on ${new Set(before.map(({ server }) => server)).size} servers`);
  // The server that has gone, or goes.
  const gone = (await createInterface({ input: process.stdin }).question("")).trim();
  let moved = 0;
  let undisturbed = 0;
  await Promise.all(sockets.map(async (socket, index) => {
    if (before[index].server === gone) {
      if (!broken.has(index)) {
        await next(socket, "disconnect");
      }
      if (!socket.connected) {
        await next(socket, "connect");
      }
      const [server] = await ask(socket);
      moved += Number(server !== gone && socket.id !== before[index].id && !socket.recovered);
    } else {
      const [server] = await ask(socket);
      undisturbed += Number(server === before[index].server && socket.id === before[index].id && !broken.has(index));
    }
  }));
  const concerned = before.filter(({ server }) => server === gone).length;
  console.log(`${moved} of ${concerned} moved, ${undisturbed} of ${count - concerned} undisturbed`);
}

async function recoverAll(url, count) {
  let recovered = 0;
  await Promise.all(Array.from({ length: count }, async () => {
    const socket = await open(url, ["polling", "websocket"], true, true);
    const { id } = socket;
    const messages = [];
    socket.on("message", (message) => messages.push(message));
    const first = next(socket, "message");
    socket.emit("before and after");
    await first;
    const again = next(socket, "connect");
    socket.io.reconnection(false);
    // As if the network had gone.
    socket.io.engine.close();
    // A server can restore a connection once it has noticed that the client is away.
    const headers = socket.io.opts.extraHeaders;
    while ((await (await fetch(`${url}/missed/${id}`, { headers })).text()) !== "true") {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    socket.connect();
    await again;
    while (messages.length < 2) {
      await next(socket, "message");
    }
    recovered += Number(socket.recovered && socket.id === id && messages.join() === "before,after");
  }));
  console.log(`${recovered} of ${count} recovered`);
}

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(rest[0]);
} else {
  const url = rest[0];
  if (role === "recovers") {
    await recoverAll(url, Number(rest[1]));
  } else {
    const [, transports, count, jar] = rest;
    await (role === "visits" ? visitAll : moveAll)(url, transports.split(","), Number(count), jar === "jar");
  }
  process.exit(0);
}
