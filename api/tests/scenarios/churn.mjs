// 200 viewers and 20 publishers come and go, a quarter of them by kill -9: nothing of them stays.

import fs from 'node:fs';
import { sleep, soon } from '../lib/check.mjs';
import { signal, startLogged } from '../lib/child.mjs';
import { request } from '../lib/http.mjs';
import { runLoad } from '../lib/loadtest.mjs';

const ROUNDS = 20;
const VIEWERS = 10;
/** Every so many rounds the clients are killed in the middle instead of leaving. */
const KILL_EVERY = 4;
/** The server closes idle HTTP connections after 5 s. */
const IDLE_CONNECTION_MS = 10_000;
/** Consent runs out after 30 s (whip-whep C60); the cache is aged each second. */
const GONE_WITHIN_MS = 45_000;
/** What a session held is freed a moment after the session is gone. */
const BACK_WITHIN_MS = 60_000;

export async function run({ server, checks, args }) {
  await round(server, args, 'warm', false);
  checks.check('after one round nobody is left', await empty(server), JSON.stringify(await left(server)));
  const before = await footprint(server);

  let served = 0;
  for (let n = 0; n < ROUNDS; n += 1) {
    served += (await round(server, args, `churn${n}`, n % KILL_EVERY === KILL_EVERY - 1, checks)) ? 1 : 0;
  }
  checks.equal('rounds that ended by themselves were served without fault', served, ROUNDS - ROUNDS / KILL_EVERY);
  const stats = await server.api('/api/v1/stats');
  const { publishers, subscribers } = stats.sessions_total;
  checks.check('sessions accepted', subscribers >= ROUNDS * VIEWERS && publishers >= ROUNDS, `${publishers} publishers, ${subscribers} viewers`);

  const gone = await empty(server);
  checks.check('every session, stream and cached packet is gone', gone, JSON.stringify(await left(server)));
  const after = await footprint(server, before);
  checks.equal('descriptors are back to the start value', after.descriptors, before.descriptors);
  checks.equal('tasks are back to the start value', after.tasks, before.tasks);
  checks.equal('threads are back to the start value', after.threads, before.threads);
  checks.note(`resident: ${before.rssKb} KiB after the first round, ${after.rssKb} KiB after ${ROUNDS} more`);
}

/** One publisher and its viewers for a second; true if the load generator was content. */
async function round(server, args, name, kill, checks) {
  const load = [
    '--whip', server.whip(name), '--whep', server.whep(name), '--publishers', '1', '--viewers', String(VIEWERS),
    '--video-kbps', '500', '--audio', '--duration', kill ? '60' : '1', '--verify', 'all',
  ];
  if (kill) {
    const child = startLogged(args.loadtest, load);
    await soon('the viewers to come', async () => (await server.stream(name))?.viewers === VIEWERS, 30_000);
    signal(child, 'SIGKILL');
    await child.ended;
    return false;
  }
  const { code, log } = await runLoad(args.loadtest, load);
  if (code !== 0) checks?.note(`${name} ended with code ${code}: ${log.trim().split('\n').join('; ')}`);
  return code === 0;
}

async function left(server) {
  const { publishers, subscribers, streams, cache_packets, cache_bytes } = await server.api('/api/v1/stats');
  return { publishers, subscribers, streams, cache_packets, cache_bytes };
}

function empty(server) {
  return soon('the server to be empty', async () => Object.values(await left(server)).every((n) => n === 0), GONE_WITHIN_MS, 500);
}

/**
 * What the server process holds, as the kernel and its own metrics tell, once our requests' connections are closed.
 * A busy server gets time to come back to what it held `before`.
 */
async function footprint(server, before) {
  await sleep(IDLE_CONNECTION_MS);
  const proc = `/proc/${server.child.pid}`;
  const status = (field) => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(fs.readFileSync(`${proc}/status`, 'utf8'))[1]);
  const reads = {
    descriptors: () => fs.readdirSync(`${proc}/fd`).length,
    // Each time on a connection of its own, which counts as well.
    tasks: async () => Number(/^weir_tasks (\d+)$/m.exec((await request(server.url, 'GET', '/metrics')).body)[1]),
    threads: () => status('Threads'),
  };
  const held = { rssKb: status('VmRSS') };
  // Descriptors first: to ask for the metrics takes one.
  for (const [what, read] of Object.entries(reads)) {
    await soon(what, async () => {
      held[what] = await read();
      return !before || held[what] === before[what];
    }, BACK_WITHIN_MS);
  }
  return held;
}
