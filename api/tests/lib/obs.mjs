// A stand-in for OBS: libdatachannel with OBS's settings (audio mid 0 PT 111, video mid 1 PT 96,
// H264 42e01f, no RTX, no transport-cc), zero candidates in the POST, no PATCH, a bearer header.
// Sends real H264 and Opus in real time. Called by scenarios/obs.mjs.

import nd from 'node-datachannel';
import { h264Clip, opusClip } from './ffmpeg.mjs';
import { until } from './check.mjs';

const VIDEO_FPS = 30;
const AUDIO_PACKET_MS = 20;
const CLIP_SECONDS = 10;
/** Payload bytes per RTP packet, as OBS has it. */
const FRAGMENT_BYTES = 1_200;

const clips = new Map();

/** Test clips of an encoding, cut into frames once per run. */
function media(encoding) {
  const key = JSON.stringify(encoding);
  if (!clips.has(key)) clips.set(key, { frames: accessUnits(h264Clip(CLIP_SECONDS, encoding)), packets: oggPackets(opusClip(CLIP_SECONDS)).slice(2) });
  return clips.get(key);
}

/** Splits Annex B at access unit delimiters (NAL type 9). */
function accessUnits(stream) {
  const units = [];
  let begin = -1;
  for (let at = stream.indexOf('000001', 0, 'hex'); at >= 0; at = stream.indexOf('000001', at + 3, 'hex')) {
    if ((stream[at + 3] & 0x1f) !== 9) continue;
    const start = at > 0 && stream[at - 1] === 0 ? at - 1 : at;
    if (begin >= 0) units.push(stream.subarray(begin, start));
    begin = start;
  }
  units.push(stream.subarray(begin));
  return units;
}

/** The packets of an Ogg stream; the first two are headers (RFC 7845). */
function oggPackets(file) {
  const packets = [];
  let parts = [];
  for (let at = 0; at + 27 <= file.length; ) {
    const segments = file[at + 26];
    const sizes = file.subarray(at + 27, at + 27 + segments);
    at += 27 + segments;
    for (const size of sizes) {
      parts.push(file.subarray(at, at + size));
      at += size;
      if (size === 255) continue;
      packets.push(Buffer.concat(parts));
      parts = [];
    }
  }
  return packets;
}

export class Obs {
  location = null;
  framesSent = 0;
  #pc;
  #timer;
  #videoEnded = false;
  #encoding;

  /** @param {{bFrames?: number, gop?: number}} encoding Default: as the README tells to set it. */
  constructor(encoding = {}) {
    this.#encoding = encoding;
    this.#pc = new nd.PeerConnection('obs', { iceServers: [], disableAutoNegotiation: true });
    const audio = new nd.Audio('0', 'SendOnly');
    audio.addOpusCodec(111, 'minptime=10;maxaveragebitrate=96000;stereo=1;sprop-stereo=1;useinbandfec=1');
    audio.addSSRC(1000, 'obs', 'obs-stream', 'obs-stream-audio');
    const video = new nd.Video('1', 'SendOnly');
    video.addH264Codec(96, 'profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1');
    video.addSSRC(1001, 'obs', 'obs-stream', 'obs-stream-video');
    this.audio = track(this.#pc, audio, 1000, 111, 48_000, (config) => new nd.RtpPacketizer(config));
    this.video = track(this.#pc, video, 1001, 96, 90_000, (config) => new nd.H264RtpPacketizer('StartSequence', config, FRAGMENT_BYTES));
  }

  get state() {
    return this.#pc.state();
  }

  /** POSTs the offer without candidates. Resolves with the response once the answer is set. */
  async publish(url) {
    const offer = await new Promise((done) => {
      this.#pc.onLocalDescription((sdp) => done(sdp));
      this.#pc.setLocalDescription('offer');
    });
    this.offer = offer.replaceAll(/a=(candidate:.*|end-of-candidates)\r\n/g, '');
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/sdp', Authorization: 'Bearer stream-key', 'User-Agent': 'obs' },
      body: this.offer,
    });
    const answer = await response.text();
    if (response.status === 201) {
      this.location = new URL(response.headers.get('Location'), url);
      this.#pc.setRemoteDescription(answer, 'answer');
    }
    return { status: response.status, answer };
  }

  async connected() {
    await until('libdatachannel to connect', () => this.state === 'connected', 15_000, 50);
  }

  /** Sends the clips in a loop, on time, until `close`. */
  send() {
    const { frames, packets } = media(this.#encoding);
    const startedAt = performance.now();
    let frame = 0;
    let packet = 0;
    this.#timer = setInterval(() => {
      const elapsed = performance.now() - startedAt;
      while (!this.#videoEnded && frame * 1_000 <= elapsed * VIDEO_FPS) {
        write(this.video, frame * (90_000 / VIDEO_FPS), frames[frame % frames.length]);
        frame += 1;
      }
      while (packet * AUDIO_PACKET_MS <= elapsed) {
        write(this.audio, packet * 48 * AUDIO_PACKET_MS, packets[packet % packets.length]);
        packet += 1;
      }
      this.framesSent = frame;
    }, 5);
  }

  /** Sends only sound from now on. */
  endVideo() {
    this.#videoEnded = true;
  }

  /** As OBS stops: first the PeerConnection (close_notify), the DELETE comes after. */
  closeConnection() {
    clearInterval(this.#timer);
    this.#pc.close();
  }

  async delete() {
    const response = await fetch(this.location, { method: 'DELETE', headers: { Authorization: 'Bearer stream-key' } });
    await response.arrayBuffer();
    return response.status;
  }
}

function track(pc, description, ssrc, payloadType, clock, packetizer) {
  const config = new nd.RtpPacketizationConfig(ssrc, 'obs', payloadType, clock);
  const chain = packetizer(config);
  chain.addToChain(new nd.RtcpSrReporter(config));
  chain.addToChain(new nd.RtcpNackResponder());
  const track = pc.addTrack(description);
  track.setMediaHandler(chain);
  return { track, config, base: config.timestamp };
}

function write({ track, config, base }, ticks, data) {
  if (!track.isOpen()) return;
  config.timestamp = (base + ticks) >>> 0;
  try {
    track.sendMessageBinary(data);
  } catch (error) {
    // The server may end the session between the question and the send; that is not the test's end.
    if (track.isOpen()) throw error;
  }
}
