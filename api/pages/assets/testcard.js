// Moving test card with a tone: a source that needs no camera and no permission, so it also works on
// insecure origins. Called by publish.js.

/**
 * @param {{width: number, height: number, fps: number, sound: boolean, label: string}} options
 * @returns {{stream: MediaStream, stop: () => void}}
 */
export function testCard({ width, height, fps, sound, label }) {
  const canvas = document.createElement('canvas');
  canvas.width = width;
  canvas.height = height;
  const g = canvas.getContext('2d', { alpha: false });
  const startedAt = performance.now();
  let frame = 0;
  const draw = () => {
    paint(g, width, height, (performance.now() - startedAt) / 1_000, frame++, label);
  };
  draw();
  const stream = canvas.captureStream(fps);
  // An interval and not animation frames, which stop in a hidden tab.
  const timer = setInterval(draw, 1_000 / fps);
  const tone = sound ? beeper() : null;
  if (tone) stream.addTrack(tone.track);
  return {
    stream,
    stop() {
      clearInterval(timer);
      tone?.stop();
      for (const track of stream.getTracks()) track.stop();
    },
  };
}

const BARS = ['#d9e3e1', '#cdbf4a', '#4bbdb1', '#57a85b', '#a565a8', '#b5503f', '#3f5fb0'];

function paint(g, width, height, seconds, frame, label) {
  const unit = height / 18;
  BARS.forEach((colour, i) => {
    g.fillStyle = colour;
    g.fillRect(Math.floor((i * width) / BARS.length), 0, Math.ceil(width / BARS.length), height * 0.62);
  });
  g.fillStyle = '#0c1413';
  g.fillRect(0, height * 0.62, width, height * 0.38);

  // The ramp shows banding; the hand turns once a second and shows stutter.
  const ramp = g.createLinearGradient(0, 0, width, 0);
  ramp.addColorStop(0, '#000');
  ramp.addColorStop(1, '#fff');
  g.fillStyle = ramp;
  g.fillRect(0, height * 0.62, width, unit * 0.8);

  const [cx, cy, radius] = [width - unit * 3.2, height - unit * 3.1, unit * 2.1];
  g.strokeStyle = '#4fcdbf';
  g.lineWidth = unit * 0.18;
  g.beginPath();
  g.arc(cx, cy, radius, 0, 2 * Math.PI);
  g.stroke();
  const angle = 2 * Math.PI * (seconds % 1) - Math.PI / 2;
  g.beginPath();
  g.moveTo(cx, cy);
  g.lineTo(cx + radius * Math.cos(angle), cy + radius * Math.sin(angle));
  g.stroke();

  g.fillStyle = '#e7f0ee';
  g.textBaseline = 'alphabetic';
  g.font = `600 ${unit * 2}px ui-monospace, Menlo, Consolas, monospace`;
  const clock = new Date().toISOString().slice(11, 22);
  g.fillText(clock, unit, height - unit * 2.4);
  g.font = `${unit * 0.95}px ui-sans-serif, system-ui, sans-serif`;
  g.fillStyle = '#97aaa7';
  g.fillText(`${label}   ${width} × ${height}   frame ${frame}`, unit, height - unit);
}

/** Quiet 440 Hz tone for a tenth of each second. */
function beeper() {
  const audio = new AudioContext();
  void audio.resume();
  const out = audio.createMediaStreamDestination();
  const tone = audio.createOscillator();
  const level = audio.createGain();
  level.gain.value = 0;
  tone.connect(level).connect(out);
  tone.start();
  const timer = setInterval(() => {
    const now = audio.currentTime;
    level.gain.setValueAtTime(0.2, now);
    level.gain.setValueAtTime(0, now + 0.1);
  }, 1_000);
  return {
    track: out.stream.getAudioTracks()[0],
    stop() {
      clearInterval(timer);
      void audio.close();
    },
  };
}
