// FFmpeg's WHIP muxer publishes for 40 s, Chromium watches.
// Both builds offer setup:passive, so the server sends the ClientHello (whip-whep C2, C54). Version
// 8.0 sends no STUN after its first check: only its media shows that it lives.

import { end } from '../lib/child.mjs';
import { sleep, until } from '../lib/check.mjs';
import { counters, launch, listen, live, since, watchUrl } from '../lib/chromium.mjs';
import { publish } from '../lib/ffmpeg.mjs';

const SECONDS = 40;
/** The watched time is cut into parts; each must bring frames, also the last. */
const PART_MS = 6_000;
const PARTS = 5;

export async function run({ server, checks }) {
  const chromium = await launch();
  // Side by side: a picture of 640x360 costs little. One build that fails must not hide what the other does.
  await Promise.all(['9.0.2', '8.0'].map((version) => oneVersion(server, checks, chromium, version)
    .catch((error) => checks.check(`FFmpeg ${version}: plays`, false, error.message))));
  await chromium.close();
}

async function oneVersion(server, checks, chromium, version) {
  const stream = `ff-${version}`;
  const viewer = await chromium.page(watchUrl(server, stream));
  const publisher = publish(version, server.whip(stream), SECONDS);
  try {
    await live(viewer);
    await listen(viewer);
  } catch (error) {
    await end(publisher);
    throw new Error(`${error.message}; FFmpeg says: ${publisher.log.slice(-400)}`);
  }
  let before = await counters(viewer);
  const first = before;
  const parts = [];
  for (let i = 0; i < PARTS; i += 1) {
    await sleep(PART_MS);
    const now = await counters(viewer);
    parts.push(now.framesDecoded - before.framesDecoded);
    before = now;
  }
  const all = since(first, before);
  // How many per second depends on the machine, on which FFmpeg encodes and Chromium decodes: a tenth is enough.
  const least = (30 * PART_MS) / 1_000 / 10;
  checks.check(`FFmpeg ${version}: frames are decoded over the whole time`, parts.every((frames) => frames >= least),
    `${parts.join(', ')} frames per ${PART_MS / 1_000} s, ${before.width}x${before.height} ${before.codec}`);
  checks.check(`FFmpeg ${version}: sound arrives`, all.audioSamples > 0 && all.audioEnergy > 0, `${all.audioSamples} samples`);
  checks.check(`FFmpeg ${version}: no packet is missing`, all.videoLost === 0 && all.audioLost === 0 && all.nacks <= 1,
    `lost ${all.videoLost}+${all.audioLost}, nacks ${all.nacks}`);
  const how = await Promise.race([publisher.ended, sleep(30_000)]);
  if (!how) await end(publisher);
  checks.check(`FFmpeg ${version}: ends cleanly`, how?.code === 0, `code ${how?.code} ${publisher.log.slice(-200).trim()}`);
  const gone = await until('the publisher to be gone', async () => !(await server.stream(stream))?.publisher, 10_000)
    .catch(() => false);
  checks.check(`FFmpeg ${version}: its DELETE frees the stream at once`, gone);
  await viewer.context().close();
}
