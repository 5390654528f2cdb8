// Firefox with a fake camera, driven by WebDriver BiDi. Called by scenarios/firefox.mjs.

import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import puppeteer from 'puppeteer-core';
import { adopt } from './child.mjs';

const EXECUTABLE = process.env.FIREFOX ?? '/usr/bin/firefox-esr';
/** From the start of the process to its first answer. */
const START_TIMEOUT_MS = 180_000;

export async function launch() {
  // Firefox wants a HOME it may write to.
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'weir-firefox-'));
  const browser = await puppeteer.launch({
    browser: 'firefox',
    executablePath: EXECUTABLE,
    headless: true,
    timeout: START_TIMEOUT_MS,
    env: { ...process.env, HOME: home, MOZ_DISABLE_CONTENT_SANDBOX: '1' },
    extraPrefsFirefox: {
      'media.navigator.streams.fake': true,
      'media.navigator.permission.disabled': true,
      'media.autoplay.default': 0,
      'media.peerconnection.ice.obfuscate_host_addresses': false,
      'media.gmp-manager.updateEnabled': false,
    },
  });
  adopt(browser.process());
  return {
    browser,
    version: () => browser.version(),
    async page(url) {
      const page = await browser.newPage();
      page.problems = [];
      page.on('pageerror', (error) => page.problems.push(error.message));
      await page.goto(url);
      return page;
    },
    async close() {
      await browser.close().catch(() => {});
      fs.rmSync(home, { recursive: true, force: true });
    },
  };
}
