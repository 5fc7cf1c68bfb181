"Views and the playground in JupyterLab and headless Chromium: they draw, move while a cell runs, and obey the pointer and the controls."
import os, re, shutil, socket, subprocess, sys, time
from contextlib import contextmanager
from pathlib import Path
import pytest

root = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.long
ARGS = '--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync'.split()
CELLS = '''
import time, numpy as np
from hepebm.core.views import *
plane = Plane(2, trail=5)
plane.update(energy=lambda x: 4*(x[:,0]**2-1)**2 + 2*x[:,1]**2)
plane
---
start = time.time()
for i in range(300): plane.update(points=np.array([[-1.9+i/100, 0.]])); time.sleep(.01)
---
ball = View(lambda x=0., y=0.: scene(points([[x,y]], size=9., alpha=1.), x=(-1,1), y=(-1,1)))
ball.on_drag(lambda x, y: ball.update(x=x, y=y))
'''
FIND = '''canvas => {  // mean position of coloured pixels, and their share
    const c = canvas.getContext('2d'), d = c.getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0, sx = 0, sy = 0;
    for (let i = 0; i < d.length; i += 4) if (Math.max(d[i],d[i+1],d[i+2]) - Math.min(d[i],d[i+1],d[i+2]) > 60) { n++; sx += i/4 % canvas.width; sy += Math.floor(i/4/canvas.width); }
    return [sx/n/canvas.width, sy/n/canvas.height, n/(canvas.width*canvas.height)];
}'''

def find_chromium(): return shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

@contextmanager
def lab(tmp_path, cells):
    "Address of a JupyterLab that serves a notebook of these cells"
    pytest.importorskip('playwright', reason='needs playwright: pip install playwright')
    pytest.importorskip('jupyterlab', reason='needs JupyterLab: pip install jupyterlab')
    if not find_chromium(): pytest.skip('needs chromium')
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells.split('---')], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
    (tmp_path/'nb').mkdir()
    nbformat.write(nb, tmp_path/'nb/views.ipynb')
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {k: v for k,v in os.environ.items() if k!='IN_TEST'} | dict(PYTHONPATH=str(root), JUPYTER_CONFIG_DIR=str(tmp_path/'c'), JUPYTER_DATA_DIR=str(tmp_path/'d'), IPYTHONDIR=str(tmp_path/'i'))
    with open(tmp_path/'lab.txt', 'w') as out:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', '--no-browser', '--ip=127.0.0.1', f'--port={port}', '--IdentityProvider.token=lab',
            '--ServerApp.allow_root=True', f'--ServerApp.root_dir={tmp_path/"nb"}'], env=env, stdout=out, stderr=out)
        try:
            for _ in range(120):
                if 'is running at' in (tmp_path/'lab.txt').read_text(): break
                assert server.poll() is None, (tmp_path/'lab.txt').read_text()
                time.sleep(.5)
            yield f'http://127.0.0.1:{port}/lab/tree/views.ipynb?token=lab&reset'
        finally: server.terminate(); server.wait(20)

@contextmanager
def opened(tmp_path, cells):
    "A page with a notebook of these cells, in which nothing has been run; at the end no error may have turned up"
    with lab(tmp_path, cells) as url:
        from playwright.sync_api import sync_playwright
        with sync_playwright() as p:
            context = p.chromium.launch_persistent_context(str(tmp_path/'profile'), executable_path=find_chromium(), headless=True, args=ARGS, viewport=dict(width=1300, height=1500))
            page, errors = context.new_page(), []
            page.on('pageerror', lambda e: errors.append(str(e)))
            page.received = 0
            def count(frame): page.received += len(frame)
            page.on('websocket', lambda ws: ws.on('framereceived', count))
            page.goto(url)
            page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90000)
            page.wait_for_timeout(3000)
            while page.locator('.jp-Dialog').count(): page.locator('.jp-Dialog button.jp-mod-accept').first.click(); page.wait_for_timeout(1500)
            try: yield page
            finally:
                page.screenshot(path=str(tmp_path/'last.png'))
                context.close()
    assert not errors

def run(page, i):
    "Run cell `i`"
    page.locator('.jp-Notebook .jp-Cell').nth(i).locator('.jp-InputArea-editor').click()
    page.keyboard.press('Shift+Enter')
def output(page, i): return page.locator('.jp-Notebook .jp-Cell').nth(i).locator('.jp-OutputArea-output').all_inner_texts()
def frames(canvas, of='frames'): return int(canvas.get_attribute(f'data-{of}') or 0)

def until(page, f, seconds=60):
    for _ in range(seconds*5):
        if f(): return
        page.wait_for_timeout(200)
    raise AssertionError('it did not happen in time')

def test_views_in_jupyter(tmp_path):
    with opened(tmp_path, CELLS) as page:
        page.get_by_role('menuitem', name='Run', exact=True).first.click()
        page.get_by_text('Run All Cells', exact=True).click()
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==2)
        plane, ball = canvases.nth(0), canvases.nth(1)
        page.wait_for_timeout(1000)
        *_, share = plane.evaluate(FIND)
        assert share > .1                                # the two wells
        assert 5 < frames(plane) < 45                    # 300 updates in 3 s or more, at most 10 a second
        x, y, share = ball.evaluate(FIND)
        assert share > 0
        box, before = ball.bounding_box(), frames(ball)
        at = lambda u, v: (box['x']+box['width']*u, box['y']+box['height']*v)
        page.mouse.move(*at(x, y)); page.mouse.down()
        for k in range(1, 6): page.mouse.move(*at(x+.05*k, y-.04*k)); page.wait_for_timeout(150)
        page.mouse.up()
        until(page, lambda: abs(ball.evaluate(FIND)[0]-x-.25) < .01 and abs(ball.evaluate(FIND)[1]-y+.2) < .01, 20)
        assert frames(ball) > before

PLAYGROUND = '''
from hepebm.ebm.playground import *
p = Playground()
p
---
print('meanwhile', p.loop.on, p.update)
---
print('temperature', round(p.temperature, 3))
---
p.view.every, p.view.rate = .1, 200_000
---
import asyncio, time
steps, began = p.chains.steps, time.time()
await asyncio.sleep(5)
print('chainsteps', (p.chains.steps-steps)/(time.time()-began))
---
from functools import partial
import torch
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, Watch, adam, fit
from hepebm.data.toys import toys
from hepebm.ebm.energies import MLPEnergy
from hepebm.ebm.objectives import denoising_sm
x = toys['moons'].sample(4000, 0).float()
board = Board(toys['moons'].box)
board
---
log = fit(Task(MLPEnergy(), denoising_sm(.2)), Arrays(x=x), epochs=40, bar=None, callbacks=[Watch(board, watch_frame(x), every=10)])
print('fitted')
'''
ORANGE = '''canvas => {  // share of the chains' colour, and how far it is spread from the middle
    const d = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data, w = canvas.width, h = canvas.height;
    let n = 0, s = 0;
    for (let i = 0; i < d.length; i += 4) if (d[i] > 180 && d[i+1] > 60 && d[i+1] < 130 && d[i+2] < 60) { n++; s += Math.hypot(i/4 % w - w/2, Math.floor(i/4/w) - h/2); }
    return [n/(w*h), s/n/w];
}'''

def measure(page, canvases, seconds=6):
    "Frames a second of chains, of surfaces, and bytes a second that the page received"
    now = lambda: (time.monotonic(), frames(canvases.nth(0)), frames(canvases.nth(1), 'surfaces'), page.received)
    a = now(); page.wait_for_timeout(1000*seconds); b = now()
    return [(v-u)/(b[0]-a[0]) for u,v in zip(a[1:], b[1:])]

def bar(least, idle):
    "What is asked of a machine: on a busy one, a part"
    asked = (.9 if idle else .4)*least
    print(f'at least {asked:.1f}, as the machine is {"idle" if idle else "busy"}')
    return asked

def test_playground_in_jupyter(tmp_path):
    idle = os.getloadavg()[0] < 1
    with opened(tmp_path, PLAYGROUND) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==4)
        plane, solid = canvases.nth(0), canvases.nth(1)
        button = lambda name: page.locator('button.jupyter-button', has_text=name).click()
        update = lambda: int(re.search(r'update (\d+)', page.locator('.widget-html-content').last.inner_text())[1])
        until(page, lambda: frames(plane) > 0)
        before = plane.evaluate(ORANGE)
        button('train')
        until(page, lambda: update() > 100)
        after = plane.evaluate(ORANGE)
        assert after[0] < .8*before[0]                   # chains that were anywhere have gathered in the wells
        chains, surfaces, received = measure(page, canvases)
        print(f'training: chains {chains:.1f}/s, surface {surfaces:.1f}/s, {received/1000:.0f} kB/s received')
        assert chains > bar(20, idle) and surfaces > bar(4, idle)
        run(page, 4)
        until(page, lambda: any('chainsteps' in o for o in output(page, 4)), 30)
        rate = float(re.search(r'chainsteps ([\d.]+)', ' '.join(output(page, 4)))[1])
        print(f'{rate:.0f} steps of a chain a second, {rate/5000/chains:.0%} of all chains between two frames')
        assert rate > 5000*bar(2, idle)
        n = update()
        run(page, 1)                                     # another cell runs while it trains
        until(page, lambda: any('meanwhile True' in o for o in output(page, 1)), 20)
        until(page, lambda: update() > n+5, 20)
        box, before = solid.bounding_box(), solid.screenshot()
        heat = page.locator('.widget-slider').nth(1).locator('.noUi-handle')
        heat.focus()
        for _ in range(30): page.keyboard.press('ArrowRight'); page.wait_for_timeout(20)
        until(page, lambda: plane.evaluate(ORANGE)[1] > 1.03*after[1] or plane.evaluate(ORANGE)[0] < .8*after[0], 20)
        run(page, 2)
        until(page, lambda: any(float(o.split()[1]) > 3 for o in output(page, 2) if 'temperature' in o), 20)
        turns = frames(solid, 'surfaces')
        button('stop')
        page.wait_for_timeout(2500)
        n, seen, turns = update(), frames(plane), frames(solid, 'surfaces')
        page.wait_for_timeout(2000)
        assert (update(), frames(plane)) == (n, seen)    # it rests
        box = solid.bounding_box()
        page.mouse.move(box['x']+200, box['y']+200); page.mouse.down(); page.mouse.move(box['x']+260, box['y']+170, steps=4); page.mouse.up()
        until(page, lambda: frames(solid, 'surfaces') > turns, 10)
        assert frames(plane) == seen                     # turned without a word to Python
        run(page, 3)                                     # as on Colab
        button('train')
        until(page, lambda: update() > n+20)
        chains, surfaces, received = measure(page, canvases)
        print(f'at ten frames a second: chains {chains:.1f}/s, surface {surfaces:.1f}/s, {received/1000:.0f} kB/s received')
        assert bar(10, idle) < chains < 11 and received < 200_000
        button('stop')
        page.screenshot(path=str(tmp_path/'playground.png'))

JETS = '''
from hepebm.data.samples import sample
from hepebm.ebm.jets import jet_ebm
from hepebm.ebm.jet_maker import JetMaker
jets = sample('jets', 'train')
jets = jets[jets.label==0]
m = JetMaker(jet_ebm(jets[:1000], 'deepset', updates=10, warm=30, pool=64, last=5, bar=None), jets[-1000:])
m
---
print('meanwhile', m.loop.on, m.t)
---
print('temperature', m.temperature)
---
import asyncio, time
steps, began = m.t, time.time()
await asyncio.sleep(5)
print('steps', (m.t-steps)/(time.time()-began))
'''

def test_jet_maker_in_jupyter(tmp_path):
    "Jets form while cells run; sliders act at once"
    idle = os.getloadavg()[0] < 1
    with opened(tmp_path, JETS) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==6, 180)
        jet, trace = canvases.nth(0), canvases.nth(5)
        button = lambda name: page.locator('button.jupyter-button', has_text=name).click()
        words = lambda: page.locator('.widget-html-content').last.inner_text()
        step = lambda: int(re.search(r'step (\d+) of 64', words())[1])
        until(page, lambda: frames(jet) > 0)
        before, seen = jet.evaluate(FIND), frames(jet)
        button('start')
        until(page, lambda: step() > 20)
        assert frames(jet) > seen+5 and jet.evaluate(FIND)!=before
        now = lambda: (time.monotonic(), frames(jet), page.received)
        a = now(); page.wait_for_timeout(6000); b = now()
        rate, received = ((v-u)/(b[0]-a[0]) for u,v in zip(a[1:], b[1:]))
        print(f'{rate:.1f} frames a second, {received/1000:.0f} kB/s received')
        assert rate > bar(10, idle) and received < 400_000
        run(page, 3)
        until(page, lambda: any('steps' in o for o in output(page, 3)), 30)
        print('of each of 64 chains, a second:', *output(page, 3))
        n = step()
        run(page, 1)                                     # another cell runs while jets form
        until(page, lambda: any('meanwhile True' in o for o in output(page, 1)), 20)
        until(page, lambda: step() > n+5, 20)
        assert 'the law of the model' in words()
        page.locator('.widget-slider').nth(1).locator('.noUi-handle').focus()
        for _ in range(40): page.keyboard.press('ArrowLeft'); page.wait_for_timeout(20)
        until(page, lambda: 'colder than the model' in words(), 20)
        run(page, 2)
        until(page, lambda: any(float(o.split()[1]) < .1 for o in output(page, 2) if 'temperature' in o), 20)
        page.wait_for_timeout(3000)
        page.screenshot(path=str(tmp_path/'cold.png'))
        button('from noise')
        until(page, lambda: step() < n, 10)
        button('stop')
        page.wait_for_timeout(1500)
        n, seen = step(), frames(jet)
        page.wait_for_timeout(1500)
        assert (step(), frames(jet))==(n, seen)          # it rests
        button('kept chains')
        until(page, lambda: step()==0 and frames(jet) > seen, 10)
        page.screenshot(path=str(tmp_path/'jets.png'))

CUT = '''
import numpy as np
from hepebm.core.independence import CutView
r = np.random.default_rng(0)
mass = r.gamma(4, 30, 2000)
v = CutView(dict(QCD=mass/100+r.normal(0, .3, 2000), top=2+r.normal(0, .3, 500)), mass)
v
---
c = v.views['scores'].scene()
print('cut', round(next(m['xy'][0][0] for m in c['marks'] if len(m.get('xy', ()))==2), 3), c['title'])
'''

def test_cut_in_jupyter(tmp_path):
    "A cut is dragged in the scores, the mass beside it follows; in the mass there is nothing to drag"
    with opened(tmp_path, CUT) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==2)
        scores, mass = canvases.nth(0), canvases.nth(1)
        page.wait_for_timeout(1000)
        def drag(canvas, a, b):
            box = canvas.bounding_box()
            at = lambda u: (box['x']+box['width']*u, box['y']+box['height']/2)
            page.mouse.move(*at(a)); page.mouse.down()
            for k in range(1, 6): page.mouse.move(*at(a+(b-a)*k/5)); page.wait_for_timeout(150)
            page.mouse.up(); page.wait_for_timeout(500)
        def cut():
            run(page, 1); page.wait_for_timeout(1500)
            return float(re.search(r'cut ([-\d.]+)', ' '.join(output(page, 1)))[1])
        first, before, picture = cut(), frames(mass), mass.evaluate(FIND)
        drag(scores, .4, .6)
        later = cut()
        assert later > first+.2 and frames(mass) > before and mass.evaluate(FIND)!=picture
        page.screenshot(path=str(tmp_path/'cut.png'))
        drag(mass, .3, .7)
        assert cut()==later

LAB = '''
from hepebm.data.samples import JETS, sample
from hepebm.vae.latent import LatentView
from hepebm.vae.tagger_lab import TaggerLab
from hepebm.vae.vae import jet_vae
jets, valid = sample('jets', 'train'), sample('jets', 'valid')
qcd = jets[jets.label==0]
view = LatentView(jet_vae(qcd[:1000], epochs=2, bar=None), {k: valid[valid.label==i] for i,k in enumerate(JETS)})
view
---
lab = TaggerLab(qcd[:2000], valid[valid.label==0][:500], dict(top=valid[valid.label==1]))
lab
---
print('z', view.views['plane'].frame['z'], 'beta', lab.beta, 'update', lab.update)
'''

def test_autoencoders_in_jupyter(tmp_path):
    "A point is dragged in the plane of codes, and a training goes on under sliders"
    with opened(tmp_path, LAB) as page:
        run(page, 0); run(page, 1)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==4, 180)
        plane, jet, scores = (canvases.nth(i) for i in range(3))
        page.wait_for_timeout(1000)
        def said():
            run(page, 2); page.wait_for_timeout(2000)
            return ' '.join(output(page, 2))
        before, box = frames(jet), plane.bounding_box()
        at = lambda u, v: (box['x']+box['width']*u, box['y']+box['height']*v)
        page.mouse.move(*at(.5, .5)); page.mouse.down()
        for k in range(1, 6): page.mouse.move(*at(.5+.05*k, .5-.04*k)); page.wait_for_timeout(150)
        page.mouse.up()
        until(page, lambda: frames(jet) > before, 20)
        assert re.search(r'z \(([1-9]|0\.[1-9])', said())
        seen = frames(scores)
        page.locator('button.jupyter-button', has_text='start').click()
        until(page, lambda: frames(scores) > seen+3, 60)
        page.locator('.widget-slider').nth(0).locator('.noUi-handle').focus()
        for _ in range(20): page.keyboard.press('ArrowRight'); page.wait_for_timeout(20)
        until(page, lambda: float(re.search(r'beta ([\d.]+)', said())[1]) > .2, 20)
        page.locator('button.jupyter-button', has_text='stop').click()
        page.wait_for_timeout(1500)
        page.screenshot(path=str(tmp_path/'vae.png'))
        n = frames(scores)
        page.wait_for_timeout(1500)
        assert frames(scores)==n and int(re.search(r'update (\d+)', said())[1]) > 10

RERUN = '''
from hepebm.ebm.playground import *
all_of_them = []
---
p = Playground(chains=250); all_of_them.append(p)
p
---
q = Playground(chains=250); all_of_them.append(q)
q
---
for o in all_of_them: o.start()
---
print('working', [o.loop.on for o in all_of_them if o.loop])
'''

def test_rerun_stops_the_orphan(tmp_path):
    "A cell that is run again stops the playground that it showed, and no other"
    with opened(tmp_path, RERUN) as page:
        for i in range(4): run(page, i)
        run(page, 4)
        until(page, lambda: any('working [True, True]' in o for o in output(page, 4)), 60)
        run(page, 1)
        page.wait_for_timeout(2000)
        run(page, 4)
        until(page, lambda: any('working [False, True]' in o for o in output(page, 4)), 60)

def test_watch_in_jupyter(tmp_path):
    "The same pictures move while a cell trains any model"
    with opened(tmp_path, '---'.join(PLAYGROUND.split('---')[:1]+PLAYGROUND.split('---')[5:])) as page:
        run(page, 0); run(page, 1)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==8)
        plane, solid, loss = (canvases.nth(i) for i in (4,5,6))
        seen = frames(plane), frames(solid), frames(loss)
        run(page, 2)
        until(page, lambda: all(frames(c) >= n+5 for c,n in zip((plane,solid,loss), seen)) or output(page, 2))
        assert not any('fitted' in o for o in output(page, 2))  # they moved before the cell ended
        until(page, lambda: any('fitted' in o for o in output(page, 2)), 120)
        assert plane.evaluate(ORANGE)[0] > 0

def test_slider_offline(tmp_path):
    "The frozen twin moves without a kernel and without the network"
    pytest.importorskip('playwright', reason='needs playwright: pip install playwright')
    if not find_chromium(): pytest.skip('needs chromium')
    from playwright.sync_api import sync_playwright
    from hepebm.core.views import Plane, slider
    plane = Plane(2, n=16, trail=3)
    plane.update(density=lambda x: (-x.square().sum(1)).exp())
    slider((dict(points=[[-1+.2*i, 0.]]) for i in range(11)), plane).write_html(tmp_path/'f.html', include_plotlyjs=True, auto_play=False)
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(str(tmp_path/'profile'), executable_path=find_chromium(), headless=True, args=ARGS, offline=True)
        page = context.new_page()
        page.goto((tmp_path/'f.html').as_uri())
        last = lambda: page.evaluate("() => Array.from(document.querySelector('.js-plotly-plot')._fullData[2].x)[0]")
        until(page, lambda: page.locator('.slider-container').count()==1)
        assert abs(last()+1) < 1e-6
        box = page.locator('.slider-rail-rect').bounding_box()
        page.mouse.click(box['x']+box['width']-8, box['y']+box['height']/2)
        until(page, lambda: abs(last()-1) < 1e-6, 10)
        context.close()

@pytest.mark.parametrize('suffix', ['gif', 'mp4'])
def test_film(tmp_path, suffix):
    "A film is whole or not there"
    from hepebm.core.views import Plane, export_animation
    if suffix=='mp4' and not shutil.which('ffmpeg'): pytest.importorskip('imageio_ffmpeg', reason='needs FFmpeg: pip install imageio-ffmpeg')
    def frames(stop):
        for i in range(6):
            if i==stop: raise InterruptedError
            yield dict(points=[[i/6, 0.]])
    path = tmp_path/f'film.{suffix}'
    with pytest.raises(InterruptedError): export_animation(frames(3), Plane(1), path)
    assert not list(tmp_path.iterdir())
    export_animation(frames(None), Plane(1), path)
    assert [p.name for p in tmp_path.iterdir()]==[path.name]
    assert path.read_bytes()[4:8]==b'ftyp' if suffix=='mp4' else len(path.read_bytes().split(b'\x21\xf9'))-1==6
