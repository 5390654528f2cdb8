// Quality menu of the watch page: the sizes of the picture (layers), the one that is shown, and how it is chosen.
// Hidden unless the publisher sends several layers. Next: /weir.js (`layers`, `selectLayer`).

import { $, kbps, show, size, write } from './ui.js';

/** Ways to choose: by the server, by a limit, or one layer and no other. */
const MODES = ['automatic', 'cap', 'pin'];

export class QualityMenu {
  #session;
  #mode = 'automatic';
  /** Layer of the limit or of the pin. */
  #chosen = null;
  #problem = '';

  constructor(session) {
    this.#session = session;
    session.addEventListener('layers', () => this.#draw());
    $('toggle-quality').addEventListener('click', () => this.#toggle($('quality').hidden));
    $('quality-mode').addEventListener('change', ({ target }) => this.#choose(target.value, this.#chosen ?? this.#forwarded()));
    $('layers').addEventListener('click', ({ target }) => {
      const row = target.closest('button');
      const layer = session.layers.find((layer) => key(layer) === row?.dataset.layer);
      if (layer) void this.#choose(this.#mode === 'cap' ? 'cap' : 'pin', layer);
    });
    addEventListener('keydown', ({ key }) => key === 'Escape' && this.#toggle(false));
    this.#draw();
  }

  /** Layer that is forwarded, and why, for the statistics. */
  words() {
    const forwarded = this.#forwarded();
    if (!forwarded || this.#session.layers.length < 2) return '–';
    const why = { automatic: 'the best', cap: 'limited by you', pin: 'chosen by you' }[this.#mode];
    return `${lines(forwarded) || 'size unknown'}, ${why}`;
  }

  #forwarded() {
    return this.#session.layers.find((layer) => layer.active) ?? null;
  }

  async #choose(mode, layer) {
    this.#mode = layer ? mode : 'automatic';
    this.#chosen = this.#mode === 'automatic' ? null : layer;
    this.#problem = '';
    this.#draw();
    await this.#session.selectLayer(preference(this.#mode, layer)).catch((error) => {
      this.#problem = error.message;
      this.#draw();
    });
  }

  close() {
    this.#toggle(false);
  }

  #toggle(visible) {
    show($('quality'), visible);
    $('toggle-quality').setAttribute('aria-expanded', String(visible));
  }

  #draw() {
    const { layers } = this.#session;
    const several = layers.length > 1;
    show($('toggle-quality'), several);
    if (!several) this.#toggle(false);
    const forwarded = this.#forwarded();
    write($('toggle-quality'), this.#label(forwarded));
    for (const mode of MODES) document.querySelector(`#quality-mode [value=${mode}]`).checked = mode === this.#mode;
    this.#drawLayers(layers);
    write($('quality-note'), this.#problem || this.#note(forwarded));
  }

  #drawLayers(layers) {
    const list = $('layers');
    while (list.children.length > layers.length) list.lastChild.remove();
    while (list.children.length < layers.length) list.append(emptyRow());
    layers.forEach((layer, index) => {
      const row = list.children[index].firstChild;
      const chosen = this.#chosen && key(this.#chosen) === key(layer);
      row.dataset.layer = key(layer);
      row.dataset.flows = String(layer.active);
      row.setAttribute('aria-pressed', String(Boolean(chosen)));
      row.classList.toggle('beyond', this.#mode === 'cap' && area(layer) > area(this.#chosen));
      const [name, pixels, now, rate] = row.children;
      write(name, lines(layer) || 'Size not known yet');
      write(pixels, layer.width ? size(layer) : '');
      write(now, layer.active ? 'playing' : '');
      write(rate, layer.bitrate ? kbps(layer.bitrate / 1_000) : 'not sent now');
    });
  }

  #label(forwarded) {
    const now = lines(forwarded);
    const chosen = lines(this.#chosen);
    return { automatic: `Best ${now}`, cap: `Up to ${chosen}`, pin: chosen }[this.#mode].trim() || 'Quality';
  }

  #note(forwarded) {
    if (this.#mode === 'automatic') return 'The largest picture that the publisher sends.';
    const now = this.#session.layers.find((layer) => key(layer) === key(this.#chosen));
    if (!now) return 'The publisher no longer sends this size, so the server chooses one.';
    const chosen = lines(now) || 'this size';
    if (this.#mode === 'pin' && !now.bitrate) return `The publisher does not send ${chosen} now; the next smaller picture is shown meanwhile.`;
    const target = this.#session.layers.find((layer) => layer.target);
    if (target && target !== forwarded) return 'The picture changes in a moment, with the next keyframe.';
    return this.#mode === 'pin' ? `Always ${chosen}.` : `The largest picture up to ${chosen}.`;
  }
}

/** Preference for `selectLayer`. */
function preference(mode, layer) {
  if (mode === 'automatic' || !layer) return {};
  if (mode === 'pin') return layer.rid ? { rid: layer.rid } : { spatialLayerId: layer.spatialLayerId };
  if (layer.width) return { maxWidth: layer.width, maxHeight: layer.height };
  return { maxSpatialLayerId: layer.spatialLayerId };
}

const key = (layer) => layer.rid ?? String(layer.spatialLayerId);
const area = (layer) => (layer?.width ?? 0) * (layer?.height ?? 0);
const lines = (layer) => (layer?.width ? `${Math.min(layer.width, layer.height)}p` : '');

function emptyRow() {
  const item = document.createElement('li');
  const row = document.createElement('button');
  row.type = 'button';
  for (const name of ['name', 'size', 'now', 'rate']) {
    const part = document.createElement('span');
    part.className = name;
    row.append(part);
  }
  item.append(row);
  return item;
}
