// The pages as people use them: the start page's commands, the player inside another page, words for what goes wrong,
// preview and recording, and coming back by themselves after the server was killed and started again.

import fs from 'node:fs';
import http from 'node:http';
import { end, signal } from '../lib/child.mjs';
import { sleep, soon, until } from '../lib/check.mjs';
import { counters, decodes, launch, live, publishUrl, since, watchUrl } from '../lib/chromium.mjs';
import { publish as publishByFfmpeg } from '../lib/ffmpeg.mjs';
import { startServer } from '../lib/server.mjs';

/** Starts the server twice on the same ports. */
export const bringsOwnServer = true;

const BACK_TIMEOUT_MS = 60_000;
const TEST_CARD = { video: 'test', fps: '15' };
const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
/** The start page says which address to give to others; the README has the same commands for this one. */
const README = new URL('../../../README.md', import.meta.url);
const README_ORIGIN = 'http://127.0.0.1:8080';
/** Between two keyframes of a publisher that sends none on request; OBS does so unless told otherwise. */
const RARE_S = 8;

export async function run({ checks, args }) {
  const server = await startServer(args.server, { log: 'pages-1' });
  const chromium = await launch();
  await startPage(server, checks, chromium);
  await words(server, checks, chromium);
  await embed(server, checks, chromium);
  await longName(server, checks, chromium);
  const rare = publishByFfmpeg('9.0.2', server.whip('rare'), 300, RARE_S);
  await told(server, checks, chromium);
  await studio(server, checks, chromium);
  await rareKeyframes(server, checks, chromium);
  await end(rare);
  await recording(server, checks, chromium);
  await restart(server, checks, chromium, args);
  await chromium.close();
}

async function startPage(server, checks, chromium) {
  const page = await chromium.page(`${server.url}/`);
  await until('the server to be asked', () => page.evaluate(() => document.getElementById('server').textContent === 'Running'));
  checks.check('start page: shows the version', await page.evaluate(() => /^Weir \d+\.\d+\.\d+/.test(document.getElementById('version').textContent)));
  const commands = await page.evaluate(() => ['ffmpeg-command', 'gst-command', 'gst-play'].map((id) => document.getElementById(id).textContent));
  const readme = wordsOf(fs.readFileSync(README, 'utf8'));
  for (const command of commands) {
    const same = readme.includes(wordsOf(command.replaceAll(server.url, README_ORIGIN)));
    checks.check(`start page: the README has the same command: ${command.split(/\s-re|\s\w+=|\s\\/)[0]}`, same, same ? '' : command);
  }
  const local = await page.textContent('#local');
  checks.check('start page: says how to let others in', /--http 0\.0\.0\.0/.test(local), local);
  const docs = await fetch(new URL(await page.getAttribute('.foot a', 'href'), server.url));
  checks.check('start page: leads to the documentation', docs.ok && (await docs.text()).startsWith('# Weir'), docs.status);
  await page.fill('#name', 'other-name');
  const texts = await page.evaluate(() => ['whip-url', 'ffmpeg-command', 'gst-command'].map((id) => document.getElementById(id).textContent));
  checks.check('start page: addresses and commands follow the name', texts.every((text) => text.includes(`${server.url}/whip/other-name`)), texts[0]);
  await page.fill('#name', 'not a name');
  const kept = await page.evaluate(() => [document.getElementById('name').ariaInvalid, document.getElementById('whip-url').textContent]);
  checks.check('start page: a bad name changes nothing', kept[0] === 'true' && kept[1].endsWith('/whip/other-name'));
  await page.context().close();
}

/** A command or a text with its commands, without the places where lines break. */
const wordsOf = (text) => text.replaceAll('"', '').split(/[\s\\]+/).join(' ').trim();

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

/** The start page's own embed code, in a page of another origin. */
async function embed(server, checks, chromium) {
  const start = await chromium.page(`${server.url}/`);
  await start.fill('#name', 'framed');
  const code = await start.textContent('#embed-code');
  await start.context().close();
  const publisher = await chromium.page(publishUrl(server, 'framed', TEST_CARD));
  await live(publisher);
  const site = http.createServer((_, response) => response.setHeader('Content-Type', 'text/html').end(`<!doctype html>${code}`));
  await new Promise((done) => site.listen(0, '127.0.0.1', done));
  const page = await chromium.page(`http://127.0.0.1:${site.address().port}/`);
  const frame = await until('the player', () => page.frames()[1]);
  await until('a picture', () => frame.evaluate(() => window.__weir?.state === 'live'));
  const size = (id) => frame.evaluate((id) => {
    const { width, height } = document.getElementById(id).getBoundingClientRect();
    return `${width} x ${height}`;
  }, id);
  checks.equal('embed code: the picture fills the frame', await size('video'), '640 x 360');
  const seen = () => frame.evaluate(() => getComputedStyle(document.querySelector('.controls')).opacity);
  const free = await soon('no controls', async () => Number(await seen()) < 0.01, 5_000);
  checks.check('embed code: no controls lie on the picture', free, await seen());
  await page.hover('iframe');
  checks.check('embed code: until somebody points at it', await soon('controls', async () => (await seen()) === '1', 5_000));
  for (const opened of [page, publisher]) await opened.context().close();
  await new Promise((done) => site.close(done));
}

/** A name as long as names may be, on a phone: everything stays on the screen. */
async function longName(server, checks, chromium) {
  const name = 'a-name-of-the-morning-show-'.repeat(5).slice(0, 128);
  const start = `${server.url}/`;
  for (const [what, url] of Object.entries({ start, watch: watchUrl(server, name), publish: publishUrl(server, name, TEST_CARD) })) {
    const page = await chromium.page(url, PHONE);
    if (what === 'start') await page.fill('#name', name);
    else await until('a state', () => page.evaluate(() => ['waiting', 'live'].includes(window.__weir?.state)));
    const { over, cut } = await page.evaluate(() => {
      const screen = document.documentElement.clientWidth;
      const controls = [...document.querySelectorAll('button, a, .state')].filter((element) => element.checkVisibility());
      return {
        over: document.documentElement.scrollWidth - screen,
        cut: controls.filter((element) => element.getBoundingClientRect().right > screen + 1).map((element) => element.id || element.textContent),
      };
    });
    checks.check(`${what} page, long name, 390 px: nothing is off the screen`, over <= 0 && !cut.length, `${over} px over, ${cut.join(', ')}`);
    if (what === 'watch') {
      const shown = await page.evaluate(() => ['play', 'mute'].filter((id) => !document.getElementById(id).hidden));
      checks.equal('watch page: no controls for what is not there', shown.join(), '');
    }
    await page.context().close();
  }
}

/** What the server says of a stream is shown where somebody can act on it. */
async function told(server, checks, chromium) {
  const warning = { code: 'b_frames', message: 'publisher sends B-frames, which browsers cannot show; set B-frames to 0' };
  const shown = /^Publisher sends B-frames.*set B-frames to 0\.$/;
  const publisher = await chromium.page(null);
  await publisher.route('**/whip/told/*/stats', async (route) => {
    const answer = await route.fetch();
    await route.fulfill({ response: answer, json: { ...(await answer.json()), warnings: [warning] } });
  });
  await publisher.goto(publishUrl(server, 'told', TEST_CARD));
  await live(publisher);

  const viewer = await chromium.page(null);
  await viewer.addInitScript((warning) => {
    // A double of the server's event stream, driven by the test.
    window.EventSource = class extends EventTarget {
      constructor() {
        super();
        window.__tell = (event, data) => this.dispatchEvent(Object.assign(new Event(event), { data: JSON.stringify(data) }));
      }
      close() {}
    };
    window.__warning = warning;
  }, warning);
  await viewer.goto(watchUrl(server, 'told'));
  await live(viewer);
  const tell = (status) => viewer.evaluate((status) => window.__tell('status', status), status);
  await tell({ warnings: [warning], awaitsKeyframe: true, keyframeIntervalMs: 8_300, nextKeyframeMs: 4_000 });
  const text = (id) => viewer.evaluate((id) => document.querySelector(id).checkVisibility() && document.querySelector(id).textContent, id);
  const still = await text('#still');
  checks.check('watch page: a still picture is called one, with the time to the next keyframe', /next keyframe \(every 8 s\)/.test(still), still);
  const height = () => viewer.evaluate(() => document.getElementById('video').clientHeight);
  const before = await height();
  checks.check('watch page: does not tell the audience at once what the publisher can change', await text('#warnings') && !(await text('#at-publisher li')));
  await viewer.click('#at-publisher summary');
  const line = await text('#at-publisher li');
  checks.check('watch page: shows a warning of the server', shown.test(line), line);
  await viewer.click('#warnings button');
  await tell({ warnings: [warning], awaitsKeyframe: false });
  checks.check('watch page: a warning that was hidden stays hidden', !(await text('#warnings')) && !(await text('#still')));
  checks.equal('watch page: and the picture keeps its size', await height(), before);

  const reason = 'the publisher sends VP9, which the viewer did not offer (VP8)';
  await viewer.evaluate((text) => window.__tell('unserved', { 1: { kind: 'video', reason: 'codec_not_negotiated', text } }), reason);
  checks.equal('watch page: says what is not served, and why', await text('#warnings li'), `No picture: ${reason}.`);
  await viewer.evaluate(() => window.__tell('unserved', {}));
  checks.check('watch page: until it is served', !(await text('#warnings')));
  // As the extension is published; this server sends the list itself.
  const layer = (height) => ({ spatialLayerId: height / 360 - 1, width: height * 16 / 9, height, bitrate: height * 1_000, active: height > 400 });
  await viewer.evaluate((layers) => window.__tell('layers', { 1: { layers } }), [layer(720), layer(360)]);
  checks.equal('watch page: takes layers also in the shape of the extension', await text('#toggle-quality'), 'Best 720p');

  const told = await soon('the warning', async () => shown.test(await publisher.textContent('#warnings')), 10_000);
  checks.check('publish page: shows a warning of the server', told, await publisher.textContent('#warnings'));
  const count = await soon('the viewer', async () => (await publisher.textContent('#viewers')) === '1 viewer', 10_000);
  checks.check('publish page: says how many watch', count, await publisher.textContent('#viewers'));
  const link = await publisher.textContent('#watch-url');
  checks.equal('publish page: has the link for viewers', link, watchUrl(server, 'told'));

  const start = await chromium.page(null);
  await start.route('**/api/v1/streams', async (route) => {
    const answer = await route.fetch();
    const body = await answer.json();
    for (const stream of body.streams) Object.assign(stream.publisher ?? {}, { warnings: [warning] });
    await route.fulfill({ response: answer, json: body });
  });
  await start.goto(`${server.url}/`);
  const row = await soon('the warning', () => start.textContent('.streams [data-name=told] .wrong'), 10_000);
  checks.check('start page: shows a warning of the server', shown.test(row ?? ''), row);
  await publisher.evaluate(() => __weir.pc.getSenders().forEach((sender) => sender.replaceTrack(null)));
  const silent = await soon('a line of silence', async () => /no media for \d+ s|Nothing .* for \d+ s/.exec(await start.textContent('.streams [data-name=told] .wrong'))?.[0], 15_000);
  checks.check('start page: says that a publisher is silent', silent, silent);
  for (const page of [publisher, viewer, start]) await page.context().close();
}

/** A publisher with a keyframe every 8 s, as the server itself tells of it. */
async function rareKeyframes(server, checks, chromium) {
  const start = await chromium.page(`${server.url}/`);
  const row = await soon('a warning', () => start.textContent('.streams [data-name=rare] .wrong'), 6 * RARE_S * 1_000);
  checks.check(`keyframes every ${RARE_S} s: the start page names the interval`, /every [78]\.\d s/.test(row ?? ''), row);
  await start.context().close();
  // One who comes just before a keyframe has nothing to wait for: three tries.
  let said = null;
  for (let n = 0; n < 3 && !said; n += 1) {
    const viewer = await chromium.page(watchUrl(server, 'rare', '?start=wait'));
    said = await soon('words', async () => /next keyframe \(every [78] s\)/.exec(await viewer.textContent('#message-text'))?.[0], RARE_S * 1_000, 100);
    if (said) {
      const state = await viewer.evaluate(() => __weir.state);
      checks.equal('and a viewer without a picture is not live', state, 'waiting');
      const begun = await soon('a picture', () => viewer.evaluate(() => __weir.state === 'live'), 2 * RARE_S * 1_000);
      checks.check('until the keyframe is there', begun);
    }
    await viewer.context().close();
  }
  checks.check('the watch page says what it waits for', said, said);
}

/** Preview before going live, and nothing left over after Stop. */
async function studio(server, checks, chromium) {
  const page = await chromium.page(`${server.url}/publish/studio?video=test&fps=15&audio=0`);
  await page.click('#look');
  const picture = await soon('a picture', () => page.evaluate(() => document.getElementById('preview').videoWidth > 0), 10_000);
  checks.check('publish page: a preview shows the picture, and nothing is sent', picture && !(await server.stream('studio')),
    await page.textContent('#state'));
  await page.click('#start');
  await live(page);
  await until('the clock', () => page.textContent('#elapsed'));
  await page.click('#stop');
  await sleep(1_500);
  const left = await page.evaluate(() => ['elapsed', 'viewers', 'error'].map((id) => document.getElementById(id)).filter((e) => e.checkVisibility() && e.textContent).map((e) => e.textContent));
  checks.equal('publish page: after Stop nothing is left of the time and the viewers', left.join(), '');
  await page.context().close();
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
