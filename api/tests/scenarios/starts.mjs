// FFmpeg publishes with a keyframe every four seconds and takes no keyframe requests; Chromium viewers come at
// any moment of the group. Each sees a picture at once, and it moves with the next keyframe at the latest.

import { end } from '../lib/child.mjs';
import { sleep, until } from '../lib/check.mjs';
import { counters, launch, live, since, watchUrl } from '../lib/chromium.mjs';
import { publish } from '../lib/ffmpeg.mjs';

const GOP_S = 4;
const VIEWERS = 8;
/** From one viewer to the next: all parts of the group get their turn. */
const APART_MS = 2_600;
/** Without a cached keyframe the mean is half a group; with one, a viewer that waits so long is a late one. */
const SOON_MS = 800;

/** Notes when DTLS is done, when the first frame can be shown, and how frames follow. */
const WATCH = () => {
  const seen = { connected: null, first: null, shown: [] };
  window.__starts = seen;
  const Native = window.RTCPeerConnection;
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      this.addEventListener('connectionstatechange', () => {
        if (this.connectionState === 'connected') seen.connected ??= performance.now();
      });
    }
  };
  document.addEventListener('loadeddata', (event) => {
    if (!event.target.videoWidth) return;
    seen.first ??= performance.now();
    const next = () => event.target.requestVideoFrameCallback((now) => {
      seen.shown.push(now);
      next();
    });
    next();
  }, true);
};

export async function run({ server, checks }) {
  const chromium = await launch();
  const publisher = publish('9.0.2', server.whip('starts'), 60, GOP_S);
  await until('the publisher', async () => (await server.stream('starts'))?.publisher, 15_000);
  // The first keyframe is cached, and its group under way.
  await sleep(1_500);
  // A browser's first decoder takes a second of its own.
  await warm(chromium, server);
  const waits = [];
  for (let n = 0; n < VIEWERS; n += 1) {
    const page = await chromium.page();
    await page.addInitScript(WATCH);
    await page.goto(watchUrl(server, 'starts'));
    await live(page);
    await until('a picture', () => page.evaluate(() => __starts.first !== null));
    const { connected, first } = await page.evaluate(() => __starts);
    waits.push(Math.round(first - connected));
    if (n + 1 < VIEWERS) {
      await sleep(APART_MS);
      await page.context().close();
      continue;
    }
    // The last one stays: from the next keyframe on it sees every frame.
    await sleep(GOP_S * 1_000);
    const before = await counters(page);
    await sleep(5_000);
    const all = since(before, await counters(page));
    checks.check('the picture moves from the next keyframe on', all.framesDecoded >= 0.95 * 5 * 30, `${all.framesDecoded} frames in 5 s`);
    checks.check('no packet is missing', all.videoLost === 0, `lost ${all.videoLost}, freezes ${all.freezes}`);
  }
  const sorted = [...waits].sort((a, b) => a - b);
  checks.note(`from DTLS to the first picture: ${waits.join(', ')} ms; median ${sorted[VIEWERS / 2]} ms`);
  const soon = waits.filter((wait) => wait <= SOON_MS).length;
  checks.check('a picture at once, whatever part of the group', soon >= VIEWERS - 1, `${soon} of ${VIEWERS} within ${SOON_MS} ms`);
  await end(publisher);
  await chromium.close();
}

/** Plays another stream for a moment. */
async function warm(chromium, server) {
  const publisher = publish('9.0.2', server.whip('warm'), 10);
  const page = await chromium.page(watchUrl(server, 'warm'));
  await live(page);
  await until('a picture', () => page.evaluate(() => document.querySelector('video').videoWidth > 0));
  await page.context().close();
  await end(publisher);
}
