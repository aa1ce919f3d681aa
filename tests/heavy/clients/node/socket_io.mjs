// A Socket.IO server whose ids contain its route, and clients that ask several times which server they are on.
//
//   node socket_io.mjs server NAME
//   node socket_io.mjs clients URL TRANSPORTS COUNT jar|no-jar

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { Server } from "socket.io";
import { io } from "socket.io-client";

function serve(name) {
  const server = createServer();
  const sockets = new Server(server);
  sockets.engine.generateId = (request) => {
    const route = request.headers["x-sticky-route"];
    return route ? `${randomUUID()}.${route}` : randomUUID();
  };
  sockets.on("connection", (socket) => {
    socket.on("who", (reply) => reply(name, socket.conn.transport.name));
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

/** The names of the servers that one client was on, and its last transport. */
async function visit(url, transports, withCredentials) {
  const socket = io(url, { transports, withCredentials, forceNew: true, reconnection: false, timeout: 10_000 });
  try {
    await new Promise((resolve, reject) => {
      socket.on("connect", resolve);
      socket.on("connect_error", reject);
      socket.on("disconnect", reject);
    });
    const servers = new Set();
    let transport;
    const wanted = transports.at(-1);
    // The upgrade happens some time after the connection.
    for (let asked = 0; asked < 5 || (transport !== wanted && asked < 200); asked++) {
      const [name, current] = await new Promise((resolve, reject) => {
        socket.on("disconnect", reject);
        socket.timeout(10_000).emit("who", (error, ...reply) => (error ? reject(error) : resolve(reply)));
      });
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

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(rest[0]);
} else {
  const [url, transports, count, jar] = rest;
  await visitAll(url, transports.split(","), Number(count), jar === "jar");
  process.exit(0);
}
