// Chromium publishes, Chromium watches: every codec, an early and a late viewer, simulcast, layers inside AV1, a viewer
// that cannot decode what it gets, stereo, and codecs that only one side has.

import { sleep, until } from '../lib/check.mjs';
import { counters, decodes, keepSize, keyframeRequests, launch, listen, live, publishUrl, waiting, watchUrl } from '../lib/chromium.mjs';
import { Delivery, endVideo, framesEncoded, judge } from '../lib/delivery.mjs';

/** Software encoders of VP9 and AV1 need the lower frame rate on slow machines. */
const CODECS = [
  { codec: 'VP8', fps: '30' },
  { codec: 'H264', fps: '30' },
  { codec: 'VP9', fps: '20' },
  { codec: 'AV1', fps: '20' },
];
const WINDOW_MS = 20_000;
const LATE_MS = 5_000;
const SIMULCAST_WINDOW_MS = 30_000;
/** While nobody comes or goes, a layer is asked for a keyframe at most so often. */
const REQUEST_EVERY_MS = 2_000;
/** The encoder ramps up to full size in this time, also on a slow machine. */
const FULL_SIZE_TIMEOUT_MS = 60_000;

export async function run({ server, checks }) {
  const chromium = await launch();
  checks.note(`Chromium ${chromium.version()}`);
  for (const { codec, fps } of CODECS) await oneCodec(server, checks, chromium, codec, fps);
  await simulcast(server, checks, chromium);
  await svc(server, checks, chromium);
  await stereo(server, checks, chromium);
  await otherSound(server, checks, chromium);
  await otherPicture(server, checks, chromium);
  await chromium.close();
}

async function oneCodec(server, checks, chromium, codec, fps) {
  const stream = codec.toLowerCase();
  // The early viewer is there before the publisher (whip-whep G6).
  const early = await chromium.page(watchUrl(server, stream));
  await waiting(early);
  const publisher = await chromium.page(publishUrl(server, stream, { codec, fps }));
  await live(publisher);
  await keepSize(publisher);
  await live(early);
  await sleep(LATE_MS);
  const late = await chromium.page(watchUrl(server, stream));
  await live(late);
  for (const page of [early, late]) {
    await listen(page);
    await fullSize(page, 640, 360);
  }
  // The late viewer's own start is not part of the window.
  await sleep(2_000);

  const delivery = await Delivery.begin(server, [early, late], framesEncoded(publisher));
  await steady(checks, codec, publisher, WINDOW_MS);
  await endVideo(publisher);
  const delivered = await delivery.end();
  for (const [i, who] of ['early viewer', 'late viewer'].entries()) {
    const startup = await [early, late][i].evaluate(() => __weir.session.startupMs);
    judge(checks, `${codec}, ${who}`, delivered[i]);
    checks.note(`${codec}, ${who}: first picture ${startup} ms after the POST, ${delivered[i].reading.freezes} freezes in all`);
  }
  checks.equal(`${codec}: what the viewer decodes`, delivered[0].reading.codec, codec);
  for (const page of [publisher, early, late]) {
    if (page.problems.length) checks.check(`${codec}: no script error`, false, page.problems[0]);
    await page.context().close();
  }
}

/** Lets time pass in which nobody comes, goes or changes anything: how often was each layer asked for a keyframe? */
async function steady(checks, what, publisher, ms) {
  const before = await keyframeRequests(publisher);
  await sleep(ms);
  const after = await keyframeRequests(publisher);
  const asked = Object.entries(after).map(([rid, count]) => [rid, count - (before[rid] ?? 0)]);
  checks.check(`${what}: keyframe requests in ${ms / 1_000} s are at most one per layer in ${REQUEST_EVERY_MS / 1_000} s`,
    asked.every(([, count]) => count <= ms / REQUEST_EVERY_MS), asked.map(([rid, count]) => `${rid} ${count}`.trim()).join(', '));
}

async function fullSize(page, width, height) {
  let seen;
  await until(`${width}x${height}`, async () => {
    seen = await counters(page);
    return seen.width >= width && seen.height >= height;
  }, FULL_SIZE_TIMEOUT_MS).catch((error) => {
    throw new Error(`${error.message} (${seen?.width}x${seen?.height}, ${seen?.framesDecoded} frames)`);
  });
}

async function simulcast(server, checks, chromium) {
  const publisher = await chromium.page(
    publishUrl(server, 'layers', { codec: 'VP8', simulcast: '1', width: '1280', height: '720', fps: '20' }));
  await live(publisher);
  await keepSize(publisher);
  const layers = await until('three layers', async () => {
    const { layers } = await counters(publisher);
    return layers === 3 && layers;
  }, FULL_SIZE_TIMEOUT_MS);
  checks.equal('simulcast: layers that the publisher encodes', layers, 3);
  const viewer = await chromium.page(watchUrl(server, 'layers'));
  await live(viewer);
  await listen(viewer);
  await fullSize(viewer, 1280, 720);
  // Every layer has its viewer.
  const others = [];
  for (const rid of ['m', 'l']) {
    const other = await chromium.page(watchUrl(server, 'layers'));
    await live(other);
    await other.evaluate((rid) => __weir.session.selectLayer({ rid }), rid);
    others.push(other);
  }
  await sleep(2_000);
  const delivery = await Delivery.begin(server, [viewer], framesEncoded(publisher));
  await steady(checks, 'simulcast', publisher, SIMULCAST_WINDOW_MS);
  await endVideo(publisher);
  judge(checks, 'simulcast, viewer', (await delivery.end())[0]);
  const info = await server.stream('layers');
  const rids = info?.publisher?.tracks.flatMap((track) => track.layers.map((layer) => layer.rid)).filter(Boolean);
  checks.equal('simulcast: rids in the API', rids?.sort().join(' '), 'h l m');
  for (const page of [publisher, viewer, ...others]) await page.context().close();
}

/** Spatial layers inside one AV1 encoding: a decoder needs the dependency descriptor, which browsers offer only if asked. */
async function svc(server, checks, chromium) {
  const what = 'AV1 L3T3_KEY';
  const publisher = await chromium.page(
    publishUrl(server, 'svc', { codec: 'AV1', svc: 'L3T3_KEY', width: '1280', height: '720', fps: '15' }));
  await live(publisher);
  const viewer = await chromium.page(watchUrl(server, 'svc'));
  await live(viewer);
  checks.check(`${what}: the viewer decodes it`, await decodes(viewer, 30), `${(await counters(viewer)).framesDecoded} frames`);
  await viewer.context().close();

  // A viewer that does not ask gets packets and no picture.
  const blind = await chromium.page(null);
  await blind.addInitScript(() => {
    RTCRtpTransceiver.prototype.setHeaderExtensionsToNegotiate = () => {};
    addEventListener('DOMContentLoaded', () => {
      setInterval(() => {
        window.__wasLive ||= window.__weir?.state === 'live';
      }, 20);
    });
  });
  await blind.goto(watchUrl(server, 'svc'));
  const got = await until('video packets', () => blind.evaluate(async () => {
    const stats = [...(await __weir.pc?.getStats() ?? new Map()).values()];
    const video = stats.find((stat) => stat.type === 'inbound-rtp' && stat.kind === 'video');
    return video?.packetsReceived > 100 && { packets: video.packetsReceived, frames: video.framesDecoded };
  }));
  const [wasLive, title] = await blind.evaluate(() => [window.__wasLive, document.getElementById('message-title').textContent]);
  checks.check(`${what}, undecodable: the page is not live without a picture`, got.frames === 0 && !wasLive,
    `${got.packets} packets, ${got.frames} frames, "${title}"`);
  for (const page of [publisher, blind]) await page.context().close();
}

/** A tone on the left, silence on the right: both channels reach the player (whip-whep C44). */
async function stereo(server, checks, chromium) {
  const publisher = await chromium.page(`${server.url}/`);
  await publisher.evaluate(async (url) => {
    const { publish } = await import('/weir.js');
    const context = new AudioContext();
    const tone = new OscillatorNode(context, { frequency: 440 });
    const channels = new ChannelMergerNode(context, { numberOfInputs: 2 });
    const out = new MediaStreamAudioDestinationNode(context, { channelCount: 2 });
    tone.connect(channels, 0, 0).connect(out);
    tone.start();
    window.__stereo = { context, session: publish(url, out.stream) };
  }, server.whip('stereo'));
  const viewer = await chromium.page(`${server.url}/`);
  await viewer.evaluate(async (url) => {
    const { watch } = await import('/weir.js');
    const video = document.createElement('video');
    document.body.prepend(video);
    const session = watch(url, video);
    const context = new AudioContext();
    const analysers = [new AnalyserNode(context), new AnalyserNode(context)];
    let heard = null;
    const rms = (analyser) => {
      const samples = new Float32Array(analyser.fftSize);
      analyser.getFloatTimeDomainData(samples);
      return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length);
    };
    window.__levels = () => {
      if (video.srcObject?.getAudioTracks().length && heard !== video.srcObject) {
        heard = video.srcObject;
        const split = new ChannelSplitterNode(context, { numberOfOutputs: 2 });
        context.createMediaStreamSource(heard).connect(split);
        analysers.forEach((analyser, channel) => split.connect(analyser, channel));
      }
      return analysers.map(rms);
    };
    window.__stereo = { session };
  }, server.whep('stereo'));
  const levels = () => viewer.evaluate(() => __levels());
  await until('a tone on the left', async () => (await levels())[0] > 0.05);
  // The first packets may still be those of a decoder that fades in.
  await sleep(1_000);
  const [left, right] = await levels();
  checks.check('stereo: the left channel alone has the tone', left > 0.1 && right < left / 20, `left ${left.toFixed(3)}, right ${right.toFixed(3)}`);
  for (const page of [publisher, viewer]) await page.context().close();
}

/** A page at `url` that offers one audio codec only. */
async function withAudioCodec(chromium, url, name) {
  const page = await chromium.page(null);
  await page.addInitScript((name) => {
    const add = RTCPeerConnection.prototype.addTransceiver;
    RTCPeerConnection.prototype.addTransceiver = function addTransceiver(what, init) {
      const transceiver = add.call(this, what, init);
      if ((what.kind ?? what) === 'audio') {
        const codecs = RTCRtpReceiver.getCapabilities('audio').codecs.filter(({ mimeType }) => mimeType.toUpperCase() === `AUDIO/${name}`);
        transceiver.setCodecPreferences(codecs);
      }
      return transceiver;
    };
  }, name);
  await page.goto(url);
  return page;
}

/** The publisher sends PCMU, which the viewer does not offer: the picture plays, and the API says why there is no sound. */
async function otherSound(server, checks, chromium) {
  const publisher = await withAudioCodec(chromium, publishUrl(server, 'sound', { codec: 'VP8' }), 'PCMU');
  await live(publisher);
  const viewer = await withAudioCodec(chromium, watchUrl(server, 'sound'), 'OPUS');
  await live(viewer);
  const { framesDecoded } = await counters(viewer);
  checks.check('a viewer without the codec of the sound sees the picture', framesDecoded > 0, `${framesDecoded} frames`);
  const [id] = (await server.stream('sound')).viewer_ids;
  const { tracks } = await server.api(`/api/v1/sessions/${id}`);
  const audio = tracks.find((track) => track.kind === 'audio');
  checks.check('the API says why it hears nothing', audio?.reason === 'codec_not_negotiated' && /PCMU/.test(audio?.reason_text), audio?.reason_text);
  for (const page of [publisher, viewer]) await page.context().close();
}

/** The publisher returns with another codec: a viewer that joined while the first one was live goes on in its session. */
async function otherPicture(server, checks, chromium) {
  const first = await chromium.page(publishUrl(server, 'picture', { codec: 'VP8' }));
  await live(first);
  const viewer = await chromium.page(watchUrl(server, 'picture'));
  await live(viewer);
  const ids = async () => (await server.stream('picture')).viewer_ids.join(' ');
  const before = await ids();
  await first.context().close();
  const second = await chromium.page(publishUrl(server, 'picture', { codec: 'VP9', fps: '20' }));
  await live(second);
  await until('VP9', async () => (await counters(viewer)).codec === 'VP9', FULL_SIZE_TIMEOUT_MS).catch(() => {});
  const { codec } = await counters(viewer);
  checks.equal('the publisher returns with VP9: what the viewer decodes', codec, 'VP9');
  checks.equal('the publisher returns with VP9: the viewer has its session still', await ids(), before);
  for (const page of [second, viewer]) await page.context().close();
}
