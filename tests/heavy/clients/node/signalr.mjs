// A stand-in for a server of SignalR and Blazor, and clients of it with Microsoft's library.
//
//   node signalr.mjs server NAME
//   node signalr.mjs clients URL COUNT jar|no-jar
//
// The stand-in speaks the JSON protocol over the three transports. As the real one, it knows only the connections that
// it negotiated itself, and the circuits of the pages that it rendered.

import { randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline/promises";
import {
  DefaultHttpClient, HttpClient, HttpResponse, HttpTransportType, HubConnectionBuilder, LogLevel, NullLogger,
} from "@microsoft/signalr";
import { WebSocketServer } from "ws";

const END = "\u001e";

function serve(name) {
  const circuits = new Set();
  const connections = new Map();

  /** The answers to the messages in `text`. */
  function answer(text) {
    const answers = text.split(END).filter(Boolean).map(JSON.parse).map((message) => {
      if (message.protocol) {
        return {};
      }
      if (message.type !== 1 || !message.invocationId) {
        return null;
      }
      const known = circuits.has(message.arguments[0]);
      const result = { type: 3, invocationId: message.invocationId };
      return known ? { ...result, result: name } : { ...result, error: "unknown circuit" };
    });
    return answers.filter(Boolean).map((message) => JSON.stringify(message) + END).join("");
  }

  async function body(request) {
    let text = "";
    for await (const chunk of request) {
      text += chunk;
    }
    return text;
  }

  /** What a connection has to say, or waits until it has. */
  function poll(connection, response) {
    if (connection.polled === undefined) {
      // The first poll only begins the connection.
      connection.polled = "";
      response.end();
    } else if (connection.polled) {
      response.end(connection.polled);
      connection.polled = "";
    } else {
      connection.send = (text) => {
        connection.send = null;
        response.end(text);
      };
    }
  }

  const server = createServer(async (request, response) => {
    const url = new URL(request.url, "http://server");
    if (url.pathname === "/") {
      const circuit = randomUUID();
      circuits.add(circuit);
      return response.end(circuit);
    }
    if (url.pathname === "/hub/negotiate") {
      const connectionToken = randomUUID();
      connections.set(connectionToken, { send: null });
      const availableTransports = ["WebSockets", "ServerSentEvents", "LongPolling"]
        .map((transport) => ({ transport, transferFormats: ["Text"] }));
      response.setHeader("content-type", "application/json");
      return response.end(JSON.stringify({
        negotiateVersion: 1, connectionId: randomUUID(), connectionToken, availableTransports,
      }));
    }
    const connection = connections.get(url.searchParams.get("id"));
    if (!connection) {
      response.statusCode = 404;
      return response.end("No Connection with that ID");
    }
    if (request.method === "POST") {
      const text = answer(await body(request));
      response.end();
      if (connection.send) {
        connection.send(text);
      } else {
        connection.polled = (connection.polled ?? "") + text;
      }
    } else if (request.method === "DELETE") {
      connections.delete(url.searchParams.get("id"));
      response.statusCode = 202;
      response.end();
    } else if (request.headers.accept === "text/event-stream") {
      response.setHeader("content-type", "text/event-stream");
      response.flushHeaders();
      connection.send = (text) => response.write(`data: ${text}\n\n`);
      response.write(":\n\n");
    } else {
      poll(connection, response);
    }
  });
  const sockets = new WebSocketServer({ noServer: true });
  server.on("upgrade", (request, socket, head) => {
    const id = new URL(request.url, "http://server").searchParams.get("id");
    if (!connections.has(id)) {
      return socket.end("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    }
    sockets.handleUpgrade(request, socket, head, (opened) => {
      opened.on("message", (data) => {
        const text = answer(data.toString());
        if (text) {
          opened.send(text);
        }
      });
    });
  });
  server.listen(0, "127.0.0.1", () => console.log(server.address().port));
}

/** A client without a cookie jar. */
class NoJar extends HttpClient {
  async send({ method, url, content, headers, abortSignal }) {
    const aborted = new AbortController();
    if (abortSignal) {
      abortSignal.onabort = () => aborted.abort();
    }
    const response = await fetch(url, { method, body: content, headers, signal: aborted.signal });
    return new HttpResponse(response.status, response.statusText, await response.text());
  }
}

/** One user, and their address, which a proxy in front tells. Microsoft's client has a cookie jar. */
class User {
  constructor(url, number, jar) {
    this.url = url;
    this.http = jar ? new DefaultHttpClient(NullLogger.instance) : new NoJar();
    this.headers = { "X-Forwarded-For": `198.51.100.${number + 1}` };
    this.transport = [
      HttpTransportType.WebSockets, HttpTransportType.ServerSentEvents, HttpTransportType.LongPolling,
    ][number % 3];
  }

  /** Loads the page, which begins a circuit, and connects to the hub. */
  async open() {
    const page = await this.http.get(`${this.url}/`, { headers: this.headers });
    this.circuit = page.content;
    this.closed = false;
    this.hub = new HubConnectionBuilder()
      .withUrl(`${this.url}/hub`, {
        transport: this.transport, headers: this.headers, httpClient: this.http, logger: LogLevel.None,
      })
      .configureLogging(LogLevel.None)
      .build();
    this.hub.onclose(() => {
      this.closed = true;
    });
    await this.hub.start();
    return this.ask();
  }

  /** The server of the circuit. */
  ask() {
    return this.hub.invoke("Ask", this.circuit);
  }
}

async function clients(url, count, jar) {
  const users = Array.from({ length: count }, (_, number) => new User(url, number, jar === "jar"));
  const opened = await Promise.allSettled(users.map(async (user) => {
    user.server = await user.open();
    for (let asked = 0; asked < 5; asked++) {
      if (await user.ask() !== user.server) {
        throw new Error("a circuit has one server");
      }
    }
  }));
  opened.filter(({ reason }) => reason).forEach(({ reason }) => console.error(String(reason)));
  const good = opened.filter(({ status }) => status === "fulfilled").length;
  console.log(`${good} of ${count} on ${new Set(users.map(({ server }) => server)).size} servers`);
  // The server that has gone.
  const gone = (await createInterface({ input: process.stdin }).question("")).trim();
  const ends = await Promise.allSettled(users.map(async (user) => {
    if (user.server !== gone) {
      return await user.ask() === user.server;
    }
    await user.hub.stop();
    // Blazor reloads the page: the circuit was on that server.
    return await user.open() !== gone;
  }));
  ends.filter(({ reason }) => reason).forEach(({ reason }) => console.error(String(reason)));
  console.log(`${ends.filter(({ value }) => value).length} of ${count} afterwards`);
}

const [role, ...rest] = process.argv.slice(2);
if (role === "server") {
  serve(rest[0]);
} else {
  await clients(rest[0], Number(rest[1]), rest[2]);
  process.exit(0);
}
