#!/usr/bin/env python3
"""Writes the seed inputs of the fuzz targets into corpus/<target>/, one named file each.

The names tell the story; findings of the fuzzer are added beside them by hand and never overwritten.
Run it again after a change: the output is the same bytes every time.
"""
import hashlib
import hmac
import pathlib
import struct
import zlib

CORPUS = pathlib.Path(__file__).parent / "corpus"


def write(target, seeds):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds.items():
        (folder / name).write_bytes(data)


# STUN (RFC 8489). The password is the one that fuzz_entry.rs verifies with.
PASSWORD = b"VOkJxbRl1RmTxUk/WvJxBt"
COOKIE = 0x2112A442


def attribute(kind, value):
    return struct.pack("!HH", kind, len(value)) + value + bytes(-len(value) % 4)


def stun(kind, attributes=b"", length=None, cookie=COOKIE):
    size = len(attributes) if length is None else length
    return struct.pack("!HHI", kind, size, cookie) + b"transaction!" + attributes


def sealed(kind, attributes):
    """A message with MESSAGE-INTEGRITY and FINGERPRINT, each counted in the length it covers."""
    text = stun(kind, attributes, len(attributes) + 24)
    attributes += attribute(0x0008, hmac.new(PASSWORD, text, hashlib.sha1).digest())
    text = stun(kind, attributes, len(attributes) + 8)
    crc = (zlib.crc32(text) ^ 0x5354554E) & 0xFFFFFFFF
    return text + attribute(0x8028, struct.pack("!I", crc))


USERNAME = attribute(0x0006, b"weir:peer")
CHECK = USERNAME + attribute(0x0024, struct.pack("!I", 0x6E001EFF)) + attribute(0x802A, bytes(8))
MAPPED = attribute(0x0020, bytes([0, 1, 0x32, 0xBA, 0x5E, 0x12, 0xA4, 0x43]))

write("stun", {
    "check": sealed(0x0001, CHECK),
    "check-nominating": sealed(0x0001, CHECK + attribute(0x0025, b"")),
    "check-without-priority": sealed(0x0001, USERNAME),
    "success": sealed(0x0101, MAPPED),
    "error-420": sealed(0x0111, attribute(0x0009, b"\0\0\4\x14Unknown Attribute")),
    "plain-binding": stun(0x0001),
    "plain-binding-with-software": stun(0x0001, attribute(0x8022, b"a client 1.0")),
    "indication": stun(0x0011),
    "integrity-wrong": sealed(0x0001, CHECK)[:-1] + b"\0",
    "integrity-not-last": sealed(0x0001, CHECK) + attribute(0x0025, b""),
    "unknown-attributes": stun(0x0001, b"".join(attribute(0x7F00 + n, b"x") for n in range(12))),
    "username-without-colon": stun(0x0001, attribute(0x0006, b"weir")),
    "username-two-colons": stun(0x0001, attribute(0x0006, b"we:ir:peer")),
    "username-not-utf8": stun(0x0001, attribute(0x0006, b"\xff\xfe:\x80")),
    "username-empty": stun(0x0001, attribute(0x0006, b"")),
    "username-twice": stun(0x0001, USERNAME + attribute(0x0006, b"other:peer")),
    "attribute-past-the-end": stun(0x0001, struct.pack("!HH", 0x0006, 0xFFFF) + b"weir"),
    "length-not-a-multiple-of-4": stun(0x0001, b"abc"),
    "length-past-the-end": stun(0x0001, USERNAME, length=1000),
    "length-short": stun(0x0001, USERNAME, length=4),
    "cookie-of-rfc-3489": stun(0x0001, cookie=0),
    "header-only-half": stun(0x0001)[:10],
})


# RTP (RFC 3550), extensions (RFC 8285), payloads of the codecs.
def rtp(payload, pt=96, extension=b"", csrcs=0, padding=0, marker=0):
    first = 0x80 | (0x20 if padding else 0) | (0x10 if extension else 0) | csrcs
    head = struct.pack("!BBHII", first, marker << 7 | pt, 4711, 90000, 0xCAFE)
    tail = bytes(padding - 1) + bytes([padding & 0xFF]) if padding else b""
    return head + bytes(4 * csrcs) + extension + payload + tail


def extensions(profile, body):
    body += bytes(-len(body) % 4)
    return struct.pack("!HH", profile, len(body) // 4) + body


def one_byte(*elements):
    return extensions(0xBEDE, b"".join(bytes([n << 4 | len(v) - 1]) + v for n, v in elements))


def two_byte(*elements):
    return extensions(0x1000, b"".join(bytes([n, len(v)]) + v for n, v in elements))


VP8_KEY = bytes([0x90, 0xE0, 0x92, 0x34, 0x05, 0x60]) + b"\x10\x02\0\x9d\x01\x2a\x80\x02\x68\x01" + bytes(8)
VP9_KEY = bytes([0xAE, 0x81, 0x23, 0x00, 0x3A, 0x10, 0x02, 0x80, 0x01, 0x68]) + bytes(12)


def golomb(value):
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


def h264_sps(fields):
    """Baseline, level 3.0; the fields after seq_parameter_set_id as numbers (ue) and flags (bool)."""
    bits = golomb(0) + "".join(str(int(f)) if isinstance(f, bool) else golomb(f) for f in fields) + "1"
    bits += "0" * (-len(bits) % 8)
    return b"\x67\x42\xc0\x1e" + int(bits, 2).to_bytes(len(bits) // 8, "big")


# 40 x 23 macroblocks, cropped by 4 x 2 lines at the bottom: 640 x 360.
SPS = h264_sps([0, 2, 1, False, 39, 22, True, True, True, 0, 0, 0, 4, False])
PPS = bytes.fromhex("68cb83cb20")
IDR = b"\x65" + bytes(20)


def stap(*units):
    return b"\x78" + b"".join(struct.pack("!H", len(unit)) + unit for unit in units)


H265_VPS = b"\x40\x01" + bytes(8)
AV1_SEQUENCE = b"\x18\x0a\x0b" + bytes.fromhex("000000042aabbfc3710be4") + b"\x32" + bytes(6)

write("rtp", {
    "bare": rtp(b""),
    "opus": rtp(b"\xfc\xff\xfe", pt=111, extension=one_byte((1, b"0"), (4, b"\x85"))),
    "simulcast-extensions": rtp(VP8_KEY, extension=one_byte((1, b"1"), (2, b"h"), (3, b"\x12\x34"))),
    "two-byte-extensions": rtp(VP8_KEY, extension=two_byte((1, b"1"), (20, b"x" * 40), (21, b""))),
    "extension-id-15": rtp(b"x", extension=extensions(0xBEDE, b"\xf0a\x10b")),
    "extension-element-past-the-end": rtp(b"x", extension=extensions(0xBEDE, b"\x1fab")),
    "extension-two-byte-past-the-end": rtp(b"x", extension=extensions(0x1000, b"\x01\xffab")),
    "extension-unknown-profile": rtp(b"x", extension=extensions(0xABCD, b"abcd")),
    "extension-past-the-end": rtp(b"", extension=struct.pack("!HH", 0xBEDE, 0xFFFF)),
    "extensions-all-padding": rtp(b"x", extension=extensions(0xBEDE, bytes(64))),
    "extensions-too-many": rtp(b"x", extension=one_byte(*((1 + n % 14, b"v") for n in range(40)))),
    "csrcs-15": rtp(b"x", csrcs=15),
    "csrcs-past-the-end": rtp(b"", csrcs=15)[:20],
    "padding-8": rtp(b"media", padding=8),
    "padding-only": rtp(b"", padding=255),
    "padding-zero": b"\xa0" + rtp(b"media\0")[1:],
    "padding-more-than-there-is": b"\xa0" + rtp(b"\xff")[1:],
    "version-1": b"\x40" + rtp(b"x")[1:],
    "vp8-key-15-bit-picture-id": rtp(VP8_KEY, marker=1),
    "vp8-key-7-bit-picture-id": rtp(bytes([0x90, 0x80, 0x12]) + VP8_KEY[6:]),
    "vp8-key-no-picture-id": rtp(b"\x10" + VP8_KEY[6:]),
    "vp8-delta": rtp(bytes([0x80, 0xE0, 0x92, 0x35, 0x06, 0x60, 0x11])),
    "vp8-descriptor-cut": rtp(b"\x90\xf0\x92"),
    "vp9-key-with-structure": rtp(VP9_KEY),
    "vp9-layers-flexible": rtp(bytes([0xF8, 0x81, 0x24, 0x42, 0x03, 0x05]) + bytes(8)),
    "vp9-structure-cut": rtp(b"\x8a\x81\x23\xff"),
    "h264-stap-a": rtp(stap(SPS, PPS, IDR), marker=1),
    "h264-stap-a-nested": rtp(stap(stap(SPS, PPS), b"", IDR)),
    "h264-stap-a-past-the-end": rtp(b"\x78\xff\xff\x67"),
    "h264-sps": rtp(SPS),
    "h264-sps-golomb-zeros": rtp(b"\x67\x64\0\x1f" + bytes(40)),
    "h264-fu-a-start": rtp(b"\x7c\x85" + bytes(20)),
    "h264-fu-a-without-start": rtp(b"\x7c\x45" + bytes(20)),
    "h264-fu-a-cut": rtp(b"\x7c"),
    "h265-aggregation": rtp(b"\x60\x01" + struct.pack("!H", len(H265_VPS)) + H265_VPS),
    "h265-fu-start-idr": rtp(b"\x62\x01\x93" + bytes(20)),
    "h265-sps": rtp(b"\x42\x01\x01\x01\x60" + bytes(30)),
    "av1-sequence-header": rtp(AV1_SEQUENCE),
    "av1-leb128-endless": rtp(b"\x00" + b"\xff" * 12),
    "red-two-blocks": rtp(b"\xef\x01\x40\x03\x6f" + b"old" + b"\xfc\xff\xfe", pt=63),
    "red-header-past-the-end": rtp(b"\xef\x01\x40", pt=63),
    "red-block-longer-than-packet": rtp(b"\xef\xff\xff\xff\x6f", pt=63),
})


# Dependency descriptors (AV1 RTP specification, appendix A) and layers allocations, as records of a
# length and that many bytes.
def records(*elements):
    return b"".join(bytes([len(element)]) + element for element in elements)


def bits(text):
    text = text.replace(" ", "")
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def frame(template, flags="", rest="", start=1, end=1, number=7):
    return f"{start}{end}{template % 64:06b}{number:016b}{flags}{rest}"


def structure(layers, dtis, diffs, chains="0", sizes="", first=61):
    """Layers as next_layer_idc codes, indications as letters, frame differences as lists."""
    text = f"{first:06b}{len(dtis[0]) - 1:05b}" + layers + "11"
    text += "".join(f"{'-DSR'.index(dti):02b}" for template in dtis for dti in template)
    text += "".join("".join(f"1{diff - 1:04b}" for diff in template) + "0" for template in diffs)
    return text + chains + ("1" + sizes if sizes else "0")


def size(*sides):
    return "".join(f"{side - 1:016b}" for side in sides)


L1T1 = structure("00", ["S", "S"], [[], [1]], "0", size(1280, 720))
L1T3 = structure("00010100", ["SSS", "SSS", "-DS", "--D", "--D"], [[], [4], [2], [1], [1]], "01" + "0" * 20)
L2T2 = structure("0001100001", ["SSSS", "SSRR", "-D-R", "--SS", "--SS", "---D"], [[], [4], [2], [1], [4, 1], [2, 1]],
                 "00", size(320, 180, 640, 360))
KEY_1T1, KEY_1T3, KEY_2T2 = (bits(frame(61, "10000", s, end=0)) for s in (L1T1, L1T3, L2T2))

write("descriptor", {
    "one-layer": records(KEY_1T1, bits(frame(61, start=0)), bits(frame(62, number=8))),
    "three-temporal-layers": records(KEY_1T3, *(bits(frame(61 + n, number=8 + n)) for n in range(5))),
    "two-by-two-layers": records(KEY_2T2, *(bits(frame(61 + n, number=8 + n)) for n in range(6))),
    "all-custom": records(KEY_1T3, bits(frame(63, "00111", "001010" + "01 0011 10 00001111 11 000011110000 00" + "00001001"))),
    "active-targets": records(KEY_2T2, bits(frame(62, "01000", "0011")), bits(frame(62, "01000", "0000"))),
    "structure-replaced-and-late": records(KEY_1T3, KEY_2T2, KEY_1T1 + bytes(-len(KEY_1T1) % 7), bits(frame(2))),
    "template-unknown": records(KEY_1T1, bits(frame(5))),
    "no-structure": records(bits(frame(3)), bits(frame(3, "00000"))),
    "structure-cut": records(*(KEY_2T2[:n] for n in range(3, len(KEY_2T2)))),
    "sixty-five-templates": records(bits(frame(0, "10000", "000000" + "00000" + "00" * 64 + "11"))),
    "nine-temporal-layers": records(bits(frame(0, "10000", "000000" + "00000" + "01" * 8 + "11"))),
    "thirty-two-targets": records(bits(frame(0, "10000", structure("", ["S" * 32], [[]], "111111" + "1" * 288, first=0)))),
    "differences-without-end": records(KEY_1T1, bits(frame(62, "00010", "11" * 900))),
    "allocation-three-streams": records(bytes([0x61, 0, 100, 0xF4, 3, 0xC4, 0x13]) + bytes.fromhex("013f00b31e 027f01671e 04ff02cf1e")),
    "allocation-spatial": records(bytes([0x07, 0x18, 10, 20, 30, 40, 50, 60])),
    "allocation-masks": records(bytes([0x30, 0x13, 0x4F, 0, 0]) + bytes(8), bytes([0x20, 0, 0x10, 0, 9])),
    "allocation-nothing": records(b"\0"),
    "allocation-rate-endless": records(b"\x01\0" + b"\xff" * 9),
})


# RTCP (RFC 3550, 4585, 5104, TWCC draft, REMB draft).
def rtcp(kind, count, body, words=None):
    size = len(body) // 4 if words is None else words
    return struct.pack("!BBH", 0x80 | count, kind, size) + body


def feedback(kind, fmt, body, media=0xBEEF):
    body += bytes(-len(body) % 4)
    return rtcp(kind, fmt, struct.pack("!II", 0xCAFE, media) + body)


def twcc(base, count, chunks, deltas=b"", reference=100):
    head = struct.pack("!HHI", base, count, (reference & 0xFFFFFF) << 8 | 7)
    return feedback(205, 15, head + b"".join(struct.pack("!H", c) for c in chunks) + deltas)


BLOCK = struct.pack("!IIIIII", 0xBEEF, 0x19000007, 0x00011000, 40, 0x12345678, 0x00010000)
REPORT = rtcp(200, 1, struct.pack("!IQIII", 0xCAFE, 0xE8000000_80000000, 90000, 10, 12000) + BLOCK)
SDES = rtcp(202, 1, struct.pack("!I", 0xCAFE) + b"\x01\x05cname\0")
REMB = b"REMB\x01\x0b\x5d\xc0" + struct.pack("!I", 0xBEEF)

write("rtcp", {
    "sender-report": REPORT + SDES,
    "receiver-report": rtcp(201, 2, struct.pack("!I", 0xCAFE) + BLOCK + BLOCK),
    "receiver-report-empty": rtcp(201, 0, struct.pack("!I", 0xCAFE)),
    "receiver-report-count-too-high": rtcp(201, 31, struct.pack("!I", 0xCAFE) + BLOCK),
    "nack": feedback(205, 1, struct.pack("!HH", 65535, 0x8001)),
    "nack-bomb": feedback(205, 1, b"".join(struct.pack("!HH", n * 17 & 0xFFFF, 0xFFFF) for n in range(300))),
    "nack-empty": feedback(205, 1, b""),
    "pli": feedback(206, 1, b""),
    "fir": feedback(206, 4, struct.pack("!II", 0xBEEF, 7 << 24)),
    "fir-half-entry": feedback(206, 4, b"\0\0\xbe\xef"),
    "remb": feedback(206, 15, REMB, media=0),
    "remb-exponent-63": feedback(206, 15, b"REMB\x01\xff\xff\xff\0\0\xbe\xef", media=0),
    "remb-count-past-the-end": feedback(206, 15, b"REMB\xff\x0b\x5d\xc0", media=0),
    "afb-not-remb": feedback(206, 15, b"ABCD\x01\x0b\x5d\xc0", media=0),
    "twcc-run-length": twcc(10, 5, [0x2005], b"\x04\x08\x0c\x10\x14"),
    "twcc-vector-1-bit": twcc(65530, 14, [0xBFFF], bytes(range(14))),
    "twcc-vector-2-bit": twcc(0, 7, [0xD9A4], b"\x04\x80\x00\x08\x7f\xff\x0c"),
    "twcc-all-lost": twcc(1, 8191, [0x1FFF]),
    "twcc-claims-65535": twcc(1, 65535, [0x3FFF], b"\x01"),
    "twcc-no-chunks": twcc(1, 20, []),
    "twcc-reference-negative": twcc(1, 1, [0x2001], b"\x04", reference=-1),
    "twcc-reserved-symbol": twcc(1, 3, [0x6003], b"\1\2\3"),
    "bye": rtcp(203, 1, struct.pack("!I", 0xCAFE)),
    "bye-reason-past-the-end": rtcp(203, 1, struct.pack("!I", 0xCAFE) + b"\xffbye"),
    "extended-report": rtcp(207, 0, struct.pack("!I", 0xCAFE) + b"\x04\0\0\2" + bytes(8)),
    "compound-of-40": feedback(206, 1, b"") * 40,
    "compound-second-broken": REPORT + SDES[:-2],
    "length-past-the-end": rtcp(201, 0, struct.pack("!I", 0xCAFE), words=0xFFFF),
    "length-zero": rtcp(201, 1, b"", words=0) * 8,
    "padding": b"\xa1" + feedback(206, 1, bytes(3) + b"\4")[1:],
    "version-0": b"\0" + REPORT[1:],
})


# SDP: fragments and hostile shapes. Offers of real clients are in ../tests/data/offers.
def text(*lines):
    return "".join(line + "\r\n" for line in lines).encode()


ICE = ("a=ice-ufrag:f75028c3", "a=ice-pwd:7a0f06f7af86063a45a584f04cd5bec8")
KEY = "a=fingerprint:sha-256 " + ":".join(f"{n:02X}" for n in range(32))
HEAD = ("v=0", "o=- 1 2 IN IP4 127.0.0.1", "s=-", "t=0 0", "a=group:BUNDLE 0")
SHARED = ICE + (KEY, "a=setup:actpass", "a=rtcp-mux")


def offer(media, *lines, head=HEAD, shared=SHARED):
    return text(*head, media, "c=IN IP4 0.0.0.0", "a=mid:0", *shared, *lines)


OPUS = ("m=audio 9 UDP/TLS/RTP/SAVPF 111", "a=rtpmap:111 opus/48000/2")
VP8 = ("m=video 9 UDP/TLS/RTP/SAVPF 96 97", "a=rtpmap:96 VP8/90000", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96")
RIDS = ("a=extmap:1 urn:ietf:params:rtp-hdrext:sdes:mid", "a=extmap:2 urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id")
CANDIDATE = "a=candidate:1 1 udp 2130706431 10.0.0.1 5000 typ host"

# Scenarios for a whole server: see the table of steps in fuzz_datagram.rs.
PUBLISHER, VIEWER, STRANGER, BAD_RTP, BAD_RTCP, BAD_FEEDBACK, TIME, BAD_CHECK = range(8)


def step(kind, data):
    return bytes([kind]) + struct.pack("!H", len(data)) + data


def wait(ms):
    return bytes([TIME, min(ms // 4, 255)])


def media(seq, payload, ssrc, pt=96, time=0, extension=b"", padding=False):
    flags = 0x80 | (0x10 if extension else 0) | (0x20 if padding else 0)
    return struct.pack("!BBHII", flags, pt, seq & 0xFFFF, time & 0xFFFFFFFF, ssrc) + extension + payload


# SSRCs of the hostile publisher (the third client), and of the lines to the hostile viewer (the fourth).
SOUND, PICTURE, REPEATS = 301010, 302010, 302507
SOUND_LINE, PICTURE_LINE = 0x70000000 + 400, 0x70000000 + 410
KEYFRAME = bytes([0x90, 0xE0, 0x81, 2, 9, 0, 0x10, 0, 0, 0x9D, 1, 0x2A, 0x40, 1, 0xB0, 0]) + bytes(40)
DELTA = bytes([0x90, 0xE0, 0x81, 3, 10, 0, 0x11, 0, 0]) + bytes(40)
CLOCKS = struct.pack("!BBHIQIII", 0x80, 200, 6, PICTURE, 0xE8000000 << 32, 90000, 3, 300)
MID = struct.pack("!HH", 0xBEDE, 1) + b"\x40\x31\x00\x00"


def flow(count, first=100, ssrc=PICTURE):
    return b"".join(
        step(BAD_RTP, media(first + n, KEYFRAME if n == 0 else DELTA, ssrc, time=3000 * n)) + wait(32)
        for n in range(count)
    )


def nack(ssrc, *pairs):
    body = b"".join(struct.pack("!HH", *pair) for pair in pairs)
    return struct.pack("!BBHII", 0x81, 205, 2 + len(pairs), 1, ssrc) + body


PLI = struct.pack("!BBHII", 0x81, 206, 2, 1, PICTURE_LINE)

write("datagram", {
    "nothing": b"",
    "junk-in-every-name": b"".join(step(kind, bytes([first]) * 40) for kind in (0, 1, 2) for first in range(0, 256, 9)),
    "stun-in-every-name": b"".join(step(kind, stun(0x0001, CHECK)) for kind in (0, 1, 2)) * 10,
    "dtls-in-every-name": b"".join(step(kind, b"\x16\xfe\xfd" + bytes(8) + b"\0\x05hello") for kind in (0, 1, 2)),
    "checks-from-everywhere": b"".join(bytes([BAD_CHECK, how]) + wait(20) for how in range(16)) + wait(1000),
    "a-stream": step(BAD_RTCP, CLOCKS) + flow(12) + step(BAD_FEEDBACK, PLI) + flow(4, 112),
    "numbers-jump": flow(3) + flow(3, 5000) + flow(3, 40000) + flow(3, 65534),
    "times-jump": flow(2) + b"".join(step(BAD_RTP, media(102 + n, KEYFRAME, PICTURE, time=n << 30)) for n in range(6)),
    "repeats": flow(3) + b"".join(step(BAD_RTP, media(7 + n, struct.pack("!H", 90 + n) + DELTA, REPEATS, pt=97)) for n in range(30)),
    "repeats-first": step(BAD_RTP, media(7, struct.pack("!H", 1) + KEYFRAME, REPEATS, pt=97)) + flow(3),
    "padding-only": flow(2) + step(BAD_RTP, media(102, bytes(19) + b"\x14", PICTURE, padding=True)) + step(BAD_RTP, media(8, bytes(31) + b"\x20", REPEATS, pt=97, padding=True)),
    "padding-wrong": step(BAD_RTP, media(1, b"\x00", PICTURE, padding=True)) + step(BAD_RTP, media(2, b"\xff", PICTURE, padding=True)) + step(BAD_RTP, media(3, b"", PICTURE, padding=True)),
    "forty-ssrcs": b"".join(step(BAD_RTP, media(n, KEYFRAME, 1000 + n, extension=MID)) for n in range(40)) + flow(2),
    "another-ssrc": flow(3) + flow(3, 9, 4242) + flow(3, 103) + flow(3, 12, 4242),
    "payload-types-mixed": flow(2) + b"".join(step(BAD_RTP, media(102 + pt, KEYFRAME, PICTURE, pt=pt)) for pt in (0, 97, 111, 96, 127)),
    "sound": b"".join(step(BAD_RTP, media(n, bytes(80), SOUND, pt=111, time=960 * n)) + wait(20) for n in range(20)),
    "nack-storm": flow(6) + step(BAD_FEEDBACK, nack(PICTURE_LINE, *[(n * 17, 0xFFFF) for n in range(64)])) * 5 + wait(40) + step(BAD_FEEDBACK, nack(SOUND_LINE, (1, 1))),
    "rtcp-odd": step(BAD_FEEDBACK, b"\x80\xc9\xff\xff" + bytes(8)) + step(BAD_RTCP, b"\x9f\xc8\0\1" + bytes(8)) + step(BAD_RTCP, b"\x81\xcb\0\1" + bytes(4)) + step(BAD_FEEDBACK, PLI * 40),
    "empty-payloads": b"".join(step(BAD_RTP, media(n, b"", PICTURE)) for n in range(5)) + flow(2),
    "ten-seconds-of-silence": wait(1020) * 10,
})

write("sdp", {
    "send-opus": offer(*OPUS, "a=sendonly"),
    "receive-opus": offer(*OPUS, "a=recvonly"),
    "send-vp8-simulcast": offer(*VP8, *RIDS, "a=rid:h send", "a=rid:l send", "a=simulcast:send h;~l", "a=sendonly"),
    "send-vp8-rid-alternatives": offer(*VP8, "a=rid:h send pt=96", "a=simulcast:send h,m;l recv x", "a=sendonly"),
    "static-payload-types": offer("m=audio 9 UDP/TLS/RTP/SAVPF 0 8 9", "a=sendonly"),
    "rtx-of-rtx": offer(*VP8, "a=rtpmap:98 rtx/90000", "a=fmtp:98 apt=97", "a=fmtp:97 apt=97", "a=sendonly"),
    "red-around-opus": offer("m=audio 9 UDP/TLS/RTP/SAVPF 63 111", OPUS[1], "a=rtpmap:63 red/48000/2", "a=fmtp:63 111/111", "a=sendonly"),
    "port-0-bundle-only": offer("m=video 0 UDP/TLS/RTP/SAVPF 96", VP8[1], "a=bundle-only", "a=recvonly"),
    "data-channel-only": offer("m=application 9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000"),
    "holdconn": offer(*OPUS, "a=sendonly", shared=ICE + (KEY, "a=setup:holdconn", "a=rtcp-mux")),
    "no-fingerprint": offer(*OPUS, "a=sendonly", shared=ICE + ("a=setup:actpass", "a=rtcp-mux")),
    "fingerprint-odd": offer(*OPUS, "a=sendonly", shared=ICE + ("a=fingerprint:sha-256 A:BC:", "a=setup:active", "a=rtcp-mux")),
    "duplicate-mid": offer(*OPUS, "a=sendonly", OPUS[0], "a=mid:0"),
    "session-level-transport": text(*HEAD, *SHARED, *OPUS[:1], "c=IN IP4 0.0.0.0", "a=mid:0", OPUS[1], "a=sendonly"),
    "line-feeds-only": offer(*OPUS, "a=sendonly").replace(b"\r\n", b"\n"),
    "no-final-line-end": offer(*OPUS, "a=sendonly").rstrip(b"\r\n"),
    "nul-inside": offer(*OPUS, "a=sen\0donly"),
    "not-utf8": offer(*OPUS, "a=sendonly") + b"a=\xff\xfe\r\n",
    "ssrc-group-odd": offer(*VP8, "a=ssrc-group:FID 1", "a=ssrc-group:FID 1 2 3", "a=ssrc:4294967296 cname:x", "a=sendonly"),
    "extmap-odd": offer(*OPUS, "a=extmap:0 urn:x", "a=extmap:256/sendonly urn:y", "a=extmap: ", "a=sendonly"),
    "fmtp-odd": offer(*VP8, "a=fmtp:96", "a=fmtp:999 x=1", "a=fmtp:96 =;;==;profile-level-id", "a=sendonly"),
    "mlines-65": text(*HEAD) + text(*OPUS, *SHARED) * 65,
    "empty-attributes": offer("m=audio", "a=", "a=:", "=", "m="),
    "fragment-candidate": text(*ICE, "m=audio 9 UDP/TLS/RTP/SAVPF 0", "a=mid:0", CANDIDATE, "a=end-of-candidates"),
    "fragment-restart": text("a=ice-options:trickle", "a=ice-ufrag:new1", "a=ice-pwd:7a0f06f7af86063a45a584f04cd5bec9"),
    "fragment-end-only": text("a=mid:0", "a=end-of-candidates"),
    "fragment-two-sections": text("m=audio 9 RTP/AVP 0", "a=mid:0", CANDIDATE, "m=video 9 RTP/AVP 0", "a=mid:1", CANDIDATE),
    "fragment-candidate-odd": text(*ICE, "a=candidate:", "a=candidate:1 1 tcp x fe80::1%eth0 99999 typ"),
    "fragment-candidates-200": text(*ICE, "a=mid:0", *(CANDIDATE for _ in range(200))),
})
