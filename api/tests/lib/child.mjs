// Child processes that never outlive the run. Ends only what it started, by pid.

import { spawn } from 'node:child_process';

const children = new Set();
// The last resort, e.g. when standard output is closed under us.
process.once('exit', () => children.forEach((child) => signal(child, 'SIGKILL')));

/** How long a child gets between SIGTERM and SIGKILL. */
const GRACE_MS = 5_000;

/** Starts a program in its own process group, so that its children end with it. */
export function start(command, args, options = {}) {
  const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true, ...options });
  child.ended = new Promise((done) => {
    child.once('error', (error) => {
      children.delete(child);
      done({ code: null, signal: null, error });
    });
    child.once('exit', (code, signal) => {
      children.delete(child);
      done({ code, signal });
    });
  });
  children.add(child);
  return child;
}

/** Also ends a process that a library started. */
export function adopt(child) {
  child.ended ??= new Promise((done) => child.once('exit', (code, signal) => done({ code, signal })));
  children.add(child);
  child.once('exit', () => children.delete(child));
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
export async function end(child) {
  if (child.exitCode !== null || child.signalCode !== null) return child.ended;
  signal(child, 'SIGTERM');
  const timer = setTimeout(() => signal(child, 'SIGKILL'), GRACE_MS);
  const how = await child.ended;
  clearTimeout(timer);
  return how;
}

export async function endAllChildren({ except } = {}) {
  await Promise.all([...children].filter((child) => child !== except).map(end));
}
