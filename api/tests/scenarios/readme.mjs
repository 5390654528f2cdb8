// The README's commands, as they are written, against a server that is started as written: FFmpeg, the browser's pages,
// OBS' address (by its double), curl, and the load test. GStreamer's commands are run by scenario gstreamer.

import { spawnSync } from 'node:child_process';
import { end } from '../lib/child.mjs';
import { sleep } from '../lib/check.mjs';
import { counters, decodes, launch, live } from '../lib/chromium.mjs';
import { ffmpeg } from '../lib/ffmpeg.mjs';
import { Obs } from '../lib/obs.mjs';
import { ROOT, address, blocks, command, shell } from '../lib/readme.mjs';
import { OUT, startServer } from '../lib/server.mjs';

/** It is started with the default ports, so nothing may run beside it. */
export const bringsOwnServer = true;

const STREAM = 'demo';

export async function run({ checks, args }) {
  checks.check('the README starts the server without a flag', blocks().includes('cargo run --release'));
  const server = await startServer(args.server, { log: 'readme', defaults: true });
  checks.equal('the ready line has the address of the README', `${server.url}/`, address('/'));
  const chromium = await launch();
  try {
    await ffmpegCommand(server, checks, chromium);
    await pages(server, checks, chromium);
    await obs(server, checks);
    gstreamer(checks);
    await loadtest(checks, args);
  } finally {
    await chromium.close();
    const { code } = await server.stop();
    checks.equal('the server stops with', code, 0);
  }
}

async function ffmpegCommand(server, checks, chromium) {
  for (const version of ['9.0.2', '8.0']) {
    const publisher = shell(command('ffmpeg'), { ffmpeg: ffmpeg(version) });
    const found = await server.published(STREAM, ['audio', 'video']);
    checks.check(`FFmpeg ${version}: its media arrives`, found, found ? '' : publisher.log.slice(-300));
    const picture = found?.tracks.find((track) => track.kind === 'video')?.layers[0];
    checks.check(`FFmpeg ${version}: 1280x720 in baseline`, picture?.resolution?.width === 1280 && /^avc1\.42/.test(picture.codec_string), JSON.stringify(picture?.codec_string));
    checks.equal(`FFmpeg ${version}: warnings`, JSON.stringify(found?.warnings), '[]');
    const viewer = await chromium.page(address(`/watch/${STREAM}`));
    await live(viewer);
    checks.check(`FFmpeg ${version}: the watch page shows it`, await decodes(viewer, 60), JSON.stringify(await counters(viewer)));
    await viewer.context().close();
    await end(publisher);
    await server.free(STREAM);
    // The README says so; when a release no longer does, its line goes.
    if (version === '9.0.2') checks.check('FFmpeg 9: it complains of its own DELETE', publisher.log.includes('Failed to dispose resource'), publisher.log.slice(-200));
  }
}

async function pages(server, checks, chromium) {
  const publisher = await chromium.page(`${address(`/publish/${STREAM}`)}?autostart=1&simulcast=1`);
  await live(publisher);
  checks.check('publish page: its media arrives', await server.published(STREAM, ['audio', 'video']));
  const viewer = await chromium.page(address(`/watch/${STREAM}`));
  await live(viewer);
  checks.check('watch page: shows it', await decodes(viewer, 30));
  // The extensions are tried at the session of a viewer that has only posted its offer, as the README does it.
  const [, posting, lines] = command('SESSION=').match(/^(SESSION=.*?\))\n(curl.*)$/s);
  const { stdout: printed } = spawnSync('bash', ['-c', `${posting}\necho "$SESSION"; rm answer.sdp`], { cwd: ROOT, encoding: 'utf8' });
  const session = printed.trim();
  checks.check('curl: the URL of its session', session.startsWith(address(`/whep/${STREAM}`)), session);
  for (const line of lines.split('\n')) {
    const wanted = line.replace('curl -N', 'curl -N --max-time 3').replace('curl', `curl -s -w '\\n%{http_code}'`);
    const { stdout } = spawnSync('bash', ['-c', wanted], { env: { ...process.env, SESSION: session }, encoding: 'utf8' });
    const ok = line.includes('/sse') ? stdout.includes('event: active') : stdout.trim().endsWith('200');
    checks.check(line.replace(/\s+#.*/, ''), ok, stdout.trim().slice(0, 120).replaceAll('\n', ' '));
  }
  await viewer.context().close();
  await publisher.context().close();
  await server.free(STREAM);
}

async function obs(server, checks) {
  const double = new Obs();
  const { status } = await double.publish(address(`/whip/${STREAM}`));
  checks.equal('OBS: POST to its Server address', status, 201);
  await double.connected();
  double.send();
  checks.check('OBS: its media arrives', await server.published(STREAM, ['audio', 'video']));
  double.closeConnection();
  await double.delete();
  await server.free(STREAM);
}

/** Its elements are in no package of Debian 12: `.ci/test --long` builds them, and runs the commands in scenario gstreamer. */
function gstreamer(checks) {
  for (const [element, endpoint] of [['whipclientsink', `whip-endpoint=${address(`/whip/${STREAM}`)}`], ['whepclientsrc', `whep-endpoint=${address(`/whep/${STREAM}`)}`]]) {
    checks.check(`GStreamer, ${element}: the address of the stream`, command(`gst-launch-1.0 ${element}`).includes(endpoint));
  }
  checks.note('GStreamer: its commands are not run here, but by .ci/test --only gstreamer');
}

async function loadtest(checks, args) {
  const block = command('cargo run --release -p weir-loadtest');
  const child = shell(block.replace('cargo run --release -p weir-loadtest --', JSON.stringify(args.loadtest)).replace('--viewers 100', '--viewers 20'));
  const how = await Promise.race([child.ended, sleep(60_000)]);
  checks.check('weir-loadtest (20 viewers): all frames arrive', how?.code === 0, `code ${how?.code} ${child.log.trim().split('\n').at(-1)}`);
  await end(child);
}
