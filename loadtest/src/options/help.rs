//! Help texts of the command line that are longer than a line.
//!
//! Used by `cli`.

/// The placeholder `{n}` as help texts have to write it. Clap replaces the plain characters with a
/// line break, so a style (bold) stands between the braces. Clap removes styles where the output is
/// not a terminal.
macro_rules! n {
    () => {
        "{\u{1b}[1mn\u{1b}[22m}"
    };
}
pub(super) use n;

pub(super) const PLAIN: &str = concat!(
    "\
Examples:
  One publisher and one hundred viewers for half a minute:
    weir-loadtest --whip http://127.0.0.1:8080/whip/demo --whep http://127.0.0.1:8080/whep/demo \\
        --viewers 100

  Ten publishers with twenty viewers each (",
    n!(),
    " is the publisher's index from 0; viewers are assigned
  to publishers round robin):
    weir-loadtest --whip 'http://127.0.0.1:8080/whip/s",
    n!(),
    "' --whep 'http://127.0.0.1:8080/whep/s",
    n!(),
    "' \\
        --publishers 10 --viewers 200

  CPU time per forwarded packet of a server on this machine, with one core for the server and one
  for the generator:
    weir-loadtest livestream --whip URL --whep URL --viewers 1000 --verify sample \\
        --server-pid $(pidof weir) --server-cpu 0 --cpu 1 --json result.json --html result.html

  Viewers of a stream that another program publishes:
    weir-loadtest --whep URL --publishers 0 --viewers 50

The scenarios (`weir-loadtest livestream --help`, ...) have the same flags with other defaults. The
flags without a scenario can do everything except `conference` and `churn`.

How it counts: publishers start first. Then viewers join, --ramp per second. After one second of
warm-up the window opens for --duration seconds. Packets and frames are counted within the window.
- A packet is lost if it is still missing one second after its gap was seen, in spite of NACK.
- A frame is broken if a decoder could not have shown it: it was incomplete, altered or never
  forwarded, or it refers to such a frame. A server may show a joining viewer one keyframe alone
  until the next one comes: the frames between are not missing (posters in the JSON).
- A session that had media and is lost is started again until the run ends, after 0.5 to 4 s (light
  clients): the server closed it, sent nothing for 8 s, or refuses it for now (404, 408, 409, 429,
  5xx). The report counts reconnects, and a run that had some has failed.
- join_ms is the time from the POST to the media keys. first_frame_ms is the time from the POST to
  the first complete keyframe; without video, to the first packet.
- Latency is the time from the publisher's stamp in a frame to the kernel's receipt of the frame's
  last packet.

The generator measures itself: datagrams dropped at its own sockets, waiting times, CPU. If something
failed while it could not keep up, the run is inconclusive, and the report says so.

Exit code:
  0  no session failed and no frame was broken
  1  a session failed or was lost, or a frame was broken
  2  the command line is wrong
  3  something failed, was broken or was lost, but this generator was the bottleneck
--allow-failures turns 1 and 3 into 0."
);

pub(super) const LIVESTREAM: &str = "\
Example:
  weir-loadtest livestream --whip http://HOST:8080/whip/live --whep http://HOST:8080/whep/live \\
      --viewers 1000 --ramp 100

Question: how many viewers of one stream does the server carry without loss, and how much CPU time
does a packet cost?";

pub(super) const CONFERENCE: &str = concat!(
    "\
Example:
  weir-loadtest conference --whip 'http://HOST:8080/whip/p",
    n!(),
    "' --whep 'http://HOST:8080/whep/p",
    n!(),
    "' \\
      --rooms 10 --per-room 10

",
    n!(),
    " is the participant's index over all rooms. The URLs may also contain {room}, the room's index.
A room of K participants has K publishers and K x (K - 1) viewers, because a WHEP session carries
one stream.

Question: how many small rooms does the server carry?"
);

pub(super) const AUDIO: &str = concat!(
    "\
Example:
  weir-loadtest audio --whip 'http://HOST:8080/whip/s",
    n!(),
    "' --whep 'http://HOST:8080/whep/s",
    n!(),
    "' --viewers 3000

Listeners are assigned to the speakers round robin. Each listener gets 50 small packets per second.

Question: how much CPU time does a packet cost when its bytes cost almost nothing?"
);

pub(super) const CHURN: &str = "\
Example:
  weir-loadtest churn --whip URL --whep URL --viewers 200 --per-second 20 --duration 60 \\
      --server-pid $(pidof weir)

First --viewers viewers join. Then, for --duration seconds, the oldest viewer leaves and a new one
joins, --per-second times per second.

Question: how long do joins take under load, do they disturb the other viewers, and is memory freed
again?";
