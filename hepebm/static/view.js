// Draws a scene of hepebm.core.views: axes and marks (raster, points, curve, bars) on one canvas.
// Arrays arrive as bytes; what the pointer does goes back as [x, y, button] in data coordinates.
const PAD = { left: 52, right: 12, top: 22, bottom: 40 }, FONT = '11px sans-serif';

const copy = d => d.buffer.slice(d.byteOffset, d.byteOffset + d.byteLength);
const f32 = d => new Float32Array(copy(d));

function hex(c) { return [1, 3, 5].map(i => parseInt(c.slice(i, i + 2), 16)); }

function table(colors) {  // 256 colours between the anchors
  const a = colors.map(hex), t = [];
  for (let i = 0; i < 256; i++) {
    const u = i / 255 * (a.length - 1), k = Math.min(Math.floor(u), a.length - 2), f = u - k;
    t.push(a[k].map((v, j) => v + f * (a[k + 1][j] - v)));
  }
  return t;
}

function ticks(lo, hi, log) {
  const out = [];
  if (log) {
    const every = Math.max(1, Math.round((hi - lo) / 5));
    for (let e = Math.ceil(lo - 1e-9); e <= hi + 1e-9; e += every) out.push([e, '1e' + e]);
    if (out.length > 1) return out;
    return [lo, hi].map(v => [v, (10 ** v).toPrecision(2)]);
  }
  const raw = (hi - lo) / 5, unit = 10 ** Math.floor(Math.log10(raw)), step = unit * [1, 2, 5, 10].find(m => m * unit >= raw);
  for (let i = Math.ceil(lo / step - 1e-9); i * step <= hi + step * 1e-9; i++) out.push([i * step, String(+(i * step).toPrecision(6))]);
  return out;
}

class Frame {  // data coordinates to pixels
  constructor(s) {
    const [w, h] = s.size;
    Object.assign(this, { w, h, x: s.x, y: s.y, log: s.log, pw: w - PAD.left - PAD.right, ph: h - PAD.top - PAD.bottom });
  }
  Y(v) { return this.log ? Math.log10(v) : v; }
  px(v) { return PAD.left + (v - this.x[0]) / (this.x[1] - this.x[0]) * this.pw; }
  py(v) { const [a, b] = this.y.map(u => this.Y(u)); return PAD.top + (b - this.Y(v)) / (b - a) * this.ph; }
  data(px, py) {
    const [a, b] = this.y.map(u => this.Y(u)), v = b - (py - PAD.top) / this.ph * (b - a);
    return [this.x[0] + (px - PAD.left) / this.pw * (this.x[1] - this.x[0]), this.log ? 10 ** v : v];
  }
}

const draw = {
  raster(c, f, m, colors) {
    const [w, h] = m.n, z = new Uint8Array(copy(m.z)), t = table(colors), image = new ImageData(w, h);
    for (let j = 0; j < h; j++) for (let i = 0; i < w; i++) {
      const o = 4 * ((h - 1 - j) * w + i), rgb = t[z[j * w + i]];
      image.data.set([rgb[0], rgb[1], rgb[2], 255], o);
    }
    const off = new OffscreenCanvas(w, h);
    off.getContext('2d').putImageData(image, 0, 0);
    const [x0, x1, y0, y1] = m.box;
    c.imageSmoothingEnabled = true;
    c.drawImage(off, f.px(x0), f.py(y1), f.px(x1) - f.px(x0), f.py(y0) - f.py(y1));
  },
  points(c, f, m) {
    const xy = f32(m.xy), r = m.sizes ? f32(m.sizes) : null;
    c.globalAlpha = m.alpha; c.fillStyle = m.color;
    for (let i = 0; i < xy.length / 2; i++) {
      c.beginPath(); c.arc(f.px(xy[2 * i]), f.py(xy[2 * i + 1]), r ? r[i] : m.size, 0, 7); c.fill();
    }
  },
  curve(c, f, m) {
    const xy = f32(m.xy);
    c.globalAlpha = m.alpha; c.strokeStyle = m.color; c.lineWidth = m.width; c.setLineDash(m.dash ? [5, 4] : []);
    c.beginPath();
    for (let i = 0, pen = false; i < xy.length / 2; i++) {
      const x = f.px(xy[2 * i]), y = f.py(xy[2 * i + 1]), ok = isFinite(x) && isFinite(y);
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
};

function axes(c, f, s) {
  c.globalAlpha = 1; c.strokeStyle = c.fillStyle = '#333'; c.lineWidth = 1; c.font = FONT;
  c.strokeRect(PAD.left, PAD.top, f.pw, f.ph);
  c.textAlign = 'center'; c.textBaseline = 'top';
  for (const [v, t] of ticks(...f.x, false)) { const x = f.px(v); c.fillRect(x, PAD.top + f.ph, 1, 4); c.fillText(t, x, PAD.top + f.ph + 6); }
  c.fillText(s.xlabel, PAD.left + f.pw / 2, f.h - 16);
  c.textAlign = 'right'; c.textBaseline = 'middle';
  for (const [v, t] of ticks(f.Y(f.y[0]), f.Y(f.y[1]), f.log)) {
    const y = f.py(f.log ? 10 ** v : v); c.fillRect(PAD.left - 4, y, 4, 1); c.fillText(t, PAD.left - 6, y);
  }
  c.save(); c.translate(11, PAD.top + f.ph / 2); c.rotate(-Math.PI / 2); c.textAlign = 'center'; c.fillText(s.ylabel, 0, 0); c.restore();
  c.textAlign = 'left'; c.fillText(s.title, PAD.left, 11);
  s.marks.filter(m => m.label).forEach((m, i) => {
    const y = PAD.top + 10 + 14 * i, x = PAD.left + f.pw - 8;
    c.fillStyle = m.color; c.fillRect(x - 10, y - 4, 10, 8); c.fillStyle = '#333'; c.textAlign = 'right'; c.fillText(m.label, x - 14, y);
  });
}

function paint(canvas, s) {
  const f = new Frame(s), ratio = window.devicePixelRatio || 1, c = canvas.getContext('2d');
  canvas.width = f.w * ratio; canvas.height = f.h * ratio;
  canvas.style.width = f.w + 'px'; canvas.style.height = f.h + 'px';
  c.scale(ratio, ratio);
  c.fillStyle = '#fff'; c.fillRect(0, 0, f.w, f.h);
  c.save(); c.beginPath(); c.rect(PAD.left, PAD.top, f.pw, f.ph); c.clip();
  for (const m of s.marks) draw[m.kind](c, f, m, s.colors);
  c.restore();
  axes(c, f, s);
  return f;
}

function render({ model, el }) {
  const canvas = document.createElement('canvas');
  canvas.className = 'hepebm-view';
  el.appendChild(canvas);
  let frame = null, due = 0, count = 0, last = 0;
  const show = () => { due = 0; frame = paint(canvas, model.get('scene')); canvas.dataset.frames = ++count; };
  const changed = () => { due = due || requestAnimationFrame(show); };
  const pointer = (e, force) => {
    if (!frame || (!force && (!(e.buttons & 1) || e.timeStamp - last < 50))) return;
    last = e.timeStamp;
    const box = canvas.getBoundingClientRect();
    model.set('pointer', [...frame.data(e.clientX - box.left, e.clientY - box.top), e.buttons & 1]);
    model.save_changes();
  };
  canvas.addEventListener('pointerdown', e => { canvas.setPointerCapture(e.pointerId); pointer(e, true); });
  canvas.addEventListener('pointermove', e => pointer(e, false));
  canvas.addEventListener('pointerup', e => pointer(e, true));
  model.on('change:scene', changed);
  changed();
  return () => model.off('change:scene', changed);
}

export default { render };
