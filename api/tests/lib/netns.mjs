// A network namespace with a non-loopback address and nothing else: Firefox refuses to work on
// loopback alone, ports and addresses inside are the scenario's own. The run starts itself again
// inside. Needs root.

import { execFileSync } from 'node:child_process';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { end, start } from './child.mjs';

/** The address of this machine inside. */
export const ADDRESS = '10.77.0.1';

/** The device that has it. */
export const DEVICE = 'w0';

/** Namespaces that this process has made: scenarios beside each other have one each. */
let made = 0;

const INSIDE = 'WEIR_TEST_INSIDE_NAMESPACE';

/** Runs `ip` in the namespace that this process is in. */
export const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Runs `inside()` in a namespace of its own: starts this scenario once more there, and takes over its lines and counts. */
export async function inNamespace(scenario, { checks, args }, inside) {
  if (process.env[INSIDE]) return inside();
  return withNamespace((name) => startAgain(name, scenario, checks, args));
}

async function startAgain(name, scenario, checks, args) {
  const main = fileURLToPath(new URL('../run.mjs', import.meta.url));
  const command = ['netns', 'exec', name, process.execPath, main, '--only', scenario, '--server', args.server, '--loadtest', args.loadtest];
  const child = start('ip', command, { env: { ...process.env, [INSIDE]: '1' }, stdio: ['ignore', 'pipe', 'inherit'] });
  let counted = false;
  for await (const line of readline.createInterface({ input: child.stdout })) {
    const [, passed, failed] = /^(\d+) passed, (\d+) failed$/.exec(line) ?? [];
    if (passed) {
      checks.add(Number(passed), Number(failed));
      counted = true;
    } else {
      console.log(line);
    }
  }
  await end(child);
  if (!counted) throw new Error('the run inside the namespace broke off');
}

/** Makes the namespace, calls `inside(name)`, and removes it whatever happens. */
async function withNamespace(inside) {
  const name = `weir-test-${process.pid}-${(made += 1)}`;
  const remove = () => {
    try {
      ip('netns', 'del', name);
    } catch {
      // It was never made, or is gone.
    }
  };
  process.once('exit', remove);
  try {
    ip('netns', 'add', name);
    ip('-n', name, 'link', 'set', 'lo', 'up');
    ip('-n', name, 'link', 'add', DEVICE, 'type', 'veth', 'peer', 'name', 'w1');
    ip('-n', name, 'addr', 'add', `${ADDRESS}/24`, 'dev', DEVICE);
    ip('-n', name, 'link', 'set', DEVICE, 'up');
    ip('-n', name, 'link', 'set', 'w1', 'up');
    ip('-n', name, 'route', 'add', 'default', 'dev', DEVICE);
    return await inside(name);
  } finally {
    remove();
    process.off('exit', remove);
  }
}
