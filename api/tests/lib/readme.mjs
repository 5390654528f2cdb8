// Commands and addresses of the README, as a reader would copy them and run them.

import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { startLogged } from './child.mjs';
import { OUT } from './server.mjs';

/** Directory in which the README's commands are run. */
export const ROOT = path.join(path.dirname(fileURLToPath(import.meta.url)), '..', '..', '..');
const README = path.join(ROOT, 'README.md');

/** Code blocks of a language, without the indentation of the list they stand in. */
export function blocks(language = 'sh') {
  const found = [];
  for (const [, indent, code] of fs.readFileSync(README, 'utf8').matchAll(new RegExp(`^( *)\`\`\`${language}\\n(.*?)^ *\`\`\``, 'gms'))) {
    found.push(code.split('\n').map((line) => line.slice(indent.length)).join('\n').trim());
  }
  return found;
}

/** The one block that begins with a program; throws where it is missing or there are several. */
export function command(begin) {
  const found = blocks().filter((block) => block.startsWith(begin));
  if (found.length !== 1) throw new Error(`README: ${found.length} blocks begin with "${begin}", one is expected`);
  return found[0];
}

/** The address with this path on the server as it is started by default. */
export function address(route) {
  const found = fs.readFileSync(README, 'utf8').match(new RegExp(`http://[\\w.:]+${route}(?![\\w/])`));
  if (!found) throw new Error(`README: no address of ${route}`);
  return found[0];
}

/** Runs a block in a shell that finds `programs` (name to path); `log` of what is returned holds all that it said. */
export function shell(block, programs = {}) {
  const bin = fs.mkdtempSync(path.join(OUT, 'bin-'));
  for (const [name, file] of Object.entries(programs)) fs.symlinkSync(file, path.join(bin, name));
  return startLogged('bash', ['-c', block], { env: { ...process.env, PATH: `${bin}:${process.env.PATH}` } });
}
