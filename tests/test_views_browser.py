"A view in JupyterLab and headless Chromium: it draws, it moves while a cell runs, and it can be dragged."
import os, shutil, socket, subprocess, sys, time
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

@pytest.fixture
def lab(tmp_path):
    "Address of a JupyterLab that serves one notebook"
    pytest.importorskip('playwright', reason='needs playwright: pip install playwright')
    pytest.importorskip('jupyterlab', reason='needs JupyterLab: pip install jupyterlab')
    if not find_chromium(): pytest.skip('needs chromium')
    import nbformat
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in CELLS.split('---')], metadata=dict(kernelspec=dict(name='python3', display_name='python3', language='python')))
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

def frames(canvas): return int(canvas.get_attribute('data-frames') or 0)

def until(page, f, seconds=60):
    for _ in range(seconds*5):
        if f(): return
        page.wait_for_timeout(200)
    raise AssertionError('it did not happen in time')

def test_views_in_jupyter(lab, tmp_path):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(str(tmp_path/'profile'), executable_path=find_chromium(), headless=True, args=ARGS, viewport=dict(width=1300, height=1500))
        page = context.new_page()
        errors = []
        page.on('pageerror', lambda e: errors.append(str(e)))
        page.goto(lab)
        page.wait_for_selector('.jp-Notebook .jp-Cell', timeout=90000)
        page.wait_for_timeout(3000)
        while page.locator('.jp-Dialog').count(): page.locator('.jp-Dialog button.jp-mod-accept').first.click(); page.wait_for_timeout(1500)
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
        page.screenshot(path=str(tmp_path/'views.png'))
        context.close()
    assert not errors

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
