// Runs Weir against real clients, each scenario on a fresh server. Scenarios whose figures depend on the CPU have the
// machine to themselves; cheap ones run beside each other.
//
//   node run.mjs --server PATH --loadtest PATH [--only name[,name]]
//
// Prints one line per check with its figures and closes with "N passed, M failed"; the exit code is
// 0 only if nothing failed. Server logs and pictures go to out/. Next: lib/check.mjs, scenarios/.

import fs from 'node:fs';
import path from 'node:path';
import { parseArgs } from 'node:util';
import { Checks } from './lib/check.mjs';
import { endAllChildren, endOwnChildren, withOwnChildren } from './lib/child.mjs';
import { OUT, startServer } from './lib/server.mjs';

/**
 * One stage after the other; the cheap ones first, so that a broken server shows soon. The lists of a stage run beside
 * each other. Beside others runs only what takes little CPU time: small pictures, or waiting for timeouts of the protocol.
 */
const STAGES = [
  [['http'], ['addresses']],
  [['chromium']],
  [['layers']],
  [['starts']],
  [['obs'], ['ffmpeg']],
  [['firefox']],
  [['readme']],
  [['load']],
  [['screenshots']],
  [['churn'], ['lifecycle', 'pages', 'words']],
];
/** These run by name only, because they need what a step of .ci/test builds for them. */
const NAMED = ['gstreamer'];
const ALL = STAGES.flat(2);
const SCENARIOS = [...ALL, ...NAMED];
/** No scenario may take longer; past it the run goes on with the next one. */
const SCENARIO_TIMEOUT_MS = 15 * 60_000;

const { values: args } = parseArgs({
  options: {
    server: { type: 'string' },
    loadtest: { type: 'string' },
    only: { type: 'string' },
    help: { type: 'boolean' },
  },
});

if (args.help || !args.server || !args.loadtest) {
  console.log(`usage: node run.mjs --server PATH --loadtest PATH [--only ${SCENARIOS.join('|')}]`);
  process.exit(args.help ? 0 : 2);
}
args.server = path.resolve(args.server);
args.loadtest = path.resolve(args.loadtest);
const wanted = args.only ? args.only.split(',') : ALL;
const unknown = wanted.filter((name) => !SCENARIOS.includes(name));
if (unknown.length) {
  console.error(`no scenario named ${unknown.join(', ')}; there are ${SCENARIOS.join(', ')}`);
  process.exit(2);
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => endAllChildren().then(() => process.exit(130)));
}

fs.mkdirSync(OUT, { recursive: true });
const total = { passed: 0, failed: 0 };
/** Seconds by scenario. */
const took = [];
for (const lists of [...STAGES, [NAMED]]) await Promise.all(lists.map(runAll));
if (took.length > 1) console.log(`     took ${took.map(([name, seconds]) => `${name} ${seconds}`).join(', ')} s`);
console.log(`${total.passed} passed, ${total.failed} failed`);
// Native WebRTC threads of a client under test must not keep the process alive.
process.exit(total.failed ? 1 : 0);

/** Those of `names` that are wanted, one after the other. */
async function runAll(names) {
  for (const name of names.filter((name) => wanted.includes(name))) {
    const checks = new Checks(name);
    const startedAt = Date.now();
    await withOwnChildren(() => runOne(name, checks));
    total.passed += checks.passed;
    total.failed += checks.failed;
    took.push([name, Math.round((Date.now() - startedAt) / 1_000)]);
    console.log(`     ${took.at(-1).join(': ')} s`);
  }
}

async function runOne(name, checks) {
  const scenario = await import(`./scenarios/${name}.mjs`);
  let server = null;
  let timer;
  try {
    if (!scenario.bringsOwnServer) server = await startServer(args.server, { log: name });
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('scenario timeout')), SCENARIO_TIMEOUT_MS);
    });
    await Promise.race([scenario.run({ server, checks, args }), late]);
  } catch (error) {
    checks.check('runs to its end', false, error.message.split('\n')[0]);
    console.log(indent(error.stack));
  } finally {
    clearTimeout(timer);
    // Browsers first: a server that still has sessions must stop within its drain time, too.
    await endOwnChildren({ except: server?.child });
    if (server) {
      const stopped = await server.stop();
      checks.check('server stops with exit code 0 on SIGTERM', stopped.code === 0, `code ${stopped.code}, ${stopped.ms} ms`);
      const panics = server.logged(/panicked at/);
      if (panics.length) checks.check('no panic in the server log', false, panics[0]);
    }
  }
}

function indent(text) {
  return text.split('\n').map((line) => `       ${line}`).join('\n');
}
