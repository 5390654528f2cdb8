// FFmpeg's WHIP muxer publishes for 40 s, Chromium watches.
// Both builds offer setup:passive, so the server sends the ClientHello (whip-whep C2, C54). Version
// 8.0 sends no STUN after its first check: only its media shows that it lives.

import { end } from '../lib/child.mjs';
import { sleep, soon } from '../lib/check.mjs';
import { launch, listen, live, waiting, watchUrl } from '../lib/chromium.mjs';
import { Delivery, judge } from '../lib/delivery.mjs';
import { publish } from '../lib/ffmpeg.mjs';

const SECONDS = 40;
const FRAMES = 30 * SECONDS;
/** A machine that is too slow encodes the same frames in more time. */
const END_TIMEOUT_MS = 4 * SECONDS * 1_000;

export async function run({ server, checks }) {
  const chromium = await launch();
  // Side by side: a picture of 640x360 costs little. One build that fails must not hide what the other does.
  await Promise.all(['9.0.2', '8.0'].map((version) => oneVersion(server, checks, chromium, version)
    .catch((error) => checks.check(`FFmpeg ${version}: plays`, false, error.message))));
  await chromium.close();
}

async function oneVersion(server, checks, chromium, version) {
  const what = `FFmpeg ${version}`;
  const stream = `ff-${version}`;
  // The viewer is there first and gets every frame.
  const viewer = await chromium.page(watchUrl(server, stream));
  await waiting(viewer);
  let sent = 0;
  const delivery = await Delivery.begin(server, [viewer], () => sent);
  const publisher = publish(version, server.whip(stream), SECONDS);
  try {
    await live(viewer);
    await listen(viewer);
  } catch (error) {
    await end(publisher);
    throw new Error(`${error.message}; FFmpeg says: ${publisher.log.slice(-400)}`);
  }
  const how = await Promise.race([publisher.ended, sleep(END_TIMEOUT_MS)]);
  if (!how) await end(publisher);
  checks.check(`${what}: ends cleanly`, how?.code === 0, `code ${how?.code} ${publisher.log.slice(-200).trim()}`);
  const gone = await soon('the publisher to be gone', async () => !(await server.stream(stream))?.publisher, 10_000);
  checks.check(`${what}: its DELETE frees the stream at once`, gone);
  sent = FRAMES;
  judge(checks, what, (await delivery.end())[0]);
  await viewer.context().close();
}
