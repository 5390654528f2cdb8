// Publish page: captures camera, screen or test card, sends it by WHIP, shows statistics, records here.
// Query for automation: video=camera|screen|test|none, audio=0|1, codec, simulcast=1, width, height,
// fps, bitrate (kbit/s), svc (scalability mode), gather=full, autostart=1. A token may follow as #token=….
// Next: /weir.js (the session), testcard.js.

import { publish, sendableVideoCodecs, simulcastRids } from '../weir.js';
import { $, Sparkline, addCopyButtons, clock, codecWords, explainLoopback, kbps, ms, percent, show, showList } from './ui.js';
import { size, streamName, tokenFromFragment, write, writeUrl } from './ui.js';
import { testCard } from './testcard.js';

/** Interval at which the statistics are read. */
const STATS_MS = 1_000;
/** Interval at which the server is asked for viewers and warnings. */
const SERVER_MS = 3_000;

const WORDS = {
  idle: 'Not live',
  preview: 'Preview, not live',
  preparing: 'Preparing',
  connecting: 'Connecting',
  live: 'Live',
  reconnecting: 'Reconnecting',
  failed: 'Not live',
  ended: 'Ended by the server',
};

const stream = streamName();
const query = new URLSearchParams(location.search);
const preview = $('preview');
const spark = new Sparkline($('spark'));
const layerRows = new Map();

let session = null;
let source = null; // {stream, stop()} of the media that is sent or previewed
let previewed = ''; // settings of a source that is previewed, as text
let recorder = null;
let state = 'idle';
let problem = null;
let liveSince = 0;
let wakeLock = null;

/** Session of the page, for tests and for debugging. */
window.__weir = {
  get pc() { return session?.pc ?? null; },
  get state() { return state; },
  get lastError() { return problem; },
  get session() { return session; },
  stats: async () => (session ? session.stats() : null),
};

const chosen = (group) => document.querySelector(`input[name="${group}"]:checked`).value;

/** Settings of the form, with those that only the query has. */
function settings() {
  const [width, height] = $('size').value.split('x').map(Number);
  return {
    video: chosen('video'),
    camera: $('camera').value,
    microphone: $('microphone').value,
    width,
    height,
    fps: Number($('fps').value),
    codec: $('codec').value || undefined,
    maxKbps: Number($('bitrate').value) || undefined,
    simulcast: $('simulcast').checked,
    token: $('token').value || undefined,
    scalabilityMode: query.get('svc') ?? undefined,
    gather: query.get('gather') ?? undefined,
  };
}

/** Opens the chosen devices and shows the picture; true if there is something to send. */
async function openSource(chosen) {
  become('preparing', null);
  try {
    source = await capture(chosen);
  } catch (error) {
    source = null;
    become('failed', error);
    return false;
  }
  if (!source.stream.getTracks().length) {
    source = null;
    become('failed', new Error('Choose a picture, a microphone, or both.'));
    return false;
  }
  showPreview(chosen);
  watchForEnd(source);
  void listDevices();
  return true;
}

const captureKey = ({ video, camera, microphone, width, height, fps }) => [video, camera, microphone, width, height, fps].join();

/** Shows what would be sent, or ends that. */
async function togglePreview() {
  if (session) return;
  if (source) return stopSending();
  const chosen = settings();
  if (!(await openSource(chosen))) return;
  previewed = captureKey(chosen);
  become('preview', null);
}

/** Settings that changed during a preview show in it. */
async function renewPreview() {
  if (session || !source || state !== 'preview') return;
  const chosen = settings();
  if (captureKey(chosen) === previewed) return;
  source.stop();
  source = null;
  previewed = captureKey(chosen);
  if (await openSource(chosen)) become('preview', null);
}

async function goLive() {
  if (session || state === 'preparing') return;
  const chosen = settings();
  if (!source && !(await openSource(chosen))) return;
  session = publish(`/whip/${encodeURIComponent(stream)}`, source.stream, {
    codec: chosen.codec,
    simulcast: chosen.simulcast,
    scalabilityMode: chosen.scalabilityMode,
    maxKbps: chosen.maxKbps,
    token: chosen.token,
    gather: chosen.gather,
  });
  session.addEventListener('state', followSession);
  followSession();
  void showStats();
  void askServer();
  void keepAwake();
}

function followSession() {
  if (!session) return;
  if (session.state === 'failed' || session.state === 'ended') {
    const { state: last, lastError } = session;
    return stopSending(last, lastError);
  }
  if (session.state === 'live' && !liveSince) liveSince = performance.now();
  become(session.state, session.lastError);
}

function stopSending(next = 'idle', error = null) {
  recorder?.stop();
  session?.removeEventListener('state', followSession);
  session?.close();
  session = null;
  source?.stop();
  source = null;
  liveSince = 0;
  previewed = '';
  setMuted(false);
  write($('elapsed'), '');
  write($('viewers'), '');
  spark.clear();
  for (const row of layerRows.values()) row.element.remove();
  layerRows.clear();
  showList($('warnings'), []);
  void wakeLock?.release().catch(() => {});
  wakeLock = null;
  preview.srcObject = null;
  become(next, error);
}

/** Opens the chosen devices. The text of an error is for people. */
async function capture(chosen) {
  const sound = chosen.microphone !== 'none';
  if (chosen.video === 'test') {
    return testCard({ width: chosen.width, height: chosen.height, fps: chosen.fps, sound, label: stream });
  }
  if (!navigator.mediaDevices) {
    throw new Error(
      'The browser offers camera, microphone and screen only on https and localhost, and this page came ' +
        `over http from ${location.hostname}. The test card works here.`,
    );
  }
  const size = { width: { ideal: chosen.width }, height: { ideal: chosen.height }, frameRate: { ideal: chosen.fps } };
  const audio = sound && (chosen.microphone ? { deviceId: { exact: chosen.microphone } } : true);
  try {
    if (chosen.video === 'screen') return await captureScreen(size, audio);
    const video = chosen.video === 'camera' && { ...size, ...(chosen.camera && { deviceId: { exact: chosen.camera } }) };
    if (!video && !audio) return asSource(new MediaStream());
    return asSource(await navigator.mediaDevices.getUserMedia({ audio, video }));
  } catch (error) {
    throw new Error(captureProblem(error, chosen));
  }
}

async function captureScreen(size, audio) {
  const screen = await navigator.mediaDevices.getDisplayMedia({ video: size, audio: Boolean(audio) });
  for (const track of screen.getVideoTracks()) track.contentHint = 'detail';
  // Audio of the shared tab if the user shared it, else the microphone.
  if (audio && !screen.getAudioTracks().length) {
    const microphone = await navigator.mediaDevices.getUserMedia({ audio }).catch(() => null);
    for (const track of microphone?.getTracks() ?? []) screen.addTrack(track);
  }
  return asSource(screen);
}

function asSource(stream) {
  return { stream, stop: () => stream.getTracks().forEach((track) => track.stop()) };
}

function captureProblem(error, chosen) {
  const what = chosen.video === 'screen' ? 'the screen' : chosen.video === 'none' ? 'the microphone' : 'camera and microphone';
  switch (error.name) {
    case 'NotAllowedError':
      return `The browser was not allowed to use ${what}. Allow it in the address bar, then go live again.`;
    case 'NotFoundError':
      return `No matching device was found for ${what}. Connect one, or choose the test card or "No sound".`;
    case 'NotReadableError':
      return `The device was found but does not answer. Another program may be using ${what}.`;
    case 'OverconstrainedError':
      return 'The chosen device was removed or does not support these settings. Choose another one.';
    default:
      return `The browser could not open ${what}: ${error.message}`;
  }
}

/** Stops when a source ends: a screen share ended in the browser's own bar, or an unplugged camera. */
function watchForEnd(current) {
  for (const track of current.stream.getTracks()) {
    track.addEventListener('ended', () => {
      if (source !== current) return;
      const gone = track.kind === 'audio' ? 'microphone' : 'picture source';
      stopSending('failed', new Error(`The ${gone} ended.`));
    });
  }
}

/** Replaces a device while live, in the same session. */
async function switchDevices() {
  if (!session || !source) return;
  const chosen = settings();
  let next;
  try {
    next = await capture(chosen);
  } catch (error) {
    return become(state, error);
  }
  const old = source;
  source = next;
  await session.setMedia(next.stream);
  old.stop();
  setMuted(false);
  watchForEnd(next);
  showPreview(chosen);
}

function showPreview(chosen) {
  preview.srcObject = source.stream;
  preview.classList.toggle('mirror', chosen.video === 'camera');
  void preview.play().catch(() => {});
}

function become(next, error) {
  state = next;
  problem = error;
  const badge = $('state');
  badge.dataset.state = next === 'preparing' ? 'connecting' : next;
  write(badge, `${WORDS[next] ?? next}${isMuted() && next === 'live' ? ', sound muted' : ''}`);
  const sending = Boolean(session);
  show($('error'), Boolean(error));
  if (error) write($('error'), error.message);
  show($('start'), !sending);
  $('start').disabled = next === 'preparing';
  write($('start'), next === 'failed' || next === 'ended' ? 'Go live again' : 'Go live');
  show($('look'), !sending);
  $('look').disabled = next === 'preparing';
  write($('look'), source && !sending ? 'End preview' : 'Preview');
  show($('share'), sending);
  show($('stop'), sending);
  show($('mute'), sending && source.stream.getAudioTracks().length > 0);
  show($('record'), sending && 'MediaRecorder' in window);
  show($('stats'), sending);
  const pictured = Boolean(source?.stream.getVideoTracks().length);
  show(preview, pictured);
  show($('hint'), !pictured);
  write($('hint'), source ? 'Sound only, without a picture.' : 'Nothing is sent before you go live. Preview shows what would be.');
  for (const field of $('settings').elements) {
    const device = field.id === 'camera' || field.id === 'microphone';
    const switchable = device && ['camera', 'none'].includes(chosen('video'));
    field.disabled = (sending || next === 'preparing') && !switchable;
  }
  explainSimulcast();
  // A track cannot be removed from a running session; muting silences it.
  $('microphone').querySelector('[value="none"]').disabled = sending;
}

function setMuted(muted) {
  for (const track of source?.stream.getAudioTracks() ?? []) track.enabled = !muted;
  write($('mute'), muted ? 'Unmute' : 'Mute');
  $('mute').setAttribute('aria-pressed', String(muted));
  if (session) become(state, problem);
}

const isMuted = () => (source?.stream.getAudioTracks() ?? []).some((track) => !track.enabled);

/** Records the sent media to a file, in this browser only. */
function toggleRecording() {
  if (recorder) return recorder.stop();
  const type = ['video/mp4', 'video/webm'].find((type) => MediaRecorder.isTypeSupported(type));
  const parts = [];
  recorder = new MediaRecorder(source.stream, type ? { mimeType: type } : {});
  recorder.addEventListener('dataavailable', ({ data }) => parts.push(data));
  recorder.addEventListener('stop', () => {
    const file = new Blob(parts, { type: recorder.mimeType });
    const link = $('download');
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(file);
    const ending = file.type.includes('mp4') ? 'mp4' : 'webm';
    link.download = `${stream}-${new Date().toISOString().slice(0, 19).replaceAll(':', '-')}.${ending}`;
    write(link, `Save recording (${(file.size / 1e6).toFixed(1)} MB)`);
    show(link, true);
    recorder = null;
    showRecording();
  });
  recorder.start(1_000);
  showRecording();
}

function showRecording() {
  write($('record'), recorder ? 'Stop recording' : 'Record');
}

/** Shows how many watch, and what the server says is wrong with the stream. */
async function askServer() {
  const current = session;
  if (!current) return;
  const told = current.state === 'live' ? await current.serverStats() : null;
  if (session !== current) return;
  const { viewers = null, warnings = [], tracks = [] } = told ?? {};
  write($('viewers'), viewers === null ? '' : viewers === 1 ? '1 viewer' : `${viewers} viewers`);
  const unserved = tracks.map((track) => track.reason_text).filter(Boolean);
  showList($('warnings'), [...warnings.map(({ message }) => message), ...unserved]);
  setTimeout(askServer, SERVER_MS);
}

async function showStats() {
  const current = session;
  if (!current) return;
  const digest = await current.stats().catch(() => null);
  if (session !== current) return;
  if (digest) drawStats(digest, current);
  write($('elapsed'), liveSince ? clock((performance.now() - liveSince) / 1_000) : '');
  setTimeout(showStats, STATS_MS);
}

function drawStats(digest, current) {
  const lines = [...digest.video, ...digest.audio];
  const sum = (name) => lines.reduce((total, line) => total + (line[name] ?? 0), 0);
  const losses = lines.map((line) => line.lossPct).filter((value) => value != null);
  write($('m-rate'), kbps(sum('kbps')));
  write($('m-rtt'), ms(digest.rttMs));
  write($('m-loss'), losses.length ? percent(Math.max(...losses)) : '–');
  write($('m-codec'), codecWords([digest.video[0]?.codec, digest.audio[0]?.codec]) || '–');
  write($('m-resent'), String(sum('retransmitted')));
  write($('m-startup'), ms(current.startupMs));
  write($('path'), digest.path ? `Media to ${digest.path}, ${digest.srtp ?? 'encrypted'}` : '');
  spark.push(sum('kbps'));

  const keys = new Set();
  for (const line of digest.video) {
    const key = line.rid ?? '';
    keys.add(key);
    if (!layerRows.has(key)) layerRows.set(key, addLayerRow(key));
    const row = layerRows.get(key);
    const [, sizeCell, frames, rate, limit] = row.cells;
    write(sizeCell, size(line));
    write(frames, line.fps == null ? '–' : String(Math.round(line.fps)));
    write(rate, kbps(line.kbps));
    write(limit, limitWords(line));
    row.spark.push(line.kbps);
  }
  for (const [key, row] of layerRows) {
    if (keys.has(key)) continue;
    row.element.remove();
    layerRows.delete(key);
  }
  // Sizes become known one by one; the rows follow the order of the summary.
  const ordered = [...keys].map((key) => layerRows.get(key).element);
  if (ordered.some((element, i) => element !== $('layers').rows[i])) $('layers').append(...ordered);
}

function addLayerRow(rid) {
  const element = $('layers').insertRow();
  const head = document.createElement('th');
  head.scope = 'row';
  head.textContent = { l: 'Low', m: 'Middle', h: 'High', '': 'Video' }[rid] ?? rid;
  element.append(head);
  const cells = [head];
  for (let i = 0; i < 4; i += 1) cells.push(element.insertCell());
  const canvas = document.createElement('canvas');
  canvas.setAttribute('aria-hidden', 'true');
  const overTime = element.insertCell();
  overTime.className = 'over-time';
  overTime.append(canvas);
  return { element, cells, spark: new Sparkline(canvas) };
}

function limitWords(line) {
  if (!line.active) return 'switched off';
  if (!line.frames) return 'not sent';
  return { none: 'full', bandwidth: 'lower, by the network', cpu: 'lower, by this computer', other: 'lower' }[line.limit] ?? '–';
}

async function listDevices() {
  const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
  fill($('camera'), devices.filter((device) => device.kind === 'videoinput'), 'Camera');
  fill($('microphone'), devices.filter((device) => device.kind === 'audioinput'), 'Microphone');
}

function fill(select, devices, word) {
  const before = select.value;
  for (const option of [...select.options]) if (option.value && option.value !== 'none') option.remove();
  // Without permission the ids and the labels are empty, so there is nothing to choose yet.
  devices.filter((device) => device.deviceId).forEach((device, i) => {
    select.add(new Option(device.label || `${word} ${i + 1}`, device.deviceId));
  });
  select.value = [...select.options].some((option) => option.value === before) ? before : '';
}

function listCodecs() {
  for (const name of sendableVideoCodecs()) $('codec').add(new Option(name, name));
}

function fitSettings() {
  const video = chosen('video');
  show(document.querySelector('[data-for="camera"]'), video === 'camera');
  const test = video === 'test';
  write(document.querySelector('label[for="microphone"]'), test ? 'Sound' : 'Microphone');
  write($('microphone').options[0], test ? 'A short tone each second' : 'Default microphone');
}

/** Says how many sizes the browser sends, of a picture that is shown or else of the chosen size. */
function explainSimulcast() {
  const [width, height] = $('size').value.split('x').map(Number);
  const { videoWidth, videoHeight } = preview;
  const shown = source && videoWidth ? { width: videoWidth, height: videoHeight } : { width, height };
  const sizes = simulcastRids(shown).map((rid, i) => `${Math.floor(Math.min(shown.width, shown.height) / 2 ** i)}p`);
  write($('simulcast-help'), sizes.length < 2
    ? `The browser sends one size only of a picture as small as ${sizes[0]}.`
    : `Sends ${sizes.slice(0, -1).join(', ')} and ${sizes.at(-1)}. Each viewer gets the largest, and can choose a smaller one.`);
}

/** Keeps the screen on: when it is off, phones stop the camera. */
async function keepAwake() {
  wakeLock = (await navigator.wakeLock?.request('screen').catch(() => null)) ?? null;
}

/** Sets the form from the query; a value that the form does not have is added as an option. */
function applyQuery() {
  const choose = (select, value, label = value) => {
    if (value == null) return;
    if (![...select.options].some((option) => option.value === value)) select.add(new Option(label, value));
    select.value = value;
  };
  const video = query.get('video');
  const radio = video && document.querySelector(`input[name="video"][value="${CSS.escape(video)}"]`);
  if (radio) radio.checked = true;
  if (query.get('audio') === '0') $('microphone').value = 'none';
  if (query.has('width') && query.has('height')) {
    choose($('size'), `${Number(query.get('width'))}x${Number(query.get('height'))}`);
  }
  choose($('fps'), query.get('fps'), `${Number(query.get('fps'))} fps`);
  const codec = query.get('codec');
  const known = sendableVideoCodecs().find((name) => name.toUpperCase() === codec?.toUpperCase());
  choose($('codec'), codec ? (known ?? codec) : null);
  choose($('bitrate'), query.get('bitrate'), kbps(Number(query.get('bitrate'))));
  $('simulcast').checked = query.get('simulcast') === '1';
  $('token').value = tokenFromFragment();
}

write($('stream-name'), stream);
document.title = `Publish ${stream} – Weir`;
$('watch-link').href = `/watch/${encodeURIComponent(stream)}`;
writeUrl($('watch-url'), $('watch-link').href);
explainLoopback($('local'));
addCopyButtons($('announce'));
$('start').addEventListener('click', goLive);
$('look').addEventListener('click', togglePreview);
$('stop').addEventListener('click', () => stopSending());
$('mute').addEventListener('click', () => setMuted(source.stream.getAudioTracks()[0].enabled));
$('record').addEventListener('click', toggleRecording);
$('camera').addEventListener('change', switchDevices);
$('microphone').addEventListener('change', switchDevices);
$('settings').addEventListener('change', renewPreview);
$('settings').addEventListener('change', explainSimulcast);
preview.addEventListener('resize', explainSimulcast);
$('settings').addEventListener('submit', (event) => event.preventDefault());
for (const radio of document.querySelectorAll('input[name="video"]')) radio.addEventListener('change', fitSettings);
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible' && session) void keepAwake();
});
navigator.mediaDevices?.addEventListener?.('devicechange', listDevices);

listCodecs();
applyQuery();
fitSettings();
void listDevices();
become('idle', null);
if (query.get('autostart') === '1') void goLive();
