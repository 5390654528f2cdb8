// HTTP/1.1 over a bare socket: shows the bytes that clients with hand-made parsers see.

import net from 'node:net';

/** From connecting to the end of the answer. */
const TIMEOUT_MS = 10_000;

/**
 * Sends one request on a connection of its own.
 *
 * @param {string} base `http://host:port`
 * @param {string} method
 * @param {string} target path and query, sent as it is
 * @param {{headers?: object, body?: string|Buffer, chunked?: boolean, awaitContinue?: boolean}} [options]
 *   `Host` and `Content-Length` are added unless given; null leaves one out.
 */
export async function request(base, method, target, options = {}) {
  const connection = await Connection.open(base);
  try {
    return await connection.request(method, target, { ...options, headers: { Connection: 'close', ...options.headers } });
  } finally {
    connection.close();
  }
}

/** A connection that can carry several requests. */
export class Connection {
  #socket;
  #host;
  #data = Buffer.alloc(0);
  #ended = false;
  #wake = () => {};

  static open(base) {
    const { hostname, port, host } = new URL(base);
    return new Promise((done, fail) => {
      const socket = net.connect({ host: hostname, port: Number(port) });
      socket.once('error', fail);
      socket.once('connect', () => done(new Connection(socket, host)));
    });
  }

  constructor(socket, host) {
    this.#socket = socket;
    this.#host = host;
    socket.setTimeout(TIMEOUT_MS, () => socket.destroy());
    socket.on('data', (data) => {
      this.#data = Buffer.concat([this.#data, data]);
      this.#wake();
    });
    for (const event of ['end', 'close', 'error']) {
      socket.on(event, () => {
        this.#ended = true;
        this.#wake();
      });
    }
  }

  close() {
    this.#socket.destroy();
  }

  async request(method, target, { headers = {}, body = '', chunked = false, awaitContinue = false } = {}) {
    const bytes = Buffer.from(body);
    const all = { Host: this.#host, ...headers };
    if (chunked) all['Transfer-Encoding'] = 'chunked';
    else if (bytes.length || ['POST', 'PATCH', 'PUT'].includes(method)) all['Content-Length'] ??= bytes.length;
    const lines = Object.entries(all).filter(([, value]) => value !== null).map(([name, value]) => `${name}: ${value}`);
    this.#socket.write(`${method} ${target} HTTP/1.1\r\n${lines.join('\r\n')}\r\n\r\n`);
    let informational = null;
    if (awaitContinue) informational = await this.#head();
    if (chunked) this.#socket.write(Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from('\r\n0\r\n\r\n')]));
    else if (bytes.length) this.#socket.write(bytes);
    const answer = await this.#head();
    answer.body = (await this.#body(answer, method)).toString('utf8');
    answer.continued = informational?.status === 100;
    return answer;
  }

  async #head() {
    const end = await this.#find('\r\n\r\n');
    const raw = this.#take(end + 4).toString('latin1');
    const [first, ...lines] = raw.split('\r\n').filter(Boolean);
    const headers = new Map();
    for (const line of lines) {
      const colon = line.indexOf(':');
      const name = line.slice(0, colon).toLowerCase();
      headers.set(name, headers.has(name) ? `${headers.get(name)}, ${line.slice(colon + 1).trim()}` : line.slice(colon + 1).trim());
    }
    return { status: Number(first.split(' ')[1]), raw, headers, header: (name) => headers.get(name.toLowerCase()) ?? null };
  }

  async #body(answer, method) {
    if (method === 'HEAD' || answer.status === 204 || answer.status === 304) return Buffer.alloc(0);
    const length = answer.header('content-length');
    if (length !== null) {
      await this.#until(() => this.#data.length >= Number(length));
      return this.#take(Number(length));
    }
    await this.#until(() => this.#ended);
    return this.#take(this.#data.length);
  }

  async #find(text) {
    await this.#until(() => this.#data.includes(text));
    return this.#data.indexOf(text);
  }

  #take(count) {
    const taken = this.#data.subarray(0, count);
    this.#data = this.#data.subarray(count);
    return taken;
  }

  async #until(enough) {
    while (!enough()) {
      if (this.#ended) throw new Error(`the connection ended after ${this.#data.length} bytes`);
      await new Promise((wake) => (this.#wake = wake));
    }
  }
}
