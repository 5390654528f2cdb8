// Watch page: plays a stream by WHEP, shows its state as text, reconnects by itself.
// Query: stats=1 opens the statistics, gather=full, start=fast-forward|poster|wait. A token may follow as #token=….
// Next: /weir.js (the session), quality.js (the layer preference).

import { watch } from '../weir.js';
import { QualityMenu } from './quality.js';
import { $, Sparkline, codecWords, kbps, ms, percent, seconds, show, size } from './ui.js';
import { streamName, tokenFromFragment, write, writeList } from './ui.js';

/** Interval at which the statistics are read while they are visible. */
const STATS_MS = 1_000;
/** Time for which an embedded player shows its controls after a touch or a movement of the mouse. */
const AWAKE_MS = 3_000;

const WORDS = {
  connecting: ['Connecting', ''],
  waiting: ['Waiting for the stream', 'Playback starts by itself as soon as the stream has a publisher.'],
  live: ['Live', ''],
  reconnecting: ['Reconnecting', ''],
  failed: ['Cannot play', ''],
  closed: ['Stopped', ''],
};

const stream = streamName();
const query = new URLSearchParams(location.search);
const video = $('video');
const spark = new Sparkline($('spark'));

const start = query.has('start') ? `?start=${encodeURIComponent(query.get('start'))}` : '';
const session = watch(`/whep/${encodeURIComponent(stream)}${start}`, video, {
  token: tokenFromFragment() || undefined,
  gather: query.get('gather') ?? undefined,
});

const quality = new QualityMenu(session);

/** Session of the page, for tests and for debugging. */
window.__weir = {
  get pc() { return session.pc; },
  get state() { return session.state; },
  get lastError() { return session.lastError; },
  get session() { return session; },
  stats: () => session.stats(),
};

/** Whether there was something to play; the last picture of a lost session stays. */
let everLive = false;

function showState() {
  const { state, lastError } = session;
  const [title, text] = (state === 'waiting' && waitingWords()) || (WORDS[state] ?? [state, '']);
  const still = state === 'live' && !video.paused ? stillWords() : null;
  const badge = $('state');
  badge.dataset.state = still ? 'waiting' : state;
  write(badge, still ? 'Still picture' : title);
  const lost = state === 'reconnecting' && lastError?.kind === 'network';
  write($('message-title'), lost ? 'Connection lost, reconnecting' : title);
  write($('message-text'), lastError?.message ?? text);
  if (state === 'live') everLive = true;
  const soundOnly = state === 'live' && session.soundOnly;
  if (soundOnly) {
    write($('message-title'), 'Sound only');
    write($('message-text'), warnings().find(({ code }) => code === 'unserved video')?.message ?? 'The publisher sends no picture.');
  }
  show($('message'), state !== 'live' || soundOnly);
  // Without a picture a browser shows a black box of its own size.
  video.classList.toggle('empty', !everLive || soundOnly);
  show($('again'), state === 'failed');
  show($('still'), Boolean(still));
  if (still) write($('still'), `Still picture, ${still}`);
  showControls();
}

/** Why a picture that was shown does not move; null if it does. */
function stillWords() {
  if (session.status.awaitsKeyframe) return untilKeyframe();
  return { absent: 'no video arrives now', undecoded: 'video arrives with gaps and cannot be decoded' }[session.still] ?? null;
}

/** What a viewer waits for who is connected; null if there is nothing to say of it. */
function waitingWords() {
  const { status, layers, undecodable, interrupted, lastError, pc } = session;
  if (lastError || pc?.connectionState !== 'connected') return null;
  if (status.publishing === false) return ['The stream has stopped', 'Playback goes on by itself as soon as a publisher is back.'];
  if (undecodable) return ['No picture', 'Video arrives, and this browser cannot decode it.'];
  if (interrupted) return ['Waiting for the publisher', 'Nothing arrives from the publisher now. Playback goes on by itself.'];
  if (status.awaitsKeyframe || layers.some((layer) => layer.bitrate)) return ['Waiting for the picture', sentence(untilKeyframe())];
  if (status.publishing) return ['Waiting for the publisher', 'The publisher is connected, and nothing arrives from it now. Playback goes on by itself.'];
  return null;
}

function untilKeyframe() {
  const every = session.status.keyframeIntervalMs;
  return `waiting for the next keyframe${every ? ` (every ${seconds(every)})` : ''}`;
}

const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

/** Warnings that the viewer has hidden, by code. */
const hidden = new Set();

/** Warnings about what the viewer asked for; the others tell the publisher what to change. */
const ABOUT_VIEWER = ['nothing_to_leave_out'];

/** What the server says is wrong, for the viewer: first of all what it does not send to this browser. */
function warnings() {
  const words = { video: 'No picture', audio: 'No sound' };
  const unserved = Object.values(session.unserved).map(({ kind, text }) => ({
    code: `unserved ${kind}`,
    message: `${words[kind] ?? kind}: ${text}.`,
  }));
  return [...unserved, ...session.status.warnings.filter(({ code }) => ABOUT_VIEWER.includes(code))];
}

/** What the publisher can mend: viewers see one line, and the rest if they want. */
const publisherWarnings = () => session.status.warnings.filter(({ code }) => !ABOUT_VIEWER.includes(code));

function showStatus() {
  const shown = (list) => list.filter(({ code }) => !hidden.has(code)).map(({ message }) => message);
  const [own, publishers] = [shown(warnings()), shown(publisherWarnings())];
  writeList($('unserved'), own);
  writeList($('at-publisher').querySelector('ul'), publishers);
  show($('at-publisher'), publishers.length > 0);
  show($('warnings'), own.length + publishers.length > 0);
  showState();
}

/** Shows the controls for what there is to play: browsers start muted, and one click turns sound on. */
function showControls() {
  const { state } = session;
  const playable = state === 'live' || (everLive && state !== 'failed' && video.readyState >= HTMLMediaElement.HAVE_CURRENT_DATA);
  const audible = playable && hasAudio();
  show($('play'), playable);
  show($('mute'), audible);
  show($('volume'), audible);
  show($('sound'), session.state === 'live' && video.muted && audible);
  write($('mute'), video.muted ? 'Unmute' : 'Mute');
}

const hasAudio = () => (video.srcObject?.getAudioTracks() ?? []).some((track) => !track.muted);

function setMuted(muted) {
  video.muted = muted;
  if (!muted && video.volume === 0) video.volume = 1;
  void video.play().catch(() => {});
}

function showPlaying() {
  write($('play'), video.paused ? 'Play' : 'Pause');
}

/** Small screens, on which the menu and the statistics would cover each other. */
const small = matchMedia('(max-width: 700px), (max-height: 660px)');

function toggleStats(visible) {
  if (visible && small.matches) quality.close();
  show($('overlay'), visible);
  $('toggle-stats').setAttribute('aria-pressed', String(visible));
  if (visible) void showStats();
}

/** Follows the layers. In a frame of another page it polls, because many frames would use up connections. */
function listen() {
  const embedded = window !== window.parent;
  session.listen(document.hidden ? null : embedded ? 'poll' : 'events');
}

let asleep = null;
/** Shows the controls of an embedded player for a while; they stay while it is paused. */
function wake() {
  clearTimeout(asleep);
  document.body.classList.add('awake');
  asleep = setTimeout(() => document.body.classList.toggle('awake', video.paused), AWAKE_MS);
}

function showViewers() {
  const { viewers } = session;
  write($('viewers'), viewers == null ? '' : viewers === 1 ? '1 viewer' : `${viewers} viewers`);
}

let statsTimer = null;
async function showStats() {
  clearTimeout(statsTimer);
  if ($('overlay').hidden) return;
  const digest = await session.stats().catch(() => null);
  const picture = digest?.video[0];
  const sound = digest?.audio[0];
  const rate = digest ? (picture?.kbps ?? 0) + (sound?.kbps ?? 0) : null;
  write($('s-size'), picture?.width ? `${size(picture)} at ${Math.round(picture.fps ?? 0)} fps` : '–');
  write($('s-layer'), quality.words());
  write($('s-codec'), codecWords([picture?.codec, sound?.codec]) || '–');
  write($('s-rate'), kbps(rate));
  write($('s-buffer'), ms((picture ?? sound)?.bufferMs));
  write($('s-rtt'), ms(digest?.rttMs));
  write($('s-loss'), percent((picture ?? sound)?.lossPct));
  write($('s-frames'), picture ? `${picture.frames ?? 0} shown, ${picture.dropped ?? 0} dropped` : '–');
  write($('s-freezes'), picture?.freezes == null ? '–' : String(picture.freezes));
  write($('s-startup'), ms(session.startupMs));
  write($('s-path'), digest?.path ?? '–');
  spark.push(rate);
  statsTimer = setTimeout(showStats, STATS_MS);
}

async function toggleFullscreen() {
  // iPhones have only the video element's own full screen.
  if (document.fullscreenElement) return document.exitFullscreen();
  if (document.documentElement.requestFullscreen) return document.documentElement.requestFullscreen();
  video.webkitEnterFullscreen?.();
}

write($('stream-name'), stream);
document.title = `${stream} – Weir`;
document.body.classList.toggle('embedded', window !== window.parent);
show($('fullscreen'), document.fullscreenEnabled || 'webkitEnterFullscreen' in video);
show($('pip'), Boolean(document.pictureInPictureEnabled));

session.addEventListener('state', showState);
session.addEventListener('viewers', showViewers);
for (const news of ['status', 'unserved']) session.addEventListener(news, showStatus);
session.addEventListener('layers', showState);
document.addEventListener('visibilitychange', listen);
$('again').addEventListener('click', () => session.retryNow());
$('sound').addEventListener('click', () => setMuted(false));
$('mute').addEventListener('click', () => setMuted(!video.muted));
$('volume').addEventListener('input', () => {
  video.volume = Number($('volume').value);
  video.muted = video.volume === 0;
});
$('play').addEventListener('click', () => (video.paused ? video.play().catch(() => {}) : video.pause()));
$('toggle-quality').addEventListener('click', () => small.matches && toggleStats(false));
$('toggle-stats').addEventListener('click', () => toggleStats($('overlay').hidden));
$('fullscreen').addEventListener('click', () => void toggleFullscreen().catch(() => {}));
$('pip').addEventListener('click', () => {
  const change = document.pictureInPictureElement ? document.exitPictureInPicture() : video.requestPictureInPicture();
  void change.catch(() => {});
});
video.addEventListener('volumechange', showControls);
for (const change of ['play', 'pause']) {
  video.addEventListener(change, showPlaying);
  video.addEventListener(change, showState);
}
// Audio may start after video, and no other event reports it.
video.addEventListener('timeupdate', showControls);

$('warnings').querySelector('button').addEventListener('click', () => {
  for (const { code } of [...warnings(), ...publisherWarnings()]) hidden.add(code);
  showStatus();
});
for (const sign of ['pointermove', 'pointerdown', 'keydown']) addEventListener(sign, wake);
video.addEventListener('pause', wake);

listen();
toggleStats(query.get('stats') === '1');
showState();
showPlaying();
