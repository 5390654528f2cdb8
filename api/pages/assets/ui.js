// Helpers of the pages: stream names, formatted numbers, copy buttons, sparklines.
// Owns no session and no state of a page.

/** Stream names that the server accepts: `[A-Za-z0-9._~-]{1,128}`, but neither `.` nor `..`. */
export const STREAM_NAME = /^(?!\.{1,2}$)[A-Za-z0-9._~-]{1,128}$/;
export const STREAM_NAME_MAX = 128;

/** Samples of a sparkline: two minutes at one sample per second. */
const SPARK_SAMPLES = 120;

export const $ = (id) => document.getElementById(id);

/** The stream of `/publish/{stream}` or `/watch/{stream}`. */
export function streamName() {
  const part = location.pathname.split('/')[2] ?? '';
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** Bearer token of the fragment (`#token=…`), which is never sent with the page request. */
export const tokenFromFragment = () => new URLSearchParams(location.hash.slice(1)).get('token') ?? '';

export function show(element, visible) {
  element.hidden = !visible;
}

/** Writes a text only if it changed, so that screen readers do not repeat it. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Writes a URL that may break after its slashes only, not in the middle of a word. */
export function writeUrl(element, url) {
  if (element.textContent === url) return;
  const parts = url.split(/(?<=[/:?&=])(?![/])/).flatMap((part) => [part, document.createElement('wbr')]);
  element.replaceChildren(...parts.slice(0, -1));
}

/** Writes texts as the items of a list, if they changed. */
export function writeList(list, texts) {
  const before = [...list.children].map((item) => item.textContent);
  if (before.length === texts.length && before.every((text, i) => text === texts[i])) return;
  list.replaceChildren(...texts.map((text) => Object.assign(document.createElement('li'), { textContent: text })));
}

/** Shows texts as a list in a notice, or hides the notice if there are none. */
export function showList(notice, texts) {
  writeList(notice.querySelector('ul'), texts);
  show(notice, texts.length > 0);
}

/** Seconds for people: whole ones from 2 s on. */
export const seconds = (ms) => `${ms < 2_000 ? (ms / 1_000).toFixed(1) : Math.round(ms / 1_000)} s`;

export function kbps(value) {
  if (value == null) return '–';
  if (value < 1_000) return `${Math.round(value)} kbit/s`;
  return `${(value / 1_000).toFixed(Number.isInteger(value / 1_000) ? 0 : 2)} Mbit/s`;
}

/** Codec names as in "VP8 + Opus", video first. */
export function codecWords(names) {
  const words = { opus: 'Opus', pcmu: 'PCMU', pcma: 'PCMA', g722: 'G722' };
  const audio = (name) => name.toLowerCase() in words;
  const known = names.filter(Boolean).sort((a, b) => audio(a) - audio(b));
  return known.map((name) => words[name.toLowerCase()] ?? name).join(' + ');
}

export function ms(value) {
  if (value == null) return '–';
  return value < 1 ? '< 1 ms' : `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
}

export const percent = (value) => (value == null ? '–' : `${value < 10 ? value.toFixed(1) : Math.round(value)} %`);

export function size(line) {
  if (!line?.width) return '–';
  return `${line.width}×${line.height}`;
}

export function clock(seconds) {
  const two = (n) => String(Math.floor(n)).padStart(2, '0');
  const hours = Math.floor(seconds / 3_600);
  return `${hours ? `${hours}:` : ''}${two((seconds % 3_600) / 60)}:${two(seconds % 60)}`;
}

/** Gives each `[data-copy]` element a button that copies its text. */
export function addCopyButtons(announce) {
  for (const source of document.querySelectorAll('[data-copy]')) {
    const button = document.createElement('button');
    button.type = 'button';
    button.className = 'small';
    button.textContent = 'Copy';
    button.setAttribute('aria-label', `Copy ${labelOf(source)}`);
    button.addEventListener('click', async () => {
      const copied = await copy(source);
      button.textContent = copied ? 'Copied' : 'Selected';
      write(announce, copied ? 'Copied' : 'Selected, press Ctrl C');
      setTimeout(() => (button.textContent = 'Copy'), 1_600);
    });
    source.after(button);
  }
}

/** Says how to let others in, where the address of the page is that of this computer alone. */
export function explainLoopback(notice) {
  const { hostname, port } = location;
  const loopback = /^(localhost|127\..*|\[::1\])$/.test(hostname);
  show(notice, loopback);
  if (!loopback) return;
  const command = document.createElement('code');
  command.textContent = `--http 0.0.0.0:${port || 80} --insecure-open`;
  notice.replaceChildren(
    `${hostname} is this computer alone. For viewers elsewhere start the server with `,
    command,
    ' and give them its own address. Everyone who can reach it may then publish and watch.',
  );
}

function labelOf(source) {
  const field = source.closest('.field');
  return field?.querySelector('label')?.textContent ?? 'command';
}

/** Copies a text. The clipboard exists only on secure origins; elsewhere the text is selected. */
async function copy(source) {
  try {
    await navigator.clipboard.writeText(source.textContent);
    return true;
  } catch {
    getSelection().selectAllChildren(source);
    return false;
  }
}

/** Makes buttons with role=tab show the panels that they control; arrow keys move between them. */
export function makeTabs(list) {
  const tabs = [...list.querySelectorAll('[role="tab"]')];
  const select = (chosen, focus) => {
    for (const tab of tabs) {
      const on = tab === chosen;
      tab.setAttribute('aria-selected', String(on));
      tab.tabIndex = on ? 0 : -1;
      show($(tab.getAttribute('aria-controls')), on);
    }
    if (focus) chosen.focus();
  };
  list.addEventListener('click', (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) select(tab, false);
  });
  list.addEventListener('keydown', (event) => {
    const at = tabs.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    select(tabs[(to + tabs.length) % tabs.length], true);
  });
  select(tabs[0], false);
}

/**
 * Line of the last two minutes on a canvas; `push` adds a value and draws. Its top is a round value, which is
 * written beside it where there is room.
 */
export class Sparkline {
  #canvas;
  #values = [];

  constructor(canvas) {
    this.#canvas = canvas;
  }

  push(value) {
    this.#values.push(value ?? 0);
    if (this.#values.length > SPARK_SAMPLES) this.#values.shift();
    this.#draw();
  }

  clear() {
    this.#values = [];
    this.#draw();
  }

  #draw() {
    const canvas = this.#canvas;
    const { clientWidth: width, clientHeight: height } = canvas;
    const scale = devicePixelRatio || 1;
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
    const g = canvas.getContext('2d');
    g.scale(scale, scale);
    const values = this.#values;
    if (values.length < 2 || !width) return;

    const top = roundUp(Math.max(...values, 1));
    const style = getComputedStyle(canvas);
    const large = height >= 40;
    // Below a large one is room for the time.
    const bottom = large ? height - 16 : height - 1;
    const step = width / (SPARK_SAMPLES - 1);
    const x = (i) => width - (values.length - 1 - i) * step;
    const y = (value) => bottom - (value / top) * (bottom - (large ? 14 : 4));
    const label = (text, at, line, align) => {
      g.textAlign = align;
      g.fillText(text, at, line);
    };
    g.fillStyle = style.color;
    g.strokeStyle = style.color;
    g.font = `11px ${style.fontFamily}`;
    if (large) {
      g.globalAlpha = 0.75;
      label(kbps(top), 0, 10, 'left');
      label('2 min ago', 0, height - 3, 'left');
      label('now', width, height - 3, 'right');
      g.globalAlpha = 0.3;
      g.lineWidth = 1;
      for (const level of [top, 0]) {
        g.beginPath();
        g.moveTo(0, Math.round(y(level)) + 0.5);
        g.lineTo(width, Math.round(y(level)) + 0.5);
        g.stroke();
      }
      g.globalAlpha = 1;
    }
    g.beginPath();
    values.forEach((value, i) => g.lineTo(x(i), y(value)));
    g.strokeStyle = style.color;
    g.lineWidth = 1.75;
    g.lineJoin = 'round';
    g.stroke();
    g.lineTo(width, bottom);
    g.lineTo(x(0), bottom);
    g.globalAlpha = 0.14;
    g.fillStyle = style.color;
    g.fill();
    if (large) return;
    // A small one has the scale alone, inside.
    g.globalAlpha = 0.75;
    g.font = `9px ${style.fontFamily}`;
    label(kbps(top), 0, 9, 'left');
  }
}

/** The next of 1, 2 and 5 times a power of ten. */
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].find((step) => step * power >= value) * power;
}
