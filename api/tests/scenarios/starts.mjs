// FFmpeg publishes with a keyframe every four seconds and takes no keyframe requests; Chromium viewers come at
// several moments of the group, in each start mode. How soon each sees a picture, when it moves, and whether
// one that began in the past plays like one that waited.

import { end } from '../lib/child.mjs';
import { soon, until } from '../lib/check.mjs';
import { launch } from '../lib/chromium.mjs';
import { GOP_MS, come, keyframes, nextKeyframe, publishRarely, seen, sideBySide } from '../lib/playout.mjs';

/** Who comes how many milliseconds after a keyframe, group by group. */
const GROUPS = [
  { 400: 'fast-forward', 1_300: 'poster', 2_200: 'wait' },
  { 400: 'poster', 1_300: 'wait', 2_200: 'fast-forward' },
  { 400: 'fast-forward', 1_300: 'poster', 2_200: 'fast-forward' },
];
/** On a busy machine some come too late to be judged: groups follow each other until each mode has so many visits. */
const GROUPS_MAX = 2 * GROUPS.length;
const VISITS_MIN = 2;
/** How a viewer may begin, by the mode that it asks for; the rest depends on what the server has cached. */
const BEGINNINGS = { 'fast-forward': ['cached_keyframe', 'poster'], poster: ['poster'], wait: ['wait'] };
/** What is shown so long before the server has the next keyframe was shown without it. */
const EARLY_MS = 400;
/** Between two keyframes, a viewer comes so long after one and so long before the other, or is not judged. */
const AFTER_MIN_MS = 200;
const BEFORE_MIN_MS = 1_000;
/** Pages are there this long before their moment. */
const AHEAD_MS = 300;
/** Longer than any viewer has to wait for two pictures. */
const SHOWN_TIMEOUT_MS = 2 * GOP_MS;
/** The groups and the two viewers side by side, on a slow machine; it is ended sooner. */
const PUBLISH_S = 600;

export async function run({ server, checks }) {
  const chromium = await launch();
  const publisher = await publishRarely(server, 'starts', PUBLISH_S);
  const modes = Object.keys(BEGINNINGS);
  const visits = [];
  const few = (mode) => visits.filter((it) => it.mode === mode).length < VISITS_MIN;
  for (let n = 0; n < GROUPS.length || (n < GROUPS_MAX && modes.some(few)); n += 1) {
    visits.push(...await visit(server, chromium, GROUPS[n % GROUPS.length]));
  }
  for (const mode of modes) judge(checks, mode, visits.filter((it) => it.mode === mode));
  await sideBySide(server, checks, 'starts', 'Chromium', chromium, async () => {
    const keyframe = await nextKeyframe(server, 'starts', 1_000);
    return { waiting: keyframe - 700, beginning: keyframe + 200 };
  });
  await end(publisher);
  await chromium.close();
}

/** One group of pictures and its viewers: what those saw who came in the middle of it. */
async function visit(server, chromium, group) {
  const comers = await Promise.all(Object.entries(group).map(async ([into, mode]) => (
    { into: Number(into), mode, page: await chromium.page(`${server.url}/`) })));
  const viewers = async () => (await server.stream('starts')).viewer_ids;
  const known = new Set(await viewers());
  const keyframe = await nextKeyframe(server, 'starts', AHEAD_MS);
  for (const comer of comers) {
    await come(comer.page, server.whep('starts'), comer.mode, keyframe + comer.into);
    comer.id = await until('its session', async () => (await viewers()).find((id) => !known.has(id)), 30_000, 20);
    known.add(comer.id);
  }
  // When the keyframes before and after them came is known only now: a busy publisher is late with some.
  const { last: before } = await keyframes(server, 'starts');
  const next = await until('the next keyframe', async () => {
    const { last } = await keyframes(server, 'starts');
    return last > before + GOP_MS / 2 && last;
  });
  const visits = await Promise.all(comers.map(async ({ into, mode, page, id }) => {
    await soon('two pictures', async () => (await seen(page)).frames.length >= 2, SHOWN_TIMEOUT_MS);
    const { decisions } = await server.api(`/api/v1/sessions/${id}`);
    const began = decisions.map(({ reason }) => reason).find((reason) => BEGINNINGS['fast-forward'].includes(reason)) ?? 'wait';
    const { origin, connected, frames } = await seen(page);
    await page.context().close();
    const [first, second] = frames.map((frame) => frame.shown);
    // Infinity for what never came.
    const after = (shown) => Math.round((shown ?? Infinity) - connected);
    const at = origin + connected;
    return { into, mode, began, first: after(first), moves: after(second), passed: at - before, due: Math.round(next - at) };
  }));
  return visits.filter(({ passed, due }) => passed >= AFTER_MIN_MS && due >= BEFORE_MIN_MS);
}

function judge(checks, mode, visits) {
  const words = visits.map(({ into, began, first, moves, due }) => (
    `${began}, ${first} ms, moving ${moves} ms, the next keyframe after ${due} ms (came ${into} ms after one)`));
  checks.note(`${mode}: from DTLS to a picture ${words.join('; ')}`);
  checks.check(`${mode}: the server begins as it was asked`, visits.length >= VISITS_MIN && visits.every(({ began }) => BEGINNINGS[mode].includes(began)),
    `${visits.length} viewers: ${visits.map(({ began }) => began).join(', ')}`);
  const atOnce = (ms, { due }) => ms < due - EARLY_MS;
  const withNext = (ms, { due }) => ms >= due - EARLY_MS && ms < due + GOP_MS - EARLY_MS;
  const every = (began, what, kept) => {
    const those = visits.filter((it) => it.began === began);
    if (those.length) checks.check(`${mode}, ${began}: ${what}`, those.every(kept), `${those.filter(kept).length} of ${those.length} viewers`);
  };
  every('cached_keyframe', 'a picture at once, and it moves at once', (it) => atOnce(it.first, it) && atOnce(it.moves, it));
  every('poster', 'a picture at once, and it moves with the next keyframe', (it) => atOnce(it.first, it) && withNext(it.moves, it));
  every('wait', 'nothing before the next keyframe', (it) => withNext(it.first, it));
}
