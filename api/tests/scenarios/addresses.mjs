// The addresses that answers offer: of a server that was started without a flag, and while those of the machine change.
// In a network namespace, whose addresses are the scenario's own.

import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { sleep, soon } from '../lib/check.mjs';
import { decodes, launch, live, publishUrl, watchUrl } from '../lib/chromium.mjs';
import { request } from '../lib/http.mjs';
import { ADDRESS, DEVICE, inNamespace, ip } from '../lib/netns.mjs';
import { obs } from '../lib/offers.mjs';
import { OUT, startServer } from '../lib/server.mjs';

/** The server must live in the namespace too. */
export const bringsOwnServer = true;

const PYTHON = process.env.PYTHON ?? 'python3';
const STUN_CHECK = fileURLToPath(new URL('../lib/stun_check.py', import.meta.url));
const NEW_ADDRESS = '10.77.0.2';
/** An address that is gone is offered for 10 s more. */
const LEFT_OFFERED_MS = 10_000;
const OPEN = { http: '0.0.0.0:0', args: ['--insecure-open'] };

export function run(context) {
  return inNamespace('addresses', context, async () => {
    await defaults(context);
    await withoutAddress(context);
    await change(context);
    await reload(context);
    await narrow(context);
  });
}

const give = (address) => ip('addr', 'add', `${address}/24`, 'dev', DEVICE);
const take = (address) => ip('addr', 'del', `${address}/24`, 'dev', DEVICE);

/** At loopback: `0.0.0.0` in the ready line is no address to connect to. */
const base = (server) => server.url.replace('0.0.0.0', '127.0.0.1');

const post = (server) =>
  request(base(server), 'POST', '/whip/demo', { headers: { 'Content-Type': 'application/sdp' }, body: obs });

/** Addresses of the candidates of an answer, in their order. */
const offered = (answer) => [...answer.matchAll(/^a=candidate:\S+ 1 udp \d+ (\S+) \d+ typ host/gim)].map(([, address]) => address);

const field = (answer, name) => new RegExp(`^a=${name}:(.*?)\\r?$`, 'm').exec(answer)[1];

/** Whether the server answers an ICE check from a socket that is bound to the device, as libnice's are. */
function isAnswered(answer, local, address) {
  const port = /typ host/.test(answer) && /^a=candidate:\S+ 1 udp \d+ \S+ (\d+)/im.exec(answer)[1];
  const args = [STUN_CHECK, field(answer, 'ice-ufrag'), field(answer, 'ice-pwd'), DEVICE, local, address, port];
  return execFileSync(PYTHON, args, { encoding: 'utf8' }).trim() === 'answered';
}

async function defaults({ checks, args }) {
  const server = await startServer(args.server, { log: 'addresses-defaults', defaults: true });
  checks.equal('without flags HTTP is on loopback', server.url, 'http://127.0.0.1:8080');
  checks.equal('and media on all addresses', server.media, '[::]:8189');
  const { status, body: answer } = await post(server);
  checks.equal('an offer is answered', status, 201);
  checks.equal('with the address of the machine first, then loopback', offered(answer).join(' '), `${ADDRESS} 127.0.0.1`);
  checks.check('a socket bound to the interface (IP_UNICAST_IF) is answered there', isAnswered(answer, ADDRESS, ADDRESS));
  checks.check('so is one without a local address', isAnswered(answer, '-', ADDRESS));
  const outside = await request(`http://${ADDRESS}:8080`, 'GET', '/livez').then(({ status }) => status, () => 'refused');
  checks.equal('HTTP is not at the address of the machine', outside, 'refused');
  await server.stop();
}

async function withoutAddress({ checks, args }) {
  take(ADDRESS);
  const server = await startServer(args.server, { log: 'addresses-none', ...OPEN });
  const notReady = await request(base(server), 'GET', '/readyz');
  checks.equal('a machine with loopback alone: /readyz', notReady.status, 503);
  checks.check('its text names the reason', /no address .* loopback/s.test(notReady.body), notReady.body);
  const refused = await post(server);
  checks.equal('a POST', refused.status, 503);
  checks.check('with Retry-After and the same reason', refused.header('Retry-After') && /no address/.test(refused.body), refused.body);
  checks.check('the log says so once', server.logged(/no address that other machines can reach/).length === 1);
  give(ADDRESS);
  const taken = await post(server);
  checks.equal('once there is an address: the next POST', taken.status, 201);
  checks.equal('offers it', offered(taken.body).join(' '), ADDRESS);
  checks.equal('/readyz', (await request(base(server), 'GET', '/readyz')).status, 200);
  await server.stop();
}

async function change({ checks, args }) {
  const server = await startServer(args.server, { log: 'addresses-change', ...OPEN });
  checks.equal('before the change an answer offers', offered((await post(server)).body).join(' '), ADDRESS);
  const changedAt = Date.now();
  take(ADDRESS);
  give(NEW_ADDRESS);
  const { body: answer } = await post(server);
  checks.equal('the next answer names the new address, and the old one last', offered(answer).join(' '), `${NEW_ADDRESS} ${ADDRESS}`);
  checks.check('a check to the new address is answered', isAnswered(answer, NEW_ADDRESS, NEW_ADDRESS));
  const logged = await soon('the log line', () => server.logged(/addresses that clients send media to have changed/)[0], 5_000);
  checks.check('the log says what changed', logged?.includes(ADDRESS) && logged.includes(NEW_ADDRESS), logged ?? 'nothing');
  await sleep(LEFT_OFFERED_MS + 1_500 - (Date.now() - changedAt));
  checks.equal('after ten seconds only the new one', offered((await post(server)).body).join(' '), NEW_ADDRESS);
  await server.stop();
  take(NEW_ADDRESS);
  give(ADDRESS);
}

async function reload({ checks, args }) {
  const file = path.join(OUT, 'addresses.toml');
  fs.writeFileSync(file, 'advertise = "203.0.113.1"\n');
  const server = await startServer(args.server, { log: 'addresses-reload', args: ['--config', file] });
  checks.equal('an address of the file is offered', offered((await post(server)).body).join(' '), '203.0.113.1');
  fs.writeFileSync(file, 'advertise = "203.0.113.2"\n');
  server.signal('SIGHUP');
  const first = () => post(server).then(({ body }) => offered(body)[0] === '203.0.113.2');
  checks.check('SIGHUP: the next answer names the new one', await soon('the new address', first, 5_000));
  const logged = await soon('the log line', () => server.logged(/advertise.*203\.0\.113\.2/).at(-1), 5_000);
  checks.check('the log says what changed', logged, logged ?? 'nothing');
  await server.stop();
}

/** Bytes of an IP packet that the link carries: less than a flight of the handshake has, and far less than media. */
const NARROW = 600;

async function narrow({ checks, args }) {
  // In the namespace, addresses of this machine are reached by loopback.
  ip('link', 'set', 'lo', 'mtu', String(NARROW));
  const server = await startServer(args.server, { log: 'addresses-narrow', defaults: true });
  const chromium = await launch();
  const publisher = await chromium.page(publishUrl(server, 'narrow'));
  await live(publisher);
  const viewer = await chromium.page(watchUrl(server, 'narrow'));
  const seen = await decodes(viewer, 60);
  checks.check(`a link of ${NARROW} bytes: the viewer connects and decodes`, seen, JSON.stringify(seen));
  const metrics = (await request(base(server), 'GET', '/metrics')).body;
  const fragmented = Number(/^weir_fragmented_datagrams_total (\d+)/m.exec(metrics)?.[1]);
  checks.check('what is too large for it was sent in fragments', fragmented > 60, String(fragmented));
  await chromium.close();
  await server.stop();
  ip('link', 'set', 'lo', 'mtu', '65536');
}
