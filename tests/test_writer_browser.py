"The views of tokens in JupyterLab and headless Chromium: a jet is written word by word under controls, and particles are chosen with the pointer."
import re
import pytest
from test_views_browser import FIND, frames, opened, output, run, until

pytestmark = pytest.mark.long
TRAINED = '''
import torch
from hepebm.data.samples import sample
from hepebm.tokens.generation import jet_gpt
from hepebm.tokens.tokenizer import jet_tokenizer
from hepebm.tokens.writer import JetWriter, TokenView
torch.set_num_threads(1)
jets = sample('jets', 'train', 1500)
tok = jet_tokenizer(jets, codes=512, R=1., width=16, depth=1, heads=2, epochs=2, lr=3e-3, particles=64, bar=None)
'''
WRITER = TRAINED+'''
lab = JetWriter(jet_gpt(jets, tok, width=16, depth=1, heads=2, epochs=1, lr=3e-3, classes=4, bar=None), label=0, seed=3)
lab
---
print('words', len(lab.ids)-1, 'seed', lab.seed, 'temperature', lab.temperature, 'label', lab.label, 'on', bool(lab.loop and lab.loop.on))
'''
VIEW = TRAINED+'''
view = TokenView(tok, sample('jets', 'test', 5))
view
---
print('at', *view.frame['at'], 'code', view.scene()['title'].split()[-1])
---
view.update(jet=2)
'''

def test_writer_in_jupyter(tmp_path):
    "A word at a button, then jet after jet; a slider begins another class, and another heats the words"
    with opened(tmp_path, WRITER) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==2, 240)
        jet, words = canvases.nth(0), canvases.nth(1)
        until(page, lambda: frames(jet) > 0)
        button = lambda name: page.locator('button.jupyter-button').get_by_text(name, exact=True).click()
        told = lambda: int(re.search(r'(\d+) words?,', page.locator('.widget-html-content').last.inner_text())[1])
        def said(name):
            run(page, 1); page.wait_for_timeout(1500)
            return re.search(rf'{name} (\S+)', ' '.join(output(page, 1)))[1]
        page.wait_for_timeout(1000)
        blank, seen = jet.evaluate(FIND), frames(jet)
        for k in range(5): button('word'); until(page, lambda: told()==k+1, 20)
        until(page, lambda: frames(jet) > seen, 20)
        page.wait_for_timeout(500)
        assert said('words')=='5' and jet.evaluate(FIND)!=blank and words.evaluate(FIND)[2] > .002
        page.screenshot(path=str(tmp_path/'writer.png'))
        seen = frames(jet)
        button('start')
        until(page, lambda: int(said('seed')) > 4, 90)     # two jets have ended, and the next has begun
        assert frames(jet) > seen+20 and said('on')=='True'
        page.locator('.widget-slider').nth(1).locator('.noUi-handle').focus()
        page.keyboard.press('ArrowRight')
        until(page, lambda: said('label')=='1', 20)
        page.locator('.widget-slider').nth(0).locator('.noUi-handle').focus()
        for _ in range(8): page.keyboard.press('ArrowRight'); page.wait_for_timeout(20)
        until(page, lambda: float(said('temperature')) > 1.5, 20)
        button('stop')
        until(page, lambda: said('on')=='False', 20)
        page.wait_for_timeout(1000)
        n, seen = told(), frames(jet)
        page.wait_for_timeout(1500)
        assert (told(), frames(jet))==(n, seen)            # it rests
        seed = said('seed')
        button('new')
        until(page, lambda: told()==0 and int(said('seed'))==int(seed)+1, 20)

def test_tokens_in_jupyter(tmp_path):
    "The particle under the pointer is chosen, and the cells around its word are drawn; another jet is another picture"
    with opened(tmp_path, VIEW) as page:
        run(page, 0)
        canvases = page.locator('canvas.hepebm-view')
        until(page, lambda: canvases.count()==1, 240)
        canvas = canvases.nth(0)
        until(page, lambda: frames(canvas) > 0)
        page.wait_for_timeout(1000)
        def said():
            run(page, 1); page.wait_for_timeout(1500)
            return [*map(float, re.search(r'at (\S+) (\S+) code (\d+)', ' '.join(output(page, 1))).groups())]
        first, picture, seen = said(), canvas.evaluate(FIND), frames(canvas)
        assert picture[2] > .002
        box = canvas.bounding_box()
        at = lambda u, v: (box['x']+box['width']*u, box['y']+box['height']*v)
        page.mouse.move(*at(.55, .5)); page.mouse.down()
        for k in range(1, 6): page.mouse.move(*at(.55+.05*k, .5-.05*k)); page.wait_for_timeout(150)
        page.mouse.up()
        until(page, lambda: frames(canvas) > seen, 20)
        page.wait_for_timeout(1000)
        later = said()
        assert later[0] > .3 and later[1] > .2 and later[2]!=first[2] and canvas.evaluate(FIND)!=picture
        page.screenshot(path=str(tmp_path/'tokens.png'))
        picture = canvas.evaluate(FIND)
        run(page, 2)
        until(page, lambda: canvas.evaluate(FIND)!=picture, 20)
