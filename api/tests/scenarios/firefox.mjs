// Firefox publishes and Chromium watches, then the other way round, inside a network namespace and at a server that was
// started without a flag. Then Firefox alone: a viewer that began in the past beside one that waited, and what its pages
// say when no media path works.

import { sleep, until } from '../lib/check.mjs';
import { decodes, launch as launchChromium, listen, live, publishUrl, watchUrl } from '../lib/chromium.mjs';
import { Delivery, endVideo, framesEncoded, judge } from '../lib/delivery.mjs';
import { launch as launchFirefox } from '../lib/firefox.mjs';
import { inNamespace } from '../lib/netns.mjs';
import { sideBySide } from '../lib/playout.mjs';
import { startServer } from '../lib/server.mjs';

/** The server must live in the namespace too. */
export const bringsOwnServer = true;

const WINDOW_MS = 15_000;
/** Between two viewers who come one after the other. */
const APART_MS = 300;
/** An address inside at which nothing listens. */
const NOBODY = '10.77.0.99';
/** Firefox gives up ICE after about 11 s, twice here. */
const ICE_TIMEOUT_MS = 60_000;

export function run(context) {
  return inNamespace('firefox', context, () => inside(context.checks, context.args));
}

async function inside(checks, args) {
  const server = await startServer(args.server, { log: 'firefox', defaults: true });
  const firefox = await launchFirefox();
  const chromium = await launchChromium();
  checks.note(`${await firefox.version()}, Chromium ${chromium.version()}`);

  await pair(checks, server, 'firefox-to-chromium', firefox, chromium);
  await pair(checks, server, 'chromium-to-firefox', chromium, firefox);

  const publisher = await chromium.page(publishUrl(server, 'starts', { codec: 'VP8', fps: '20' }));
  await live(publisher);
  // The keyframe that is made for the first one is a moment old when the other one is connected.
  const moments = async () => ({ waiting: Date.now(), beginning: Date.now() + APART_MS });
  await sideBySide(server, checks, 'starts', 'Firefox', firefox, moments);

  await noPath(checks, args, firefox);

  await chromium.close();
  await firefox.close();
  const stopped = await server.stop();
  checks.check('server stops with exit code 0 on SIGTERM', stopped.code === 0, `code ${stopped.code}`);
}

/** The server's address for media leads nowhere: both pages say so, and try again. */
async function noPath(checks, args, firefox) {
  const server = await startServer(args.server, { log: 'firefox-no-path', args: ['--advertise', NOBODY] });
  const urls = { publisher: publishUrl(server, 'nowhere'), viewer: watchUrl(server, 'nowhere') };
  const pages = [];
  for (const [who, url] of Object.entries(urls)) {
    const page = await firefox.page(url);
    // Every state and text from now on, and every connection.
    await page.evaluate(() => {
      window.__told = new Set();
      window.__connections = new Set();
      setInterval(() => {
        window.__told.add(`${__weir.state}: ${__weir.lastError?.message ?? ''}`);
        if (__weir.pc) window.__connections.add(__weir.pc);
      }, 20);
    });
    pages.push([who, page]);
  }
  for (const [who, page] of pages) {
    await until('a second attempt to fail', () => page.evaluate(() => window.__connections.size >= 3), ICE_TIMEOUT_MS);
    const told = await page.evaluate(() => [...window.__told]);
    const wrong = told.filter((words) => !/^(preparing|connecting): $|^(re)?connecting: .*media port cannot be reached/.test(words));
    checks.check(`no media path, ${who}: the page says that the media port cannot be reached, nothing else, and tries again`,
      told.length > 1 && !wrong.length, told.join(' | '));
    await page.close();
  }
  await server.stop();
}

async function pair(checks, server, stream, from, to) {
  const what = stream.replaceAll('-', ' ');
  const publisher = await from.page(publishUrl(server, stream, { codec: 'VP8', fps: '20' }));
  await live(publisher);
  const viewer = await to.page(watchUrl(server, stream));
  await live(viewer);
  await listen(viewer);
  await decodes(viewer, 20);
  const delivery = await Delivery.begin(server, [viewer], framesEncoded(publisher));
  await sleep(WINDOW_MS);
  await endVideo(publisher);
  judge(checks, what, (await delivery.end())[0]);
  for (const page of [publisher, viewer]) {
    if (page.problems.length) checks.check(`${what}: no script error`, false, page.problems[0]);
    await page.close();
  }
}
