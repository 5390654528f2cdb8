// One viewer of a stream in a page of the server: when DTLS was done, when each picture was shown, and how far
// behind picture and sound play. The same in Chromium and in Firefox. Called by scenarios/starts.mjs and firefox.mjs.

import { median, sleep, until } from './check.mjs';
import { publish } from './ffmpeg.mjs';

export const GOP_MS = 4_000;

/** Pictures that are so much later than the others, seen over so many, have not caught up yet. */
const LATE_MS = 40;
const LATE_FRAMES = 9;
/** It may take so long. */
const CAUGHT_UP_MAX_MS = 1_000;
const TICKS_PER_MS = 90;
/** What two players may differ by, each with its own noise of a busy machine: at most 10 and 9 ms were measured. */
const EXTRA_MAX_MS = 100;
const SKEW_MAX_MS = 90;
/** How quickly a busy machine lets two viewers come is not certain. */
const TRIES_MAX = 10;
/** From the starts to the comparison, and for the comparison; one window that keeps the bounds is enough. */
const SETTLE_MS = 5_000;
const WINDOW_MS = 5_000;
const WINDOWS_MAX = 3;

/** FFmpeg with a keyframe every four seconds and none on request. It is there when this returns. */
export async function publishRarely(server, stream, seconds) {
  const publisher = publish('9.0.2', server.whip(stream), seconds, GOP_MS / 1_000);
  await until('the publisher', async () => (await server.stream(stream))?.publisher, 15_000);
  return publisher;
}

/** When its next keyframe is due, on this process's clock; at least `ahead` from now. */
export async function nextKeyframe(server, stream, ahead) {
  const { next } = await keyframes(server, stream);
  return next + (next - Date.now() < ahead ? GOP_MS : 0);
}

/** When the server received the last keyframe, and when it expects the next one, on this process's clock. */
export function keyframes(server, stream) {
  return until('a schedule of keyframes', async () => {
    const { publisher } = await server.stream(stream);
    const now = Date.now();
    const { next_keyframe_ms: left, keyframe_period_ms: period } = publisher.tracks.find((track) => track.kind === 'video').layers[0].learned;
    return left !== null && period !== null && { last: now + left - period, next: now + left };
  });
}

/** Begins to watch at a moment, beside whatever the page does, and notes every picture from then on. */
export async function come(page, whep, mode, moment) {
  await sleep(moment - Date.now());
  await page.evaluate(async (url) => {
    const { watch } = await import('/weir.js');
    const video = document.createElement('video');
    document.body.prepend(video);
    const seen = { origin: performance.timeOrigin, connected: null, frames: [] };
    const note = (now, { presentationTime, mediaTime, rtpTimestamp, receiveTime }) => {
      seen.frames.push({ shown: presentationTime ?? now, mediaTime, rtpTimestamp, receiveTime });
      video.requestVideoFrameCallback(note);
    };
    video.requestVideoFrameCallback(note);
    const session = watch(url, video);
    const { pc } = session;
    pc.addEventListener('connectionstatechange', () => {
      if (pc.connectionState === 'connected') seen.connected ??= performance.now();
    });
    window.__playout = { seen, pc };
  }, `${whep}?start=${mode}`);
}

/** Two viewers come, each at its moment: one that waits for its keyframe, one that begins in the past. Do they play alike? */
export async function sideBySide(server, checks, stream, name, browser, moments) {
  let pages = null;
  for (let tries = 0; tries < TRIES_MAX && !pages; tries += 1) pages = await both(server, stream, browser, moments);
  if (!checks.check(`${name}: one of two viewers began at a cached keyframe`, pages)) return;
  await sleep(SETTLE_MS);
  await checks.once(WINDOWS_MAX, async () => {
    const [waited, began] = await Promise.all(pages.map((page) => playing(page, WINDOW_MS)));
    return compare(checks, name, began, waited);
  });
}

/** The pages of the two; none if the second came too late to begin in the past. */
async function both(server, stream, browser, moments) {
  const pages = await Promise.all([0, 1].map(() => browser.page(`${server.url}/`)));
  const { waiting, beginning } = await moments();
  const whep = server.whep(stream);
  await Promise.all([come(pages[0], whep, 'wait', waiting), come(pages[1], whep, 'fast-forward', beginning)]);
  for (const page of pages) await until('a picture', async () => (await seen(page)).frames.length > 0);
  const { viewer_ids: viewers } = await server.stream(stream);
  const sessions = await Promise.all(viewers.map((id) => server.api(`/api/v1/sessions/${id}`)));
  const past = sessions.filter(({ decisions }) => decisions.some(({ reason }) => reason === 'cached_keyframe'));
  if (past.length === 1) return pages;
  await Promise.all(pages.map((page) => page.close()));
  return null;
}

/** What was noted until now: times in milliseconds of the page's clock. */
export const seen = (page) => page.evaluate(() => __playout.seen);

/** How a viewer plays, from now on for `ms`; what of it a browser does not tell is null. */
async function playing(page, ms) {
  const before = await reading(page);
  const samples = [before];
  for (const end = Date.now() + ms; Date.now() < end; await sleep(200)) samples.push(await reading(page));
  const after = samples.at(-1);
  const { frames } = await seen(page);
  const buffered = (kind) => {
    const [count, seconds] = ['jitterBufferEmittedCount', 'jitterBufferDelay'].map((name) => after[kind][name] - before[kind][name]);
    return count ? (1_000 * seconds) / count : null;
  };
  const window = frames.filter((frame) => frame.shown >= before.now);
  const [video, audio] = [buffered('video'), buffered('audio')];
  const lips = median(samples.map((sample) => sample.video.estimatedPlayoutTimestamp - sample.audio.estimatedPlayoutTimestamp));
  return {
    frames: window.length,
    video,
    audio,
    shownAfter: median(window.map((frame) => frame.shown - frame.receiveTime)),
    lips,
    // A player brings lips together over a minute, each at its own pace; what it holds back is not in the stamps.
    stamps: lips === null ? null : lips - (audio - video),
    freezes: after.video.freezeCount ?? null,
    // Chromium makes the media time of the time at which it wants to show a frame, which it estimates anew all along.
    backwards: steps(frames, stampOf).filter((step) => step < 0),
    mediaTimeBack: steps(frames, (frame) => frame.mediaTime * 1_000).filter((step) => step < 0),
    caughtUp: caughtUp(frames, window),
  };
}

function reading(page) {
  return page.evaluate(async () => {
    const report = await __playout.pc.getStats();
    const now = performance.now();
    const of = (kind) => [...report.values()].find((stat) => stat.type === 'inbound-rtp' && stat.kind === kind);
    return { video: of('video'), audio: of('audio'), now };
  });
}

/** When a frame was stamped, in milliseconds after the first one: by its RTP timestamp where the browser tells it. */
const stampOf = (frame, first) => (frame.rtpTimestamp === undefined
  ? frame.mediaTime * 1_000
  : ((frame.rtpTimestamp - first.rtpTimestamp) | 0) / TICKS_PER_MS);

/** From each frame to the next, in milliseconds. */
const steps = (frames, time) => frames.slice(1).map((frame, n) => time(frame, frames[0]) - time(frames[n], frames[0]));

/** Milliseconds from the first picture until they are shown no later after their timestamps than those of the window. */
function caughtUp(frames, window) {
  const late = (frame) => frame.shown - stampOf(frame, frames[0]);
  const bound = median(window.map(late)) + LATE_MS;
  const present = frames.find((_, n) => median(frames.slice(n, n + LATE_FRAMES).map(late)) <= bound);
  return (present?.shown ?? Infinity) - frames[0].shown;
}

/** What should hold of two who play the same stream, and whether it does. */
function compare(checks, browser, began, waited) {
  const ms = (value) => (value === null ? 'unknown' : `${value.toFixed(1)} ms`);
  for (const [who, it] of [['fast-forward', began], ['wait', waited]]) {
    checks.note(`${browser}, ${who}: jitter buffer ${ms(it.video)}, sound's ${ms(it.audio)}; shown ${ms(it.shownAfter)} after receipt; `
      + `picture before sound by ${ms(it.lips)}, without what is buffered ${ms(it.stamps)}; caught up after ${ms(it.caughtUp)}; freezes ${it.freezes}; media time back by [${it.mediaTimeBack.map(ms)}]`);
  }
  // Of all frames since the start, so that no later window hides it.
  const back = [...began.backwards, ...waited.backwards];
  const rules = [
    [`${browser}: no frame is stamped before the one that was shown before it`, back.length === 0, `back by [${back.map(ms)}]`],
    [`${browser}: a fast-forward leaves no delay in the jitter buffer`, began.video <= waited.video + EXTRA_MAX_MS, `${ms(began.video)}, ${ms(waited.video)}`],
    // On a machine that is too busy, who waited is late at first, too.
    [`${browser}: it is in the present within ${CAUGHT_UP_MAX_MS} ms of one who waited`,
      began.caughtUp - waited.caughtUp <= CAUGHT_UP_MAX_MS, `${ms(began.caughtUp)}, ${ms(waited.caughtUp)}`],
  ];
  if (began.stamps === null) return rules;
  const skew = Math.abs(began.stamps - waited.stamps);
  return [...rules, [`${browser}: sound and picture are stamped as for a viewer who waited`, skew <= SKEW_MAX_MS, ms(skew)]];
}
