// Child processes that never outlive the run, nor the scenario that started them. Ends only what it started, by pid.

import { AsyncLocalStorage } from 'node:async_hooks';
import { spawn } from 'node:child_process';

const children = new Set();
/** Children of the scenario that runs in this asynchronous context. */
const own = new AsyncLocalStorage();

/** Runs `scenario`; `endOwnChildren` in it ends what was started in it, and nothing of a scenario beside it. */
export const withOwnChildren = (scenario) => own.run(new Set(), scenario);

function add(child) {
  for (const set of [children, own.getStore()]) {
    set?.add(child);
    child.once('exit', () => set?.delete(child));
    child.once('error', () => set?.delete(child));
  }
}

// The last resort, e.g. when standard output is closed under us.
process.once('exit', () => children.forEach((child) => signal(child, 'SIGKILL')));

/** How long a child gets between SIGTERM and SIGKILL, unless told otherwise. */
const GRACE_MS = 5_000;

/** Starts a program in its own process group, so that its children end with it. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, ...options });
  child.ended = new Promise((done) => {
    child.once('error', (error) => done({ code: null, signal: null, error }));
    child.once('exit', (code, signal) => done({ code, signal }));
  });
  add(child);
  return child;
}

/** Starts it; `log` of the child grows by all that it says. */
export function startLogged(command, args, options) {
  const child = start(command, args, options);
  child.log = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (child.log += data));
  return child;
}

/** Also ends a process that a library started. */
export function adopt(child) {
  child.ended ??= new Promise((done) => child.once('exit', (code, signal) => done({ code, signal })));
  add(child);
  return child;
}

/** Signals the child's whole group; a group that is gone is no error. */
export function signal(child, name) {
  try {
    process.kill(-child.pid, name);
  } catch {
    try {
      process.kill(child.pid, name);
    } catch {
      // It is gone.
    }
  }
}

/** SIGTERM, then SIGKILL after a grace time. Resolves with how it ended. */
export async function end(child, graceMs = GRACE_MS) {
  if (child.exitCode !== null || child.signalCode !== null) return child.ended;
  signal(child, 'SIGTERM');
  const timer = setTimeout(() => signal(child, 'SIGKILL'), graceMs);
  const how = await child.ended;
  clearTimeout(timer);
  return how;
}

export async function endOwnChildren({ except } = {}) {
  await Promise.all([...(own.getStore() ?? children)].filter((child) => child !== except).map((child) => end(child)));
}

export async function endAllChildren() {
  await Promise.all([...children].map((child) => end(child)));
}
