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

/** Time in which a POST must be answered. Servers answer in milliseconds; native clients give up after 8 s. */
const POST_TIMEOUT_MS = 10_000;
/** Time from the answer to a working media path. After it the attempt has failed. */
const CONNECT_TIMEOUT_MS = 15_000;
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

/** Interval at which layers are read where there is no event stream. */
const LAYERS_EVERY_MS = 4_000;
/** Extensions of WHEP that are used, by their relation in `Link`. */
const EVENTS = 'urn:ietf:params:whep:ext:core:server-sent-events';
const LAYER = 'urn:ietf:params:whep:ext:core:layer';

/** A problem: as text for people (`message`) and as a `kind` for programs. */
export class WeirError extends Error {
  /**
   * @param {'refused'|'unauthorized'|'forbidden'|'unavailable'|'network'|'ice'|'ended'|'protocol'} kind
   * @param {string} message
   * @param {{status?: number, retryAfterMs?: number}} [more]
   */
  constructor(kind, message, more = {}) {
    super(message);
    this.name = 'WeirError';
    this.kind = kind;
    this.status = more.status ?? null;
    this.retryAfterMs = more.retryAfterMs ?? 0;
  }
}

/** Kinds of errors after which a later attempt may succeed. */
const TRANSIENT = new Set(['unavailable', 'network', 'ice']);

/**
 * Publishes the tracks of `stream` to a WHIP endpoint, and reconnects until `close()`.
 *
 * @param {string|URL} url WHIP endpoint.
 * @param {MediaStream} stream At most one audio and one video track are usual.
 * @param {object} [opts]
 * @param {string} [opts.token] Bearer token.
 * @param {string} [opts.codec] Video codec name, e.g. `VP9`; without it the browser's order holds.
 * @param {boolean} [opts.simulcast] Sends three layers, rids l, m, h (a quarter, half and full size).
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
        sendEncodings: track.kind === 'video' ? videoEncodings(opts) : undefined,
      });
      if (track.kind === 'video' && opts.codec) preferCodec(transceiver, opts.codec);
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
    const receivers = ['audio', 'video'].map((kind) => pc.addTransceiver(kind, { direction: 'recvonly' }).receiver);
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
      const idle = pc.getTransceivers().filter((transceiver) => transceiver.currentDirection === 'inactive');
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
 * - `waiting`: (viewer) connected, or refused for now, and no media yet;
 * - `live`: media is sent or received;
 * - `reconnecting`: media stopped or an attempt failed, and another one follows (`lastError` says why);
 * - `failed`: no more attempts, because they would fail in the same way;
 * - `ended`: (publisher) the server ended the session on purpose;
 * - `closed`: `close()` was called.
 *
 * A `state` event follows each change of `state` or `lastError`. After `listen` a viewer also has `layers`
 * events when `layers` changes and `viewers` events when `viewers` changes.
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
  /** @type {?number} Viewer: the number of viewers, if the server sends it. */
  viewers = null;
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
    for (const { sender } of this.pc?.getTransceivers() ?? []) {
      const track = stream.getTracks().find((track) => track.kind === sender.track?.kind);
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
      failed: () => this.#lost(this.#everLive ? pathError() : iceError()),
      closed: () => this.#endedByServer(connection),
    });
    this.#connection = connection;
    this.startupMs = null;
    try {
      this.attach(connection.pc);
      await connection.open(() => {
        if (Object.keys(this.preference).length) this.selectLayer(this.preference).catch(() => {});
        this.#followEvents();
        this.#after('connect', CONNECT_TIMEOUT_MS, () => this.#lost(iceError()));
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

  /** Viewer: sets the state to `live` while packets arrive and to `waiting` while they do not. */
  #watchArrivals(connection) {
    let packets = 0;
    let arrivedAt = 0;
    const look = async () => {
      const report = await connection.pc.getStats().catch(() => null);
      if (this.#connection !== connection || !report) return;
      let sum = 0;
      for (const stat of report.values()) {
        if (stat.type === 'inbound-rtp') sum += stat.packetsReceived ?? 0;
      }
      const now = performance.now();
      if (sum > packets) arrivedAt = now;
      packets = sum;
      if (arrivedAt && now - arrivedAt < SILENCE_MS) {
        // Audio only, or a browser that does not report when a frame is shown.
        if (this.state !== 'live') this.#becomeLive();
      } else if (this.state === 'live') {
        this.#become('waiting', null);
      }
      this.#after('arrivals', this.state === 'live' ? 1_000 : 250, look);
    };
    void look();
  }

  #becomeLive() {
    this.startupMs ??= Math.round(performance.now() - this.#connection.postedAt);
    this.#everLive = true;
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
   * The server closed the connection (close_notify). A viewer reconnects, because the stream may return. A
   * publisher reconnects only if the server itself stops. If the server still answers, this session was taken
   * over or removed, and two publishers must not take one stream from each other again and again.
   */
  async #endedByServer(connection) {
    if (this.#role === 'viewer') {
      return this.#lost(new WeirError('unavailable', 'The server ended the stream.'));
    }
    this.#dropConnection();
    this.#become('reconnecting', new WeirError('network', 'The server closed the connection.'));
    const answers = await connection.signalling.answers();
    if (this.pc || this.state !== 'reconnecting') return;
    if (!answers) return this.#retryLater();
    this.#become(
      'ended',
      new WeirError(
        'ended',
        'The server ended this session: another publisher took this stream over, or an operator ended it.',
      ),
    );
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
    this.#layersAre([]);
    this.#viewersAre(null);
    connection?.signalling.delete();
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
    this.#cancel('layers');
    const url = this.#link(EVENTS);
    if (this.#listens === 'events' && url) {
      const events = new EventSource(url);
      events.addEventListener('layers', ({ data }) => this.#layersAre(JSON.parse(data)));
      events.addEventListener('viewercount', ({ data }) => {
        this.#viewersAre(JSON.parse(data).viewercount);
      });
      events.addEventListener('error', () => {
        // Closed and not reconnecting: refused by a limit, or because the session has ended.
        if (events === this.#events && events.readyState === EventSource.CLOSED) void this.#pollLayers();
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
    if (layers) this.#layersAre(layers);
    this.#after('layers', LAYERS_EVERY_MS, () => this.#pollLayers());
  }

  /** Takes the layers by m-line; there is one video section. */
  #layersAre(sections) {
    const layers = Object.values(sections)[0] ?? [];
    if (!layers.length && !this.layers.length) return;
    this.layers = layers;
    this.dispatchEvent(new Event('layers'));
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
    await this.pc.setLocalDescription();
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
    await pc.setLocalDescription();
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

  #watch() {
    const { pc } = this;
    pc.addEventListener('icecandidate', ({ candidate }) => {
      // Everything is bundled on the first section; null and '' both mean the end of candidates.
      if (candidate?.candidate && candidate.sdpMLineIndex !== 0) return;
      this.#candidates.push(candidate?.candidate || null);
      if (this.#trickle === 'sent') this.#sendCandidates();
    });
    pc.addEventListener('connectionstatechange', () => {
      if (pc.connectionState === 'connected') this.#connected();
      if (pc.connectionState === 'disconnected') this.#on?.silent();
      if (pc.connectionState === 'failed') this.#on?.failed();
      if (pc.connectionState === 'closed') this.#on?.closed();
    });
  }

  #connected() {
    // A close_notify of the server is seen here first, and in some browsers only here.
    const dtls = (this.pc.getSenders()[0] ?? this.pc.getReceivers()[0])?.transport;
    dtls?.addEventListener('statechange', () => {
      if (dtls.state === 'closed') this.#on?.closed();
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

  /** Whether the server still answers for this session, with any status below 500. */
  answers() {
    return request(this.#server, this.#resource, { method: 'HEAD' }).then(
      (response) => response.status < 500,
      () => false,
    );
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
    if (rel) found.set(rel, new URL(url, response.url).href);
  }
  return found;
}

/** Error of an HTTP refusal; the `detail` of problem+json comes before our own text. */
async function refusal(response) {
  const problem = await response.json().catch(() => null);
  const says = problem?.detail || problem?.error || problem?.title;
  const status = response.status;
  const retryAfterMs = 1_000 * (Number(response.headers.get('Retry-After')) || 0);
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

const iceError = () =>
  new WeirError(
    'ice',
    'The server answers, but its media port cannot be reached. Check that the UDP port is open in the ' +
      'firewall and that the server advertises an address you can reach (--advertise).',
  );
const pathError = () => new WeirError('network', 'The connection was interrupted.');

/** Encodings of one video track: three sizes, or one. */
function videoEncodings({ codec, simulcast, maxKbps }) {
  const cap = maxKbps ? maxKbps * 1_000 : undefined;
  if (!simulcast) return [cap ? { maxBitrate: cap } : {}];
  // VP9 and AV1 send all three rids only if each one is set to one spatial layer.
  const mode = /^(VP9|AV1)$/i.test(codec ?? '') ? { scalabilityMode: 'L1T3' } : {};
  const layer = (rid, scale, share) => ({
    rid,
    scaleResolutionDownBy: scale,
    ...(cap && { maxBitrate: Math.round(cap * share) }),
    ...mode,
  });
  return [layer('l', 4, 0.1), layer('m', 2, 0.35), layer('h', 1, 1)];
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
