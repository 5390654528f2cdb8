// WHIP and WHEP on the wire, without media: a table of RFC 9725 and of what clients need beyond it.
// Bare item numbers are those of docs/rules/whip-whep.md.

import { Connection, request } from '../lib/http.mjs';
import { UFRAG, attribute, fragment, sections } from '../lib/offers.mjs';
import * as offers from '../lib/offers.mjs';

const SDP = { 'Content-Type': 'application/sdp' };
const TRICKLE = 'application/trickle-ice-sdpfrag';
const EXPOSED = ['location', 'etag', 'link', 'retry-after', 'accept-post', 'accept-patch', 'www-authenticate', 'access-control-allow-methods'];
const HOST_CANDIDATE = 'candidate:1 1 udp 2130706431 127.0.0.1 50000 typ host generation 0 ufrag x network-id 1';

export async function run({ server, checks }) {
  const http = (method, target, options) => request(server.url, method, target, options);
  const post = (target, body, headers = SDP) => http('POST', target, { headers, body });
  const t = { server, checks, http, post };
  await created(t);
  await answers(t);
  await mediaTypes(t);
  await refusedOffers(t);
  await connections(t);
  await names(t);
  await otherMethods(t);
  await deletion(t);
  await cors(t);
  await trickle(t);
  await restart(t);
  await access(t);
  await pages(t);
  await cycles(t);
}

/** A1 to A7, A26, A34 and E1: the 201. */
async function created({ checks, post }) {
  for (const [target, offer] of [['/whip/a1', offers.obs], ['/whep/a1', offers.viewer]]) {
    const made = await post(target, offer);
    const location = made.header('location') ?? '';
    checks.equal(`A1 POST ${target}`, made.status, 201);
    checks.equal(`A1 ${target}: Content-Type`, made.header('content-type'), 'application/sdp');
    checks.check(`A3 ${target}: body from v=0 to CRLF, no bare LF`, made.body.startsWith('v=0\r\n') && made.body.endsWith('\r\n') && !/[^\r]\n/.test(made.body));
    checks.check(`A4 ${target}: ETag is a quoted strong tag`, /^"[^"]+"$/.test(made.header('etag')), made.header('etag'));
    checks.check(`A5 ${target}: Location is an absolute path below the endpoint`, location.startsWith(`${target}/`));
    checks.check(`A7 ${target}: one space after the header name`, /^location: [^ ]/im.test(made.raw));
    checks.check(`A26 ${target}: the address cannot be guessed`, /^[A-Za-z0-9_-]{22,}$/.test(location.split('/').pop()), `${location.split('/').pop().length} characters`);
    checks.check(`${target}: Content-Length and not chunked`, made.header('content-length') === String(Buffer.byteLength(made.body)) && !made.header('transfer-encoding'));
    open(checks, `A34 ${target}`, made);
  }
}

function open(checks, what, answer) {
  const exposed = (answer.header('access-control-expose-headers') ?? '').toLowerCase().split(/, */);
  const missing = EXPOSED.filter((name) => !exposed.includes(name));
  checks.check(`${what}: readable for pages of any origin`,
    answer.header('access-control-allow-origin') === '*' && !answer.header('access-control-allow-credentials') && !missing.length, missing.join(' '));
}

/** C30 to C43, D1: what stands in the answer to each kind of client. */
async function answers({ checks, post }) {
  const cases = [
    ['obs', '/whip/c-obs', offers.obs, 'recvonly', 'passive'],
    ['ffmpeg', '/whip/c-ffmpeg', offers.ffmpeg, 'recvonly', 'active'],
    ['simulcast', '/whip/c-sim', offers.simulcast, 'recvonly', 'passive'],
    ['browser viewer', '/whep/c-viewer', offers.viewer, 'sendonly', 'passive'],
    ['gstreamer viewer', '/whep/c-gst', offers.gstreamer, 'sendonly', 'passive'],
  ];
  for (const [who, target, offer, direction, setup] of cases) {
    const made = await post(target, offer);
    if (!checks.check(`C ${who}: accepted`, made.status === 201, made.status === 201 ? '' : `${made.status} ${made.body}`)) continue;
    lint(checks, who, offer, made.body, direction, setup);
    if (who === 'simulcast') {
      const [video] = sections(made.body).media;
      const rids = video.filter((line) => /^a=rid:\w+ recv$/.test(line)).length;
      checks.check('D1 simulcast: rids, a=simulcast and the rid extension', rids === 3 && attribute(video, 'simulcast') === 'recv l;m;h'
        && video.some((line) => line.startsWith('a=extmap:10') && line.endsWith('rtp-stream-id')), attribute(video, 'simulcast'));
    }
  }
}

function lint(checks, who, offer, answer, direction, setup) {
  const asked = sections(offer);
  const given = sections(answer);
  const problems = [];
  const must = (holds, what) => holds || problems.push(what);
  const mids = (sdp) => sdp.media.map((lines) => attribute(lines, 'mid')).join(' ');
  must(mids(asked) === mids(given), `C30 mids ${mids(given)}`);
  must(attribute(given.session, 'group') === `BUNDLE ${mids(given)}`, 'C31 BUNDLE');
  must(['v=', 'o=', 's=', 't='].every((start) => given.session.some((line) => line.startsWith(start))), 'C32 session lines');
  must(attribute(given.session, 'ice-lite') === '', 'C43 ice-lite');
  must(answer.length < 8_192, `C42 ${answer.length} bytes`);
  given.media.forEach((lines, i) => {
    const has = (name) => attribute(lines, name) ?? attribute(given.session, name);
    must(lines[0].split(' ')[0] === asked.media[i][0].split(' ')[0], `C30 kind of section ${i}`);
    must(lines.some((line) => line.startsWith('c=')) || given.session.some((line) => line.startsWith('c=')), 'C32 c=');
    must(has('setup') === setup, `C33 setup ${has('setup')}`);
    must(/^sha-256 /.test(attribute(lines, 'fingerprint')), 'C34 fingerprint in each section');
    must((attribute(lines, 'ice-ufrag') ?? '').length >= 4 && (attribute(lines, 'ice-pwd') ?? '').length >= 22, 'C34 credentials in each section');
    must(attribute(lines, 'rtcp-mux') === '', 'C31 rtcp-mux');
    must(lines.includes(`a=${direction}`), `C37 ${direction}`);
    const types = lines[0].split(' ').slice(3);
    const offered = asked.media[i][0].split(' ').slice(3);
    must(types.every((type) => offered.includes(type)), `C36 payload types ${types}`);
    const ext = (all) => all.filter((line) => line.startsWith('a=extmap:'));
    must(ext(lines).every((line) => asked.media[i].includes(line)), 'C35 extension ids');
  });
  const [first] = given.media;
  const candidates = first.filter((line) => line.startsWith('a=candidate:')).map((line) => line.split(' '));
  must(candidates.length > 0, 'C40 candidates in the first section');
  const [best] = candidates;
  must(best?.[2].toLowerCase() === 'udp' && /^\d+\.\d+\.\d+\.\d+$/.test(best?.[4]) && best?.[7] === 'host', `C41 first candidate ${best?.join(' ')}`);
  must(first.includes('a=end-of-candidates'), 'C40 end-of-candidates');
  checks.check(`C30-C43 ${who}: the answer`, problems.length === 0, problems.join('; ') || best.slice(4, 6).join(':'));
}

/** A8 to A11. */
async function mediaTypes({ checks, post }) {
  for (const type of ['application/sdp; charset=utf-8', 'Application/SDP']) {
    checks.equal(`A8 Content-Type: ${type}`, (await post('/whip/a8', offers.obs, { 'Content-Type': type })).status, 201);
  }
  for (const type of ['text/plain', 'application/json', null]) {
    const refused = await post('/whip/a9', offers.obs, { 'Content-Type': type });
    checks.check(`A9 Content-Type: ${type}`, refused.status === 415 && refused.header('accept-post') === 'application/sdp', `${refused.status} ${refused.header('accept-post')}`);
    problem(checks, `A16 Content-Type: ${type}`, refused);
  }
  checks.equal('A10 an empty body', (await post('/whip/a10', '')).status, 400);
  checks.equal('A10 an empty body, WHEP', (await post('/whep/a10', '')).status, 400);
  checks.equal('A10 not SDP', (await post('/whip/a10', 'hello')).status, 400);
  const padding = (bytes) => offers.obs + `a=x-padding:${'x'.repeat(1_000)}\r\n`.repeat(Math.ceil(bytes / 1_015));
  checks.equal('A11 an offer of 20 KiB', (await post('/whip/a11', padding(20_000))).status, 201);
  checks.equal('A11 one of more than 64 KiB', (await post('/whip/a11', padding(66_000))).status, 413);
}

function problem(checks, what, answer) {
  let body = {};
  try {
    body = JSON.parse(answer.body);
  } catch {
    // The check below says it.
  }
  // `error` repeats the text for a player that reads nothing else of a 400.
  const members = ['type', 'title', 'detail', ...(answer.status === 400 ? ['error'] : [])];
  const whole = members.every((name) => typeof body[name] === 'string') && body.status === answer.status;
  checks.check(`${what}: problem+json`, answer.header('content-type') === 'application/problem+json' && whole, body.detail ?? answer.body.slice(0, 80));
}

/** C20 to C25, E4, E5: refused with a 4xx that players read rightly, nothing left behind. */
async function refusedOffers({ checks, post, server }) {
  const edit = (offer, from, to) => offer.replaceAll(from, to);
  const withoutLines = (offer, start) => offer.split('\r\n').filter((line) => !line.startsWith(start)).join('\r\n');
  const cases = [
    ['C20 WHIP recvonly', '/whip/bad', edit(offers.obs, 'a=sendonly', 'a=recvonly'), [422]],
    ['C20 WHEP sendonly', '/whep/bad', edit(offers.viewer, 'a=recvonly', 'a=sendonly'), [422]],
    ['C21 no BUNDLE', '/whip/bad', withoutLines(offers.obs, 'a=group:BUNDLE'), [422]],
    ['C22 no rtcp-mux', '/whip/bad', withoutLines(offers.obs, 'a=rtcp-mux'), [400, 422]],
    ['C22 no fingerprint', '/whip/bad', withoutLines(offers.obs, 'a=fingerprint'), [400, 422]],
    ['C22 no ufrag', '/whip/bad', withoutLines(offers.obs, 'a=ice-ufrag'), [400, 422]],
    ['C22 RTP/AVP', '/whip/bad', edit(offers.obs, 'UDP/TLS/RTP/SAVPF', 'RTP/AVP'), [400, 422]],
    ['C2 holdconn', '/whip/bad', edit(offers.obs, 'a=setup:actpass', 'a=setup:holdconn'), [422]],
    ['C24 Opus of one channel', '/whip/bad', edit(offers.obs, 'opus/48000/2', 'opus/48000/1'), [422], /opus\/48000\/1.*WebRTC's Opus is opus\/48000\/2/],
    ['C24 H264 without a clock rate', '/whip/bad', edit(offers.obs, 'H264/90000', 'H264'), [422], /without its clock rate.*H264\/90000/],
    ['C21 neither mid nor BUNDLE', '/whip/bad', withoutLines(withoutLines(offers.obs, 'a=group:BUNDLE'), 'a=mid'), [422], /a=mid.*a=group:BUNDLE/],
    ['C24 no common codec', '/whip/bad', edit(offers.obs, 'H264/90000', 'MPV/90000'), [422]],
    ['C25 NUL', '/whip/bad', edit(offers.obs, 'a=mid:0', 'a=mid:\0'), [400]],
    ['C25 not UTF-8', '/whip/bad', Buffer.concat([Buffer.from('v=0\r\n'), Buffer.from([0xff, 0xfe, 0x80]), Buffer.from('\r\n')]), [400]],
    ['C25 cut off', '/whip/bad', offers.obs.slice(0, offers.obs.indexOf('m=video') + 13), [400, 422]],
    ['C25 duplicate mids', '/whip/bad', edit(offers.obs, 'a=mid:1', 'a=mid:0'), [400, 422]],
    ['C25 1,000 sections', '/whip/bad', offers.obs + 'm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n'.repeat(1_000), [400, 422]],
  ];
  for (const [what, target, offer, wanted, words = /./] of cases) {
    const refused = await post(target, offer);
    checks.check(`${what}: ${wanted.join(' or ')}`, wanted.includes(refused.status) && words.test(safeDetail(refused)), `${refused.status} ${safeDetail(refused)}`);
  }
  checks.equal('refused offers leave no stream', await server.stream('bad'), null);

  const unusual = [
    ['a session id over 64 bits', offers.obs.replace(/^o=.*$/m, 'o=- 123456789012345678901234567890 1 IN IP4 127.0.0.1')],
    ['a blank behind a colon', edit(offers.obs, 'a=mid:', 'a=mid: ')],
    ['upper-case setup', edit(offers.obs, 'a=setup:actpass', 'a=setup:ACTPASS')],
    ['a bandwidth with a fraction', edit(offers.obs, 'a=mid:1', 'b=AS:500.5\r\na=mid:1')],
    ['NUL at the end', `${offers.obs}\0`],
    ['a byte order mark', `\ufeff${offers.obs}`],
    ['no s= line', withoutLines(offers.obs, 's=')],
    ['no t= line', withoutLines(offers.obs, 't=')],
  ];
  for (const [what, offer] of unusual) {
    const answer = await post('/whip/unusual', offer);
    checks.check(`C12 ${what}: 201`, answer.status === 201, `${answer.status} ${answer.status === 201 ? '' : safeDetail(answer)}`);
  }
  const old = withoutLines(withoutLines(offers.viewer, 'a=group:BUNDLE'), 'a=mid');
  const { status, body } = await post('/whep/unusual', old);
  checks.check('C21 a viewer with neither mid nor BUNDLE is served one section', status === 201 && /^m=audio 0 /m.test(body) && /^m=video 9 /m.test(body), status);
}

function safeDetail(answer) {
  try {
    return JSON.parse(answer.body).detail;
  } catch {
    return answer.body.slice(0, 60);
  }
}

/** A13, A15: how clients connect. */
async function connections({ checks, http, server }) {
  const icy = await http('POST', '/whip/a15', { headers: { ...SDP, 'Icy-MetaData': '1', Accept: '*/*' }, body: offers.ffmpeg });
  checks.equal('A15 FFmpeg headers, Connection: close', icy.status, 201);
  const expect = await http('POST', '/whip/a15', { headers: { ...SDP, Expect: '100-continue' }, body: offers.obs, awaitContinue: true });
  checks.check('A15 Expect: 100-continue', expect.continued && expect.status === 201, `${expect.continued} ${expect.status}`);
  const chunked = await http('POST', '/whip/a15', { headers: SDP, body: offers.obs, chunked: true });
  checks.equal('A15 a chunked request', chunked.status, 201);
  const kept = await Connection.open(server.url);
  const statuses = [];
  for (let i = 0; i < 3; i += 1) statuses.push((await kept.request('POST', '/whip/a15', { headers: SDP, body: offers.obs })).status);
  kept.close();
  checks.equal('A15 three requests on one connection', statuses.join(' '), '201 201 201');
  const query = await http('POST', '/whip/a15?streamid=x&key=y', { headers: SDP, body: offers.obs });
  checks.equal('A5 a query on the endpoint', query.status, 201);
}

/** Names: `[A-Za-z0-9._~-]{1,128}` after one percent-decoding, but neither `.` nor `..`. */
async function names({ checks, post }) {
  const at = async (name) => (await post(`/whip/${name}`, offers.obs)).status;
  checks.equal('name at the limit of 128', await at('n'.repeat(128)), 201);
  checks.equal('name past it', await at('n'.repeat(129)), 400);
  checks.equal('name with every allowed mark', await at('aZ09._~-'), 201);
  checks.equal('name percent-encoded once', await at('%64emo'), 201);
  for (const bad of ['..', '.', '%2e%2e', '%2E', 'a%20b', 'a%2Fb', '%2e%2e%2f', 'a%00', '%C3%A4', '%2564emo']) checks.equal(`name ${bad}`, await at(bad), 400);
}

/** A20 to A22. */
async function otherMethods({ checks, http, post }) {
  const whip = (await post('/whip/a20', offers.obs)).header('location');
  const whep = (await post('/whep/a20', offers.viewer)).header('location');
  for (const target of ['/whip/a20', whip]) {
    for (const method of ['GET', 'HEAD']) {
      const seen = await http(method, target);
      checks.check(`A20 ${method} on WHIP ${target === whip ? 'session' : 'endpoint'}`, seen.status === 204 && seen.body === '', seen.status);
    }
  }
  for (const method of ['GET', 'HEAD']) {
    const seen = await http(method, '/whep/a20');
    checks.check(`A21 ${method} on WHEP endpoint`, seen.status === 200 && seen.header('content-type') === 'application/sdp' && seen.header('content-length') === '0',
      `${seen.status} ${seen.header('content-type')} ${seen.header('content-length')}`);
    checks.equal(`A20 ${method} on WHEP session`, (await http(method, whep)).status, 204);
  }
  for (const [method, target, of] of [['PUT', '/whip/a20', 'endpoint'], ['PATCH', '/whip/a20', 'endpoint'], ['DELETE', '/whep/a20', 'endpoint'],
    ['PUT', whip, 'session'], ['POST', whep, 'session']]) {
    const refused = await http(method, target, { headers: SDP, body: offers.obs });
    checks.check(`A22 ${method} on ${of}: 405 with Allow`, refused.status === 405 && /\w/.test(refused.header('allow') ?? ''), `${refused.status} ${refused.header('allow')}`);
    open(checks, `A34 405 of ${method} on ${of}`, refused);
  }
  const stats = await http('GET', `${whip}/stats`);
  checks.check('the session tells its statistics', stats.status === 200 && JSON.parse(stats.body).stream === 'a20', stats.status);
}

/** A23 to A26, A52, A54. */
async function deletion({ checks, http, post, server }) {
  const first = (await post('/whip/a23', offers.obs)).header('location');
  const gone = await http('DELETE', first);
  checks.check('A23 DELETE: exactly 200, Content-Length, not chunked', gone.status === 200 && gone.header('content-length') !== null && !gone.header('transfer-encoding'), gone.status);
  open(checks, 'A34 DELETE', gone);
  checks.equal('A25 DELETE again', (await http('DELETE', first)).status, 200);
  checks.equal('A26 PATCH after DELETE', (await http('PATCH', first, { headers: { 'Content-Type': TRICKLE }, body: fragment() })).status, 404);
  checks.equal('A23 the stream is free at once', await server.stream('a23'), null);

  const second = (await post('/whip/a23', offers.obs)).header('location');
  checks.equal('A24 DELETE with a foreign If-Match', (await http('DELETE', second, { headers: { 'If-Match': '"other"' } })).status, 200);

  const unknown = `${second.slice(0, -32)}${'A'.repeat(32)}`;
  for (const method of ['DELETE', 'PATCH', 'GET']) {
    const answer = await http(method, unknown, method === 'PATCH' ? { headers: { 'Content-Type': TRICKLE }, body: fragment() } : {});
    checks.equal(`A26 ${method} of an unknown session`, answer.status, 404);
  }
  const other = (await post('/whep/a23', offers.viewer)).header('location');
  checks.equal('A26 a WHEP secret below /whip', (await http('DELETE', other.replace('/whep/', '/whip/'))).status, 404);
  checks.equal('A26 a secret below another stream', (await http('DELETE', other.replace('/a23/', '/a24/'))).status, 404);
  const listed = await server.stream('a23');
  checks.check('A26 lists do not show the secret', !JSON.stringify(listed).includes(other.split('/').pop()) && listed.viewers === 1);
  checks.equal('A23 DELETE of a viewer', (await http('DELETE', other)).status, 200);

  const old = (await post('/whip/a54', offers.obs)).header('location');
  const taken = await post('/whip/a54', offers.obs);
  checks.equal('A54 POST while a publisher is there', taken.status, 201);
  checks.equal('A54 DELETE of the one that was replaced', (await http('DELETE', old)).status, 200);
  checks.equal('A54 which does not end the new one', (await http('GET', taken.header('location'))).status, 204);
}

/** A30 to A36. */
async function cors({ checks, http, post }) {
  const session = (await post('/whip/a30', offers.obs)).header('location');
  const plain = await http('OPTIONS', '/whip/a30');
  checks.check('A30 OPTIONS on the endpoint', [200, 204].includes(plain.status) && plain.header('accept-post') === 'application/sdp', `${plain.status} ${plain.header('accept-post')}`);
  for (const [of, target] of [['endpoint', '/whip/a30'], ['WHEP endpoint', '/whep/a30'], ['session', session]]) {
    const headers = { Origin: 'https://player.example', 'Access-Control-Request-Method': 'PATCH', 'Access-Control-Request-Headers': 'if-match,authorization' };
    const preflight = await http('OPTIONS', target, { headers });
    const list = (name) => (preflight.header(name) ?? '').toLowerCase().split(/, */);
    const methods = ['post', 'get', 'head', 'patch', 'delete', 'options'].filter((method) => !list('access-control-allow-methods').includes(method));
    const allowed = ['authorization', 'content-type', 'if-match', 'etag'].filter((name) => !list('access-control-allow-headers').includes(name));
    checks.check(`A31 preflight on ${of}`, preflight.status < 300 && !methods.length && !allowed.length && Number(preflight.header('access-control-max-age')) > 0,
      `${preflight.status} ${methods} ${allowed}`);
    open(checks, `A36 preflight on ${of}`, preflight);
  }
  for (const [path, status] of [['/api/v1/streams', 403], ['/metrics', 200], ['/', 200]]) {
    const answer = await http('GET', path, { headers: { Origin: 'https://player.example' } });
    checks.check(`no other origin reads ${path}`, answer.status === status && answer.header('access-control-allow-origin') === null, answer.status);
  }
  for (const [method, target] of [['POST', '/whip/a30'], ['POST', '/whep/a30'], ['DELETE', session], ['PATCH', session]]) {
    const refused = await http(method, target, { headers: { ...SDP, Origin: 'https://player.example' }, body: offers.obs });
    checks.check(`${method} of a page of another site`, refused.status === 403 && /--cors-origin https:\/\/player\.example/.test(refused.body), refused.status);
    open(checks, `A34 403 of ${method}`, refused);
  }
  const library = await http('GET', '/weir.js', { headers: { Origin: 'https://player.example' } });
  checks.check('any origin may import /weir.js', library.status === 200 && library.header('access-control-allow-origin') === '*' && /javascript/.test(library.header('content-type')));
}

/** B1 to B5, B13 to B16, B19. */
async function trickle({ checks, http, post }) {
  for (const [target, offer] of [['/whip/b1', offers.obs], ['/whep/b1', offers.viewer]]) {
    const made = await post(target, offer);
    const session = made.header('location');
    const tag = made.header('etag');
    const patch = (body, headers = { 'If-Match': tag }, type = TRICKLE) => http('PATCH', session, { headers: { 'Content-Type': type, ...headers }, body });
    const one = await patch(fragment({ candidates: [HOST_CANDIDATE] }));
    checks.check(`B1 ${target}: 204, no body, no ETag`, one.status === 204 && one.body === '' && one.header('etag') === null, one.status);
    open(checks, `A34 ${target}: 204`, one);
    checks.equal(`B2 ${target}: no If-Match`, (await patch(fragment({ candidates: [HOST_CANDIDATE] }), {})).status, 204);
    checks.equal(`B3 ${target}: stale tag`, (await patch(fragment(), { 'If-Match': '"stale"' })).status, 412);
    checks.equal(`B4 B5 ${target}: If-Match: * on plain trickle`, (await patch(fragment({ candidates: [HOST_CANDIDATE] }), { 'If-Match': '*' })).status, 204);
    checks.equal(`B4 ${target}: If-Match: "*"`, (await patch(fragment({ candidates: [HOST_CANDIDATE] }), { 'If-Match': '"*"' })).status, 204);
    const good = {
      'B13 LF line ends': fragment({ candidates: [HOST_CANDIDATE], eol: '\n' }),
      'B13 RTP/AVP m-line': fragment({ m: 'm=audio 9 RTP/AVP 0', candidates: [HOST_CANDIDATE] }),
      'B13 m-line with all types': fragment({ m: 'm=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0', candidates: [HOST_CANDIDATE] }),
      'B13 with group and ice-options': `a=group:BUNDLE 0 1\r\na=ice-options:trickle\r\n${fragment({ candidates: [HOST_CANDIDATE] })}`,
      'B13 only end-of-candidates': fragment({ candidates: ['end-of-candidates'] }),
      'B13 credentials in the section': `m=audio 9 UDP/TLS/RTP/SAVPF 0\r\na=mid:0\r\n${fragment({ m: '' })}a=${HOST_CANDIDATE}\r\n`,
      'B14 component 0 under every mid': fragment({ candidates: [HOST_CANDIDATE.replace('1 1 udp', '1 0 udp')] }) + `m=audio 9 RTP/AVP 0\r\na=mid:1\r\na=${HOST_CANDIDATE}\r\n`,
      'B14 component 2': fragment({ candidates: [HOST_CANDIDATE.replace('1 1 udp', '1 2 udp')] }),
      'B15 TCP': fragment({ candidates: ['candidate:1 1 tcp 1518280447 127.0.0.1 9 typ host tcptype active'] }),
      'B15 mDNS': fragment({ candidates: ['candidate:1 1 udp 2113937151 9b36eaac-bb2e-49bb-bb78-21c41c499900.local 51000 typ host'] }),
      'B15 link-local': fragment({ candidates: ['candidate:1 1 udp 2113937151 fe80::1 51000 typ host'] }),
      'B15 unknown transport': fragment({ candidates: ['candidate:1 1 quic 2113937151 127.0.0.1 51000 typ host'] }),
    };
    for (const [what, body] of Object.entries(good)) checks.equal(`${what}, ${target}`, (await patch(body)).status, 204);
    checks.equal(`B16 ${target}: JSON`, (await patch('{}', {}, 'application/json')).status, 415);
    checks.equal(`B16 ${target}: not a fragment`, (await patch('hello')).status, 400);
    const strange = (await patch(fragment({ mid: 'nobody', candidates: [HOST_CANDIDATE] }))).status;
    checks.check(`B16 ${target}: unknown mid`, [204, 400].includes(strange), strange);
    checks.equal(`PATCH of more than 8 KiB, ${target}`, (await patch(fragment({ candidates: Array(200).fill(HOST_CANDIDATE) }))).status, 413);
    checks.equal(`B16 ${target}: the session survives all that`, (await http('GET', session)).status, 204);
  }
  const flooded = (await post('/whip/b19', offers.obs)).header('location');
  const statuses = [];
  for (let i = 0; i < 300; i += 1) statuses.push((await http('PATCH', flooded, { headers: { 'Content-Type': TRICKLE }, body: fragment() })).status);
  checks.check('B19 a flood of PATCHes is limited, never 5xx', statuses.every((status) => [204, 429].includes(status)) && statuses.includes(429),
    `${statuses.filter((status) => status === 429).length} of ${statuses.length} got 429`);
}

/** B6 to B9, B12: ICE restart on the wire. */
async function restart({ checks, http, post }) {
  const made = await post('/whip/b6', offers.obs);
  const session = made.header('location');
  const patch = (body, ifMatch) => http('PATCH', session, { headers: { 'Content-Type': TRICKLE, ...(ifMatch && { 'If-Match': ifMatch }) }, body });
  const credentials = (n) => ({ ufrag: `new${n}`, pwd: `${n}`.repeat(24) });
  const first = await patch(fragment(credentials(1)), '*');
  checks.check('B6 restart: 200 and a fragment', first.status === 200 && first.header('content-type') === TRICKLE, `${first.status} ${first.header('content-type')}`);
  const tag = first.header('etag');
  checks.check('B6 restart: a new strong ETag', /^"[^"]+"$/.test(tag) && tag !== made.header('etag'), tag);
  const lines = first.body.split('\r\n');
  const before = sections(made.body).media[0];
  checks.check('B6 restart: new credentials of the server', attribute(lines, 'ice-ufrag') !== attribute(before, 'ice-ufrag') && attribute(lines, 'ice-pwd')?.length >= 22
    && attribute(lines, 'ice-ufrag') !== UFRAG, attribute(lines, 'ice-ufrag'));
  checks.check('B6 restart: ice-lite as in the answer', attribute(lines, 'ice-lite') === '');
  checks.check('B7 restart: CRLF, candidates inside', !/[^\r]\n/.test(first.body) && lines.filter((line) => line.startsWith('a=candidate:')).length >= 1,
    `${lines.filter((line) => line.startsWith('a=candidate:')).length} candidates`);
  const current = (ifMatch) => patch(fragment({ ...credentials(1), candidates: [HOST_CANDIDATE] }), ifMatch);
  checks.equal('B9 the old tag', (await current(made.header('etag'))).status, 412);
  checks.equal('B9 the new tag', (await current(tag)).status, 204);
  const bare = await patch('a=ice-ufrag:bare\r\na=ice-pwd:bbbbbbbbbbbbbbbbbbbbbbbb\r\n', '*');
  checks.equal('B8 two lines alone', bare.status, 200);
  const overlapping = await Promise.all([2, 3].map((n) => patch(fragment(credentials(n)), '*')));
  const tags = overlapping.map((answer) => answer.header('etag'));
  checks.check('B12 two overlapping restarts get two tags', overlapping.every((answer) => answer.status === 200) && tags[0] !== tags[1], tags.join(' '));
  checks.equal('B10 the session lives', (await http('GET', session)).status, 204);
}

/** Open mode serves this machine only. */
async function access({ checks, http, post, server }) {
  const { port } = new URL(server.url);
  for (const host of [`localhost:${port}`, `127.0.0.1:${port}`, `[::1]:${port}`]) {
    checks.equal(`Host: ${host.replace(port, 'PORT')}`, (await post('/whip/access', offers.obs, { ...SDP, Host: host })).status, 201);
  }
  for (const headers of [{ Host: 'rebound.example' }, { 'X-Forwarded-For': '192.0.2.1' }, { Forwarded: 'for=192.0.2.1' }, { 'X-Forwarded-Proto': 'https' }]) {
    const refused = await post('/whip/access', offers.obs, { ...SDP, ...headers });
    checks.equal(`${Object.entries(headers)[0].join(': ')}`, refused.status, 403);
    problem(checks, `403 for ${Object.keys(headers)[0]}`, refused);
  }
  checks.equal('and so for the list of streams', (await http('GET', '/api/v1/streams', { headers: { Host: 'rebound.example' } })).status, 403);
}

/** Pages, probes, the rest of the API. */
async function pages({ checks, http }) {
  for (const [path, framed] of [['/', false], ['/publish/demo', false], ['/watch/demo', true]]) {
    const page = await http('GET', path);
    const policy = page.header('content-security-policy') ?? '';
    checks.check(`${path}: HTML with a strict policy`, page.status === 200 && /^text\/html/.test(page.header('content-type')) && /default-src 'self'/.test(policy) && !/unsafe-inline/.test(policy), page.status);
    checks.check(`${path}: framing ${framed ? 'open' : 'refused'}`, framed ? !/frame-ancestors 'none'/.test(policy) : /frame-ancestors 'none'/.test(policy));
    checks.equal(`${path}: X-Content-Type-Options`, page.header('x-content-type-options'), 'nosniff');
    for (const [, asset] of page.body.matchAll(/(?:src|href)="(\/assets\/[^"]+)"/g)) {
      const file = await http('GET', asset);
      if (file.status !== 200) checks.check(`${path}: ${asset}`, false, file.status);
    }
  }
  checks.equal('a page for a bad stream name', (await http('GET', '/watch/a%20b')).status, 400);
  checks.equal('/assets of no such file', (await http('GET', '/assets/nothing.js')).status, 404);
  checks.equal('/assets does not climb', (await http('GET', '/assets/..%2findex.html')).status, 404);
  for (const path of ['/livez', '/readyz', '/metrics', '/api/v1/stats', '/api/v1/openapi.json']) checks.equal(path, (await http('GET', path)).status, 200);
  const nothing = await http('GET', '/nothing');
  checks.equal('an unknown path', nothing.status, 404);
  problem(checks, 'an unknown path', nothing);
}

/** A27: twenty sessions come and go and nothing stays. */
async function cycles({ checks, http, post, server }) {
  for (let i = 0; i < 20; i += 1) {
    const [whip, whep] = [await post('/whip/a27', offers.obs), await post('/whep/a27', offers.viewer)];
    for (const made of [whip, whep]) await http('DELETE', made.header('location'));
  }
  checks.equal('A27 twenty cycles leave no stream', await server.stream('a27'), null);
}
