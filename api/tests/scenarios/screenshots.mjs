// Pictures of the three pages with a live stream, of a viewer that waits for one, and of a publisher before he goes live,
// desktop and phone (also held sideways), light and dark, into out/.
// Checks what a picture can be checked for: nothing wider than the screen, no script error, no
// refusal by the content security policy.

import path from 'node:path';
import { sleep } from '../lib/check.mjs';
import { launch, live, publishUrl, watchUrl } from '../lib/chromium.mjs';
import { OUT } from '../lib/server.mjs';

const DEVICES = {
  desktop: { viewport: { width: 1280, height: 800 } },
  phone: { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  sideways: { viewport: { width: 844, height: 390 }, isMobile: true, hasTouch: true },
  narrow: { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true },
};

export async function run({ server, checks }) {
  const chromium = await launch();
  const preference = { video: 'test', width: '1280', height: '720', fps: '20', simulcast: '1' };
  const publisher = await chromium.page(publishUrl(server, 'demo', preference), DEVICES.desktop);
  await live(publisher);
  for (const [device, options] of Object.entries(DEVICES)) {
    const pages = {
      start: await shot(chromium, `${server.url}/`, options),
      watch: await shot(chromium, watchUrl(server, 'demo', '?stats=1'), options),
      waiting: await shot(chromium, watchUrl(server, 'nobody'), options),
      idle: await shot(chromium, `${server.url}/publish/idle?video=test`, options),
      publish: await shot(chromium, publishUrl(server, device, preference), options),
    };
    for (const name of ['watch', 'publish']) await live(pages[name], 60_000);
    await sleep(8_000);
    await pages.idle.click('#look');
    for (const [name, page] of Object.entries(pages)) {
      // The scheme is a matter of style sheets alone, so the same page is seen in both.
      for (const colorScheme of ['light', 'dark']) {
        const what = `${name}-${device}-${colorScheme}`;
        // Otherwise colours of controls change in a transition, which a busy machine shows in the middle.
        await page.emulateMedia({ colorScheme, reducedMotion: 'reduce' });
        await sleep(100);
        await page.screenshot({ path: path.join(OUT, `${what}.png`), fullPage: !['watch', 'waiting'].includes(name) && device !== 'desktop' });
        const over = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        checks.check(`${what}: nothing is wider than the screen`, over <= 0, `${over} px`);
        checks.check(`${what}: no script error, no refused content`, page.problems.length === 0, page.problems[0] ?? '');
      }
      if (name === 'watch') await panels(checks, device, page);
      await page.context().close();
    }
  }
  await chromium.close();
}

/** Statistics and quality menu over the picture: they scroll where they are too long, and hide no more than they must. */
async function panels(checks, device, page) {
  for (const [what, button, panel] of [['stats', '#toggle-stats', '#overlay'], ['quality', '#toggle-quality', '#quality']]) {
    if (await page.isHidden(panel)) await page.click(button);
    await sleep(300);
    await page.screenshot({ path: path.join(OUT, `watch-${what}-${device}.png`) });
    const seen = await page.evaluate((panel) => {
      const box = (selector) => document.querySelector(selector).getBoundingClientRect();
      const [main, over] = [box('main'), box(panel)];
      const video = document.getElementById('video');
      // Where the picture is inside its element, which it fills in width on a phone held upright.
      const bottom = main.top + (main.width * video.videoHeight) / video.videoWidth;
      return {
        inside: over.top >= main.top && over.bottom <= main.bottom + 1,
        covers: over.top < bottom,
        scrolls: getComputedStyle(document.querySelector(panel)).overflowY === 'auto',
        sound: document.getElementById('sound').checkVisibility(),
        onSound: document.getElementById('sound').checkVisibility() && box('#sound').right > over.left && box('#sound').left < over.right
          && box('#sound').bottom > over.top && box('#sound').top < over.bottom,
        upright: innerHeight > innerWidth,
      };
    }, panel);
    checks.check(`${what}-${device}: the panel is inside the player and can scroll`, seen.inside && seen.scrolls);
    checks.check(`${what}-${device}: it does not lie on the sound button`, !seen.onSound);
    if (seen.upright) checks.check(`${what}-${device}: it covers neither the picture nor the sound button`, !seen.covers && !seen.sound);
  }
}

async function shot(chromium, url, options) {
  const page = await chromium.page(null, options);
  page.on('console', (message) => {
    if (/Content.Security.Policy/i.test(message.text())) page.problems.push(message.text());
  });
  await page.goto(url);
  return page;
}
