// GStreamer: publishes by a pipeline, and views by one whose decoded pictures and sound are counted. The Rust elements
// are those that step "gstreamer" of .ci/test builds; GST_PLUGIN_PATH names their folder.

import fs from 'node:fs';
import path from 'node:path';
import { spawnSync } from 'node:child_process';
import { signal, startLogged } from './child.mjs';
import { shell } from './readme.mjs';
import { OUT } from './server.mjs';

/** A decoded picture as it is written down: 32 x 18 grey pixels. */
const PICTURE_BYTES = 32 * 18;
/** Bytes of a sample: 16 bits, one channel, 48,000 per second. */
const SAMPLE_BYTES = 2;
/** The log of the element that sends offers, in which they stand. */
const DEBUG = 'webrtc-whip-signaller:5,whipsink:5';

export const H264 = 'video/x-h264';
export const VP8 = 'video/x-vp8';
export const VP9 = 'video/x-vp9';

/** Version of GStreamer and of the plugin of each element; throws where an element is missing. */
export function versions(elements) {
  const launch = spawnSync('gst-launch-1.0', ['--version'], { encoding: 'utf8' });
  if (launch.status !== 0) throw new Error('gst-launch-1.0 is missing: .ci/test --only gstreamer installs it');
  const found = elements.map((element) => {
    const { status, stdout } = spawnSync('gst-inspect-1.0', [element], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`GStreamer's ${element} is missing: .ci/test --only gstreamer builds it`);
    return `${element} ${/^ +Version +(\S+)/m.exec(stdout)?.[1]}`;
  });
  return [launch.stdout.match(/GStreamer [\d.]+/)[0], ...found].join(', ');
}

/** Starts a pipeline; `log` of what is returned holds all that it said. */
function launch(...pipeline) {
  return startLogged('gst-launch-1.0', pipeline.join(' ').split(' '), { env: { ...process.env, GST_DEBUG: DEBUG, GST_DEBUG_NO_COLOR: '1' } });
}

/** Codecs of the video section of the offer that a publisher has sent, in their order. */
export function offered(publisher) {
  const section = publisher.log.split(/m=video/)[1]?.split(/m=audio|"\)\n/)[0] ?? '';
  return [...section.matchAll(/a=rtpmap:\d+ (\w+)\//g)].map(([, name]) => name).filter((name) => !/^(rtx|red|ulpfec)$/i.test(name));
}

const picture = (frames) => `videotestsrc is-live=true num-buffers=${frames} ! video/x-raw,width=640,height=360,framerate=30/1 ! videoconvert ! queue`;
/** Buffers of 20 ms, as long as the pictures last. */
const tone = (frames) => `audiotestsrc is-live=true samplesperbuffer=960 num-buffers=${Math.round((frames / 30) * 50)} ! audio/x-raw,rate=48000 ! audioconvert ! queue`;

/** Publishes `frames` pictures with a tone by `whipclientsink`, which encodes; `caps` are the codecs it may offer. */
export function whipclientsink(url, frames, caps) {
  return launch(
    `whipclientsink name=out signaller::whip-endpoint=${url} video-caps=${caps.join(';')}`,
    `${picture(frames)} ! out.video_0 ${tone(frames)} ! out.audio_0`,
  );
}

const ENCODERS = {
  [VP8]: 'vp8enc deadline=1 cpu-used=8 keyframe-max-dist=60 target-bitrate=800000 ! rtpvp8pay ! application/x-rtp,media=video,encoding-name=VP8,payload=96',
  [H264]: 'x264enc tune=zerolatency speed-preset=ultrafast key-int-max=60 bitrate=800 ! video/x-h264,profile=constrained-baseline'
    + ' ! rtph264pay config-interval=-1 aggregate-mode=zero-latency ! application/x-rtp,media=video,encoding-name=H264,payload=96',
};

/** Publishes by `whipsink`, the older element: webrtcbin behind encoders and payloaders of the pipeline. It runs until Ctrl-C. */
export function whipsink(url, frames, codec) {
  return launch(
    `whipsink name=out whip-endpoint=${url}`,
    `${picture(frames)} ! ${ENCODERS[codec]} ! out.sink_0`,
    `${tone(frames)} ! opusenc ! rtpopuspay ! application/x-rtp,media=audio,encoding-name=OPUS,payload=97 ! out.sink_1`,
  );
}

/** What a source has to be told of the endpoint, and the names of its pads: whepsrc offers sound first. */
const SOURCES = {
  whepsrc: { endpoint: 'whep-endpoint', video: 'in.src_1', audio: 'in.src_0' },
  whepclientsrc: { endpoint: 'signaller::whep-endpoint', video: 'in.video_0', audio: 'in.audio_0' },
};

/** Views by `whepsrc` or `whepclientsrc`; what was decoded is counted. */
export function view(source, url) {
  const { endpoint, video, audio } = SOURCES[source];
  const files = decoded();
  return count(files, launch(
    `${source} name=in ${endpoint}=${url}`,
    `${video} ! queue ! decodebin ! videoconvert ! ${greyTo(files.video)}`,
    `${audio} ! queue ! decodebin ! audioconvert ! ${s16To(files.audio)}`,
  ));
}

/** Runs a viewer's command as it is written, but for window and loudspeaker: what they would get is counted. */
export function viewByCommand(command) {
  const files = decoded();
  return count(files, shell(command.replace('autovideosink', greyTo(files.video)).replace('autoaudiosink', s16To(files.audio))));
}

function decoded() {
  const folder = fs.mkdtempSync(path.join(OUT, 'gstreamer-'));
  return { video: path.join(folder, 'grey'), audio: path.join(folder, 's16') };
}

const to = (file) => `filesink sync=false async=false buffer-mode=unbuffered location=${file}`;
const s16To = (file) => `audioresample ! audio/x-raw,format=S16LE,channels=1,rate=48000 ! ${to(file)}`;
const greyTo = (file) => `videoscale ! video/x-raw,format=GRAY8,width=32,height=18 ! ${to(file)}`;

/** Gives a pipeline counters of what it has decoded. */
function count(files, child) {
  const size = (file) => fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  const bytes = (file) => (fs.existsSync(file) ? fs.readFileSync(file) : Buffer.alloc(0));
  return Object.assign(child, {
    pictures: () => Math.floor(size(files.video) / PICTURE_BYTES),
    samples: () => Math.floor(size(files.audio) / SAMPLE_BYTES),
    /** How many of the decoded pictures differ from the one before. */
    changes() {
      const all = bytes(files.video);
      const at = (n) => all.subarray(n * PICTURE_BYTES, (n + 1) * PICTURE_BYTES);
      let changed = 0;
      for (let n = 1; n < Math.floor(all.length / PICTURE_BYTES); n += 1) changed += at(n).equals(at(n - 1)) ? 0 : 1;
      return changed;
    },
    /** Root mean square of the sound, 0 to 1. */
    loudness() {
      const all = bytes(files.audio);
      const samples = Math.floor(all.length / SAMPLE_BYTES);
      let sum = 0;
      for (let n = 0; n < samples; n += 1) sum += (all.readInt16LE(n * SAMPLE_BYTES) / 32_768) ** 2;
      return Math.sqrt(sum / Math.max(1, samples));
    },
  });
}

/** Ctrl-C: the pipeline is stopped, and its session with it. */
export const interrupt = (child) => signal(child, 'SIGINT');
