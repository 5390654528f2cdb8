// Helpers of the pages: stream names, formatted numbers, copy buttons, sparklines.
// Owns no session and no state of a page.

/** Stream names that the server accepts: `[A-Za-z0-9._~-]{1,128}`. */
export const STREAM_NAME = /^[A-Za-z0-9._~-]{1,128}$/;

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

export function kbps(value) {
  if (value == null) return '–';
  return value >= 1_000 ? `${(value / 1_000).toFixed(2)} Mbit/s` : `${Math.round(value)} kbit/s`;
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

/** Line of the last values on a canvas; `push` adds one and draws. */
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

    const top = Math.max(...values, 1);
    const step = width / (SPARK_SAMPLES - 1);
    const x = (i) => width - (values.length - 1 - i) * step;
    const y = (value) => height - 2 - (value / top) * (height - 6);
    g.beginPath();
    values.forEach((value, i) => g.lineTo(x(i), y(value)));
    g.strokeStyle = getComputedStyle(canvas).getPropertyValue('--accent');
    g.lineWidth = 1.75;
    g.lineJoin = 'round';
    g.stroke();
    g.lineTo(width, height);
    g.lineTo(x(0), height);
    g.globalAlpha = 0.14;
    g.fillStyle = g.strokeStyle;
    g.fill();
  }
}
