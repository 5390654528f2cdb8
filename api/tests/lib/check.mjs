// Counting of checks, bounded waiting, and the middle of some figures. Called by every scenario.

/** Prints each check of one scenario as it is made and counts. */
export class Checks {
  passed = 0;
  failed = 0;

  constructor(scenario) {
    this.scenario = scenario;
  }

  /** One line per check: what should hold, whether it did, with which figures. */
  check(what, ok, figures = '') {
    if (ok) this.passed += 1;
    else this.failed += 1;
    const mark = ok ? 'ok  ' : 'FAIL';
    const shown = String(figures).trim().replaceAll(/\s*\n\s*/g, ' | ');
    console.log(`${mark} ${this.scenario}: ${what}${shown && `  [${shown}]`}`);
    return Boolean(ok);
  }

  equal(what, got, wanted) {
    return this.check(what, got === wanted, got === wanted ? String(got) : `${got}, wanted ${wanted}`);
  }

  /**
   * Measures until each rule was kept once, at most `times` times: a busy machine disturbs now one figure, now another.
   * `measure(n)` resolves to the same rules each time, as `[what, kept, figures]`. Each rule becomes one check.
   */
  async once(times, measure) {
    let rules = null;
    for (let n = 1; n <= times && !rules?.every(([, kept]) => kept); n += 1) {
      const now = await measure(n);
      rules = now.map((rule, i) => (rules?.[i][1] ? rules[i] : rule));
    }
    for (const [what, kept, figures] of rules) this.check(`${what} (once in ${times} measurements)`, kept, figures);
  }

  note(text) {
    console.log(`     ${this.scenario}: ${text}`);
  }

  /** Adds what a run in another process counted. */
  add(passed, failed) {
    this.passed += passed;
    this.failed += failed;
  }
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

/**
 * Asks `probe` until it returns something truthy, and returns that. Past the time it throws, saying
 * what was waited for and what `probe` said last.
 */
export async function until(what, probe, timeoutMs = 30_000, everyMs = 250) {
  const deadline = Date.now() + timeoutMs;
  let last;
  for (;;) {
    try {
      last = await probe();
      if (last) return last;
    } catch (error) {
      last = error.message.split('\n')[0];
    }
    if (Date.now() > deadline) throw new Error(`waited ${timeoutMs / 1_000} s for ${what}; last: ${last}`);
    await sleep(everyMs);
  }
}

/** Like `until`, but gives null instead of throwing: for a wait that is itself the check. */
export const soon = (what, probe, timeoutMs, everyMs) => until(what, probe, timeoutMs, everyMs).catch(() => null);

/** The middle of the numbers among `values`; null if there is none. */
export function median(values) {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : null;
}
