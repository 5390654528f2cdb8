// FFmpeg publishes with a keyframe every four seconds and takes no keyframe requests; Chromium viewers come at
// several moments of the group, in each start mode. How soon each sees a picture, when it moves, and whether
// one that began in the past plays like one that waited.

import { end } from '../lib/child.mjs';
import { median, sleep } from '../lib/check.mjs';
import { launch } from '../lib/chromium.mjs';
import { GOP_MS, come, nextKeyframe, publishRarely, seen, sideBySide } from '../lib/playout.mjs';

/** Who comes how many milliseconds after a keyframe, group by group. */
const GROUPS = [
  { 200: 'fast-forward', 1_300: 'poster', 2_400: 'wait' },
  { 200: 'poster', 1_300: 'wait', 2_400: 'fast-forward' },
  { 200: 'fast-forward', 1_300: 'poster', 2_400: 'fast-forward' },
];
/** From DTLS to the first picture; the round trip is loopback's. */
const AT_ONCE_MS = 200;
/** And nobody waits this long, however busy the machine. */
const SOON_MS = 800;
/** A keyframe is not where the schedule says to the millisecond, and then it must be decoded and drawn. */
const KEYFRAME_EARLY_MS = 100;
const KEYFRAME_LATE_MS = 500;
/** Pages are there this long before their moment. */
const AHEAD_MS = 300;

export async function run({ server, checks }) {
  const chromium = await launch();
  const publisher = await publishRarely(server, 'starts', 90);
  const visits = [];
  for (const group of GROUPS) visits.push(...await visit(server, chromium, group));
  for (const mode of ['fast-forward', 'poster', 'wait']) judge(checks, mode, visits.filter((it) => it.mode === mode));
  await sideBySide(server, checks, 'starts', 'Chromium', chromium, async () => {
    const keyframe = await nextKeyframe(server, 'starts', 1_000);
    return { waiting: keyframe - 700, beginning: keyframe + 200 };
  });
  await end(publisher);
  await chromium.close();
}

/** One group of pictures and its viewers; what each saw until the next keyframe and a moment after it. */
async function visit(server, chromium, group) {
  const comers = await Promise.all(Object.entries(group).map(async ([into, mode]) => (
    { into: Number(into), mode, page: await chromium.page(`${server.url}/`) })));
  const keyframe = await nextKeyframe(server, 'starts', AHEAD_MS);
  const next = keyframe + GOP_MS;
  await Promise.all(comers.map(({ into, mode, page }) => come(page, server.whep('starts'), mode, keyframe + into)));
  await sleep(next + KEYFRAME_LATE_MS + 200 - Date.now());
  return Promise.all(comers.map(async ({ into, mode, page }) => {
    const { origin, connected, frames } = await seen(page);
    await page.context().close();
    const [first, second] = frames.map((frame) => frame.shown);
    // Infinity for what never came.
    const after = (shown) => Math.round((shown ?? Infinity) - connected);
    return { into, mode, first: after(first), moves: after(second), due: next - origin - connected };
  }));
}

function judge(checks, mode, visits) {
  const words = visits.map(({ into, first, moves }) => `${first} ms, moving ${moves} ms (came ${into} ms after a keyframe)`);
  checks.note(`${mode}: from DTLS to a picture ${words.join('; ')}`);
  const withKeyframe = (ms, due) => ms >= due - KEYFRAME_EARLY_MS && ms <= due + KEYFRAME_LATE_MS;
  if (mode === 'wait') {
    checks.check('wait: nothing before the next keyframe', visits.every(({ first, due }) => withKeyframe(first, due)), `${visits.length} viewers`);
    return;
  }
  const firsts = visits.map(({ first }) => first);
  checks.check(`${mode}: a picture within ${AT_ONCE_MS} ms, none later than ${SOON_MS}`,
    median(firsts) <= AT_ONCE_MS && Math.max(...firsts) <= SOON_MS, `median ${median(firsts)} ms, worst ${Math.max(...firsts)} ms`);
  // A publisher that was late with its keyframe may have one viewer come just with it, who is live at once.
  const late = visits.filter(({ into }) => mode === 'poster' || into > 1_000);
  const waited = late.filter(({ moves, due }) => withKeyframe(moves, due)).length;
  checks.check(`${mode}: a picture alone moves with the next keyframe`, waited >= Math.max(1, late.length - 1), `${waited} of ${late.length} viewers`);
  const soon = visits.filter((it) => !late.includes(it)).map(({ first, moves }) => moves - first);
  if (soon.length) {
    checks.check(`${mode}: soon after a keyframe it moves at once`, Math.min(...soon) <= AT_ONCE_MS && Math.max(...soon) <= SOON_MS, `after ${soon.join(', ')} ms`);
  }
}
