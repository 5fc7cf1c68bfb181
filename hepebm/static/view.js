// Draws the scenes of hepebm.core.views, each on a canvas of its own: axes and marks (raster, points, curve, bars), or a surface in perspective.
// `scene` describes the panels; the arrays of their marks lie in slots, traits of their own, so that only those that changed are sent.
// What the pointer does goes back as [x, y, button, panel] in data coordinates; on a surface it turns the picture instead.
const PAD = { left: 52, right: 12, top: 24, bottom: 40 }, FONT = '11px sans-serif', INK = '#333';

const as = (Type, d) => new Type(d.buffer.slice(d.byteOffset, d.byteOffset + d.byteLength));
const f32 = d => as(Float32Array, d), u16 = d => as(Uint16Array, d), u8 = d => as(Uint8Array, d);
const hex = c => [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16));

function table(colors) {  // 256 colours between the anchors
  const a = colors.map(hex), t = [];
  for (let i = 0; i < 256; i++) {
    const u = i / 255 * (a.length - 1), k = Math.min(Math.floor(u), a.length - 2), f = u - k;
    t.push(a[k].map((v, j) => v + f * (a[k + 1][j] - v)));
  }
  return t;
}

const kept = new WeakMap();  // what was made of an array, as long as it is there
function once(d, name, make) {
  if (!kept.has(d)) kept.set(d, {});
  const k = kept.get(d);
  return name in k ? k[name] : k[name] = make(d);
}

function ticks(lo, hi, log) {
  const out = [];
  if (log) {
    const every = Math.max(1, Math.round((hi - lo) / 5)), within = hi - lo < .7 ? [1, 1.5, 2, 3, 5, 7] : hi - lo < 2.2 ? [1, 2, 5] : [1];
    for (let e = Math.floor(lo); e <= hi + 1e-9; e += within.length > 1 ? 1 : every)
      for (const m of within) { const v = e + Math.log10(m); if (v >= lo - 1e-9 && v <= hi + 1e-9) out.push([v, within.length > 1 || Math.abs(v) < 3 ? String(+(10 ** v).toPrecision(2)) : '1e' + e]); }
    return out.length > 1 ? out : [lo, hi].map(v => [v, (10 ** v).toPrecision(2)]);
  }
  const raw = (hi - lo) / 5, unit = 10 ** Math.floor(Math.log10(raw)), step = unit * [1, 2, 5, 10].find(m => m * unit >= raw);
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push([i * step, String(+(i * step).toPrecision(6))]);
  return out;
}

class Flat {  // data coordinates to pixels
  constructor(s) {
    const [w, h] = s.size, room = [w - PAD.left - PAD.right, h - PAD.top - PAD.bottom], spans = [s.x, s.y].map(v => v[1] - v[0]);
    const unit = Math.min(room[0] / spans[0], room[1] / spans[1]), [pw, ph] = s.equal && !s.log ? spans.map(v => unit * v) : room;
    Object.assign(this, { w, h, x: s.x, y: s.y, log: s.log, pw, ph });
  }
  Y(v) { return this.log ? Math.log10(v) : v; }
  px(v) { return PAD.left + (v - this.x[0]) / (this.x[1] - this.x[0]) * this.pw; }
  py(v) { const [a, b] = this.y.map(u => this.Y(u)); return PAD.top + (b - this.Y(v)) / (b - a) * this.ph; }
  at(x, y) { return [this.px(x), this.py(y)]; }
  data(px, py) {
    const [a, b] = this.y.map(u => this.Y(u)), v = b - (py - PAD.top) / this.ph * (b - a);
    return [this.x[0] + (px - PAD.left) / this.pw * (this.x[1] - this.x[0]), this.log ? 10 ** v : v];
  }
}

class Deep {  // the same in perspective without a vanishing point: low where the field z is dark
  constructor(s, m, turn) {
    const [w, h] = s.size, [a, e] = turn;
    Object.assign(this, { m, w, h, z: once(m.z, 'u8', u8), ca: Math.cos(a), sa: Math.sin(a), ce: Math.cos(e), se: Math.sin(e), r: Math.min(w / 2.9, h / (2.9 * Math.sin(e) + .9 * Math.cos(e))) });
  }
  height(u, v) {  // of a place in the unit square
    const [w, h] = this.m.n, i = Math.max(0, Math.min(w - 1, Math.floor(u * w))), j = Math.max(0, Math.min(h - 1, Math.floor(v * h)));
    return 1 - this.z[j * w + i] / 255;
  }
  project(u, v, z) {
    const x = 2 * u - 1, y = 2 * v - 1;
    return [this.w / 2 + this.r * (x * this.ca - y * this.sa), this.h / 2 + 12 - this.r * ((x * this.sa + y * this.ca) * this.se + .9 * (z - .5) * this.ce)];
  }
  at(x, y) {
    const [x0, x1, y0, y1] = this.m.box, u = (x - x0) / (x1 - x0), v = (y - y0) / (y1 - y0);
    return u < 0 || u > 1 || v < 0 || v > 1 ? [NaN, NaN] : this.project(u, v, this.height(u, v));
  }
}

function positions(m) {  // of points, from whole numbers over a box
  return once(m.xy, 'xy', d => {
    const q = u16(d), [x0, x1, y0, y1] = m.over, out = new Float32Array(q.length);
    for (let i = 0; i < q.length; i += 2) { out[i] = x0 + (x1 - x0) * q[i] / 65535; out[i + 1] = y0 + (y1 - y0) * q[i + 1] / 65535; }
    return m.log ? out.map((v, i) => i % 2 ? 10 ** v : v) : out;
  });
}

function image(m, colors) {
  return once(m.z, 'image', d => {
    const [w, h] = m.n, z = u8(d), t = table(colors), image = new ImageData(w, h), off = new OffscreenCanvas(w, h);
    for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) image.data.set([...t[z[j * w + i]], 255], 4 * ((h - 1 - j) * w + i));
    off.getContext('2d').putImageData(image, 0, 0);
    return off;
  });
}

function contours(m) {  // marching squares: pieces of the lines at `lines` equal steps, in units of pixels of the raster
  return once(m.z, 'contours', d => {
    const [w, h] = m.n, z = u8(d), out = [];
    for (let k = 0; k < m.lines; k++) for (let j = 0, v = 255 * (k + .5) / m.lines; j < h - 1; j++) for (let i = 0; i < w - 1; i++) {
      const c = [z[j * w + i], z[j * w + i + 1], z[(j + 1) * w + i + 1], z[(j + 1) * w + i]], at = [[0, 0], [1, 0], [1, 1], [0, 1]], cut = [];
      for (let e = 0; e < 4; e++) {
        const a = c[e], b = c[(e + 1) % 4], [p, q] = [at[e], at[(e + 1) % 4]], f = (v - a) / (b - a);
        if ((a > v) !== (b > v)) cut.push(i + .5 + p[0] + f * (q[0] - p[0]), j + .5 + p[1] + f * (q[1] - p[1]));
      }
      for (let e = 0; e + 3 < cut.length; e += 4) out.push(cut.slice(e, e + 4));
    }
    return out;
  });
}

const draw = {
  raster(c, f, m, colors) {
    const [x0, x1, y0, y1] = m.box, [left, top] = f.at(x0, y1), [right, bottom] = f.at(x1, y0), sx = (right - left) / m.n[0], sy = (bottom - top) / m.n[1];
    c.imageSmoothingEnabled = true;
    c.drawImage(image(m, colors), left, top, right - left, bottom - top);
    if (!m.lines) return;
    c.beginPath();
    for (const [a, b, p, q] of contours(m)) { c.moveTo(left + a * sx, bottom - b * sy); c.lineTo(left + p * sx, bottom - q * sy); }
    c.globalAlpha = .35; c.strokeStyle = colors.at(-1); c.lineWidth = .8; c.stroke();
  },
  points(c, f, m) {
    const xy = positions(m), r = m.sizes && f32(m.sizes);
    c.globalAlpha = m.alpha; c.fillStyle = m.color;
    for (let i = 0; i < xy.length / 2; i++) {
      const [x, y] = f.at(xy[2 * i], xy[2 * i + 1]);
      c.beginPath(); c.arc(x, y, r ? r[i] : m.size, 0, 7); c.fill();
    }
  },
  curve(c, f, m) {
    const xy = f32(m.xy);
    c.globalAlpha = m.alpha; c.strokeStyle = m.color; c.lineWidth = m.width; c.setLineDash(m.dash ? [5, 4] : []);
    c.beginPath();
    for (let i = 0, pen = false; i < xy.length / 2; i++) {
      const [x, y] = f.at(xy[2 * i], xy[2 * i + 1]), ok = isFinite(x) && isFinite(y);
      if (ok) pen ? c.lineTo(x, y) : c.moveTo(x, y);
      pen = ok;
    }
    c.stroke(); c.setLineDash([]);
  },
  bars(c, f, m) {
    const e = f32(m.edges), y = f32(m.y), base = f.log ? f.y[0] : 0;
    c.beginPath(); c.moveTo(f.px(e[0]), f.py(base));
    y.forEach((v, i) => { const h = f.py(Math.max(v, base)); c.lineTo(f.px(e[i]), h); c.lineTo(f.px(e[i + 1]), h); });
    c.lineTo(f.px(e[y.length]), f.py(base));
    c.globalAlpha = .15; c.fillStyle = m.color; c.fill();
    c.globalAlpha = 1; c.strokeStyle = m.color; c.lineWidth = 1.5; c.stroke();
  },
  surface(c, f, m, colors) {  // painter's algorithm: facets from far to near
    const [w, h] = m.n, k = Math.ceil(Math.max(w, h) / 64), W = Math.floor((w - 1) / k), H = Math.floor((h - 1) / k), t = table(colors);
    const z = (i, j) => 1 - f.z[j * k * w + i * k] / 255, order = (n, far) => Array.from({ length: n }, (_, i) => far ? n - 1 - i : i);
    const corner = (i, j) => f.project((i * k + .5) / w, (j * k + .5) / h, z(i, j));
    const rows = order(H, f.ca > 0), columns = order(W, f.sa > 0);
    c.globalAlpha = 1; c.lineWidth = .6; c.lineJoin = 'round';
    for (const j of rows) for (const i of columns) {
      const a = z(i, j), b = z(i + 1, j), d = z(i, j + 1), gx = (b - a) * W / 3, gy = (d - a) * H / 3;
      const light = .72 + .28 * (1 - .5 * gx + .8 * gy) / Math.hypot(1, gx, gy) / 1.38, rgb = t[f.z[j * k * w + i * k]].map(v => Math.round(v * Math.min(1, light)));
      c.beginPath(); c.moveTo(...corner(i, j)); c.lineTo(...corner(i + 1, j)); c.lineTo(...corner(i + 1, j + 1)); c.lineTo(...corner(i, j + 1)); c.closePath();
      c.fillStyle = c.strokeStyle = `rgb(${rgb})`; c.fill(); c.stroke();
    }
  },
};

function legend(c, s, right) {
  c.globalAlpha = 1; c.font = FONT; c.fillStyle = INK; c.textAlign = 'left'; c.textBaseline = 'middle';
  c.fillText(s.title, PAD.left, 12);
  const named = s.marks.filter(m => m.label), widest = Math.max(0, ...named.map(m => c.measureText(m.label).width));
  if (named.length) { c.globalAlpha = .8; c.fillStyle = '#fff'; c.fillRect(right - widest - 26, PAD.top + 2, widest + 24, 14 * named.length + 2); c.globalAlpha = 1; }
  named.forEach((m, i) => {
    const y = PAD.top + 10 + 14 * i, x = right - 8;
    c.fillStyle = m.color; c.fillRect(x - 10, y - 4, 10, 8); c.fillStyle = INK; c.textAlign = 'right'; c.fillText(m.label, x - 14, y);
  });
}

function axes(c, f, s) {
  c.globalAlpha = 1; c.strokeStyle = c.fillStyle = INK; c.lineWidth = 1; c.font = FONT;
  c.strokeRect(PAD.left, PAD.top, f.pw, f.ph);
  c.textAlign = 'center'; c.textBaseline = 'top';
  for (const [v, t] of ticks(...f.x, false)) { const x = f.px(v); c.fillRect(x, PAD.top + f.ph, 1, 4); c.fillText(t, x, PAD.top + f.ph + 6); }
  c.fillText(s.xlabel, PAD.left + f.pw / 2, f.h - 16);
  c.textAlign = 'right'; c.textBaseline = 'middle';
  for (const [v, t] of ticks(f.Y(f.y[0]), f.Y(f.y[1]), f.log)) {
    const y = f.py(f.log ? 10 ** v : v); c.fillRect(PAD.left - 4, y, 4, 1); c.fillText(t, PAD.left - 6, y);
  }
  c.save(); c.translate(11, PAD.top + f.ph / 2); c.rotate(-Math.PI / 2); c.textAlign = 'center'; c.fillText(s.ylabel, 0, 0); c.restore();
  legend(c, s, PAD.left + f.pw);
}

class Panel {  // a scene on its canvas
  constructor(parent, send) {
    this.canvas = parent.appendChild(document.createElement('canvas'));
    this.canvas.className = 'hepebm-view';
    this.canvas.style.cssText = 'max-width:100%;border-radius:4px';
    this.turn = [-.6, .85]; this.count = 0; this.last = 0; this.send = send;
    this.canvas.addEventListener('pointerdown', e => { this.canvas.setPointerCapture(e.pointerId); this.pointer(e, true); });
    this.canvas.addEventListener('pointermove', e => this.pointer(e, false));
    this.canvas.addEventListener('pointerup', e => this.pointer(e, true));
  }
  take(s) {  // a new scene; where nothing changed, nothing is drawn
    const fresh = [s.text, ...s.marks.flatMap(m => Object.values(m).filter(v => v instanceof DataView))];
    if (this.shown && fresh.length === this.shown.length && fresh.every((v, i) => v === this.shown[i])) return;
    this.scene = s; this.shown = fresh;
    for (const m of s.marks) if (m.trail) this.trails(m);
    this.due = this.due || requestAnimationFrame(() => this.paint());
  }
  layer(name, f) {  // a canvas behind the visible one
    const ratio = window.devicePixelRatio || 1, old = this[name];
    if (old && old.width === Math.round(f.w * ratio) && old.height === Math.round(f.h * ratio)) return old;
    const off = this[name] = new OffscreenCanvas(Math.round(f.w * ratio), Math.round(f.h * ratio));
    off.getContext('2d').scale(ratio, ratio);
    return off;
  }
  trails(m) {  // what is there fades, and the last step of each point is added; a jump is none
    const f = new Flat(this.scene), c = this.layer('wake', f).getContext('2d'), xy = positions(m), old = this.before, far = .25 * f.pw;
    if (old === xy) return;
    this.before = xy;
    c.globalCompositeOperation = 'destination-out'; c.globalAlpha = Math.max(.12, 1 - .05 ** (1 / m.trail)); c.fillRect(0, 0, f.w, f.h);
    c.globalCompositeOperation = 'source-over'; c.globalAlpha = .5; c.strokeStyle = m.color; c.lineWidth = 1;
    if (!old || old.length !== xy.length) return;
    c.beginPath();
    for (let i = 0; i < xy.length; i += 2) {
      const [a, b] = f.at(old[i], old[i + 1]), [x, y] = f.at(xy[i], xy[i + 1]);
      if (Math.abs(a - x) + Math.abs(b - y) < far) { c.moveTo(a, b); c.lineTo(x, y); }
    }
    c.stroke();
  }
  paint() {
    const s = this.scene, deep = s.marks.find(m => m.kind === 'surface'), f = this.frame = deep ? new Deep(s, deep, this.turn) : new Flat(s);
    const ratio = window.devicePixelRatio || 1, c = this.canvas.getContext('2d');
    this.due = 0; this.canvas.dataset.frames = ++this.count;
    this.canvas.width = Math.round(f.w * ratio); this.canvas.height = Math.round(f.h * ratio); this.canvas.style.width = f.w + 'px';
    c.scale(ratio, ratio);
    c.fillStyle = '#fff'; c.fillRect(0, 0, f.w, f.h);
    deep ? this.solid(c, f, s, deep) : this.flat(c, f, s);
  }
  flat(c, f, s) {
    c.save(); c.beginPath(); c.rect(PAD.left, PAD.top, f.pw, f.ph); c.clip();
    for (const m of s.marks) {
      if (m.trail && this.wake) { c.globalAlpha = 1; c.drawImage(this.wake, 0, 0, f.w, f.h); }
      draw[m.kind](c, f, m, s.colors);
    }
    c.restore();
    axes(c, f, s);
  }
  solid(c, f, s, m) {  // the surface is drawn anew only where it or its turn changed, points on it at every frame
    const key = [m.z, ...this.turn], rock = this.layer('rock', f);
    if (!this.key || key.some((v, i) => v !== this.key[i])) {
      const r = rock.getContext('2d');
      r.clearRect(0, 0, f.w, f.h); draw.surface(r, f, m, s.colors);
      this.key = key; this.canvas.dataset.surfaces = 1 + +(this.canvas.dataset.surfaces || 0);
    }
    c.drawImage(rock, 0, 0, f.w, f.h);
    for (const o of s.marks) if (o !== m) draw[o.kind](c, f, o, s.colors);
    legend(c, s, f.w - 4);
  }
  pointer(e, force) {
    if (!this.frame || (!force && !(e.buttons & 1))) return;
    if (this.frame instanceof Deep) {
      const [x, y] = this.grip || [e.clientX, e.clientY], [a, t] = this.turn;
      this.turn = [a + (e.clientX - x) * .01, Math.max(.1, Math.min(1.5, t + (e.clientY - y) * .01))];
      this.grip = e.buttons & 1 ? [e.clientX, e.clientY] : null;
      this.due = this.due || requestAnimationFrame(() => this.paint());
      return;
    }
    if (!force && e.timeStamp - this.last < 50) return;
    this.last = e.timeStamp;
    const box = this.canvas.getBoundingClientRect(), scale = this.frame.w / box.width;
    this.send(...this.frame.data((e.clientX - box.left) * scale, (e.clientY - box.top) * scale), e.buttons & 1);
  }
}

function render({ model, el }) {
  const place = el.appendChild(document.createElement('div')), panels = [];
  place.style.cssText = 'display:flex;flex-wrap:wrap;gap:6px';
  const changed = () => {
    const { panels: scenes = [], width } = model.get('scene');
    if (width) place.style.maxWidth = width + 'px';
    scenes.forEach((s, i) => {
      panels[i] = panels[i] || new Panel(place, (...at) => { model.set('pointer', [...at, i]); model.save_changes(); });
      const filled = v => typeof v === 'object' && v !== null && 'slot' in v ? model.get('slot' + v.slot) : v;
      panels[i].take({ ...s, text: JSON.stringify(s), marks: s.marks.map(m => Object.fromEntries(Object.entries(m).map(([k, v]) => [k, filled(v)]))) });
    });
  };
  model.on('change', changed);
  changed();
  return () => model.off('change', changed);
}

export default { render };
