// Start page: the streams of this server, and the URLs and commands for a stream name.

import { $, STREAM_NAME, STREAM_NAME_MAX, addCopyButtons, codecWords, explainLoopback, kbps, makeTabs, seconds, show, write, writeUrl } from './ui.js';

/** Interval at which the list of streams is read while the page is visible. */
const POLL_MS = 2_000;
/** Silence of a publisher that is worth a line. */
const SILENT_MS = 3_000;

const name = $('name');
const RULE = [...$('name-help').childNodes];

/** What is wrong with a stream name; empty if nothing is. */
function problemWith(stream) {
  if (STREAM_NAME.test(stream)) return '';
  if (!stream) return 'Type a name first: letters, digits and . _ ~ -';
  if (/^\.{1,2}$/.test(stream)) return 'A name is more than one or two dots.';
  const wrong = [...new Set(stream.match(/[^A-Za-z0-9._~-]/gu))].map((char) => (/\s/.test(char) ? 'a space' : char));
  if (!wrong.length) return `A name has at most ${STREAM_NAME_MAX} characters; this one has ${stream.length}.`;
  return `A name has only letters (A to Z), digits and . _ ~ - and not ${wrong.slice(0, 5).join(' or ')}.`;
}

/** Says what is wrong with the name, or the rule; the links lead nowhere while it is wrong. */
function showProblem(problem) {
  const help = $('name-help');
  name.setAttribute('aria-invalid', String(Boolean(problem)));
  if (problem) write(help, problem);
  else if (help.classList.contains('wrong')) help.replaceChildren(...RULE);
  help.classList.toggle('wrong', Boolean(problem));
  for (const link of [$('go-publish'), $('go-watch')]) link.setAttribute('aria-disabled', String(Boolean(problem)));
}

/** Goes to a page of the stream, or to the field if there cannot be such a page. */
function go(event) {
  if (!problemWith(name.value.trim())) return;
  event.preventDefault();
  name.focus();
}

function showCommands() {
  const stream = name.value.trim();
  const problem = problemWith(stream);
  showProblem(problem);
  if (problem) return;

  const origin = location.origin;
  const whip = `${origin}/whip/${stream}`;
  const whep = `${origin}/whep/${stream}`;
  const watch = `${origin}/watch/${stream}`;
  $('go-publish').href = `/publish/${stream}`;
  $('go-watch').href = `/watch/${stream}`;
  writeUrl($('whip-url'), whip);
  writeUrl($('whep-url'), whep);
  writeUrl($('watch-url'), watch);
  for (const element of document.querySelectorAll('[data-whip]')) writeUrl(element, whip);

  // The README has the same commands.
  write($('ffmpeg-command'), [
    'ffmpeg -re -f lavfi -i testsrc=size=1280x720:rate=30 \\',
    '  -f lavfi -i sine=frequency=440 \\',
    '  -c:v libx264 -profile:v baseline -pix_fmt yuv420p \\',
    '  -preset veryfast -tune zerolatency -bf 0 -g 60 -b:v 2M \\',
    '  -c:a libopus -ar 48000 -ac 2 \\',
    `  -f whip ${whip}`,
  ].join('\n'));
  write($('gst-command'), [
    'gst-launch-1.0 whipclientsink name=out \\',
    `  signaller::whip-endpoint=${whip} \\`,
    '  videotestsrc is-live=true ! video/x-raw,width=1280,height=720 \\',
    '  ! videoconvert ! queue ! out.video_0 \\',
    '  audiotestsrc is-live=true ! audioconvert ! queue ! out.audio_0',
  ].join('\n'));
  write($('js-publish'), [
    `import { publish } from '${origin}/weir.js';`,
    '',
    'const media = await navigator.mediaDevices',
    '  .getUserMedia({ audio: true, video: true });',
    `const session = publish('${whip}', media);`,
    '// session.close() ends it',
  ].join('\n'));
  write($('js-watch'), [
    `import { watch } from '${origin}/weir.js';`,
    '',
    `watch('${whep}',`,
    "  document.querySelector('video'));",
  ].join('\n'));
  write($('embed-code'), `<iframe src="${watch}" width="640" height="360"\n  allow="autoplay; fullscreen"></iframe>`);
  write($('gst-play'), [
    'gst-launch-1.0 whepclientsrc name=in \\',
    `  signaller::whep-endpoint=${whep} \\`,
    '  in.video_0 ! queue ! decodebin ! videoconvert ! autovideosink \\',
    '  in.audio_0 ! queue ! decodebin ! audioconvert ! autoaudiosink',
  ].join('\n'));
}

/** Whether this listener serves the list of streams; the server leaves a mark in the page where it does not. */
let hasList = document.body.dataset.list !== 'none';

async function poll() {
  if (!hasList) return withoutList();
  if (document.visibilityState === 'visible') await readStreams();
  setTimeout(poll, POLL_MS);
}

async function readStreams() {
  let response;
  try {
    response = await fetch('/api/v1/streams', { cache: 'no-store' });
  } catch {
    return say('failed', 'Server not reachable', 'The server does not answer. This page keeps asking.');
  }
  if (response.status === 401 || response.status === 403) {
    hasList = false;
    return withoutList();
  }
  if (!response.ok) return say('failed', 'Running with errors', `The list of streams answers HTTP ${response.status}.`);
  const body = await response.json();
  const streams = Array.isArray(body) ? body : (body.streams ?? []);
  if (!Array.isArray(body) && body.version) write($('version'), `Weir ${body.version}`);
  say('live', 'Running', null);
  showStreams(streams);
}

function withoutList() {
  document.body.dataset.list = 'none';
  say('live', 'Running', 'The list of streams is for operators only. Publishing and watching work without it.');
}

function say(state, words, instead) {
  const server = $('server');
  server.dataset.state = state;
  write(server, words);
  if (instead === null) return;
  write($('live-count'), '');
  $('live').replaceChildren(paragraph(instead));
}

function showStreams(streams) {
  const live = streams.filter((stream) => stream.publisher);
  const publishers = new Set(live.map((stream) => stream.publisher.id));
  for (const id of arrivals.keys()) if (!publishers.has(id)) arrivals.delete(id);
  write($('live-count'), live.length ? String(live.length) : '');
  if (!streams.length) {
    $('live').replaceChildren(paragraph('No stream is live. Publish from this browser, or send from other software below.'));
    return;
  }
  let list = $('live').querySelector('ul');
  if (!list) {
    list = document.createElement('ul');
    list.className = 'streams';
    $('live').replaceChildren(list);
  }
  // Rows are kept by name, so that focus and hover survive each poll.
  const rows = new Map([...list.children].map((row) => [row.dataset.name, row]));
  const ordered = streams.map((stream) => {
    const row = rows.get(stream.name) ?? streamRow(stream.name);
    const count = stream.viewers ?? 0;
    write(row.querySelector('.viewers'), count === 1 ? '1 viewer' : `${count} viewers`);
    write(row.querySelector('.facts'), factsOf(stream));
    write(row.querySelector('.wrong'), wrongWith(stream));
    return row;
  });
  if (ordered.some((row, i) => list.children[i] !== row) || list.children.length !== ordered.length) {
    list.replaceChildren(...ordered);
  }
}

function streamRow(name) {
  const row = document.createElement('li');
  row.dataset.name = name;
  const link = document.createElement('a');
  link.href = `/watch/${encodeURIComponent(name)}`;
  link.textContent = name;
  const viewers = document.createElement('span');
  viewers.className = 'viewers number';
  const facts = document.createElement('span');
  facts.className = 'facts number';
  const wrong = document.createElement('span');
  wrong.className = 'wrong';
  row.append(link, viewers, facts, wrong);
  return row;
}

/** Codec, largest size and bitrate of a publisher, where they are known. */
function factsOf(stream) {
  if (!stream.publisher) return 'waiting for a publisher';
  const tracks = stream.publisher.tracks ?? [];
  const layers = tracks.flatMap((track) => track.layers ?? []);
  const sizes = layers.map((layer) => layer.resolution).filter(Boolean).sort((a, b) => b.width - a.width);
  const total = layers.reduce((sum, layer) => sum + (layer.bitrate_bps ?? 0), 0);
  return [
    codecWords(tracks.map((track) => track.codec)),
    sizes.length ? `${sizes[0].width} × ${sizes[0].height}` : '',
    total ? kbps(total / 1_000) : '',
  ].filter(Boolean).join(' · ') || 'connecting';
}

/** Packets of each publisher by its session, and when their number last changed. */
const arrivals = new Map();

/** Time for which a publisher has sent no media, in milliseconds, as far as this page has seen. */
function silence({ id, tracks = [] }) {
  const layers = tracks.flatMap((track) => track.layers ?? []);
  const packets = layers.reduce((sum, layer) => sum + (layer.packets ?? 0), 0);
  const now = performance.now();
  if (arrivals.get(id)?.packets !== packets) arrivals.set(id, { packets, at: now });
  return now - arrivals.get(id).at;
}

/** Silence of a client that is gone without a goodbye, as the server says, or of one that is there and sends no media. */
function silenceWords(publisher) {
  const mediaMs = silence(publisher);
  if (publisher.silent_s) return [`Nothing has come from the publisher for ${seconds(publisher.silent_s * 1_000)}.`];
  return mediaMs >= SILENT_MS ? [`The publisher is connected and has sent no media for ${seconds(mediaMs)}.`] : [];
}

/** What is wrong with a stream: silence of its publisher, and the warnings of the server. */
function wrongWith({ publisher }) {
  const silent = publisher?.state === 'connected' ? silenceWords(publisher) : [];
  const warnings = (publisher?.warnings ?? []).map(({ message }) => `${message[0].toUpperCase()}${message.slice(1)}.`);
  return [...silent, ...warnings].join(' ');
}

function paragraph(text) {
  const element = document.createElement('p');
  element.className = 'empty';
  element.textContent = text;
  return element;
}

/** Browsers give access to camera, microphone and screen only on https and localhost. */
function explainOrigin() {
  if (isSecureContext) return;
  const notice = $('insecure');
  write(
    notice,
    `This page came over http from ${location.hostname}, so the browser will not offer camera, ` +
      'microphone or screen here. Open it over https, or on the server itself as http://localhost. ' +
      'Watching, and sending from OBS, FFmpeg or GStreamer, work as they are.',
  );
  show(notice, true);
}

name.addEventListener('input', showCommands);
$('name-form').addEventListener('submit', (event) => {
  event.preventDefault();
  $('go-publish').click();
});
for (const link of [$('go-publish'), $('go-watch')]) link.addEventListener('click', go);
for (const list of document.querySelectorAll('[role="tablist"]')) makeTabs(list);
addCopyButtons($('announce'));
explainOrigin();
explainLoopback($('local'));
showCommands();
void poll();
