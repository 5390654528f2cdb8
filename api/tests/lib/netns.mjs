// A network namespace with a non-loopback address and nothing else: Firefox refuses to work on
// loopback alone. The run starts itself again inside. Needs root.

import { execFileSync } from 'node:child_process';

/** The address of this machine inside. */
export const ADDRESS = '10.77.0.1';

const ip = (...args) => execFileSync('ip', args, { stdio: ['ignore', 'ignore', 'pipe'] });

/** Makes the namespace, calls `inside(name)`, and removes it whatever happens. */
export async function withNamespace(inside) {
  const name = `weir-test-${process.pid}`;
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
    ip('-n', name, 'link', 'add', 'w0', 'type', 'veth', 'peer', 'name', 'w1');
    ip('-n', name, 'addr', 'add', `${ADDRESS}/24`, 'dev', 'w0');
    ip('-n', name, 'link', 'set', 'w0', 'up');
    ip('-n', name, 'link', 'set', 'w1', 'up');
    ip('-n', name, 'route', 'add', 'default', 'dev', 'w0');
    return await inside(name);
  } finally {
    remove();
    process.off('exit', remove);
  }
}
