// A viewer chooses its layer: Chromium sends three rids through a relay with 20 ms of round trip, Chromium
// watches and is switched by the layer API, time and again. Then the ways of choosing: a limit, a layer
// that is not there, automatic; and what events and the API say of it.

import dgram from 'node:dgram';
import { start } from '../lib/child.mjs';
import { median, soon, until } from '../lib/check.mjs';
import { counters, keepSize, launch, listen, live, publishUrl, since, watchUrl } from '../lib/chromium.mjs';
import { clientDrops, complete } from '../lib/delivery.mjs';
import { startServer } from '../lib/server.mjs';

/** Its media address is the relay's. */
export const bringsOwnServer = true;

const SWITCHES = 50;
/** Each bound must be kept in one run; a busy machine gets two more. */
const RUNS_MAX = 3;
/** The longest time from one picture that is shown to the next, by their timestamps, in a run of switches. */
const WAIT_MAX_MS = 1_000;
/** A busy browser does not show each picture that it decodes. What of them it shows at rest, it shows while it switches, but for so many. */
const UNSEEN_MAX = 0.1;
/** A switch in the middle of a frame leaves one number unused, so that the decoder sees the cut; most come between frames. */
const CUTS_MAX = SWITCHES / 25;
/** What a switch may move, in the middle of all switches: timestamps against receipt, and lips more than at rest. */
const SHIFT_MAX_MS = 40;
/** One switch alone: receipt is a wall-clock time of a browser that encodes and decodes beside. That switches leave no offset is
 * asserted under virtual time (`switch_to_another_size_of_the_same_frame_leaves_no_offset`). */
const OUTLIER_MAX_MS = 200;
/** From a preference to the first picture of its layer: a keyframe must be asked for, in its turn, and made. */
const SWITCH_TIMEOUT_MS = 15_000;
const EVENT_TIMEOUT_MS = 20_000;
/** The least picture of which Chromium makes three layers. */
const PUBLISHED = { codec: 'VP8', simulcast: '1', width: '960', height: '540', fps: '20', bitrate: '1000' };
const HEIGHTS = { l: 135, m: 270, h: 540 };
const READY_TIMEOUT_MS = 30_000;
const TICKS_PER_MS = 90;
/** From one picture to the next it is 50 ms. */
const PICTURE_MIN_MS = 25;
/** Readings of lips at rest, four in a second. */
const SAMPLES = 20;

export async function run({ checks, args }) {
  const [relayPort, mediaPort] = await freePorts(2);
  const [relay, to] = [`127.0.0.1:${relayPort}`, `127.0.0.1:${mediaPort}`];
  const server = await startServer(args.server, { log: 'layers', mediaPort: String(mediaPort), args: ['--advertise', relay] });
  start(args.loadtest, ['relay', '--listen', relay, '--to', to, '--up', 'delay=10', '--down', 'delay=10']);
  const chromium = await launch();
  const publisher = await chromium.page(publishUrl(server, 'layers', PUBLISHED));
  await live(publisher);
  await keepSize(publisher);
  const viewer = await chromium.page(watchUrl(server, 'layers'));
  await live(viewer);
  await listen(viewer);
  const layers = await until('three layers in an event', async () => {
    const layers = await viewer.evaluate(() => __weir.session.layers);
    return layers.length === 3 && layers.every((layer) => layer.bitrate && layer.height) && layers;
  }, READY_TIMEOUT_MS);
  checks.equal('layers event: rids and heights, the largest first',
    layers.map(({ rid, height }) => `${rid} ${height}`).join(', '), 'h 540, m 270, l 135');
  checks.equal('layers event: numbers by size', layers.map((layer) => layer.spatialLayerId).join(' '), '2 1 0');
  await until('the largest layer', async () => (await viewer.evaluate(() => __weir.session.layers)).find((layer) => layer.active)?.rid === 'h', READY_TIMEOUT_MS);

  await switches(server, checks, publisher, viewer);
  await choices(server, checks, viewer);
  await menu(checks, viewer);
  for (const page of [publisher, viewer]) {
    if (page.problems.length) checks.check('no script error', false, page.problems[0]);
  }
  await chromium.close();
  await server.stop();
}

async function switches(server, checks, publisher, viewer) {
  await viewer.evaluate(look);
  let seen;
  await checks.once(RUNS_MAX, async (n) => {
    const rest = await viewer.evaluate(atRest, SAMPLES);
    const restShare = Math.min(1, pictures(rest.shown) / rest.framesReceived);
    const [before, drops] = [await Promise.all([publisher, viewer].map(counters)), clientDrops(server)];
    const run = await viewer.evaluate(play, { heights: HEIGHTS, switches: SWITCHES, timeout: SWITCH_TIMEOUT_MS });
    const after = await Promise.all([publisher, viewer].map(counters));
    const [sent, got] = [0, 1].map((side) => since(before[side], after[side]));
    const dropped = clientDrops(server) - drops;
    const { wait, shifts, lips } = digest(run);
    const restLips = changes(rest.skews);
    seen = [...new Set(run.shown.map((frame) => frame.height))];
    const took = run.took.filter((ms) => ms !== null).sort((a, b) => a - b);
    const figures = (values) => (values.length ? `p50 ${median(values).toFixed(1)} ms, max ${Math.max(...values).toFixed(1)} ms` : 'unknown');
    checks.note(`run ${n}: ${took.length} switches in ${(run.ms / 1_000).toFixed(1)} s, from preference to picture ${figures(took)}; `
      + `decoded ${got.framesDecoded}, framesDropped ${got.framesDropped}, freezeCount ${got.freezes}, keyframes ${got.keyframes}`);
    checks.note(`run ${n}: a switch moves timestamps against receipt by ${figures(shifts)}, picture against sound by ${figures(lips)}; at rest that moves by ${figures(restLips)}`);
    for (const words of run.slow) checks.note(`run ${n}: after a second still waiting for ${words}`);
    const reached = took.length === SWITCHES;
    const [shown, share] = [pictures(run.shown), restShare - UNSEEN_MAX];
    return [
      ['switches that came', reached, `${took.length} of ${SWITCHES}`],
      // Every layer has every picture. Decoded are more: what a change of layers replays had been seen in another size.
      ['shows as many of the pictures as at rest', shown >= share * sent.framesEncoded, `${shown} of ${sent.framesEncoded}; at rest ${(100 * restShare).toFixed(1)} %`],
      ['no packet is missing or late but for cut frames', complete(got, dropped, CUTS_MAX),
        `lost ${got.videoLost}+${got.audioLost}, nacks ${got.nacks}; dropped by the kernel ${dropped}`],
      [`no wait over ${WAIT_MAX_MS} ms`, wait <= WAIT_MAX_MS, `${wait} ms`],
      [`half of the switches move the timestamps against receipt by ${SHIFT_MAX_MS} ms at most`, median(shifts) <= SHIFT_MAX_MS, figures(shifts)],
      [`no switch moves the timestamps against receipt by over ${OUTLIER_MAX_MS} ms`, Math.max(...shifts) <= OUTLIER_MAX_MS, figures(shifts)],
      [`half of the switches move lips by ${SHIFT_MAX_MS} ms at most, beside what moves them at rest`, median(lips) <= median(restLips) + SHIFT_MAX_MS, figures(lips)],
      // A run that broke off says nothing of the others.
    ].map(([what, kept, words]) => [what, kept && reached, words]);
  });
  checks.equal('heights seen', seen.sort((a, b) => a - b).join(' '), Object.values(HEIGHTS).join(' '));
}

/** In the viewer's page: notes each picture that is shown from now on, and tells how far it plays before the sound. */
function look() {
  const video = document.getElementById('video');
  const note = (now, { height, rtpTimestamp, receiveTime, presentedFrames }) => {
    window.__shown.push({ now, height, stamp: rtpTimestamp, received: receiveTime, presented: presentedFrames });
    video.requestVideoFrameCallback(note);
  };
  window.__shown = [];
  video.requestVideoFrameCallback(note);
  const stats = async (kind) => [...(await window.__weir.pc.getStats()).values()].find((stat) => stat.type === 'inbound-rtp' && stat.kind === kind);
  window.__stats = stats;
  window.__lips = async () => (await stats('video')).estimatedPlayoutTimestamp - (await stats('audio')).estimatedPlayoutTimestamp;
}

/** In the viewer's page: what is shown, and how lips move, while nobody switches. */
async function atRest(samples) {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  const received = async () => (await window.__stats('video')).framesReceived;
  const before = await received();
  window.__shown = [];
  const skews = [];
  // They are known from the second sender report on.
  for (let tries = 0; skews.length < samples; tries += 1) {
    if (tries > 50 + samples) throw new Error('the browser does not estimate when it plays');
    await sleep(250);
    const skew = await window.__lips();
    if (Number.isFinite(skew)) skews.push(skew);
  }
  return { shown: window.__shown, skews, framesReceived: await received() - before };
}

/** In the viewer's page: from layer to layer; what was shown and when. */
async function play({ heights, switches, timeout }) {
  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  window.__shown = [];
  const shown = window.__shown;
  const skews = [await window.__lips()];
  /** Where the pictures of each layer end in `shown`. */
  const cuts = [];
  const took = [];
  const slow = [];
  const begun = performance.now();
  let rid = 'h';
  for (let n = 0; n < switches && took.at(-1) !== null; n += 1) {
    // Up and down by one or two steps, every pair of layers in both directions.
    rid = { h: 'ml', m: 'lh', l: 'hm' }[rid][(n >> 2) % 2];
    const asked = performance.now();
    const from = shown.length;
    await window.__weir.session.selectLayer({ mediaId: '1', rid });
    let at = null;
    let told = 0;
    while (!at && performance.now() - asked < timeout) {
      await sleep(10);
      if (performance.now() - asked > 1_000 * (told + 1)) {
        const layers = window.__weir.session.layers.map((l) => `${l.rid} ${l.bitrate} bit/s${l.active ? ' flows' : ''}${l.target ? ' target' : ''}`);
        slow.push(`${rid}: ${layers.join(', ')}`);
        told += 1;
      }
      at = shown.slice(from).find((frame) => frame.height === heights[rid])?.now ?? null;
    }
    took.push(at && Math.round(at - asked));
    // Some pictures of it, so that nothing that follows goes unseen.
    await sleep(150 + 50 * (n % 3));
    skews.push(await window.__lips());
    cuts.push(shown.length);
  }
  return { took, slow, shown, cuts, skews, ms: performance.now() - begun };
}

const changes = (values) => values.slice(1).map((value, n) => Math.abs(value - values[n]));

/** When pictures were stamped, in milliseconds after the first one. */
const stampsOf = (shown) => shown.map((frame) => ((frame.stamp - shown[0].stamp) >>> 0) / TICKS_PER_MS);

/** How many pictures were shown. What a change of layers replays is stamped closer together than pictures can be: no pictures of their own. */
function pictures(shown) {
  let last = -Infinity;
  let count = 0;
  for (const stamp of stampsOf(shown)) {
    if (stamp - last < PICTURE_MIN_MS) continue;
    count += 1;
    last = stamp;
  }
  return count;
}

/** What a viewer noticed of a run. */
function digest({ shown, cuts, skews }) {
  const stamps = stampsOf(shown);
  /** Receipt against timestamp, of the last pictures of each layer. */
  const offsets = cuts.map((cut) => median([1, 2, 3].map((back) => shown[cut - back].received - stamps[cut - back])));
  // A busy page is not told of each picture, but how many there were.
  const waits = shown.slice(1).map((frame, n) => (stamps[n + 1] - stamps[n]) / (frame.presented - shown[n].presented));
  return { wait: Math.round(Math.max(...waits)), shifts: changes(offsets), lips: changes(skews) };
}

/** Each way to ask, by the picture that comes, the session in the API, and the layers event. */
async function choices(server, checks, viewer) {
  const session = async () => {
    const { viewer_ids: [id] } = await server.stream('layers');
    const { tracks, decisions } = await server.api(`/api/v1/sessions/${id}`);
    return { ...tracks.find((track) => track.kind === 'video'), decisions };
  };
  for (const [preference, rid, reason] of [
    [{ rid: 'm' }, 'm', 'pinned'],
    [{ maxHeight: 200 }, 'l', 'capped'],
    [{ mediaId: 1, spatialLayerId: 1 }, 'm', 'pinned'],
    [{ maxWidth: 100 }, 'l', 'cap_below_all'],
    [{}, 'h', 'largest_live_layer'],
  ]) {
    const what = JSON.stringify(preference);
    await viewer.evaluate((preference) => __weir.session.selectLayer(preference), preference);
    const height = () => viewer.evaluate(() => document.getElementById('video').videoHeight);
    await soon('the picture', async () => (await height()) === HEIGHTS[rid], SWITCH_TIMEOUT_MS, 50);
    const track = await session();
    const told = await soon('an event', async () => (await viewer.evaluate(() => __weir.session.layers)).find((layer) => layer.active)?.rid === rid, EVENT_TIMEOUT_MS, 50);
    checks.check(`${what}: layer ${rid} is shown, and the API and the event say so`,
      (await height()) === HEIGHTS[rid] && track.current_layer === rid && track.target_layer === rid && track.target_reason === reason && told,
      `${await height()} lines, ${track.current_layer}, ${track.target_reason}, preference ${JSON.stringify(track.preference)}`);
  }
  const { decisions } = await session();
  checks.check('the ring of decisions has time, layer and reason', decisions.length > 10
    && decisions.some((d) => d.decision === 'mid 1: layer m' && d.reason === 'pinned' && d.at_s > 0), JSON.stringify(decisions.at(-1)));
  const refused = await viewer.evaluate(() => __weir.session.selectLayer({ rid: 'x' }).then(() => '', (error) => error.message));
  checks.check('a rid that is not there is refused with those that are', /h, m, l|l, m, h/.test(refused), refused);
}

/** The page's own menu. */
async function menu(checks, viewer) {
  const label = () => viewer.textContent('#toggle-quality');
  checks.equal('watch page: the button says what is shown', await label(), 'Best 540p');
  await viewer.click('#toggle-quality');
  await viewer.click('#layers li:nth-child(3) button');
  checks.equal('watch page: one click pins a layer', await label(), '135p');
  const note = await viewer.textContent('#quality-note');
  checks.check('watch page: says so in words for people', !/layer|rid|[{}]/.test(note) && !/layer|rid/.test(await viewer.textContent('#layers')), note);
  const pinned = await soon('the small picture', () => viewer.evaluate(() => document.getElementById('video').videoHeight === 135), SWITCH_TIMEOUT_MS, 50);
  checks.check('watch page: and it comes', pinned);
  await viewer.click('#quality-mode label:has([value=automatic])');
  const back = await soon('the large picture', () => viewer.evaluate(() => document.getElementById('video').videoHeight === 540), SWITCH_TIMEOUT_MS, 50);
  checks.check('watch page: and back to automatic', back && (await soon('its name', async () => (await label()) === 'Best 540p', EVENT_TIMEOUT_MS, 50)), await label());
  checks.equal('watch page: how many watch', await viewer.textContent('#viewers'), '1 viewer');
}

/** UDP ports that are free now. */
async function freePorts(count) {
  const sockets = Array.from({ length: count }, () => dgram.createSocket('udp4'));
  const ports = await Promise.all(sockets.map((socket) => new Promise((done) => {
    socket.bind(0, '127.0.0.1', () => done(socket.address().port));
  })));
  await Promise.all(sockets.map((socket) => new Promise((done) => socket.close(done))));
  return ports;
}
