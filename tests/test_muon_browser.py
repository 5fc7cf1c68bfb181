"The views of muons in JupyterLab and headless Chromium: a ring is pulled, a graph is picked"
import re
import pytest
from test_views_browser import FIND, frames, opened, output, run, until

pytestmark = pytest.mark.long
CONE = '''
from hepebm.data.samples import sample
from hepebm.muons.cones import ConeView
view = ConeView(sample('muons', 'test', 50), 3)
view
---
print('radius', round(view.radius, 3), view.views['sums'].scene()['title'])
'''
LAB = '''
from hepebm.data.samples import sample
from hepebm.muons.search import GraphLab
from hepebm.nn.efps import graphs
lab = GraphLab(sample('muons', 'test', 50), graphs(4))
lab
---
print('graph', lab.graph, 'kappa', lab.kappa, 'event', lab.event)
'''

def test_cone_in_jupyter(tmp_path):
    "The ring follows the pointer, and the sums follow the ring"
    with opened(tmp_path, CONE) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==2, 120)
        cone, sums = canvases.nth(0), canvases.nth(1)
        until(page, lambda: frames(cone) > 0)
        page.wait_for_timeout(1000)
        def said():
            run(page, 1); page.wait_for_timeout(1500)
            return re.search(r'radius (\S+) I\((\S+)\) = (\S+)', ' '.join(output(page, 1))).groups()
        first, picture, seen = said(), sums.evaluate(FIND), frames(sums)
        box = cone.bounding_box()
        at = lambda u, v: (box['x']+box['width']*u, box['y']+box['height']*v)
        page.mouse.move(*at(.55, .5)); page.mouse.down()
        for k in range(1, 6): page.mouse.move(*at(.55+.03*k, .5)); page.wait_for_timeout(150)
        page.mouse.up()
        until(page, lambda: frames(sums) > seen, 20)
        page.wait_for_timeout(1000)
        later = said()
        assert first[0]=='0.3' and .1 < float(later[0]) < .28 and later[0]==str(round(float(later[1]), 3)) and sums.evaluate(FIND)!=picture
        page.screenshot(path=str(tmp_path/'cone.png'))

def test_graph_in_jupyter(tmp_path):
    "Another graph, power and muon are picked, and the pictures follow"
    with opened(tmp_path, LAB) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==2, 120)
        graph, event = canvases.nth(0), canvases.nth(1)
        until(page, lambda: frames(graph) > 0)
        page.wait_for_timeout(1000)
        def said(name):
            run(page, 1); page.wait_for_timeout(1500)
            return re.search(rf'{name} (\S+)', ' '.join(output(page, 1)))[1]
        before = graph.evaluate(FIND), event.evaluate(FIND)
        page.locator('.widget-slider').nth(0).locator('.noUi-handle').focus()
        for _ in range(3): page.keyboard.press('ArrowRight'); page.wait_for_timeout(150)
        until(page, lambda: said('graph')=='4', 20)
        assert graph.evaluate(FIND)!=before[0] and 'Graph 4:' in page.locator('.widget-html-content').last.inner_text()
        page.locator('.widget-dropdown select').nth(0).select_option('2.0')
        until(page, lambda: said('kappa')=='2.0', 20)
        picture = event.evaluate(FIND)
        page.locator('.widget-slider').nth(1).locator('.noUi-handle').focus()
        page.keyboard.press('ArrowRight')
        until(page, lambda: said('event')=='1', 20)
        until(page, lambda: event.evaluate(FIND)!=picture, 20)
        page.screenshot(path=str(tmp_path/'graph.png'))
