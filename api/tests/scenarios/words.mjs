// What the pages say when something is wrong or missing: a name that no stream can have, a publisher that stops, a server
// that is gone.

import { end, signal } from '../lib/child.mjs';
import { sleep, soon, until } from '../lib/check.mjs';
import { keepSize, launch, live, publishUrl, watchUrl } from '../lib/chromium.mjs';
import { publish as publishByFfmpeg } from '../lib/ffmpeg.mjs';
import { startServer } from '../lib/server.mjs';

/** Kills one server, and starts one that has its administration elsewhere. */
export const bringsOwnServer = true;

const PHONE = { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true };
const TEST_CARD = { video: 'test', fps: '15' };
/** From the last packet to the words, where the server tells of the end; silence alone takes 3 s. */
const AT_ONCE_MS = 1_500;

export async function run({ checks, args }) {
  const server = await startServer(args.server, { log: 'words' });
  const chromium = await launch();
  await badName(server, checks, chromium);
  await foreign(server, checks, chromium);
  await slowPath(server, checks, chromium);
  await stopped(server, checks, chromium);
  await still(server, checks, chromium);
  await nothingToPlay(server, checks, chromium);
  await soundOnly(server, checks, chromium);
  await muted(server, checks, chromium);
  await smallSimulcast(server, checks, chromium);
  await tooFast(args, checks, chromium);
  await gone(server, checks, chromium);
  await chromium.close();
}

/** A name that no stream can have: nothing is opened, and the page says why. */
async function badName(server, checks, chromium) {
  const page = await chromium.page(`${server.url}/`);
  const rule = await page.textContent('#name-help');
  const ways = { 'my stream': 'a space', 'a/b': '/', 'süß': 'ü or ß', '': 'first', ['x'.repeat(129)]: 'at most 128 .* has 129' };
  for (const [name, why] of Object.entries(ways)) {
    for (const press of ['#go-publish', '#go-watch', 'Enter']) {
      await page.fill('#name', name);
      if (press === 'Enter') await page.press('#name', press);
      // Its link is marked as disabled, for which a click would wait.
      else await page.click(press, { force: true });
      await sleep(100);
      const help = await page.textContent('#name-help');
      const { path, focus } = await page.evaluate(() => ({ path: location.pathname, focus: document.activeElement.id }));
      checks.check(`start page: the name "${name.slice(0, 12)}", ${press}: stays, says why, and goes to the field`,
        path === '/' && focus === 'name' && new RegExp(why).test(help) && help !== rule, `${path}, ${focus}, ${help}`);
    }
  }
  await page.fill('#name', 'good');
  checks.equal('start page: a good name brings back the rule', await page.textContent('#name-help'), rule);
  await page.press('#name', 'Enter');
  checks.check('start page: and Enter goes to the publish page', await soon('the page', () => page.url().endsWith('/publish/good'), 5_000), page.url());
  await page.context().close();
}

/** Servers other than Weir put into a refusal and into events what they like. */
async function foreign(server, checks, chromium) {
  for (const body of [{ detail: { en: 'no' } }, { detail: 7, title: ['x'] }, ['no'], null, 'no', { error: {}, title: 'refused here' }]) {
    const page = await chromium.page(null);
    await page.route('**/whep/foreign', (route) => route.fulfill({ status: 400, contentType: 'application/problem+json', body: JSON.stringify(body) }));
    await page.goto(watchUrl(server, 'foreign'));
    const said = await soon('words', () => page.evaluate(() => __weir.state === 'failed' && `${__weir.lastError.kind}: ${__weir.lastError.message}`), 10_000);
    const wanted = body?.title === 'refused here' ? 'refused: Refused here.' : 'refused: The server refused the offer (HTTP 400).';
    checks.equal(`weir.js: a refusal of ${JSON.stringify(body)}`, said, wanted);
    await page.context().close();
  }
  for (const seconds of ['3000000', 'Infinity']) {
    const page = await chromium.page(null);
    let posts = 0;
    await page.route('**/whep/busy', (route) => {
      posts += 1;
      return route.fulfill({ status: 503, headers: { 'Retry-After': seconds }, body: '' });
    });
    await page.goto(watchUrl(server, 'busy'));
    await until('a refusal', () => posts > 0);
    await sleep(2_000);
    checks.equal(`weir.js: Retry-After: ${seconds} is a long wait, not none`, posts, 1);
    await page.context().close();
  }
  const publisher = await chromium.page(publishUrl(server, 'events', TEST_CARD));
  await live(publisher);
  const viewer = await chromium.page(null);
  await viewer.route('**/whep/events', async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, headers: { ...response.headers(), link: `<http://[>; rel="other", ${response.headers().link}` } });
  });
  await viewer.addInitScript(doubleEvents);
  await viewer.goto(watchUrl(server, 'events'));
  await live(viewer);
  for (const data of ['null', '7', '"text"', '[]', '[null]', '{"0":null}', '{"0":7}', '{"warnings":7}', '{"warnings":[null,{"code":3,"message":{}}]}', 'no JSON']) {
    await viewer.evaluate((data) => ['layers', 'viewercount', 'status', 'unserved'].forEach((event) => __tell(event, data)), data);
  }
  checks.equal('weir.js: events with other contents throw nothing', viewer.problems.join(), '');
  for (const page of [publisher, viewer]) await page.context().close();
}

/** Puts a double in the place of the event stream; the test calls `__tell`. Runs in the page. */
function doubleEvents() {
  window.EventSource = class extends EventTarget {
    constructor() {
      super();
      window.__tell = (event, data) => this.dispatchEvent(Object.assign(new Event(event), { data }));
    }
    close() {}
  };
}

/** A media path that is not there yet: the page says what may be wrong, and keeps trying as long as the server waits. */
async function slowPath(server, checks, chromium) {
  const page = await chromium.page(null);
  let posts = 0;
  await page.route('**/whep/slow', async (route) => {
    posts += 1;
    const answer = await route.fetch();
    // Candidates of an address where nobody answers (RFC 5737).
    const body = (await answer.text()).replaceAll(/^(a=candidate:\S+ \d+ \S+ \d+) \S+/gm, '$1 192.0.2.1');
    await route.fulfill({ response: answer, body });
  });
  await page.goto(watchUrl(server, 'slow'));
  const at = Date.now();
  const hint = await soon('a hint', () => page.evaluate(() => __weir.lastError?.kind === 'ice' && `${__weir.state}: ${document.getElementById('message-text').textContent}`), 20_000);
  checks.check('watch page: says what may be wrong while it still connects', /^connecting: .*media port cannot be reached/.test(hint ?? ''), hint);
  checks.check('watch page: after some seconds, in the first attempt', posts === 1, `${Math.round((Date.now() - at) / 1_000)} s`);
  await page.context().close();
}

/** A publisher that stops: the server tells of it long before a viewer can know from the silence. */
async function stopped(server, checks, chromium) {
  const publisher = await chromium.page(publishUrl(server, 'stopped', TEST_CARD));
  const viewer = await chromium.page(watchUrl(server, 'stopped'));
  for (const page of [publisher, viewer]) await live(page);
  await until('the events', () => viewer.evaluate(() => __weir.session.status.publishing));
  await noteTitles(viewer);
  await publisher.click('#stop');
  const { title, quietMs } = await until('words', () => viewer.evaluate(() => __titles[0]), 10_000);
  checks.check('watch page: says at once that the publisher stopped', title === 'The stream has stopped' && quietMs < AT_ONCE_MS,
    `${title}, ${Math.round(quietMs)} ms after the last packet`);
  await sleep(1_000);
  const seen = await viewer.evaluate(() => [document.getElementById('state').textContent, document.getElementById('message').checkVisibility()].join());
  checks.equal('watch page: and stays with it', seen, 'The stream has stopped,true');
  await publisher.click('#start');
  checks.check('watch page: until it is back', await soon('a picture', () => viewer.evaluate(() => __weir.state === 'live'), 20_000));
  for (const page of [publisher, viewer]) await page.context().close();
}

/** A publisher whose picture stops while its sound goes on: packets arrive, and the picture is not live. */
async function still(server, checks, chromium) {
  const publisher = await chromium.page(publishUrl(server, 'still', TEST_CARD));
  const viewer = await chromium.page(watchUrl(server, 'still'));
  for (const page of [publisher, viewer]) await live(page);
  await publisher.evaluate(() => {
    const sender = __weir.pc.getSenders().find(({ track }) => track?.kind === 'video');
    window.__track = sender.track;
    window.__sender = sender;
    return sender.replaceTrack(null);
  });
  const seen = () => viewer.evaluate(() => [document.getElementById('state').textContent, document.getElementById('still').checkVisibility() && document.getElementById('still').textContent].join(': '));
  const words = await soon('words', async () => /no video arrives now/.test(await seen()) && seen(), 15_000);
  checks.equal('watch page: a picture without packets is still while the sound is live', words, 'Still picture: Still picture, no video arrives now');
  await publisher.evaluate(() => __sender.replaceTrack(__track));
  checks.check('watch page: until it moves', await soon('Live', async () => (await seen()) === 'Live: false', 15_000), await seen());
  for (const page of [publisher, viewer]) await page.context().close();
}

/** A viewer that never had a picture: no black box of the browser's own, and no button for it. */
async function nothingToPlay(server, checks, chromium) {
  const viewer = await chromium.page(watchUrl(server, 'none', '?start=never'));
  await until('a refusal', () => viewer.evaluate(() => __weir.state === 'failed'));
  await sleep(500);
  const seen = await viewer.evaluate(() => [getComputedStyle(document.getElementById('video')).opacity, document.getElementById('play').checkVisibility()].join());
  checks.equal('watch page: without a picture there is no black box and nothing to pause', seen, '0,false');
  await viewer.context().close();
}

/** A stream without a picture says so, instead of a black page. */
async function soundOnly(server, checks, chromium) {
  const publisher = await chromium.page(publishUrl(server, 'sound', { video: 'none' }));
  await live(publisher);
  const viewer = await chromium.page(watchUrl(server, 'sound'));
  await live(viewer);
  const title = await soon('words', () => viewer.evaluate(() => {
    const title = document.getElementById('message-title');
    return title.checkVisibility() && title.textContent === 'Sound only' && title.textContent;
  }), 10_000);
  checks.equal('watch page: a stream of sound alone is called that', title, 'Sound only');
  for (const page of [publisher, viewer]) await page.context().close();
}

/** A publisher who muted himself sees it where he sees that he is live. */
async function muted(server, checks, chromium) {
  const publisher = await chromium.page(publishUrl(server, 'muted', TEST_CARD), PHONE);
  await live(publisher);
  await until('the viewers', () => publisher.textContent('#viewers'));
  const line = await publisher.evaluate(() => ['elapsed', 'viewers'].map((id) => document.getElementById(id).getBoundingClientRect().top));
  checks.check('publish page, 390 px: time and viewers are in one line', line[0] === line[1], line.join());
  await publisher.click('#mute');
  checks.equal('publish page: muted sound is on the badge', await publisher.textContent('#state'), 'Live, sound muted');
  await publisher.click('#mute');
  checks.equal('publish page: until it is on again', await publisher.textContent('#state'), 'Live');
  await publisher.context().close();
}

/** Browsers send fewer layers of a small picture: the page offers those, and viewers get the full size. */
async function smallSimulcast(server, checks, chromium) {
  const sizes = { '1280x720': ['l', 'm', 'h'], '960x540': ['l', 'm', 'h'], '640x360': ['m', 'h'], '320x180': [] };
  for (const [size, rids] of Object.entries(sizes)) {
    const [width, height] = size.split('x');
    const name = `sim-${height}`;
    const publisher = await chromium.page(publishUrl(server, name, { ...TEST_CARD, codec: 'VP8', width, height, simulcast: '1', bitrate: '4000' }));
    await live(publisher);
    await keepSize(publisher);
    const offered = await publisher.evaluate(() => [...__weir.pc.localDescription.sdp.matchAll(/^a=rid:(\S+) send/gm)].map(([, rid]) => rid));
    checks.equal(`publish page: layers offered of ${size}`, offered.join(), rids.join());
    const sent = await soon('all layers', () => publisher.evaluate(async (count) => {
      const lines = (await __weir.stats()).video;
      return lines.length === count && lines.every(({ frames }) => frames > 0) && lines.map(({ width }) => width).join();
    }, rids.length || 1), 30_000);
    checks.check(`publish page: all of them are sent of ${size}`, sent?.split(',')[0] === width, sent);
    const help = await publisher.textContent('#simulcast-help');
    checks.check(`publish page: says which sizes of ${size} it sends`, (help.match(/\d+p/g) ?? []).length === (rids.length || 1) && help.includes(`${height}p`), help);
    const viewer = await chromium.page(watchUrl(server, name));
    await live(viewer);
    const got = await soon('the full size', () => viewer.evaluate((width) => document.getElementById('video').videoWidth === width && width, Number(width)), 30_000);
    checks.check(`watch page: gets the full size of ${size}`, got, got);
    for (const page of [publisher, viewer]) await page.context().close();
  }
}

/** A publisher over its limit: packets of each frame are dropped, so after the first nothing can be decoded. */
async function tooFast(args, checks, chromium) {
  const server = await startServer(args.server, { log: 'words-limit', args: ['--publisher-bitrate', '1'] });
  const publisher = publishByFfmpeg('9.0.2', server.whip('fast'), 60, 1, '4M');
  await until('the publisher', () => server.stream('fast'));
  const viewer = await chromium.page(watchUrl(server, 'fast'));
  // Whether the first frame comes whole is a matter of chance.
  const said = await soon('words', () => viewer.evaluate(() => {
    const { still, undecodable } = __weir.session;
    return (still || undecodable) && document.getElementById('state').textContent;
  }), 30_000);
  checks.check('watch page: a publisher over its limit is not plainly live', ['Still picture', 'No picture'].includes(said), said);
  await viewer.context().close();
  await end(publisher);
  await server.stop();
}

/** A server that is gone without a word: events and media end at the same moment. */
async function gone(server, checks, chromium) {
  const publisher = await chromium.page(publishUrl(server, 'gone', TEST_CARD));
  const viewer = await chromium.page(watchUrl(server, 'gone'));
  for (const page of [publisher, viewer]) await live(page);
  await until('the events', () => viewer.evaluate(() => __weir.session.status.publishing));
  await noteTitles(viewer);
  signal(server.child, 'SIGKILL');
  await server.child.ended;
  const { quietMs } = await until('words', () => viewer.evaluate(() => __titles[0]), 10_000);
  // ICE notices in this time, and the first attempts fail.
  await sleep(10_000);
  const said = await viewer.evaluate(() => [...new Set(__titles.map(({ title }) => title))].join());
  checks.equal('watch page: a server that is gone is a lost connection, and nothing else', said, 'Connection lost, reconnecting');
  checks.check('watch page: says so before the silence alone would show it', quietMs < 3_000, `${Math.round(quietMs)} ms after the last packet`);
  for (const page of [publisher, viewer]) await page.context().close();
}

/** Notes in `__titles` what a watch page says from now on, and how long after the last packet. */
function noteTitles(viewer) {
  return viewer.evaluate(() => {
    let packets = 0;
    let arrivedAt = performance.now();
    const count = async () => {
      const report = await __weir.pc?.getStats();
      const sum = [...(report?.values() ?? [])].reduce((sum, stat) => sum + (stat.type === 'inbound-rtp' ? stat.packetsReceived : 0), 0);
      if (sum > packets) arrivedAt = performance.now();
      packets = Math.max(packets, sum);
      setTimeout(count, 50);
    };
    void count();
    window.__titles = [];
    const title = document.getElementById('message-title');
    const note = () => __titles.push({ title: title.textContent, quietMs: performance.now() - arrivedAt });
    new MutationObserver(note).observe(title, { childList: true });
  });
}
