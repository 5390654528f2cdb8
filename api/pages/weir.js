// Weir's browser client: publish to a WHIP URL, play a WHEP URL. One file, no dependencies.
//
//   import { publish, watch } from 'https://your-server/weir.js';
//   const viewer = watch('https://your-server/whep/demo', document.querySelector('video'));
//   viewer.addEventListener('state', () => console.log(viewer.state, viewer.lastError?.message));
//   viewer.close();
//
// Owns the session (POST, trickle and ICE restart by PATCH, DELETE), reconnection, statistics.
// Never touches the page: pages listen to `state` events and read `stats()`.
// Specifications: RFC 9725 (WHIP), draft-ietf-wish-whep (WHEP) with its core extensions for layers and
// events, RFC 8840 (trickle fragments).
//
// It stays one file of more than 600 lines on purpose. Other sites import it by this URL, or copy it, and a copy of one
// file is whole. Names carry no version, so a page that loads during an upgrade could mix the modules of two versions.
// Parts, in this order: `publish` and `watch`; `Session` (state, attempts, events); `Connection` (one peer connection);
// `Signalling` (one session over HTTP); texts of refusals; offers and answers; `createStatsReader`.

/** Time in which a POST must be answered. Servers answer in milliseconds; native clients give up after 8 s. */
const POST_TIMEOUT_MS = 10_000;
/**
 * Time from the answer to a working media path, for which the server waits as well. After it the attempt has failed.
 * A browser may first ask its user whether the page may reach the local network.
 */
const CONNECT_TIMEOUT_MS = 30_000;
/** Time without a media path after which `lastError` says what is probably wrong. The attempt goes on. */
const CONNECT_HINT_MS = 10_000;
/** Time for full gathering. After it the offer is sent with the candidates found so far. */
const GATHER_TIMEOUT_MS = 2_000;
/** Silence of a path after which ICE is restarted, before the session is given up. */
const DISCONNECTED_GRACE_MS = 2_000;
/** Time for an ICE restart to restore the path. After it a new session is created. */
const RESTART_TIMEOUT_MS = 8_000;
/** Delays between attempts; the last one repeats. Up to a fifth is added at random. */
const BACKOFF_MS = [500, 1_000, 2_000, 4_000, 8_000];
/** Time without a packet after which the state of a viewer is `waiting`. */
const SILENCE_MS = 3_000;
/** The same while the server does not answer either: the connection is lost, which ICE notices some seconds later. */
const LOST_MS = 1_000;
/** Time that a viewer who hears sound waits for a first video packet; after it sound alone is `live`. */
const SOUND_ALONE_MS = 2_000;
/** Time without a new picture after which the last one is called still. */
const STILL_MS = 3_000;
/** Time in which video packets become a first picture; after it the browser cannot decode them. */
const UNDECODABLE_MS = 5_000;

/** Least areas of a picture of which one, two and three layers are sent, in pixels. */
const SIMULCAST_AREAS = [0, 480 * 270, 960 * 540];

/** Interval at which layers are read where there is no event stream. */
const LAYERS_EVERY_MS = 4_000;
/** Longest wait that a server may ask for: timers take no more than 24 days, and nobody waits for that. */
const RETRY_AFTER_MAX_MS = 300_000;
/** Extensions of WHEP that are used, by their relation in `Link`. */
const EVENTS = 'urn:ietf:params:whep:ext:core:server-sent-events';
const LAYER = 'urn:ietf:params:whep:ext:core:layer';

/** A problem: as text for people (`message`) and as a `kind` for programs. */
export class WeirError extends Error {
  /**
   * @param {'refused'|'unauthorized'|'forbidden'|'unavailable'|'network'|'ice'|'ended'|'protocol'} kind
   * @param {string} message
   * @param {{status?: number, retryAfterMs?: number, reason?: string}} [more] `reason` is the server's label
   *   for the end of a session, such as `taken_over`.
   */
  constructor(kind, message, more = {}) {
    super(message);
    this.name = 'WeirError';
    this.kind = kind;
    this.status = more.status ?? null;
    this.retryAfterMs = more.retryAfterMs ?? 0;
    this.reason = more.reason ?? null;
  }
}

/** Kinds of errors after which a later attempt may succeed. */
const TRANSIENT = new Set(['unavailable', 'network', 'ice']);
/** Reasons of the server for the end of a session after which the client does not come again by itself. */
const FINAL_REASONS = new Set(['taken_over', 'kicked', 'deleted']);

/**
 * Publishes the tracks of `stream` to a WHIP endpoint, and reconnects until `close()`.
 *
 * @param {string|URL} url WHIP endpoint.
 * @param {MediaStream} stream At most one audio and one video track are usual.
 * @param {object} [opts]
 * @param {string} [opts.token] Bearer token.
 * @param {string} [opts.codec] Video codec name, e.g. `VP9`; without it the browser's order holds.
 * @param {boolean} [opts.simulcast] Sends up to three layers, rids h, m, l (full, half and a quarter of the size): as
 *   many as `simulcastRids` says for the size that the track has now.
 * @param {string} [opts.scalabilityMode] Layers inside one encoding, e.g. `L3T3_KEY` with AV1 or VP9.
 * @param {number} [opts.maxKbps] Maximum bitrate of the largest layer.
 * @param {'trickle'|'full'} [opts.gather] Offers at once and PATCHes candidates, or gathers first.
 * @param {RTCIceServer[]} [opts.iceServers]
 * @returns {Session}
 */
export function publish(url, stream, opts = {}) {
  const session = new Session(url, 'publisher', opts);
  session.media = stream;
  session.attach = (pc) => {
    for (const track of session.media.getTracks()) {
      const transceiver = pc.addTransceiver(track, {
        direction: 'sendonly',
        streams: [session.media],
        sendEncodings: track.kind === 'video' ? videoEncodings(opts, track.getSettings()) : undefined,
      });
      if (track.kind !== 'video') continue;
      if (opts.codec) preferCodec(transceiver, opts.codec);
      // The layers inside AV1 can be told apart by the descriptor alone.
      if (opts.scalabilityMode || /^AV1$/i.test(opts.codec ?? '')) askForDescriptor(transceiver);
    }
  };
  session.start();
  return session;
}

/**
 * Plays a WHEP endpoint in `video`, and reconnects until `close()`. The last picture of a lost session
 * stays until the next session has one.
 *
 * @param {string|URL} url WHEP endpoint.
 * @param {HTMLMediaElement} video
 * @param {object} [opts] `token`, `gather`, `iceServers` as in `publish`.
 * @returns {Session}
 */
export function watch(url, video, opts = {}) {
  const session = new Session(url, 'viewer', opts);
  session.attach = (pc) => {
    const transceivers = ['audio', 'video'].map((kind) => pc.addTransceiver(kind, { direction: 'recvonly' }));
    askForDescriptor(transceivers[1]);
    const receivers = transceivers.map(({ receiver }) => receiver);
    const media = new MediaStream(receivers.map((receiver) => receiver.track));
    const show = () => {
      if (video.srcObject !== media && session.pc === pc) video.srcObject = media;
      video.requestVideoFrameCallback?.(() => session.mediaArrived(pc));
      video.play().catch((error) => {
        if (error.name !== 'NotAllowedError') return;
        // The browser allows sound only after a click: play muted until then; the page has a button.
        video.muted = true;
        video.play().catch(() => {});
      });
    };
    for (const { track } of receivers) track.addEventListener('unmute', show);
    pc.addEventListener('signalingstatechange', () => {
      // A player waits for every track that it has.
      const idle = transceivers.filter(({ currentDirection }) => /inactive|stopped/.test(currentDirection));
      for (const { receiver } of idle) media.removeTrack(receiver.track);
    });
    // The player is attached before the answer: a first picture that is decoded before that is never shown,
    // and the next one may be seconds away. But a player that waits for media delays the page's load event.
    const early = () => {
      if (!video.srcObject && session.pc === pc) show();
    };
    if (document.readyState === 'complete') early();
    else addEventListener('load', early, { once: true });
  };
  session.start();
  return session;
}

/** Video codec names this browser can send, in its order of preference. */
export function sendableVideoCodecs() {
  const codecs = RTCRtpSender.getCapabilities?.('video')?.codecs ?? [];
  const names = codecs.map((codec) => codecName(codec));
  return [...new Set(names)].filter((name) => !/^(rtx|red|ulpfec|flexfec.*)$/i.test(name));
}

/** Status of a viewer to whom the server has told nothing. */
const NO_STATUS = Object.freeze({
  warnings: [],
  awaitsKeyframe: false,
  keyframeIntervalMs: null,
  nextKeyframeMs: null,
  publishing: null,
});

/** States that may follow each state of a session; `closed` is final. */
const NEXT = {
  connecting: ['waiting', 'live', 'reconnecting', 'failed', 'closed'],
  waiting: ['connecting', 'live', 'reconnecting', 'failed', 'closed'],
  live: ['waiting', 'reconnecting', 'failed', 'closed'],
  reconnecting: ['connecting', 'waiting', 'live', 'failed', 'ended', 'closed'],
  failed: ['connecting', 'reconnecting', 'closed'],
  ended: ['connecting', 'reconnecting', 'closed'],
  closed: [],
};

/**
 * One publisher or viewer, across all its connections.
 *
 * `state` is one of
 * - `connecting`: the first attempt is running;
 * - `waiting`: (viewer) connected, or refused for now, and no picture yet, or no sound if there is no picture;
 * - `live`: media is sent, or a picture was decoded and media arrives;
 * - `reconnecting`: media stopped or an attempt failed, and another one follows (`lastError` says why);
 * - `failed`: no more attempts, because they would fail in the same way;
 * - `ended`: (publisher) the server ended the session on purpose;
 * - `closed`: `close()` was called.
 *
 * A `state` event follows each change of `state` or `lastError`. After `listen` a viewer also has `layers`,
 * `viewers`, `status` and `unserved` events when those properties change.
 */
export class Session extends EventTarget {
  state = 'connecting';
  /** @type {WeirError|null} the latest problem; null again when the state is `live` */
  lastError = null;
  /** Milliseconds from the POST of this connection to the first picture (viewer) or to connected. */
  startupMs = null;
  /** How many times a new session replaced a lost one. */
  reconnects = 0;
  /**
   * Viewer: the layers of the video, the largest first; empty while unknown.
   * @type {{rid?: string, spatialLayerId: number, width?: number, height?: number, bitrate: number,
   *   active: boolean, target: boolean}[]} `bitrate` is 0 if the layer sends nothing;
   *   `active`: it is forwarded to this viewer; `target`: it should be.
   */
  layers = [];
  /**
   * Viewer: by m-line, what was asked for and is not sent, because of its codec for example.
   * @type {Object<string, {kind: string, reason: string, text: string}>}
   */
  unserved = {};
  /** @type {?number} Viewer: the number of viewers, if the server sends it. */
  viewers = null;
  /**
   * Viewer: what the server says of the stream, if it does. `warnings` are sentences for the person who can
   * mend what is wrong; `awaitsKeyframe`: nothing moves before the next keyframe; `publishing`: there is a
   * publisher.
   * @type {{warnings: {code: string, message: string}[], awaitsKeyframe: boolean, keyframeIntervalMs: ?number,
   *   nextKeyframeMs: ?number, publishing: ?boolean}}
   */
  status = NO_STATUS;
  /** Viewer: whether video packets have arrived for a while of which none became a picture. */
  undecodable = false;
  /**
   * Viewer: why no new picture was decoded for 3 s: no video packets arrive (`absent`), or they arrive and are not
   * decoded (`undecoded`), because packets are missing for example. Null while the picture moves, and before the first.
   * @type {'absent'|'undecoded'|null}
   */
  still = null;
  /** Viewer: whether sound is all that arrives. */
  soundOnly = false;
  /** Viewer: whether this connection was live; in the state `waiting` media has stopped then. */
  interrupted = false;
  /** Viewer: the preference of `selectLayer`; `{}` leaves the choice to the server. */
  preference = {};

  #server;
  #role;
  #opts;
  /** @type {Connection|null} */
  #connection = null;
  #failures = 0;
  #everLive = false;
  #timers = new Map();
  #listens = null;
  #events = null;
  #look = () => {};
  /** Viewer: whether the server has not answered since the event stream broke, or to the last poll. */
  #unanswered = false;
  #onPageHide = () => this.#leave();
  #onPageShow = (event) => event.persisted && this.state !== 'closed' && this.retryNow();
  #onOnline = () => this.state === 'reconnecting' && this.retryNow();

  constructor(url, role, opts) {
    super();
    this.#server = { url: new URL(url, location.href), token: opts.token, trickles: true };
    this.#role = role;
    this.#opts = opts;
    addEventListener('pagehide', this.#onPageHide);
    addEventListener('pageshow', this.#onPageShow);
    addEventListener('online', this.#onOnline);
  }

  /** @type {RTCPeerConnection|null} the connection in use; changes on reconnection */
  get pc() {
    return this.#connection?.pc ?? null;
  }

  /** Starts the first attempt. `publish` and `watch` call it. */
  start() {
    void this.#attempt();
  }

  /** Closes the connection and deletes the session on the server; no attempt follows. */
  close() {
    removeEventListener('pagehide', this.#onPageHide);
    removeEventListener('pageshow', this.#onPageShow);
    removeEventListener('online', this.#onOnline);
    this.#leave();
    this.#become('closed', null);
  }

  /** Starts a new connection now, in any state but `closed`. */
  retryNow() {
    if (this.state === 'closed') return;
    this.#leave();
    this.#failures = 0;
    this.#become(this.#everLive ? 'reconnecting' : 'connecting', this.lastError);
    void this.#attempt();
  }

  /** Publisher: sends the tracks of another stream from now on, in the same session. */
  async setMedia(stream) {
    this.media = stream;
    for (const { sender, receiver } of this.pc?.getTransceivers() ?? []) {
      // A sender that was muted by `replaceTrack(null)` has no track of its own to tell its kind.
      const track = stream.getTracks().find((track) => track.kind === receiver.track.kind);
      if (track && track !== sender.track) await sender.replaceTrack(track);
    }
  }

  /**
   * Viewer: sets the layer preference, which also holds after a reconnection.
   *
   * @param {{rid?: string, spatialLayerId?: number, temporalLayerId?: number, maxSpatialLayerId?: number,
   *   maxTemporalLayerId?: number, maxWidth?: number, maxHeight?: number}} [preference] One layer, or limits;
   *   `{}` leaves the choice to the server.
   * @throws {WeirError} if the server does not have such a layer or does not let viewers choose.
   */
  async selectLayer(preference = {}) {
    const url = this.#link(LAYER);
    if (!url) throw new WeirError('refused', 'This server does not let viewers choose a layer.');
    const headers = { 'Content-Type': 'application/json' };
    const answer = await request(this.#server, url, { method: 'POST', headers, body: JSON.stringify(preference) });
    if (!answer.ok) throw await refusal(answer);
    this.preference = preference;
  }

  /**
   * Viewer: follows the layers and the number of viewers from now on. Events keep one connection to the
   * server open, of the six that a browser has for HTTP/1.1. Polling does not, and reads only layers.
   *
   * @param {'events'|'poll'|null} how
   */
  listen(how) {
    if (this.#listens === how) return;
    this.#listens = how;
    this.#followEvents();
  }

  /** Summary of getStats with rates since the previous call; see `createStatsReader`. */
  async stats() {
    return this.#connection ? this.#connection.readStats() : null;
  }

  /**
   * What the server says of this session: its tracks, `warnings`, and `viewers` of the stream. Null if it does not
   * say, as servers other than Weir do not.
   */
  async serverStats() {
    const answer = await this.#connection?.signalling.stats().catch(() => null);
    const stats = answer?.ok ? Object(await answer.json().catch(() => ({}))) : null;
    return stats && { ...stats, warnings: warningsOf(stats) };
  }

  /**
   * Restarts ICE in the same session (RFC 9725 section 4.3.3). Resolves to false if the server no longer
   * has the session or cannot restart ICE.
   */
  async restartIce() {
    return this.#connection ? this.#connection.restartIce() : false;
  }

  /** `watch` calls it at the first picture of `pc`, which statistics show only later. */
  mediaArrived(pc) {
    if (this.pc === pc && this.state !== 'live') this.#becomeLive();
  }

  async #attempt() {
    const connection = new Connection(this.#server, this.#opts, {
      connected: () => this.#connected(connection),
      silent: () => this.#pathSilent(connection),
      failed: (error) => this.#lost(error),
      closed: () => this.#endedByServer(connection),
    });
    this.#connection = connection;
    this.startupMs = null;
    try {
      this.attach(connection.pc);
      await connection.open(() => {
        if (Object.keys(this.preference).length) this.selectLayer(this.preference).catch(() => {});
        this.#followEvents();
        this.#after('connect', CONNECT_HINT_MS, () => {
          this.#become(this.state, iceError());
          this.#after('connect', CONNECT_TIMEOUT_MS - CONNECT_HINT_MS, () => this.#lost(iceError()));
        });
      });
    } catch (error) {
      if (this.#connection !== connection) return;
      this.#lost(error instanceof WeirError ? error : new WeirError('protocol', error.message));
    }
  }

  #connected(connection) {
    this.#cancel('connect');
    this.#cancel('silent');
    if (this.#role === 'publisher') {
      this.#becomeLive();
    } else {
      this.#become('waiting', null);
      this.#watchArrivals(connection);
    }
  }

  /**
   * Viewer: sets the state to `live` while media arrives that can be played, and to `waiting` while it does not or
   * the server says that nobody publishes; to `reconnecting` if both media and the server are silent.
   */
  #watchArrivals(connection) {
    let packets = 0;
    let firstAt = 0;
    let arrivedAt = 0;
    let videoAt = 0;
    let video = 0;
    let videoArrivedAt = 0;
    let frames = 0;
    let decodedAt = 0;
    const look = async () => {
      const report = await connection.pc.getStats().catch(() => null);
      if (this.#connection !== connection || !report) return;
      const got = arrivals(report);
      const now = performance.now();
      if (got.packets > packets) {
        firstAt ||= now;
        arrivedAt = now;
      }
      packets = got.packets;
      if (got.video) videoAt ||= now;
      if (got.video > video) videoArrivedAt = now;
      if (got.frames > frames) decodedAt = now;
      ({ video, frames } = got);
      const still = decodedAt && now - decodedAt >= STILL_MS;
      this.soundOnly = Boolean(got.packets && !got.video);
      this.#pictureIs(
        Boolean(videoAt && !frames && now - videoAt >= UNDECODABLE_MS),
        still ? (now - videoArrivedAt >= STILL_MS ? 'absent' : 'undecoded') : null,
      );
      const quietMs = arrivedAt ? now - arrivedAt : Infinity;
      if (arrivedAt && quietMs >= LOST_MS && this.#unanswered && this.status.publishing !== false) {
        // ICE has not noticed; where it has, another attempt is on its way.
        if (this.state !== 'reconnecting') this.#become('reconnecting', pathError());
      } else if (quietMs >= SILENCE_MS || this.status.publishing === false) {
        const back = this.state === 'reconnecting' && connection.pc.connectionState === 'connected';
        if (this.state === 'live' || back) this.#become('waiting', null);
      } else if (this.state !== 'live' && (frames || this.#soundAlone(connection.pc, got, now - firstAt))) {
        this.#becomeLive();
      }
      this.#after('arrivals', this.state === 'live' && !this.#unanswered ? 1_000 : 250, look);
    };
    this.#look = look;
    void look();
  }

  #pictureIs(undecodable, still) {
    if (this.undecodable === undecodable && this.still === still) return;
    this.undecodable = undecodable;
    this.still = still;
    this.dispatchEvent(new Event('status'));
  }

  /** Viewer: notes whether the server answers, and looks at once whether media arrives. */
  #answers(answers) {
    if (this.#unanswered === !answers) return;
    this.#unanswered = !answers;
    if (this.#timers.has('arrivals')) void this.#after('arrivals', 0, this.#look);
  }

  /** Whether sound that arrived for `forMs` is all that there is to play. */
  #soundAlone(pc, { video }, forMs) {
    if (video || this.layers.some((layer) => layer.bitrate)) return false;
    const pictures = pc.getTransceivers().some((t) => t.receiver.track.kind === 'video' && t.currentDirection === 'recvonly');
    return !pictures || forMs >= SOUND_ALONE_MS;
  }

  #becomeLive() {
    this.startupMs ??= Math.round(performance.now() - this.#connection.postedAt);
    this.#everLive = true;
    this.interrupted = this.#role === 'viewer';
    this.#failures = 0;
    this.#become('live', null);
  }

  #pathSilent(connection) {
    this.#become('reconnecting', pathError());
    this.#after('silent', DISCONNECTED_GRACE_MS, async () => {
      const restarted = await connection.restartIce().catch(() => false);
      if (this.#connection !== connection || connection.pc.connectionState === 'connected') return;
      if (!restarted) return this.#lost(pathError());
      this.#after('silent', RESTART_TIMEOUT_MS, () => this.#lost(pathError()));
    });
  }

  /**
   * The server closed the connection (close_notify). Its session URL says why. A publisher that was taken over
   * or removed does not reconnect: two publishers must not take one stream from each other again and again.
   */
  async #endedByServer(connection) {
    this.#dropConnection();
    this.#followEvents();
    this.#forget();
    this.#become('reconnecting', new WeirError('network', 'The server closed the connection.'));
    const end = await connection.signalling.end();
    if (this.pc || this.state !== 'reconnecting') return;
    if (!end) {
      // The server still has the session: without a DELETE it would count beside the next one.
      connection.signalling.delete();
      return this.#retryLater();
    }
    const viewer = this.#role === 'viewer';
    const final = end.reason ? FINAL_REASONS.has(end.reason) : !viewer;
    const text = end.text ?? (viewer ? 'The server ended the stream.' : 'The server ended this session.');
    if (!final) return this.#lost(new WeirError(viewer ? 'unavailable' : 'network', text, { reason: end.reason }));
    this.#become(viewer ? 'failed' : 'ended', new WeirError('ended', text, { reason: end.reason }));
  }

  #lost(error) {
    this.#leave();
    const wait = TRANSIENT.has(error.kind);
    if (!wait) return this.#become('failed', error);
    const waiting = this.#role === 'viewer' && error.kind === 'unavailable';
    this.#become(waiting ? 'waiting' : 'reconnecting', error);
    this.#retryLater(error.retryAfterMs);
  }

  #retryLater(atLeastMs = 0) {
    const backoff = BACKOFF_MS[Math.min(this.#failures, BACKOFF_MS.length - 1)];
    this.#failures += 1;
    this.#after('retry', Math.max(backoff, atLeastMs) * (1 + Math.random() / 5), () => {
      if (this.#everLive) this.reconnects += 1;
      void this.#attempt();
    });
  }

  /** Leaves the current connection, if any; the DELETE is sent even while the page is unloaded. */
  #leave() {
    const connection = this.#connection;
    this.#dropConnection();
    this.#followEvents();
    this.#forget();
    connection?.signalling.delete();
  }

  /** Forgets what the server told of a session that is over. */
  #forget() {
    this.undecodable = false;
    this.still = null;
    this.soundOnly = false;
    this.interrupted = false;
    this.#layersAre([]);
    this.#viewersAre(null);
    this.#statusIs(NO_STATUS);
  }

  #dropConnection() {
    for (const name of [...this.#timers.keys()]) this.#cancel(name);
    const connection = this.#connection;
    this.#connection = null;
    connection?.close();
  }

  #link(relation) {
    return this.#connection?.signalling.links.get(relation);
  }

  /** Opens or closes the event stream of the present session as `#listens` says. */
  #followEvents() {
    this.#events?.close();
    this.#events = null;
    this.#answers(true);
    // Nobody tells of a publisher that comes from now on.
    if (this.status.publishing !== null) this.#statusIs({ ...this.status, publishing: null });
    this.#unservedIs({});
    this.#cancel('layers');
    const url = this.#link(EVENTS);
    if (this.#listens === 'events' && url) {
      const events = new EventSource(url);
      events.addEventListener('layers', (event) => this.#layersAre(dataOf(event)));
      events.addEventListener('viewercount', (event) => this.#viewersAre(dataOf(event).viewercount ?? null));
      events.addEventListener('status', (event) => {
        const told = dataOf(event);
        this.#statusIs({ ...this.status, ...told, warnings: warningsOf(told) });
      });
      events.addEventListener('active', () => this.#statusIs({ ...this.status, publishing: true }));
      events.addEventListener('inactive', () => {
        this.#statusIs({ ...NO_STATUS, publishing: false });
        if (this.state === 'live') this.#become('waiting', null);
      });
      events.addEventListener('open', () => {
        // A server that has a publisher says so next; it does not say that it has none.
        if (events === this.#events) this.#answers(true);
      });
      events.addEventListener('unserved', (event) => this.#unservedIs(dataOf(event)));
      events.addEventListener('error', () => {
        if (events !== this.#events) return;
        this.#answers(false);
        // Closed and not reconnecting: refused by a limit, or because the session has ended.
        if (events.readyState !== EventSource.CLOSED) return;
        this.#statusIs({ ...this.status, publishing: null });
        void this.#pollLayers();
      });
      this.#events = events;
    } else if (this.#listens) {
      void this.#pollLayers();
    }
  }

  async #pollLayers() {
    const url = this.#link(LAYER);
    if (!url) return;
    const answer = await request(this.#server, url, { method: 'GET' }).catch(() => null);
    const layers = answer?.ok ? await answer.json().catch(() => null) : null;
    if (url !== this.#link(LAYER) || !this.#listens) return;
    this.#answers(Boolean(answer));
    if (layers) this.#layersAre(Object(layers));
    this.#after('layers', LAYERS_EVERY_MS, () => this.#pollLayers());
  }

  /** Takes the layers by m-line, as a list or as an object with one; there is one video section. */
  #layersAre(sections) {
    const section = Object.values(sections)[0] ?? [];
    const list = section.layers ?? section;
    const layers = Array.isArray(list) ? list.filter(Boolean) : [];
    if (!layers.length && !this.layers.length) return;
    this.layers = layers;
    this.dispatchEvent(new Event('layers'));
  }

  #statusIs(status) {
    if (this.status === status) return;
    this.status = status;
    this.dispatchEvent(new Event('status'));
  }

  #unservedIs(unserved) {
    const before = this.unserved;
    this.unserved = Object.fromEntries(Object.entries(unserved).filter(([, media]) => typeof media?.text === 'string'));
    if (Object.keys({ ...before, ...this.unserved }).length) this.dispatchEvent(new Event('unserved'));
  }

  #viewersAre(viewers) {
    if (this.viewers === viewers) return;
    this.viewers = viewers;
    this.dispatchEvent(new Event('viewers'));
  }

  #become(state, error) {
    if (this.state === state && this.lastError === error) return;
    if (this.state !== state && !NEXT[this.state].includes(state)) return;
    this.state = state;
    this.lastError = error;
    this.dispatchEvent(new Event('state'));
  }

  #after(name, ms, then) {
    this.#cancel(name);
    const run = () => {
      this.#timers.delete(name);
      void then();
    };
    this.#timers.set(name, setTimeout(run, ms));
  }

  #cancel(name) {
    clearTimeout(this.#timers.get(name));
    this.#timers.delete(name);
  }
}

/**
 * One peer connection and its session on the server. `on` has functions for what happens to the connection;
 * none is called after `close()`.
 */
class Connection {
  pc;
  signalling;
  readStats;
  postedAt = 0;
  #opts;
  #on;
  /** @type {(string|null)[]} found and not sent yet; null is the end of candidates */
  #candidates = [];
  /** @type {'held'|'sent'} held until the server has an answer for their ufrag */
  #trickle = 'held';
  #everConnected = false;
  #timer = null;

  constructor(server, opts, on) {
    this.#opts = opts;
    this.#on = on;
    this.pc = new RTCPeerConnection({ iceServers: opts.iceServers ?? [], bundlePolicy: 'max-bundle' });
    this.signalling = new Signalling(server);
    this.readStats = createStatsReader(this.pc);
  }

  /** Offers, and takes the answer; `created` is called between the `201` and the answer. */
  async open(created) {
    this.#watch();
    await this.#offer();
    if (this.#opts.gather === 'full') await gathered(this.pc);
    if (!this.#on) return;
    this.postedAt = performance.now();
    const sdp = await this.signalling.post(this.pc.localDescription.sdp);
    if (!this.#on) {
      // Closed or retried meanwhile: only this attempt knows the session, so it deletes it.
      this.signalling.delete();
      return;
    }
    created();
    await this.pc.setRemoteDescription({ type: 'answer', sdp });
    this.#releaseCandidates();
  }

  /** Closes the peer connection; the session on the server stays. */
  close() {
    this.#on = null;
    clearTimeout(this.#timer);
    this.pc.close();
  }

  async restartIce() {
    const { pc } = this;
    if (!this.signalling.created) return false;
    this.#trickle = 'held';
    pc.restartIce();
    await this.#offer();
    const answer = await this.signalling.patch(fragment(pc, []), '*').catch(() => null);
    if (!this.#on) return false;
    if (answer?.status !== 200) {
      await pc.setLocalDescription({ type: 'rollback' }).catch(() => {});
      return false;
    }
    this.signalling.etag = answer.headers.get('ETag') ?? this.signalling.etag;
    const sdp = withRestartedIce(pc.remoteDescription.sdp, await answer.text());
    await pc.setRemoteDescription({ type: 'answer', sdp });
    this.#releaseCandidates();
    return true;
  }

  /** Offers two channels of Opus: Chromium plays one unless its own offer says otherwise (RFC 7587 section 7.1). */
  async #offer() {
    const { sdp } = await this.pc.createOffer();
    // A browser that takes no changed offer plays one channel.
    await this.pc.setLocalDescription({ type: 'offer', sdp: withStereo(sdp) }).catch(() => this.pc.setLocalDescription());
  }

  #watch() {
    const { pc } = this;
    pc.addEventListener('icecandidate', ({ candidate }) => {
      // Everything is bundled on the first section; null and '' both mean the end of candidates.
      if (candidate?.candidate && candidate.sdpMLineIndex !== 0) return;
      this.#candidates.push(candidate?.candidate || null);
      if (this.#trickle === 'sent') this.#sendCandidates();
    });
    pc.addEventListener('connectionstatechange', () => {
      // Read once: a handler may close the connection, and its state is `closed` then.
      switch (pc.connectionState) {
        case 'connected':
          return this.#connected();
        case 'disconnected':
          return this.#on?.silent();
        case 'failed':
          return this.#on?.failed(this.#failure());
        case 'closed':
          return this.#on?.closed();
      }
    });
  }

  /** What failed: the media path, before it ever worked or after, or the encryption on a path that works. */
  #failure() {
    const { pc } = this;
    const reached = ['connected', 'completed'].includes(pc.iceConnectionState);
    if (reached) return new WeirError('network', 'The encrypted connection (DTLS) to the server failed.');
    return this.#everConnected ? pathError() : iceError();
  }

  #connected() {
    this.#everConnected = true;
    // A close_notify of the server is seen here first, and in some browsers only here.
    // A section that was rejected has no transport.
    const { transport: dtls } = [...this.pc.getSenders(), ...this.pc.getReceivers()].find(({ transport }) => transport) ?? {};
    dtls?.addEventListener('statechange', () => {
      // Firefox closes the transport of a path that failed, too; then `failed` follows or was there.
      if (dtls.state === 'closed' && this.pc.iceConnectionState !== 'failed') this.#on?.closed();
    });
    this.#on?.connected();
  }

  #releaseCandidates() {
    this.#trickle = 'sent';
    if (this.#candidates.length) this.#sendCandidates();
  }

  /** Sends one PATCH for all candidates of this turn of the event loop. */
  #sendCandidates() {
    if (this.#timer || !this.#on) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.signalling.trickle(fragment(this.pc, this.#candidates.splice(0)));
    }, 0);
  }
}

/** One session on the server over HTTP: POST, PATCH, DELETE. Knows no peer connection. */
class Signalling {
  etag = null;
  /** URLs of the session's extensions, by relation. */
  links = new Map();
  #server;
  #resource = null;
  #patches = Promise.resolve();

  /** @param {{url: URL, token?: string, trickles: boolean}} server */
  constructor(server) {
    this.#server = server;
  }

  get created() {
    return this.#resource !== null;
  }

  /** Creates the session; resolves to the SDP answer. */
  async post(offer) {
    const response = await request(this.#server, this.#server.url, {
      method: 'POST',
      headers: { 'Content-Type': 'application/sdp' },
      body: offer,
      signal: AbortSignal.timeout(POST_TIMEOUT_MS),
    });
    if (response.status !== 201) throw await refusal(response);
    const at = response.headers.get('Location');
    if (!at) throw new WeirError('protocol', 'The server answered without a session address (Location).');
    const answer = await response.text();
    this.#resource = new URL(at, response.url);
    this.etag = response.headers.get('ETag');
    this.links = links(response);
    return answer;
  }

  /** Sends PATCHes one after the other, so that the server gets them in order. */
  patch(body, ifMatch) {
    const resource = this.#resource;
    const headers = { 'Content-Type': 'application/trickle-ice-sdpfrag' };
    if (ifMatch) headers['If-Match'] = ifMatch;
    const sent = this.#patches.then(() => {
      const signal = AbortSignal.timeout(RESTART_TIMEOUT_MS);
      return request(this.#server, resource, { method: 'PATCH', headers, body, signal });
    });
    this.#patches = sent.catch(() => {});
    return sent;
  }

  /** Sends candidates, unless the server has refused them before: it then learns our address from our checks. */
  async trickle(body) {
    if (!this.#server.trickles) return;
    const answer = await this.patch(body, this.etag).catch(() => null);
    if ([405, 422, 501].includes(answer?.status)) this.#server.trickles = false;
  }

  /**
   * Why the server ended this session, as label and text, where it says so; null if the server does not
   * answer, or still has the session.
   */
  async end() {
    const response = await request(this.#server, this.#resource, { method: 'GET' }).catch(() => null);
    if (!response || response.ok || response.status >= 500) return null;
    const problem = await response.json().catch(() => null);
    return { reason: problem?.reason ?? null, text: problem?.reason ? sentence(problem.detail) : null };
  }

  /** Statistics of the session, as this server has them. */
  async stats() {
    if (!this.#resource) return null;
    return request(this.#server, `${this.#resource.href}/stats`, { method: 'GET' });
  }

  /** Ends the session, if it was created; works while the page is unloaded. */
  delete() {
    if (!this.#resource) return;
    request(this.#server, this.#resource, { method: 'DELETE', keepalive: true }).catch(() => {});
    this.#resource = null;
  }
}

/** Fetches with the token of the server; a failure is a `WeirError` of kind `network`. */
async function request(server, url, init) {
  const headers = new Headers(init.headers);
  if (server.token) headers.set('Authorization', `Bearer ${server.token}`);
  try {
    return await fetch(url, { ...init, headers, cache: 'no-store' });
  } catch (error) {
    const late = error.name === 'TimeoutError';
    throw new WeirError('network', late ? 'The server did not answer in time.' : 'The server cannot be reached.');
  }
}

/** URLs of the `Link` headers of a response, by relation. */
function links(response) {
  const found = new Map();
  for (const [, url, params] of (response.headers.get('Link') ?? '').matchAll(/<([^>]*)>([^<]*)/g)) {
    const rel = /;\s*rel="?([^";,]+)/.exec(params)?.[1];
    // Links are optional: one that cannot be read is not followed.
    if (rel && URL.canParse(url, response.url)) found.set(rel, new URL(url, response.url).href);
  }
  return found;
}

/** Error of an HTTP refusal; the `detail` of problem+json comes before our own text. */
async function refusal(response) {
  const problem = await response.json().catch(() => null);
  const says = sentence(problem?.detail) ?? sentence(problem?.error) ?? sentence(problem?.title);
  const status = response.status;
  const retryAfterMs = Math.min(1_000 * (Number(response.headers.get('Retry-After')) || 0), RETRY_AFTER_MAX_MS);
  const more = { status, retryAfterMs };
  if (status === 401) return new WeirError('unauthorized', says ?? 'The server requires a token.', more);
  if (status === 403) return new WeirError('forbidden', says ?? 'The server does not allow this.', more);
  if (status === 404) return new WeirError('unavailable', says ?? 'There is no such stream yet.', more);
  if (status === 409) return new WeirError('unavailable', says ?? 'The stream is in use or not live yet.', more);
  if (status === 408 || status === 429 || status >= 500) {
    return new WeirError('unavailable', says ?? `The server is busy (HTTP ${status}).`, more);
  }
  return new WeirError('refused', says ?? `The server refused the offer (HTTP ${status}).`, more);
}

/** The text of a server as a sentence for people; undefined without one. Servers other than Weir send what they like. */
function sentence(text) {
  if (typeof text !== 'string' || !text) return undefined;
  return text[0].toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? '' : '.');
}

const iceError = () =>
  new WeirError(
    'ice',
    'The server answers, but its media port cannot be reached. Check that the UDP port is open in the ' +
      'firewall and that the server advertises an address you can reach (--advertise).',
  );
const pathError = () => new WeirError('network', 'The connection was interrupted.');

/** Packets of a viewer's statistics, and the frames that were decoded from them. */
function arrivals(report) {
  const got = { packets: 0, video: 0, frames: 0 };
  for (const stat of report.values()) {
    if (stat.type !== 'inbound-rtp') continue;
    got.packets += stat.packetsReceived ?? 0;
    if (stat.kind !== 'video') continue;
    got.video += stat.packetsReceived ?? 0;
    // A browser that does not count frames is believed to decode them.
    got.frames += stat.framesDecoded ?? stat.packetsReceived ?? 0;
  }
  return got;
}

/** Header extension that describes the layers and references of each frame (AV1 RTP payload, appendix A). */
const DEPENDENCY_DESCRIPTOR =
  'https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension';

/**
 * Offers the dependency descriptor, which Chromium knows and does not offer unless asked. Without it a viewer cannot
 * decode AV1 with several spatial layers. Other browsers have no such call, and go on without.
 */
function askForDescriptor(transceiver) {
  const extensions = transceiver.getHeaderExtensionsToNegotiate?.();
  const wanted = extensions?.find(({ uri }) => uri === DEPENDENCY_DESCRIPTOR);
  if (!wanted) return;
  wanted.direction = 'sendrecv';
  transceiver.setHeaderExtensionsToNegotiate(extensions);
}

/** Warnings of a server with their texts as sentences. */
function warningsOf({ warnings }) {
  const list = Array.isArray(warnings) ? warnings : [];
  return list.map((warning) => ({ code: String(warning?.code), message: sentence(warning?.message) ?? String(warning?.code) }));
}

/** Data of an event as an object or a list; empty if it is neither. */
function dataOf({ data }) {
  try {
    return Object(JSON.parse(data));
  } catch {
    return {};
  }
}

/**
 * Rids of the layers that a browser sends of a picture, the largest first; three while the size is unknown. Chromium and
 * Safari limit their number by the area (`kSimulcastFormats` of libwebrtc), and leave out the largest ones of an
 * offer that has more: viewers of 640x360 would get 320x180.
 */
export function simulcastRids({ width, height } = {}) {
  const area = width && height ? width * height : Infinity;
  return ['h', 'm', 'l'].slice(0, SIMULCAST_AREAS.filter((least) => area >= least).length);
}

/** Encodings of one video track: several sizes, or one. */
function videoEncodings({ codec, simulcast, scalabilityMode, maxKbps }, size) {
  const cap = maxKbps ? maxKbps * 1_000 : undefined;
  const rids = simulcast ? simulcastRids(size) : [];
  if (rids.length < 2) return [{ ...(cap && { maxBitrate: cap }), ...(scalabilityMode && { scalabilityMode }) }];
  // VP9 and AV1 send all rids only if each one is set to one spatial layer.
  const mode = /^(VP9|AV1)$/i.test(codec ?? '') ? { scalabilityMode: 'L1T3' } : {};
  const layer = (rid, scale, share) => ({
    rid,
    scaleResolutionDownBy: scale,
    ...(cap && { maxBitrate: Math.round(cap * share) }),
    ...mode,
  });
  const shares = { h: 1, m: 0.35, l: 0.1 };
  // The smallest goes first (RFC 8853 leaves the order open; libwebrtc wants this one).
  return rids.map((rid, i) => layer(rid, 2 ** i, shares[rid])).reverse();
}

/** Offers only the codec `name` with RTX, RED and FEC, so that the server cannot choose another one. */
function preferCodec(transceiver, name) {
  const all = RTCRtpSender.getCapabilities('video').codecs;
  const helper = /^video\/(rtx|red|ulpfec)$/i;
  const wanted = all.filter((codec) => codecName(codec).toUpperCase() === name.toUpperCase());
  if (!wanted.length) throw new WeirError('refused', `This browser cannot send ${name}.`);
  transceiver.setCodecPreferences([...wanted, ...all.filter((codec) => helper.test(codec.mimeType))]);
}

const codecName = (codec) => codec.mimeType.split('/')[1];

function gathered(pc) {
  return new Promise((done) => {
    setTimeout(done, GATHER_TIMEOUT_MS);
    pc.addEventListener('icegatheringstatechange', () => {
      if (pc.iceGatheringState === 'complete') done();
    });
    if (pc.iceGatheringState === 'complete') done();
  });
}

/** RFC 8840 fragment of the first section: credentials and candidates, where null is their end. */
function fragment(pc, candidates) {
  const sdp = pc.localDescription.sdp;
  const line = (start) => sdp.split(/\r?\n/).find((line) => line.startsWith(start));
  const lines = [line('a=ice-ufrag:'), line('a=ice-pwd:'), line('m='), line('a=mid:')];
  for (const candidate of candidates) lines.push(candidate ? `a=${candidate}` : 'a=end-of-candidates');
  return lines.filter(Boolean).join('\r\n') + '\r\n';
}

/** A description whose Opus takes two channels. */
function withStereo(sdp) {
  let stereo = sdp;
  for (const [, pt] of sdp.matchAll(/^a=rtpmap:(\d+) opus\/48000/gim)) {
    const fmtp = new RegExp(`^(a=fmtp:${pt} )(?!.*\\bstereo=)`, 'm');
    stereo = stereo.replace(fmtp, '$1stereo=1;');
  }
  return stereo;
}

/** Present answer with the credentials and candidates of an ICE restart fragment. */
function withRestartedIce(sdp, restarted) {
  const fresh = restarted.split(/\r?\n/);
  const value = (start) => fresh.find((line) => line.startsWith(start));
  const candidates = fresh.filter((line) => /^a=(candidate:|end-of-candidates)/.test(line));
  const lines = [];
  let sections = 0;
  for (const line of sdp.split(/\r?\n/)) {
    if (/^a=(candidate:|end-of-candidates)/.test(line)) continue;
    // The candidates of the first section go before the second begins.
    if (line.startsWith('m=') && ++sections === 2) lines.push(...candidates);
    const start = /^a=(ice-ufrag|ice-pwd):/.exec(line)?.[0];
    lines.push((start && value(start)) || line);
  }
  if (sections === 1) lines.splice(lines.length - 1, 0, ...candidates);
  return lines.join('\r\n');
}

/**
 * Reads getStats of one connection as a summary; rates are since the previous call of the same reader.
 * Unknown figures are null.
 *
 * @returns {() => Promise<{at: number, rttMs: ?number, path: ?string, targetKbps: ?number,
 *   video: object[], audio: object[]}>}
 */
export function createStatsReader(pc) {
  let before = new Map();
  return async () => {
    const report = await pc.getStats();
    const digest = { at: performance.now(), ...transportOf(report), video: [], audio: [] };
    const seen = new Map();
    for (const stat of report.values()) {
      const describe = { 'outbound-rtp': outbound, 'inbound-rtp': inbound }[stat.type];
      if (!describe) continue;
      seen.set(stat.id, stat);
      const line = describe(stat, before.get(stat.id), report);
      digest[stat.kind === 'video' ? 'video' : 'audio'].push(line);
      digest.rttMs ??= line.rttMs ?? null;
    }
    before = seen;
    // The largest layer first.
    digest.video.sort((a, b) => (b.height ?? 0) - (a.height ?? 0) || 'hml'.indexOf(a.rid) - 'hml'.indexOf(b.rid));
    return digest;
  };
}

function transportOf(report) {
  const all = [...report.values()];
  const transport = all.find((stat) => stat.type === 'transport');
  const pair =
    report.get(transport?.selectedCandidatePairId) ??
    all.find((stat) => stat.type === 'candidate-pair' && stat.nominated && stat.state === 'succeeded');
  const remote = report.get(pair?.remoteCandidateId);
  const address = remote?.address ?? remote?.ip;
  return {
    rttMs: pair?.currentRoundTripTime == null ? null : pair.currentRoundTripTime * 1_000,
    targetKbps: pair?.availableOutgoingBitrate ? pair.availableOutgoingBitrate / 1_000 : null,
    path: remote ? `${remote.protocol ?? 'udp'} ${address?.includes(':') ? `[${address}]` : address}:${remote.port}` : null,
    srtp: transport?.srtpCipher ?? null,
  };
}

function common(stat, previous, report, bytes) {
  const seconds = previous ? (stat.timestamp - previous.timestamp) / 1_000 : 0;
  const rate = (name) => (seconds > 0 ? Math.max(0, (stat[name] ?? 0) - (previous[name] ?? 0)) / seconds : null);
  const codec = report.get(stat.codecId);
  return {
    rate,
    line: {
      rid: stat.rid ?? null,
      codec: codec ? codecName(codec) : null,
      kbps: seconds > 0 ? (rate(bytes) * 8) / 1_000 : null,
      width: stat.frameWidth ?? null,
      height: stat.frameHeight ?? null,
      nacks: stat.nackCount ?? 0,
      plis: stat.pliCount ?? 0,
    },
  };
}

function outbound(stat, previous, report) {
  const { rate, line } = common(stat, previous, report, 'bytesSent');
  const remote = report.get(stat.remoteId);
  return {
    ...line,
    active: stat.active ?? true,
    fps: stat.framesPerSecond ?? rate('framesEncoded'),
    frames: stat.framesEncoded ?? null,
    keyframes: stat.keyFramesEncoded ?? null,
    packets: stat.packetsSent ?? 0,
    retransmitted: stat.retransmittedPacketsSent ?? 0,
    limit: stat.qualityLimitationReason ?? null,
    encoder: stat.encoderImplementation ?? null,
    lossPct: remote?.fractionLost == null ? null : remote.fractionLost * 100,
    rttMs: remote?.roundTripTime == null ? null : remote.roundTripTime * 1_000,
  };
}

function inbound(stat, previous, report) {
  const { rate, line } = common(stat, previous, report, 'bytesReceived');
  const lost = Math.max(0, (stat.packetsLost ?? 0) - (previous?.packetsLost ?? 0));
  const received = (stat.packetsReceived ?? 0) - (previous?.packetsReceived ?? 0);
  const emitted = (stat.jitterBufferEmittedCount ?? 0) - (previous?.jitterBufferEmittedCount ?? 0);
  const delay = (stat.jitterBufferDelay ?? 0) - (previous?.jitterBufferDelay ?? 0);
  return {
    ...line,
    fps: stat.framesPerSecond ?? rate('framesDecoded'),
    frames: stat.framesDecoded ?? null,
    keyframes: stat.keyFramesDecoded ?? null,
    dropped: stat.framesDropped ?? null,
    freezes: stat.freezeCount ?? null,
    packets: stat.packetsReceived ?? 0,
    lost: stat.packetsLost ?? 0,
    lossPct: received + lost > 0 ? (100 * lost) / (received + lost) : null,
    discarded: stat.packetsDiscarded ?? 0,
    jitterMs: stat.jitter == null ? null : stat.jitter * 1_000,
    bufferMs: emitted > 0 ? (delay / emitted) * 1_000 : null,
    samples: stat.totalSamplesReceived ?? null,
    energy: stat.totalAudioEnergy ?? null,
    concealed: stat.concealedSamples ?? null,
    decoder: stat.decoderImplementation ?? null,
  };
}
