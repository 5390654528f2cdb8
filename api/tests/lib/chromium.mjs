// Chromium with a fake camera, and what its statistics say. Called by most scenarios.

import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';
import { adopt, signal } from './child.mjs';
import { soon, until } from './check.mjs';

/** Debian's Chromium unless told otherwise. */
const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
/** For the start of the process, and for each action and navigation of a page. */
const TIMEOUT_MS = 120_000;
/** For some frames, however busy the machine is. */
const DECODES_TIMEOUT_MS = 60_000;

const FLAGS = [
  '--headless=new',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  // Pages that are not in front must keep decoding and drawing.
  '--disable-background-timer-throttling',
  '--disable-backgrounding-occluded-windows',
  '--disable-renderer-backgrounding',
  '--use-fake-device-for-media-stream=fps=30',
  '--use-fake-ui-for-media-stream',
  '--autoplay-policy=no-user-gesture-required',
  '--allow-loopback-in-peer-connection',
  '--disable-features=WebRtcHideLocalIpsWithMdns,LocalNetworkAccessChecks',
];

/** The pages are compiled into the server. With `PAGES=disk` they come from here instead, to try a change without a build. */
const PAGES = fileURLToPath(new URL('../../pages/', import.meta.url));
const FROM_DISK = process.env.PAGES === 'disk';
const FILES = [[/^\/$/, () => 'index.html'], [/^\/(publish|watch)\/[^/]+$/, (page) => `${page}.html`], [/^\/(weir\.js|assets\/.*)$/, (file) => file]];

/** Serves the pages of `context` from disk, with the headers of the server; the README has no file there. */
async function serveFromDisk(context) {
  await context.route(/^http:/, async (route) => {
    const { pathname } = new URL(route.request().url());
    const [pattern, name] = FILES.find(([pattern]) => pattern.test(pathname)) ?? [];
    const file = pattern && PAGES + name(pattern.exec(pathname)[1]);
    if (!file || !fs.existsSync(file)) return route.fallback();
    const response = await route.fetch().catch(() => null);
    if (!response) return route.abort();
    // Another server of the scenario has a root, too; only Weir's pages have a tag.
    return route.fulfill({ response, ...(response.headers().etag && { body: fs.readFileSync(file) }) });
  });
}

/** Starts a browser of its own; `kill()` is kill -9 of all its processes. */
export async function launch() {
  const host = await chromium.launchServer({
    executablePath: EXECUTABLE,
    headless: true,
    timeout: TIMEOUT_MS,
    args: FLAGS,
    ignoreDefaultArgs: ['--headless', '--mute-audio'],
  });
  const child = adopt(host.process());
  const browser = await chromium.connect(host.wsEndpoint());
  return {
    browser,
    version: () => browser.version(),
    /** A page in a context (cookies, cache) of its own. */
    async page(url, options = {}) {
      const context = await browser.newContext({ viewport: { width: 960, height: 720 }, ...options });
      context.setDefaultTimeout(TIMEOUT_MS);
      if (FROM_DISK) await serveFromDisk(context);
      const page = await context.newPage();
      page.problems = [];
      page.on('pageerror', (error) => page.problems.push(error.message));
      if (url) await page.goto(url);
      return page;
    },
    async close() {
      await browser.close().catch(() => {});
      await host.close().catch(() => {});
    },
    async kill() {
      signal(child, 'SIGKILL');
      await child.ended;
    },
  };
}

/** A publish page's address: fake camera and microphone, small enough for two slow cores. */
export function publishUrl(server, stream, preference = {}) {
  const query = new URLSearchParams({ autostart: '1', video: 'camera', width: '640', height: '360', fps: '30', ...preference });
  return `${server.url}/publish/${stream}?${query}`;
}

export const watchUrl = (server, stream, query = '') => `${server.url}/watch/${stream}${query}`;

/** Waits until the page's session says `live`. */
export function live(page, timeoutMs = 30_000) {
  const words = async () => JSON.stringify(await state(page).catch(String));
  return until('a live page', async () => (await state(page)).state === 'live', timeoutMs).catch(async (error) => {
    throw new Error(`${error.message}; the page says ${await words()}`);
  });
}

/** Waits until a viewer has a session at a stream that nobody publishes yet. */
export function waiting(viewer) {
  return until('the viewer to wait', () => viewer.evaluate(() => __weir.state === 'waiting' && __weir.pc?.connectionState === 'connected'));
}

/** Turns the sound on as a viewer would; a muted element counts no audio energy. */
export function listen(page) {
  return until('the sound button', () => page.evaluate(() => {
    const button = document.getElementById('sound');
    if (!button.hidden) button.click();
    return !document.getElementById('video').muted;
  }));
}

/** A publisher that has too little CPU time encodes fewer pictures from now on, not smaller ones. */
export function keepSize(publisher) {
  return publisher.evaluate(async () => {
    for (const sender of __weir.pc.getSenders().filter((sender) => sender.track?.kind === 'video')) {
      await sender.setParameters({ ...sender.getParameters(), degradationPreference: 'maintain-resolution' });
    }
  });
}

/** Waits until `viewer` has decoded `count` frames since `before`, a reading of its counters; null if it does not. */
export function decodes(viewer, count, before = {}, timeoutMs = DECODES_TIMEOUT_MS) {
  return soon(`${count} frames`, async () => since(before, await counters(viewer)).framesDecoded >= count, timeoutMs);
}

export const state = (page) =>
  page.evaluate(() => ({ state: __weir.state, error: __weir.lastError?.message ?? null }));

/** Sums of what matters from getStats, with the time they hold for. */
export function counters(page) {
  return page.evaluate(async () => {
    const report = await __weir.pc.getStats();
    const sum = { at: performance.now(), state: __weir.state, width: 0, height: 0, codec: null, layers: 0 };
    // A stream that has not begun counts as zero, not as unknown.
    const names = 'audioPackets audioLost audioDiscarded audioSamples audioEnergy audioConcealed '
      + 'framesEncoded framesReceived framesDecoded framesDropped keyframes videoLost nacks plis freezes';
    for (const name of names.split(' ')) sum[name] = 0;
    const add = (name, value) => (sum[name] += value ?? 0);
    for (const stat of report.values()) {
      if (stat.type !== 'inbound-rtp' && stat.type !== 'outbound-rtp') continue;
      if (stat.kind === 'audio') {
        add('audioPackets', stat.packetsReceived ?? stat.packetsSent);
        add('audioLost', stat.packetsLost);
        add('audioDiscarded', stat.packetsDiscarded);
        add('audioSamples', stat.totalSamplesReceived);
        add('audioEnergy', stat.totalAudioEnergy);
        add('audioConcealed', stat.concealedSamples);
        continue;
      }
      if (stat.frameHeight > sum.height) {
        sum.width = stat.frameWidth;
        sum.height = stat.frameHeight;
      }
      if (stat.framesEncoded > 0) sum.layers += 1;
      sum.codec ??= report.get(stat.codecId)?.mimeType.split('/')[1] ?? null;
      // Of several layers the largest is what a viewer should get.
      if (!stat.rid || stat.rid === 'h') add('framesEncoded', stat.framesEncoded);
      add('framesReceived', stat.framesReceived);
      add('framesDecoded', stat.framesDecoded);
      add('framesDropped', stat.framesDropped);
      add('keyframes', stat.keyFramesDecoded ?? stat.keyFramesEncoded);
      add('videoLost', stat.packetsLost);
      add('nacks', stat.nackCount);
      add('plis', stat.pliCount);
      add('freezes', stat.freezeCount);
    }
    return sum;
  });
}

/** Keyframes that a publisher was asked for since it began, by layer. */
export function keyframeRequests(page) {
  return page.evaluate(async () => {
    const asked = {};
    for (const stat of (await __weir.pc.getStats()).values()) {
      if (stat.type !== 'outbound-rtp' || stat.kind !== 'video') continue;
      asked[stat.rid ?? ''] = (stat.pliCount ?? 0) + (stat.firCount ?? 0);
    }
    return asked;
  });
}

/** Difference of two readings, counter by counter. */
export function since(before, after) {
  const delta = {};
  for (const [name, value] of Object.entries(after)) {
    if (typeof value === 'number') delta[name] = value - (before[name] ?? 0);
  }
  return delta;
}
