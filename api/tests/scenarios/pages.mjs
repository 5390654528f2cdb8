// The pages as people use them: words for what goes wrong, recording, and coming back by
// themselves after the server was killed and started again.

import { signal } from '../lib/child.mjs';
import { sleep, soon, until } from '../lib/check.mjs';
import { counters, decodes, launch, live, publishUrl, since, watchUrl } from '../lib/chromium.mjs';
import { startServer } from '../lib/server.mjs';

/** Starts the server twice on the same ports. */
export const bringsOwnServer = true;

const BACK_TIMEOUT_MS = 60_000;
const TEST_CARD = { video: 'test', fps: '15' };

export async function run({ checks, args }) {
  const server = await startServer(args.server, { log: 'pages-1' });
  const chromium = await launch();
  await startPage(server, checks, chromium);
  await words(server, checks, chromium);
  await recording(server, checks, chromium);
  await restart(server, checks, chromium, args);
  await chromium.close();
}

async function startPage(server, checks, chromium) {
  const page = await chromium.page(`${server.url}/`);
  await until('the server to be asked', () => page.evaluate(() => document.getElementById('server').textContent === 'Running'));
  checks.check('start page: shows the version', await page.evaluate(() => /^\d+\.\d+\.\d+/.test(document.getElementById('version').textContent)));
  await page.fill('#name', 'other-name');
  const texts = await page.evaluate(() => ['whip-url', 'ffmpeg-command', 'gst-command'].map((id) => document.getElementById(id).textContent));
  checks.check('start page: addresses and commands follow the name', texts.every((text) => text.includes(`${server.url}/whip/other-name`)), texts[0]);
  await page.fill('#name', 'not a name');
  const kept = await page.evaluate(() => [document.getElementById('name').ariaInvalid, document.getElementById('whip-url').textContent]);
  checks.check('start page: a bad name changes nothing', kept[0] === 'true' && kept[1].endsWith('/whip/other-name'));
  await page.context().close();
}

async function words(server, checks, chromium) {
  const denied = await chromium.page(null);
  await denied.addInitScript(() => {
    MediaDevices.prototype.getUserMedia = () => Promise.reject(new DOMException('no', 'NotAllowedError'));
  });
  await denied.goto(publishUrl(server, 'words'));
  const error = await until('an error', () => denied.evaluate(() => __weir.state === 'failed' && document.getElementById('error').textContent));
  checks.check('publish page: a refused camera is explained', /not allowed/.test(error), error);
  checks.check('publish page: and can be tried again', await denied.isVisible('#start'));
  await denied.context().close();

  const waiting = await chromium.page(watchUrl(server, 'nobody'));
  const title = await until('words', () => waiting.evaluate(() => __weir.state === 'waiting' && document.getElementById('message-title').textContent));
  checks.equal('watch page: without a publisher it says', title, 'Waiting for the stream');
  await waiting.context().close();
}

async function recording(server, checks, chromium) {
  const page = await chromium.page(publishUrl(server, 'tape', TEST_CARD));
  await live(page);
  await page.click('#record');
  await sleep(3_000);
  await page.click('#record');
  await page.waitForSelector('#download:not([hidden])');
  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#download')]);
  const stream = await download.createReadStream();
  let bytes = 0;
  for await (const chunk of stream) bytes += chunk.length;
  checks.check('publish page: a recording can be saved', bytes > 10_000 && /^tape-.*\.(mp4|webm)$/.test(download.suggestedFilename()),
    `${download.suggestedFilename()}, ${bytes} bytes`);
  await page.context().close();
}

async function restart(server, checks, chromium, args) {
  const publisher = await chromium.page(publishUrl(server, 'back', TEST_CARD));
  const viewer = await chromium.page(watchUrl(server, 'back'));
  for (const page of [publisher, viewer]) await live(page);
  signal(server.child, 'SIGKILL');
  await server.child.ended;
  await until('the pages to notice', async () => {
    const states = await Promise.all([publisher, viewer].map((page) => page.evaluate(() => __weir.state)));
    return !states.includes('live');
  }, 30_000);
  const { host } = new URL(server.url);
  const again = await startServer(args.server, { log: 'pages-2', http: host, mediaPort: server.media.split(':').pop() });
  for (const [who, page] of [['publisher', publisher], ['viewer', viewer]]) {
    const back = await soon('live again', () => page.evaluate(() => __weir.state === 'live'), BACK_TIMEOUT_MS);
    checks.check(`after kill -9 and restart of the server the ${who} comes back by itself`, back, await page.evaluate(() => __weir.state));
  }
  const before = await counters(viewer);
  await sleep(4_000);
  const flow = await decodes(viewer, 30, before);
  checks.check('and frames flow', flow, `${since(before, await counters(viewer)).framesDecoded} frames`);
  await again.stop();
}
