// One Weir server on free ports: started, asked by its API, stopped.

import fs from 'node:fs';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { soon, until } from './check.mjs';
import { end, start } from './child.mjs';

export const OUT = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', 'out');

/** From start to the ready line. */
const READY_TIMEOUT_MS = 60_000;
/** The server allows itself 7 s to stop; a busy machine needs more for it. */
const STOP_GRACE_MS = 30_000;
/** Until a publisher's media has arrived, and until its stream is free after its end. */
const MEDIA_TIMEOUT_MS = 30_000;
/** Packets of a track that is taken for alive. */
const MEDIA_PACKETS = 50;

/**
 * @param {string} binary
 * @param {{log: string, args?: string[], http?: string, mediaPort?: string, defaults?: boolean}} options
 *   `log` names the file in out/; ports are chosen by the system unless given. With `defaults` the server is started
 *   as a user does, without a flag: its ports must be free, so the scenario runs in a namespace.
 */
export async function startServer(binary, { log, args = [], http: listen = '127.0.0.1:0', mediaPort = '0', defaults = false }) {
  const logFile = path.join(OUT, `${log}.server.log`);
  const out = fs.openSync(logFile, 'w');
  const command = defaults ? args : ['--http', listen, '--media-port', mediaPort, ...args];
  const child = start(binary, command, { stdio: ['ignore', 'pipe', out] });
  fs.closeSync(out);
  const line = await readyLine(child).catch(async (error) => {
    await end(child);
    throw new Error(`${error.message}; its log ends: ${tail(logFile)}`);
  });
  const [, http, media] = /^weir ready http=(\S+) media=(\S+)$/.exec(line) ?? [];
  if (!http) throw new Error(`unexpected ready line: ${line}`);
  return new Server(child, `http://${http}`, media, logFile);
}

function readyLine(child) {
  return new Promise((done, fail) => {
    const timer = setTimeout(() => fail(new Error('no ready line from the server')), READY_TIMEOUT_MS);
    readline.createInterface({ input: child.stdout }).on('line', (line) => {
      clearTimeout(timer);
      if (line.startsWith('weir ready ')) done(line);
    });
    child.ended.then(({ code, error }) => fail(new Error(error?.message ?? `the server ended with code ${code}`)));
  });
}

const tail = (file) => fs.readFileSync(file, 'utf8').trim().split('\n').slice(-3).join(' | ');

class Server {
  constructor(child, url, media, logFile) {
    this.child = child;
    this.url = url;
    this.media = media;
    this.logFile = logFile;
  }

  whip = (stream) => `${this.url}/whip/${stream}`;
  whep = (stream) => `${this.url}/whep/${stream}`;

  /** GET of an API path as JSON. */
  async api(path) {
    const response = await fetch(`${this.url}${path}`);
    if (!response.ok) throw new Error(`GET ${path}: HTTP ${response.status}`);
    return response.json();
  }

  /** One stream of the list, or null. */
  async stream(name) {
    const { streams } = await this.api('/api/v1/streams');
    return streams.find((stream) => stream.name === name) ?? null;
  }

  /** The publisher of a stream once media of each kind has come, or null if it does not come. */
  published(name, kinds, timeoutMs = MEDIA_TIMEOUT_MS) {
    return soon(`${kinds} to arrive`, async () => {
      const publisher = (await this.stream(name))?.publisher;
      const flows = (kind) => publisher?.tracks.some((track) => track.kind === kind && track.layers.some(({ packets }) => packets > MEDIA_PACKETS));
      return kinds.every(flows) ? publisher : null;
    }, timeoutMs);
  }

  /** Waits until nobody publishes a stream. */
  free(name) {
    return until(`${name} to be free`, async () => !(await this.stream(name))?.publisher, MEDIA_TIMEOUT_MS);
  }

  logged(pattern) {
    return fs.readFileSync(this.logFile, 'utf8').split('\n').filter((line) => pattern.test(line));
  }

  signal(name) {
    process.kill(this.child.pid, name);
  }

  async stop() {
    const startedAt = Date.now();
    const { code } = await end(this.child, STOP_GRACE_MS);
    return { code, ms: Date.now() - startedAt };
  }
}
