// Delivery of a publisher's media to its viewers: how many of the frames that were sent, and which packets are missing.
// A delivery ends when the last frame has arrived, so a busy machine changes no figure: nothing is compared with a clock.
// Called by the scenarios in which media flows.

import fs from 'node:fs';
import { until } from './check.mjs';
import { counters, since } from './chromium.mjs';

/** Frames that may be missing are those of a start, and those that are counted between two readings. */
const SHARE_MIN = 0.95;
/** A decoder that cannot keep up leaves frames out, and says so; but it must do its work. */
const DECODED_MIN = 0.5;
/** Sound that comes in a burst after a browser had no CPU time overflows its jitter buffer. */
const DISCARDED_MAX = 0.05;
/** Nothing comes any more if nothing came for this long. */
const STILL_MS = 2_000;
const STILL_TIMEOUT_MS = 60_000;

export class Delivery {
  #server;
  #viewers;
  #framesSent;
  #before;

  /** Begins to count; `framesSent()` tells how many video frames the publisher has sent so far. */
  static async begin(server, viewers, framesSent) {
    const delivery = new Delivery();
    delivery.#server = server;
    delivery.#viewers = viewers;
    delivery.#framesSent = framesSent;
    delivery.#before = await delivery.#read();
    return delivery;
  }

  /** Call it once the publisher sends no more video. Waits for what is under way; one result for each viewer. */
  async end() {
    await still(this.#viewers);
    const [before, after] = [this.#before, await this.#read()];
    const drops = Math.max(0, after.drops - before.drops);
    const sent = after.sent - before.sent;
    return after.viewers.map((reading, n) => ({ sent, drops, reading, got: since(before.viewers[n], reading) }));
  }

  /** The viewers come first: a frame in between then counts as received, not as missing. */
  async #read() {
    const viewers = await Promise.all(this.#viewers.map(counters));
    return { viewers, sent: await this.#framesSent(), drops: clientDrops(this.#server) };
  }
}

/** Waits until no viewer receives or decodes another frame. */
async function still(viewers) {
  let last;
  await until('the last frame', async () => {
    const before = last;
    const readings = await Promise.all(viewers.map(counters));
    last = readings.map(({ framesReceived, framesDecoded }) => `${framesReceived} ${framesDecoded}`).join(', ');
    return last === before;
  }, STILL_TIMEOUT_MS, STILL_MS);
}

/** Frames that a publish page has encoded so far, of the largest layer. */
export const framesEncoded = (publisher) => async () => (await counters(publisher)).framesEncoded;

/** Ends the video of a publish page; its session and its sound stay. */
export function endVideo(publisher) {
  return publisher.evaluate(async () => {
    for (const sender of __weir.pc.getSenders().filter((sender) => sender.track?.kind === 'video')) {
      const parameters = sender.getParameters();
      for (const encoding of parameters.encodings) encoding.active = false;
      await sender.setParameters(parameters);
    }
  });
}

/** Datagrams that the kernel has dropped so far, because a client on this machine did not read them in time. */
export function clientDrops(server) {
  const serversPort = Number(server.media.split(':').pop());
  return ['udp', 'udp6']
    .flatMap((table) => fs.readFileSync(`/proc/net/${table}`, 'utf8').trim().split('\n').slice(1))
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local]) => parseInt(local.split(':')[1], 16) !== serversPort)
    .reduce((sum, fields) => sum + Number(fields.at(-1)), 0);
}

/** What a viewer should see and hear where no network is in the way. */
export function judge(checks, who, { sent, drops, reading, got }) {
  checks.check(`${who}: at least 95 % of the frames`, whole(sent, got, drops),
    `of ${sent} ${got.framesReceived} received, ${got.framesDecoded} decoded, ${got.framesDropped} dropped; ${reading.width}x${reading.height} ${reading.codec}`);
  checks.check(`${who}: sound arrives`, got.audioSamples > 0 && got.audioEnergy > 0,
    `${got.audioPackets} packets, ${got.audioSamples} samples, energy ${got.audioEnergy.toExponential(1)}`);
  checks.check(`${who}: no packet is missing or late`, complete(got, drops) && got.audioDiscarded <= DISCARDED_MAX * got.audioPackets,
    `lost ${got.videoLost}+${got.audioLost}, discarded ${got.audioDiscarded}, nacks ${got.nacks}, freezes ${got.freezes}; dropped by the kernel ${drops}`);
}

/**
 * Whether what was sent was received, and what was received was decoded, but for what the decoder says it left out.
 * Chromium does not count a frame as received if a packet of it was repaired.
 */
const whole = (sent, got, drops) => sent > 0
  && got.framesReceived + drops >= SHARE_MIN * sent
  && got.framesDecoded + got.framesDropped >= SHARE_MIN * got.framesReceived
  && got.framesDecoded >= DECODED_MIN * sent;

/**
 * Whether the server sent every packet: none is missing but those that the kernel dropped, and those of frames that
 * were cut. A packet that was repaired counts as lost, too.
 */
export const complete = (got, drops, cuts = 0) =>
  got.videoLost + got.audioLost <= drops + cuts && got.nacks <= Math.max(1, cuts) + drops;
