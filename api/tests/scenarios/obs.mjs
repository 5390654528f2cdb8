// OBS's habits (whip-whep A23, A25, A54, B17, C33): zero candidates in the offer, no PATCH, a new
// POST while the old session lives, PeerConnection closed before the DELETE. Chromium watches.

import { sleep, soon } from '../lib/check.mjs';
import { counters, decodes, launch, listen, live, watchUrl } from '../lib/chromium.mjs';
import { Delivery, judge } from '../lib/delivery.mjs';
import { Obs } from '../lib/obs.mjs';

const WINDOW_MS = 10_000;

export async function run({ server, checks }) {
  const chromium = await launch();
  const first = new Obs();
  const posted = await first.publish(server.whip('obs'));
  checks.check('the offer has no candidate', !first.offer.includes('a=candidate'), `${first.offer.length} bytes`);
  checks.equal('POST with a bearer token on an open server', posted.status, 201);
  checks.check('the answer starts with v=0 and ends with CRLF', posted.answer.startsWith('v=0\r\n') && posted.answer.endsWith('\r\n'));
  checks.check('the answer names its setup role', /a=setup:passive\r\n/.test(posted.answer));
  await first.connected();
  first.send();
  const viewer = await chromium.page(watchUrl(server, 'obs'));
  await live(viewer);
  await listen(viewer);
  await delivers(server, checks, viewer, first, 'H264 and Opus of libdatachannel');

  // The network dropped, OBS comes again before the server can know (whip-whep A54).
  const pc = await viewer.evaluateHandle(() => __weir.pc);
  const second = new Obs();
  const again = await second.publish(server.whip('obs'));
  checks.equal('a second POST takes the stream over', again.status, 201);
  await second.connected();
  second.send();
  const ended = await soon('the first session to end', () => ['closed', 'failed', 'disconnected'].includes(first.state), 10_000);
  checks.check('the first session is closed by the server', ended, first.state);
  first.closeConnection();
  checks.equal('DELETE of the session that was taken over', await first.delete(), 200);
  await delivers(server, checks, viewer, second, 'the same viewer after the takeover');
  checks.check('the viewer kept its session', await viewer.evaluate((pc) => pc === __weir.pc && __weir.session.reconnects === 0, pc));

  second.closeConnection();
  await sleep(2_000);
  checks.equal('DELETE after the connection was closed', await second.delete(), 200);
  const gone = await soon('the publisher to be gone', async () => !(await server.stream('obs'))?.publisher, 30_000);
  checks.check('the stream is free then', gone);
  checks.equal('and once more', await second.delete(), 200);
  await defaults(server, checks);
  await chromium.close();
}

/** OBS with B-frames and a long keyframe interval: what the API and the log say. */
async function defaults(server, checks) {
  const obs = new Obs({ bFrames: 3, gop: 150 });
  await obs.publish(server.whip('defaults'));
  await obs.connected();
  obs.send();
  const publisher = async () => (await server.stream('defaults'))?.publisher;
  const codes = async () => (await publisher())?.warnings.map(({ code }) => code) ?? [];
  const told = await soon('both warnings', async () => (await codes()).length === 2, 30_000);
  checks.check('B-frames and rare keyframes are told', told, JSON.stringify((await publisher())?.warnings));
  const picture = (await publisher()).tracks.find(({ kind }) => kind === 'video').layers[0];
  checks.check('profile and level are those of the SPS', /^avc1\.4d40/.test(picture.codec_string), picture.codec_string);
  const interval = picture.learned.keyframe_interval_ms;
  checks.check('keyframes come every 5 s', Math.abs(interval - 5_000) < 300, `${interval} ms`);
  checks.check('the next one is due', picture.learned.next_keyframe_ms > 0 && picture.learned.next_keyframe_ms <= 5_300, `in ${picture.learned.next_keyframe_ms} ms`);
  await sleep(2_000);
  checks.equal('the log warns once of B-frames', server.logged(/b_frames/).length, 1);
  checks.equal('and once of keyframes', server.logged(/keyframe_interval/).length, 1);
  obs.closeConnection();
  await obs.delete();
}

async function delivers(server, checks, viewer, obs, what) {
  await decodes(viewer, 30, await counters(viewer));
  const delivery = await Delivery.begin(server, [viewer], () => obs.framesSent);
  await sleep(WINDOW_MS);
  obs.endVideo();
  judge(checks, what, (await delivery.end())[0]);
}
