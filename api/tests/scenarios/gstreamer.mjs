// GStreamer at a server that is started as the README says: its command there as it is written, whipclientsink with
// several codecs, whipsink, and whepsrc and whepclientsrc as viewers. Media is counted by the API and by what is decoded.
// Needs the elements that step "gstreamer" of .ci/test builds, so only that step runs it.

import { end } from '../lib/child.mjs';
import { sleep, soon, until } from '../lib/check.mjs';
import { counters, decodes, launch, live } from '../lib/chromium.mjs';
import { clientDrops } from '../lib/delivery.mjs';
import { publish as ffmpeg } from '../lib/ffmpeg.mjs';
import * as gstreamer from '../lib/gstreamer.mjs';
import { address, command, shell } from '../lib/readme.mjs';
import { startServer } from '../lib/server.mjs';

/** It is started with the default ports, so nothing may run beside it. */
export const bringsOwnServer = true;

const { H264, VP8, VP9 } = gstreamer;
const KINDS = ['audio', 'video'];
/** Pictures that a publisher sends before it ends: 10 s of them. */
const FRAMES = 300;
/**
 * What has to be decoded of them. FFmpeg makes no picture before it is connected; what GStreamer's sources make until then
 * is left out, however long that takes.
 */
const DECODED_MIN = { FFmpeg: 0.98, whipclientsink: 0.5, whipsink: 0.5 };
/** Pictures and sound of a stream begin and end together, but for this many pictures. */
const APART_MAX = 15;
/** whepclientsrc drops pictures that are 200 ms late, as they are where it gets no CPU time: this share must be decoded. */
const IN_TIME_MIN = 0.5;
/** Rate of the sound that is counted. */
const SAMPLES_PER_FRAME = 48_000 / 30;
/** Between two readings of a publisher, whose last one counts. */
const READ_MS = 500;
/** Nothing comes any more if nothing was decoded for this long. */
const STILL_MS = 2_000;
/** Encoders, decoders and the server on two busy cores; whipclientsink tries all its encoders before it offers them. */
const TIMEOUT_MS = 90_000;

export async function run({ checks, args }) {
  checks.note(gstreamer.versions(['whipclientsink', 'whepclientsrc', 'whipsink', 'whepsrc']));
  const server = await startServer(args.server, { log: 'gstreamer', defaults: true });
  try {
    await readme(server, checks);
    await viewers(server, checks, 'FFmpeg, H264', (url) => ffmpeg('9.0.2', url, FRAMES / 30), ['whepsrc', 'whepclientsrc']);
    await codecs(server, checks);
    for (const codec of [VP8, H264]) {
      await viewers(server, checks, `whipsink, ${codec}`, (url) => gstreamer.whipsink(url, FRAMES, codec), ['whepsrc'], { ends: false });
    }
  } finally {
    const { code } = await server.stop();
    checks.equal('the server stops with', code, 0);
  }
}

/** The README's commands: one publishes, the other and Chromium watch. Ctrl-C ends them. */
async function readme(server, checks) {
  const stream = 'demo';
  const chromium = await launch();
  const publisher = shell(command('gst-launch-1.0 whipclientsink'));
  const found = await server.published(stream, KINDS, TIMEOUT_MS);
  checks.check("README's publisher: its media arrives", found, found ? codecsOf(found) : publisher.log.slice(-300));
  checks.equal("README's publisher: warnings", JSON.stringify(found?.warnings), '[]');
  const viewer = gstreamer.viewByCommand(command('gst-launch-1.0 whepclientsrc'));
  const page = await chromium.page(address(`/watch/${stream}`));
  await live(page);
  checks.check("README's publisher: the watch page shows it", await decodes(page, 60), JSON.stringify(await counters(page)));
  await page.context().close();
  const decoded = await soon('pictures and sound', () => viewer.pictures() >= 60 && viewer.samples() >= 48_000, TIMEOUT_MS);
  checks.check("README's viewer: decodes picture and sound", decoded, decoded ? `${viewer.pictures()} pictures, ${viewer.samples()} samples` : viewer.log.slice(-300));
  const [watching] = await viewerSessions(server, stream);
  checks.note(`README's viewer: ${watching?.tracks.flatMap((track) => track.layers).map(losses).join(', ')}`);
  gstreamer.interrupt(viewer);
  await endsByDelete(server, checks, "README's viewer", null, watching?.id);
  gstreamer.interrupt(publisher);
  await endsByDelete(server, checks, "README's publisher", stream, found?.id);
  await Promise.all([end(viewer), end(publisher), chromium.close()]);
}

/** whipclientsink offers all codecs of its list; the first is what the server takes, and a viewer decodes it. */
async function codecs(server, checks) {
  const names = { [VP8]: 'VP8', [VP9]: 'VP9', [H264]: 'H264' };
  for (const list of [[VP8, H264, VP9], [H264, VP8], [VP9, VP8]]) {
    const wanted = list.map((caps) => names[caps]);
    const what = `whipclientsink, ${wanted.join(' and ')}`;
    let publisher;
    const found = await viewers(server, checks, what, (url) => (publisher = gstreamer.whipclientsink(url, FRAMES, list)), ['whepsrc']);
    checks.equal(`${what}: codecs of its offer`, gstreamer.offered(publisher).join(), wanted.join());
    checks.equal(`${what}: codec that is sent`, found?.tracks.find(({ kind }) => kind === 'video').codec, wanted[0]);
  }
}

/**
 * Viewers who are there first see a stream from its beginning to its end. Returns the publisher as the API showed it.
 * FFmpeg ends after its time and whipclientsink at the EOS of its sources; with `ends: false` Ctrl-C ends it.
 */
async function viewers(server, checks, what, publish, sources, { ends = true } = {}) {
  const stream = what.replaceAll(/\W+/g, '-');
  const watching = sources.map((source) => Object.assign(gstreamer.view(source, server.whep(stream)), { source }));
  const connected = async () => (await viewerSessions(server, stream)).filter(({ state }) => state === 'connected');
  await until(`${sources} to connect`, async () => (await connected()).length === sources.length, TIMEOUT_MS)
    .catch((error) => { throw new Error(`${error.message}; ${watching.map(({ log }) => log.slice(-300))}`); });
  const before = clientDrops(server);
  const publisher = publish(server.whip(stream));
  const found = await server.published(stream, KINDS, TIMEOUT_MS);
  if (!checks.check(`${what}: media arrives`, found, found ? codecsOf(found) : publisher.log.slice(-300))) return found;
  let last = found;
  const reading = setInterval(async () => { last = (await server.stream(stream).catch(() => null))?.publisher ?? last; }, READ_MS);
  if (ends) {
    const how = await Promise.race([publisher.ended, sleep(TIMEOUT_MS)]);
    checks.check(`${what}: ends at its last picture`, how?.code === 0, how ? `code ${how.code}` : publisher.log.slice(-300));
  } else {
    await still(watching).catch((error) => checks.note(error.message));
    gstreamer.interrupt(publisher);
  }
  await endsByDelete(server, checks, what, stream, found.id);
  clearInterval(reading);
  await still(watching).catch((error) => checks.note(error.message));
  const least = FRAMES * DECODED_MIN[what.split(',')[0]];
  for (const viewer of watching) {
    const who = `${viewer.source} views ${what}`;
    const [pictures, changes, sound] = [viewer.pictures(), viewer.changes(), viewer.samples() / SAMPLES_PER_FRAME];
    const punctual = viewer.source === 'whepclientsrc';
    const wanted = punctual ? FRAMES * IN_TIME_MIN : least;
    const seen = checks.check(`${who}: pictures`, pictures >= wanted && changes >= 0.9 * wanted, `${pictures} of ${FRAMES}, ${changes} changed`);
    const whole = punctual ? sound >= wanted : Math.abs(sound - pictures) <= APART_MAX;
    const heard = checks.check(`${who}: sound${punctual ? '' : ' as long as the pictures'}`, whole && viewer.loudness() > 0.05,
      `${sound.toFixed(1)} pictures long, ${viewer.loudness().toFixed(2)}`);
    if (!seen || !heard) checks.note(viewer.log.slice(-600));
  }
  const sessions = await viewerSessions(server, stream);
  checks.equal(`${what}: viewers that are still there`, sessions.length, sources.length);
  // whepsrc asks for nothing again: what it does not read in time is lost, and so is what the publisher did not repair.
  const drops = Math.max(0, clientDrops(server) - before);
  const [sent, received] = [[last], sessions].map((list) => list.flatMap(({ tracks }) => tracks).flatMap(({ layers }) => layers));
  const lost = (layers) => layers.reduce((sum, layer) => sum + layer.lost, 0);
  checks.check(`${what}: viewers lose nothing but what did not reach the server or was not read`, lost(received) <= drops + sources.length * lost(sent),
    `publisher: ${sent.map(losses).join(', ')}; viewers: ${received.map(losses).join(', ')}; ${drops} not read`);
  for (const viewer of watching) gstreamer.interrupt(viewer);
  for (const { id } of sessions) await endsByDelete(server, checks, `viewer of ${what}`, null, id);
  for (const viewer of watching) await end(viewer);
  return found;
}

/** Waits until every viewer has begun, and none decodes another picture. */
async function still(watching) {
  let before = null;
  await until('the last picture', () => {
    const counts = watching.map((viewer) => viewer.pictures());
    const [last, now] = [before, counts.join()];
    before = now;
    return last === now && counts.every((count) => count > 0);
  }, TIMEOUT_MS, STILL_MS);
}

async function viewerSessions(server, stream) {
  const ids = (await server.stream(stream))?.viewer_ids ?? [];
  return Promise.all(ids.map((id) => server.api(`/api/v1/sessions/${id}`)));
}

/** The session of `id` ends by its client's DELETE, and says so in the log. */
async function endsByDelete(server, checks, what, stream, id) {
  const reason = await soon('the session to end', () => server.logged(new RegExp(`closed session=${id}`))[0]?.match(/reason="(\w+)"/)?.[1], TIMEOUT_MS);
  checks.equal(`${what}: its session ends by`, reason, 'deleted');
  if (stream) await server.free(stream);
}

const codecsOf = ({ tracks }) => tracks.map(({ kind, codec, layers }) => `${kind} ${codec} ${layers[0]?.packets} packets`).join(', ');
const losses = ({ packets, lost, nacks, repairs }) => `${packets} packets, ${lost} lost, ${nacks} nacks, ${repairs} repairs`;
