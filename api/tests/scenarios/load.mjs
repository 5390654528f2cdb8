// The load generator serves itself 50 viewers while Chromium watches one of its streams.

import fs from 'node:fs';
import path from 'node:path';
import { counters, decodes, launch, waiting, watchUrl } from '../lib/chromium.mjs';
import { runLoad } from '../lib/loadtest.mjs';
import { OUT } from '../lib/server.mjs';

const VIEWERS = 50;
const SECONDS = 20;
/** Enough to tell that Chromium plays the stream. */
const FRAMES = 30;

export async function run({ server, checks, args }) {
  await otherStack(server, checks, args);
  const report = path.join(OUT, 'load.json');
  fs.rmSync(report, { force: true });
  // The browser is there before the load, however long it takes to start.
  const chromium = await launch();
  const viewer = await chromium.page(watchUrl(server, 'load0'));
  await waiting(viewer);
  const load = runLoad(args.loadtest, [
    '--whip', server.whip('load{n}'), '--whep', server.whep('load{n}'), '--publishers', '1', '--viewers', String(VIEWERS),
    '--video-kbps', '1000', '--audio', '--duration', String(SECONDS), '--verify', 'sample',
    '--server-pid', String(server.child.pid), '--json', report,
  ]);
  const [{ code, log }] = await Promise.all([load, watch(checks, chromium, viewer)]);
  checks.equal('exit code of the load generator', code, 0);
  if (!fs.existsSync(report)) throw new Error(`no report; it says: ${log.slice(-400)}`);
  const result = JSON.parse(fs.readFileSync(report, 'utf8'));
  checks.equal('viewers connected', result.viewers_connected, VIEWERS);
  checks.check('no packet lost, no frame broken', result.packets_lost === 0 && result.frames_broken === 0,
    `${result.packets_received} packets, lost ${result.packets_lost}, broken ${result.frames_broken}, ${result.cpu_ns_per_packet} ns per packet`);
}

/** Ends with the first frames, so that the browser does not slow the load down. */
async function watch(checks, chromium, viewer) {
  const decoded = await decodes(viewer, FRAMES);
  const { framesDecoded, width, height, codec } = await counters(viewer);
  checks.check('Chromium decodes what the load generator publishes', decoded, `${framesDecoded} frames, ${width}x${height} ${codec}`);
  await chromium.close();
}

/** The async `webrtc` crate on both ends: a stack that shares nothing with ours but the protocols. */
async function otherStack(server, checks, args) {
  for (const codec of ['h264', 'vp8']) {
    const report = path.join(OUT, `webrtc-${codec}.json`);
    const { code } = await runLoad(args.loadtest, [
      '--whip', server.whip(`webrtc-${codec}`), '--whep', server.whep(`webrtc-${codec}`), '--client', 'full', '--codec', codec,
      '--viewers', '2', '--audio', '--duration', '5', '--verify', 'all', '--json', report,
    ]);
    checks.equal(`webrtc crate, ${codec}: exit code`, code, 0);
    const { viewers_connected, frames_decodable, frames_broken, packets_lost } = JSON.parse(fs.readFileSync(report, 'utf8'));
    checks.check(`webrtc crate, ${codec}: publisher and viewers`, viewers_connected === 2 && frames_decodable > 0 && frames_broken === 0,
      `${viewers_connected} viewers, ${frames_decodable} frames, broken ${frames_broken}, lost ${packets_lost}`);
  }
}
