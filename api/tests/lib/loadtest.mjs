// weir-loadtest as a child process. Called by scenarios/load.mjs and churn.mjs.

import { startLogged } from './child.mjs';

/** Exit code of a run in which something was lost, but the generator was the bottleneck: it says nothing about the server. */
const INCONCLUSIVE = 3;
const RUNS_MAX = 3;

/** Runs it to its end, again while a run is inconclusive. Resolves with the exit code and what the last run said. */
export async function runLoad(loadtest, args) {
  for (let run = 1; ; run += 1) {
    const child = startLogged(loadtest, args);
    const { code } = await child.ended;
    if (code !== INCONCLUSIVE || run === RUNS_MAX) return { code, log: child.log };
  }
}
