// Offers as real clients send them, cut to what matters, and a reader for answers.

const FINGERPRINT = 'a=fingerprint:sha-256 EB:12:26:47:76:E7:3C:A8:72:20:54:D4:33:E7:F6:C6:B0:ED:F6:9E:18:1C:96:19:D9:68:DC:12:8A:49:3D:87';
export const UFRAG = 'e2gB';
export const PWD = '+ScG6bTC9/1cyDaM2q4YMIxx';
const ICE = [`a=ice-ufrag:${UFRAG}`, `a=ice-pwd:${PWD}`];
const HEAD = ['v=0', 'o=- 4611731400430051336 2 IN IP4 127.0.0.1', 's=-', 't=0 0'];

const sdp = (...lines) => `${lines.flat(2).join('\r\n')}\r\n`;

/** OBS (libdatachannel): session-level fingerprint, no candidate, no RTX. */
export const obs = sdp(
  HEAD, 'a=group:BUNDLE 0 1', 'a=group:LS 0 1', 'a=msid-semantic:WMS *', 'a=ice-options:ice2,trickle', FINGERPRINT,
  'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'c=IN IP4 0.0.0.0', 'a=mid:0', 'a=sendonly', 'a=ssrc:1000 cname:x', 'a=msid:a a-audio',
  'a=rtcp-mux', 'a=rtpmap:111 opus/48000/2', 'a=fmtp:111 minptime=10;stereo=1;sprop-stereo=1;useinbandfec=1', 'a=setup:actpass', ICE,
  'm=video 9 UDP/TLS/RTP/SAVPF 96', 'c=IN IP4 0.0.0.0', 'a=mid:1', 'a=sendonly', 'a=ssrc:1001 cname:x', 'a=msid:a a-video',
  'a=rtcp-mux', 'a=rtpmap:96 H264/90000', 'a=rtcp-fb:96 nack', 'a=rtcp-fb:96 nack pli', 'a=rtcp-fb:96 goog-remb',
  'a=fmtp:96 profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1', 'a=setup:actpass', ICE,
);

/** FFmpeg 8.1: passive, an FID group whose second SSRC is declared nowhere. */
export const ffmpeg = sdp(
  'v=0', 'o=FFmpeg 4489045141692799359 2 IN IP4 127.0.0.1', 's=FFmpegPublishSession', 't=0 0', 'a=group:BUNDLE 0 1',
  'a=extmap-allow-mixed', 'a=msid-semantic: WMS',
  'm=audio 9 UDP/TLS/RTP/SAVPF 111', 'c=IN IP4 0.0.0.0', ICE, FINGERPRINT, 'a=setup:passive', 'a=mid:0', 'a=sendonly',
  'a=msid:FFmpeg audio', 'a=rtcp-mux', 'a=rtpmap:111 opus/48000/2', 'a=ssrc:3066621248 cname:FFmpeg', 'a=ssrc:3066621248 msid:FFmpeg audio',
  'm=video 9 UDP/TLS/RTP/SAVPF 106 105', 'c=IN IP4 0.0.0.0', ICE, FINGERPRINT, 'a=setup:passive', 'a=mid:1', 'a=sendonly',
  'a=msid:FFmpeg video', 'a=rtcp-mux', 'a=rtcp-rsize', 'a=rtpmap:106 H264/90000',
  'a=fmtp:106 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42000d', 'a=rtcp-fb:106 nack', 'a=rtpmap:105 rtx/90000',
  'a=fmtp:105 apt=106', 'a=ssrc-group:FID 3066621249 3066621250', 'a=ssrc:3066621249 cname:FFmpeg', 'a=ssrc:3066621249 msid:FFmpeg video',
);

/** A browser that publishes three rids, two codecs with RTX each. */
export const simulcast = sdp(
  HEAD, 'a=group:BUNDLE 0', 'a=extmap-allow-mixed', 'a=msid-semantic: WMS m',
  'm=video 9 UDP/TLS/RTP/SAVPF 96 97 98 99', 'c=IN IP4 0.0.0.0', 'a=rtcp:9 IN IP4 0.0.0.0', ICE, 'a=ice-options:trickle', FINGERPRINT,
  'a=setup:actpass', 'a=mid:0', 'a=extmap:3 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01',
  'a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid', 'a=extmap:10 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id',
  'a=extmap:11 urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id', 'a=sendonly', 'a=msid:m v', 'a=rtcp-mux', 'a=rtcp-rsize',
  'a=rtpmap:96 VP8/90000', 'a=rtcp-fb:96 goog-remb', 'a=rtcp-fb:96 transport-cc', 'a=rtcp-fb:96 ccm fir', 'a=rtcp-fb:96 nack',
  'a=rtcp-fb:96 nack pli', 'a=rtpmap:97 rtx/90000', 'a=fmtp:97 apt=96', 'a=rtpmap:98 VP9/90000', 'a=rtcp-fb:98 nack pli',
  'a=fmtp:98 profile-id=0', 'a=rtpmap:99 rtx/90000', 'a=fmtp:99 apt=98',
  'a=rid:l send', 'a=rid:m send', 'a=rid:h send', 'a=simulcast:send l;m;h',
);

/** A browser that watches. */
export const viewer = sdp(
  HEAD, 'a=group:BUNDLE 0 1', 'a=msid-semantic: WMS',
  'm=audio 9 UDP/TLS/RTP/SAVPF 111 63 0', 'c=IN IP4 0.0.0.0', ICE, 'a=ice-options:trickle', FINGERPRINT, 'a=setup:actpass', 'a=mid:0',
  'a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid', 'a=recvonly', 'a=rtcp-mux', 'a=rtcp-rsize', 'a=rtpmap:111 opus/48000/2',
  'a=fmtp:111 minptime=10;useinbandfec=1', 'a=rtpmap:63 red/48000/2', 'a=fmtp:63 111/111', 'a=rtpmap:0 PCMU/8000',
  'm=video 9 UDP/TLS/RTP/SAVPF 96 97 102 103 45 46', 'c=IN IP4 0.0.0.0', ICE, 'a=ice-options:trickle', FINGERPRINT, 'a=setup:actpass', 'a=mid:1',
  'a=extmap:4 urn:ietf:params:rtp-hdrext:sdes:mid', 'a=recvonly', 'a=rtcp-mux', 'a=rtcp-rsize',
  'a=rtpmap:96 VP8/90000', 'a=rtcp-fb:96 transport-cc', 'a=rtcp-fb:96 nack', 'a=rtcp-fb:96 nack pli', 'a=rtpmap:97 rtx/90000', 'a=fmtp:97 apt=96',
  'a=rtpmap:102 H264/90000', 'a=fmtp:102 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f', 'a=rtcp-fb:102 nack',
  'a=rtcp-fb:102 nack pli', 'a=rtpmap:103 rtx/90000', 'a=fmtp:103 apt=102', 'a=rtpmap:45 AV1/90000', 'a=rtcp-fb:45 nack pli',
  'a=rtpmap:46 rtx/90000', 'a=fmtp:46 apt=45',
);

/** GStreamer whepsrc: the second section has port 0 and is alive (bundle-only), H264 has no fmtp. */
export const gstreamer = sdp(
  HEAD, 'a=ice-options:trickle', 'a=group:BUNDLE audio0 video1',
  'm=audio 9 UDP/TLS/RTP/SAVPF 96', 'c=IN IP4 0.0.0.0', 'a=setup:actpass', ICE, 'a=rtcp-mux', 'a=rtcp-rsize', 'a=recvonly',
  'a=rtpmap:96 OPUS/48000', 'a=mid:audio0', FINGERPRINT, 'a=rtcp-mux-only',
  'm=video 0 UDP/TLS/RTP/SAVPF 101 102 103 104 105', 'c=IN IP4 0.0.0.0', 'a=setup:actpass', ICE, 'a=bundle-only', 'a=rtcp-mux', 'a=rtcp-rsize',
  'a=recvonly', 'a=rtpmap:101 VP8/90000', 'a=rtpmap:102 VP9/90000', 'a=rtpmap:103 H264/90000', 'a=rtpmap:104 H265/90000', 'a=rtpmap:105 AV1/90000',
  'a=mid:video1', FINGERPRINT, 'a=rtcp-mux-only',
);

/** A trickle fragment as browsers' libraries write it. */
export function fragment({ ufrag = UFRAG, pwd = PWD, m = 'm=audio 9 UDP/TLS/RTP/SAVPF 0', mid = '0', candidates = [], eol = '\r\n' } = {}) {
  const media = m ? [m, `a=mid:${mid}`] : [];
  return [`a=ice-ufrag:${ufrag}`, `a=ice-pwd:${pwd}`, ...media, ...candidates.map((line) => `a=${line}`)].join(eol) + eol;
}

/** Session lines and m-sections of an SDP. */
export function sections(text) {
  const [session, ...media] = text.split(/^(?=m=)/m).map((part) => part.split('\r\n').filter(Boolean));
  return { session, media };
}

/** Value of the first `a=name:` or, for a flag, '' if present; null otherwise. */
export function attribute(lines, name) {
  const line = lines.find((line) => line === `a=${name}` || line.startsWith(`a=${name}:`));
  return line === undefined ? null : line.slice(name.length + 3);
}
