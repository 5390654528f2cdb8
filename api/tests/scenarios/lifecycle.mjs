// Comings and goings: a publisher killed and back while viewers stay, a viewer killed, pages that
// close politely, ICE restart, and what the API says meanwhile.

import { sleep, soon, until } from '../lib/check.mjs';
import { counters, decodes, launch, live, publishUrl, since, watchUrl } from '../lib/chromium.mjs';
import { clientDrops, complete } from '../lib/delivery.mjs';

/** Consent ends after 30 s without a sign of life (RFC 7675); the rest is slack. */
const NOTICED_WITHIN_MS = 35_000;
/** A publisher that sends nothing is no reason to end it, also not after the 30 s of consent. */
const MUTED_MS = 35_000;

export async function run({ server, checks }) {
  const watching = await launch();
  const first = await launch();
  await live(await first.page(publishUrl(server, 'life', { codec: 'VP8', fps: '20' })));
  const viewer = await watching.page(watchUrl(server, 'life'));
  await live(viewer);
  await shapes(server, checks);
  await restart(server, checks, viewer);
  await publisherComesBack(server, checks, viewer, first);
  const muted = await muteAlone(server, watching);
  await viewerDies(server, checks);
  await staysWhileMuted(checks, muted);
  await viewerLeaves(server, checks, watching, viewer);
  await takeover(server, checks, watching);
  await watching.close();
}

/** `GET /api/v1/streams` and what hangs from it. */
async function shapes(server, checks) {
  const body = await server.api('/api/v1/streams');
  checks.check('/api/v1/streams has version and streams', typeof body.version === 'string' && Array.isArray(body.streams), body.version);
  const stream = body.streams.find((stream) => stream.name === 'life');
  checks.check('the stream has a publisher and one viewer', stream?.publisher?.role === 'publisher' && stream?.viewers === 1 && stream?.viewer_ids.length === 1,
    `viewers ${stream?.viewers}`);
  const tracks = stream.publisher.tracks;
  checks.equal('codecs of its tracks', tracks.map((track) => `${track.kind} ${track.codec}`).sort().join(', '), 'audio OPUS, video VP8');
  const video = tracks.find((track) => track.kind === 'video').layers[0];
  checks.check('the video layer counts', video?.packets > 0 && video?.bytes > 0 && video?.bitrate_bps > 0 && video?.keyframes > 0,
    `${video?.packets} packets, ${video?.bitrate_bps} bit/s, ${video?.keyframes} keyframes, ${video?.resolution?.width} × ${video?.resolution?.height}`);
  const one = await server.api('/api/v1/streams/life');
  checks.equal('/api/v1/streams/{stream} is the same stream', one.name, 'life');
  const id = stream.viewer_ids[0];
  const session = await server.api(`/api/v1/sessions/${id}`);
  checks.check('/api/v1/sessions/{id} shows the viewer', session.id === id && session.role === 'subscriber' && session.state === 'connected',
    `${session.state}, ${session.srtp_profile}, rtt ${session.rtt_ms} ms`);
  const stats = await server.api('/api/v1/stats');
  const counts = stats.stats ?? stats.sfu ?? stats;
  checks.check('/api/v1/stats counts packets', counts.packets_in > 0 && counts.packets_out > 0, `${counts.packets_in} in, ${counts.packets_out} out`);
  const metrics = await (await fetch(`${server.url}/metrics`)).text();
  checks.check('/metrics has weir_ counters', /^weir_\w+_total(\{.*\})? \d+/m.test(metrics), `${metrics.split('\n').length} lines`);
  const secrets = [JSON.stringify(body), JSON.stringify(session), metrics].filter((text) => /\/wh[ie]p\/life\//.test(text));
  checks.equal('session addresses in lists and metrics', secrets.length, 0);
}

/** RFC 9725 section 4.3.3: the same session on new ICE credentials. */
async function restart(server, checks, viewer) {
  const before = await counters(viewer);
  const ok = await viewer.evaluate(() => __weir.session.restartIce());
  checks.check('ICE restart by PATCH is answered', ok);
  await sleep(5_000);
  const flows = await decodes(viewer, 60, before);
  const after = await counters(viewer);
  const got = since(before, after);
  checks.check('media flows on after the ICE restart', after.state === 'live' && flows, `${got.framesDecoded} frames, state ${after.state}`);
  checks.check('it is still the same session', await viewer.evaluate(() => __weir.session.reconnects === 0));
}

async function publisherComesBack(server, checks, viewer, first) {
  const pc = await viewer.evaluateHandle(() => __weir.pc);
  await first.kill();
  await until('the viewer to notice', () => viewer.evaluate(() => __weir.state === 'waiting'), 20_000);
  checks.check('viewer waits when the publisher is killed', true);
  const second = await launch();
  const back = await second.page(publishUrl(server, 'life', { codec: 'VP8', fps: '20' }));
  await live(back);
  const before = await counters(viewer);
  const resumed = await decodes(viewer, 20, before);
  const after = await counters(viewer);
  checks.check('the viewer decodes the publisher that came back', resumed, `${since(before, after).framesDecoded} frames, ${after.freezes} freezes`);
  checks.check('in the same session', await viewer.evaluate((pc) => pc === __weir.pc && __weir.session.reconnects === 0, pc));
  const dropped = clientDrops(server);
  await sleep(5_000);
  const goesOn = await decodes(viewer, 60, after);
  const got = since(after, await counters(viewer));
  const drops = clientDrops(server) - dropped;
  checks.check('and goes on decoding', goesOn && complete(got, drops), `${got.framesDecoded} frames, lost ${got.videoLost}+${got.audioLost}, dropped by the kernel ${drops}`);
  await second.close();
}

/** kill -9 says no goodbye: the server must find out by silence (whip-whep C60). */
async function viewerDies(server, checks) {
  const doomed = await launch();
  const publisher = await launch();
  const page = await publisher.page(publishUrl(server, 'doom', { video: 'test', fps: '15' }));
  await live(page);
  await live(await doomed.page(watchUrl(server, 'doom')));
  await until('one viewer', async () => (await server.stream('doom'))?.viewers === 1, 10_000);
  await doomed.kill();
  const killedAt = Date.now();
  const noticed = await soon('the viewer to be gone', async () => !(await server.stream('doom'))?.viewers, NOTICED_WITHIN_MS + 10_000, 500);
  const seconds = ((Date.now() - killedAt) / 1_000).toFixed(1);
  checks.check('a killed viewer is noticed within 35 s', noticed && Date.now() - killedAt <= NOTICED_WITHIN_MS, `${seconds} s`);
  await page.goto('about:blank');
  const empty = await soon('the publisher to leave', async () => !(await server.stream('doom'))?.publisher, 10_000);
  checks.check('leaving the publish page ends its session at once', empty);
  await publisher.close();
}

async function viewerLeaves(server, checks, watching, viewer) {
  await viewer.goto('about:blank');
  const gone = await soon('the viewer to leave', async () => !(await server.stream('life'))?.viewers, 10_000);
  checks.check('leaving the watch page ends its session at once', gone);
  await viewer.context().close();
}

/** A microphone without a picture, muted by `replaceTrack(null)`: from now on no packet of media is sent. */
async function muteAlone(server, browser) {
  const page = await browser.page(publishUrl(server, 'mute', { video: 'none' }));
  await live(page);
  await page.evaluate(async () => {
    const error = document.getElementById('error');
    const words = () => window.__told.add(`${__weir.state}: ${error.hidden ? '' : error.textContent}`);
    window.__told = new Set();
    setInterval(words, 100);
    for (const sender of __weir.pc.getSenders()) await sender.replaceTrack(null);
  });
  return { page, since: Date.now() };
}

async function staysWhileMuted(checks, { page, since }) {
  await sleep(Math.max(0, since + MUTED_MS - Date.now()));
  const told = await page.evaluate(() => [...window.__told]);
  checks.check(`a publisher that is muted for ${MUTED_MS / 1_000} s stays live`, told.every((words) => words === 'live: '), told.join(' | '));
  await page.context().close();
}

/** Two publish pages with one name: the second wins, the first does not fight back. */
async function takeover(server, checks, watching) {
  const first = await watching.page(publishUrl(server, 'two', { video: 'test', fps: '15' }));
  await live(first);
  const second = await watching.page(publishUrl(server, 'two', { video: 'test', fps: '15' }));
  await live(second);
  const ended = await soon('the first page to end', () => first.evaluate(() => __weir.state === 'ended'), 20_000);
  const words = await first.evaluate(() => document.getElementById('error').textContent);
  checks.check('a publish page that was taken over stops and says so', ended && /another publisher/i.test(words), words);
  await sleep(5_000);
  checks.equal('the second page stays live', await second.evaluate(() => __weir.state), 'live');
}
