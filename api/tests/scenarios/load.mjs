// The load generator serves itself 50 viewers while Chromium watches one of its streams.

import fs from 'node:fs';
import path from 'node:path';
import { start } from '../lib/child.mjs';
import { soon } from '../lib/check.mjs';
import { counters, launch, live, since, watchUrl } from '../lib/chromium.mjs';
import { OUT } from '../lib/server.mjs';

const VIEWERS = 50;
const SECONDS = 20;

export async function run({ server, checks, args }) {
  await otherStack(server, checks, args);
  const report = path.join(OUT, 'load.json');
  const load = start(args.loadtest, [
    '--whip', server.whip('load{n}'), '--whep', server.whep('load{n}'), '--publishers', '1', '--viewers', String(VIEWERS),
    '--video-kbps', '1000', '--audio', '--duration', String(SECONDS), '--verify', 'sample',
    '--server-pid', String(server.child.pid), '--json', report,
  ]);
  let log = '';
  for (const stream of [load.stdout, load.stderr]) stream.on('data', (data) => (log += data));
  const chromium = await launch();
  const viewer = await chromium.page(watchUrl(server, 'load0'));
  await live(viewer, 60_000);
  const before = await counters(viewer);
  const more = await soon('100 frames', async () => since(before, await counters(viewer)).framesDecoded > 100, 30_000);
  const after = await counters(viewer);
  checks.check('Chromium decodes what the load generator publishes', more, `${since(before, after).framesDecoded} frames, ${after.width}x${after.height} ${after.codec}`);
  await chromium.close();
  const { code } = await load.ended;
  checks.equal('exit code of the load generator', code, 0);
  if (!fs.existsSync(report)) throw new Error(`no report; it says: ${log.slice(-400)}`);
  const result = JSON.parse(fs.readFileSync(report, 'utf8'));
  checks.equal('viewers connected', result.viewers_connected, VIEWERS);
  checks.check('no packet lost, no frame broken', result.packets_lost === 0 && result.frames_broken === 0,
    `${result.packets_received} packets, lost ${result.packets_lost}, broken ${result.frames_broken}, ${result.cpu_ns_per_packet} ns per packet`);
}

/** The async `webrtc` crate on both ends: a stack that shares nothing with ours but the protocols. */
async function otherStack(server, checks, args) {
  for (const codec of ['h264', 'vp8']) {
    const report = path.join(OUT, `webrtc-${codec}.json`);
    const load = start(args.loadtest, [
      '--whip', server.whip(`webrtc-${codec}`), '--whep', server.whep(`webrtc-${codec}`), '--client', 'full', '--codec', codec,
      '--viewers', '2', '--audio', '--duration', '5', '--verify', 'all', '--json', report,
    ]);
    for (const stream of [load.stdout, load.stderr]) stream.resume();
    checks.equal(`webrtc crate, ${codec}: exit code`, (await load.ended).code, 0);
    const { viewers_connected, frames_decodable, frames_broken, packets_lost } = JSON.parse(fs.readFileSync(report, 'utf8'));
    checks.check(`webrtc crate, ${codec}: publisher and viewers`, viewers_connected === 2 && frames_decodable > 0 && frames_broken === 0,
      `${viewers_connected} viewers, ${frames_decodable} frames, broken ${frames_broken}, lost ${packets_lost}`);
  }
}
